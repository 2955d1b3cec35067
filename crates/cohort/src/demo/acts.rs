//! The acts, in the order of the play.

use anyhow::{Context, Result};
use cohort_backup::catalogue::{Answer, Catalogue};
use cohort_backup::{BitmapPolicy, DiskOutcome, RunReport};
use cohort_block::{Fault, Injected, Operation};
use cohort_job::{Disposition, Status};

use super::checks::{self, End, Evidence};
use super::disks::{CLUSTER, CLUSTERS};
use super::rows::Kind;
use super::stage::{Act, POLICIES, Stage, until};
use crate::human;

/// Index of each disk on the stage.
const ROOT: usize = 0;
const DATA: usize = 1;
const LOGS: usize = 2;

pub(super) fn prologue(stage: &mut Stage<'_>) -> Result<()> {
    let size = human::bytes(CLUSTERS * CLUSTER);
    stage.show.say(&format!(
        "Three disks of {size}, written to all the while. In the rows below a character is a granule of {}:",
        human::bytes(CLUSTER)
    ));
    for (disk, policy) in stage.disks.iter().zip(POLICIES) {
        stage.show.say(&format!(
            "  {:<5} {:<6} policy {policy}",
            disk.name, disk.format
        ));
    }
    Ok(())
}

pub(super) fn first_backup(stage: &mut Stage<'_>) -> Result<()> {
    stage
        .show
        .title("The first backup: everything, at one instant");
    stage.show.say(
        "All gates close for a moment, so that no write is under way on any disk: that is the instant that every point\n\
         shows. Then the writers go on, and before they overwrite what is not copied yet, the old data is saved.",
    );
    let act = stage.start()?;
    stage.write_to([&[2, 3, 30, 31], &[10, 11, 40], &[20, 21, 22, 50]])?;
    let report = stage.finish(act)?;
    stage.show_and_check_bits(&report, End::Committed);
    stage.check_all_committed(&report);
    Ok(())
}

pub(super) fn increment(stage: &mut Stage<'_>) -> Result<()> {
    stage
        .show
        .title("An increment: only what was written since");
    stage.write_to([&[4, 5], &[12], &[23]])?;
    let act = stage.start()?;
    stage.write_to([&[6], &[13, 14], &[24]])?;
    let report = stage.finish(act)?;
    stage.show_and_check_bits(&report, End::Committed);
    stage.check_all_committed(&report);
    Ok(())
}

pub(super) fn one_disk_fails(stage: &mut Stage<'_>) -> Result<()> {
    stage
        .show
        .title("One disk fails: none of the group gets a point");
    stage.show.say(
        "A sector of root cannot be read. Its peers are stopped; what was copied of them is not undone by that. The\n\
         policy says whether it counts: on-success forgets it, always keeps it, ask lets you decide later.",
    );
    dirty_much(stage)?;
    let before = stage.points()?;
    let held = Held::read_of(stage);
    // Once the stall is over, the older fault lets this one strike.
    let bad = Fault::error(Operation::Read)
        .within(cluster(STALLED[ROOT]))
        .nth(2)
        .text("the sector is bad");
    let bad = stage.disks[ROOT].faulty.inject(bad);
    let act = stage.start()?;
    held.wait();
    stage.write_to([&[6, 33], &[14, 60], &[24, 61]])?;
    held.release(ROOT);
    let root = act.running.disks()[ROOT].job().clone();
    until(|| root.status() != Status::Running);
    held.release_all();
    let report = stage.finish(act)?;
    bad.release();
    if let DiskOutcome::Failed(error) = &report.disks[ROOT].outcome {
        stage.show.say(&format!("  root: {error}"));
    }
    stage.show_and_check_bits(&report, End::Kept);
    stage.check_no_new_point(&before)?;
    side_by_side(stage, &report);
    Ok(())
}

/// The four policies on the same sets.
fn side_by_side(stage: &mut Stage<'_>, report: &RunReport) {
    let Some(rows) = &report.disks[LOGS].rows else {
        return;
    };
    stage.show.say(
        "  The same failure under each of the four policies (logs), as the next run would copy it:",
    );
    for policy in [
        BitmapPolicy::OnSuccess,
        BitmapPolicy::Always,
        BitmapPolicy::Ask,
        BitmapPolicy::Never,
    ] {
        let (point, partial) = checks::expected(End::Kept, policy, rows);
        match (policy, partial) {
            (BitmapPolicy::Ask, Some(partial)) => {
                stage.show.bits("ask, answered keep", Kind::View, &partial);
                stage.show.bits("ask, answered discard", Kind::View, &point);
            }
            (_, partial) => stage.show.bits(
                &policy.to_string(),
                Kind::View,
                partial.as_ref().unwrap_or(&point),
            ),
        }
    }
}

pub(super) fn decide_keep(stage: &mut Stage<'_>) -> Result<()> {
    stage.show.title("You decide after the failure: keep");
    let act = stage.start()?;
    let report = stage.finish(act)?;
    let mut refused = matches!(report.disks[LOGS].outcome, DiskOutcome::Refused(_));
    stage.tamper(Evidence::Refused(&mut refused));
    if let DiskOutcome::Refused(unanswered) = &report.disks[LOGS].outcome {
        stage.show.say(&indented(&unanswered.to_string()));
    }
    stage.check(
        "logs waits for an answer and is left alone; the other two go on",
        refused,
    );
    let whole = stage.disks[LOGS]
        .tracked
        .dirty()
        .context("logs has no bitmap")?
        .dirty_bytes();
    answer(stage, Answer::Keep)?;
    let act = stage.start()?;
    let report = stage.finish(act)?;
    stage.check_all_committed(&report);
    let mut copied = report.disks[LOGS].copied_bytes;
    stage.tamper(Evidence::Copied(&mut copied));
    let (saved, all) = (human::bytes(copied), human::bytes(whole));
    stage.check(
        format!(
            "logs was completed by copying {saved}, not the {all} that changed since its last point"
        ),
        copied < whole,
    );
    Ok(())
}

pub(super) fn forced_cancel(stage: &mut Stage<'_>) -> Result<()> {
    stage.show.title("A forced cancel: leave no trace");
    stage.show.say(
        "Somebody cancels root by force: \"I made a mistake, do not touch anything.\" It reaches all three with that meaning,\n\
         whatever their policies are.",
    );
    let before = (stage.points()?, stage.files()?);
    let report = cancelled(stage, ROOT, Disposition::Discard)?;
    stage.show_and_check_bits(&report, End::Discarded);
    stage.check_no_new_point(&before.0)?;
    let mut files = stage.files()?;
    stage.tamper(Evidence::Files(&mut files));
    stage.check(
        "the backup directory holds what it held before",
        files == before.1,
    );
    Ok(())
}

pub(super) fn soft_cancel(stage: &mut Stage<'_>) -> Result<()> {
    stage.show.title("A soft cancel: stop, and settle normally");
    stage.show.say("Now data is cancelled softly. Its peers stop too, and each disk keeps what its policy says.");
    let before = stage.points()?;
    let report = cancelled(stage, DATA, Disposition::Keep)?;
    stage.show_and_check_bits(&report, End::Kept);
    stage.check_no_new_point(&before)
}

pub(super) fn decide_discard(stage: &mut Stage<'_>) -> Result<()> {
    stage.show.title("You decide after the cancel: discard");
    answer(stage, Answer::Discard)?;
    let left = cohort_backup::catalogue::read(&stage.directory)?
        .partials
        .contains_key(&stage.disks[LOGS].name);
    stage.check(
        "the partial of logs is gone, and its last point is what counts",
        !left,
    );
    Ok(())
}

pub(super) fn retry(stage: &mut Stage<'_>) -> Result<()> {
    stage.show.title("The retry: together again");
    let act = stage.start()?;
    let report = stage.finish(act)?;
    stage.show_and_check_bits(&report, End::Committed);
    stage.check_all_committed(&report);
    Ok(())
}

pub(super) fn restore_everything(stage: &mut Stage<'_>) -> Result<()> {
    stage.show.title("Every point of every disk, byte for byte");
    std::fs::create_dir_all(&stage.scratch)?;
    for ((disk, run), copy) in std::mem::take(&mut stage.copies) {
        let out = stage.scratch.join(format!("{disk}@{run}.raw"));
        let point = format!("{disk}@{run}");
        crate::commands::restore_raw(&stage.directory, &point, &out)?;
        let mut restored = std::fs::read(&out).with_context(|| out.display().to_string())?;
        stage.tamper(Evidence::Restored(&mut restored));
        stage.check(
            format!("{point} is what {disk} was inside the fence"),
            restored == copy,
        );
    }
    Ok(())
}

/// The cluster of each disk whose copy is held up while something happens to the group.
const STALLED: [u64; 3] = [47, 35, 44];

/// Makes a pattern of dirty clusters on each disk, and has the writers stay away from the stalled ones.
fn dirty_much(stage: &Stage<'_>) -> Result<()> {
    stage.write_to([
        &[7, 15, 26, 47, 48, 56],
        &[1, 8, 17, 35, 36, 52, 60],
        &[3, 9, 28, 44, 53, 54],
    ])?;
    stage.write_to([&[6], &[14], &[24]])
}

/// A run of all disks, held up half-way and then cancelled through one of them.
fn cancelled(stage: &mut Stage<'_>, through: usize, disposition: Disposition) -> Result<RunReport> {
    dirty_much(stage)?;
    let held = Held::read_of(stage);
    let act = stage.start()?;
    held.wait();
    stage.write_to([&[6, 57], &[14, 61], &[24, 62]])?;
    act.running.disks()[through].job().cancel(disposition)?;
    let reached = reached(&act);
    held.release_all();
    let report = stage.finish(act)?;
    let mut reached = reached;
    stage.tamper(Evidence::Reached(&mut reached));
    stage.check(
        "the cancel of one reached all three",
        reached == stage.disks.len(),
    );
    Ok(report)
}

/// How many jobs of the group are no longer asked to go on.
fn reached(act: &Act) -> usize {
    let stopped = |disk: &&cohort_backup::RunningDisk| disk.job().why().contains("cancel");
    act.running.disks().iter().filter(stopped).count()
}

/// Reads that wait, one of each disk, so that something can happen in the middle of a run.
struct Held([Injected; 3]);

impl Held {
    fn read_of(stage: &Stage<'_>) -> Held {
        let stall = |index: usize| {
            Fault::stall(Operation::Read)
                .within(cluster(STALLED[index]))
                .nth(2)
        };
        // The first read of each is the copy that is taken inside the fence.
        Held([ROOT, DATA, LOGS].map(|index| stage.disks[index].faulty.inject(stall(index))))
    }

    /// Waits until all copies are held up.
    fn wait(&self) {
        self.0.iter().for_each(|held| held.wait_for_strikes(1));
    }

    fn release(&self, index: usize) {
        self.0[index].release();
    }

    fn release_all(&self) {
        self.0.iter().for_each(Injected::release);
    }
}

/// Answers for logs, as `cohort bitmap decide` does.
fn answer(stage: &Stage<'_>, answer: Answer) -> Result<()> {
    let (name, word) = match answer {
        Answer::Keep => (&stage.disks[LOGS].name, "keep"),
        Answer::Discard => (&stage.disks[LOGS].name, "discard"),
    };
    stage
        .show
        .say(&format!("  $ cohort bitmap decide {word} --from R {name}"));
    let catalogue = Catalogue::open(&stage.directory)?;
    catalogue.answer(name, answer)?;
    catalogue.sweep()?;
    Ok(())
}

/// The bytes of a cluster.
fn cluster(number: u64) -> std::ops::Range<u64> {
    number * CLUSTER..(number + 1) * CLUSTER
}

fn indented(text: &str) -> String {
    text.lines()
        .map(|line| format!("  {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}
