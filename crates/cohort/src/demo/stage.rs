//! The stage: three disks, a backup directory, the copies taken inside the fences, and the verdict so far.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use cohort_backup::catalogue::{self, DiskName, RunId};
use cohort_backup::{
    Backup, BitmapPolicy, DiskOutcome, DiskSpec, Hook, OnUndecided, Options, Rows, RunReport,
    Running,
};

use super::checks::{self, End, Evidence, Tamper, Verdict};
use super::disks::{CLUSTER, Disk};
use super::rows::Kind;
use super::show::{Show, during};
use crate::commands::fence_line;

/// How the three disks' bitmaps are to be settled, in the order of the disks.
pub(super) const POLICIES: [BitmapPolicy; 3] = [
    BitmapPolicy::OnSuccess,
    BitmapPolicy::Always,
    BitmapPolicy::Ask,
];

/// All that an act works with.
pub(super) struct Stage<'a> {
    pub(super) show: Show,
    pub(super) disks: [Disk; 3],
    /// The backup directory.
    pub(super) directory: PathBuf,
    /// For restored disks.
    pub(super) scratch: PathBuf,
    /// What every point must restore to: the bytes read while the gates were closed.
    pub(super) copies: BTreeMap<(DiskName, RunId), Vec<u8>>,
    fence: Fencing,
    tamper: Tamper<'a>,
    verdict: Verdict,
}

/// What every common instant is taken with.
#[derive(Default)]
pub(super) struct Fencing {
    /// A command to be called around it, and how long each call may take.
    pub(super) hook: Option<(String, Duration)>,
    /// The longest that a write is held up, if it is not the library's default.
    pub(super) writer_wait: Option<Duration>,
}

/// A run under way, and the copies that were taken inside its fence.
pub(super) struct Act {
    pub(super) running: Running,
    fenced: Arc<Mutex<Vec<Result<Vec<u8>>>>>,
}

impl<'a> Stage<'a> {
    /// Makes the disks, full of data and being written to, in `directory`.
    pub(super) fn set(
        directory: &Path,
        show: Show,
        fence: Fencing,
        tamper: Tamper<'a>,
    ) -> Result<Stage<'a>> {
        let disks = [
            Disk::make(directory, "root", "raw", &[2, 3])?,
            Disk::make(directory, "data", "qcow2", &[10, 11])?,
            Disk::make(directory, "logs", "raw", &[20, 21])?,
        ];
        let (copies, verdict) = (BTreeMap::new(), Verdict::default());
        let (scratch, directory) = (directory.join("restored"), directory.join("R"));
        Ok(Stage {
            show,
            disks,
            directory,
            scratch,
            copies,
            fence,
            tamper,
            verdict,
        })
    }

    /// Has the writers turn to these clusters, and waits until they wrote to each.
    pub(super) fn write_to(&self, hot: [&[u64]; 3]) -> Result<()> {
        for (disk, hot) in self.disks.iter().zip(hot) {
            disk.writer.turn_to(hot);
        }
        self.disks
            .iter()
            .try_for_each(|disk| disk.writer.wait_for_a_round())
    }

    /// Starts a grouped run of all disks. Inside the fence each disk is copied aside, for the checks.
    pub(super) fn start(&self) -> Result<Act> {
        let fenced = Arc::new(Mutex::new(Vec::new()));
        let mut backup = Backup::to(&self.directory);
        for (disk, policy) in self.disks.iter().zip(POLICIES) {
            // One copy at a time: the rows are easier to read.
            let mut options = Options::builder()
                .policy(policy)
                .undecided(OnUndecided::Refuse)
                .workers(1);
            if let Some(wait) = self.fence.writer_wait {
                options = options.writer_wait(wait);
            }
            let spec = DiskSpec::served(disk.tracked.clone());
            backup = backup.disk(spec.options(options.build()?));
        }
        let devices: Vec<_> = self
            .disks
            .iter()
            .map(|disk| disk.tracked.gated().device().clone())
            .collect();
        let aside = fenced.clone();
        let copy_aside = move || {
            let copy = |device: &Arc<dyn cohort_block::Device>| {
                let mut bytes = vec![0; device.size() as usize];
                device
                    .read_at(&mut bytes, 0)
                    .map(|()| bytes)
                    .map_err(anyhow::Error::from)
            };
            *aside.lock().unwrap_or_else(PoisonError::into_inner) =
                devices.iter().map(copy).collect();
        };
        if let Some((command, wait)) = &self.fence.hook {
            backup = backup.hook(Hook::command(command, *wait));
        }
        let running = during("starting a run", backup.inside_fence(copy_aside).start())?;
        Ok(Act { running, fenced })
    }

    /// Waits for the end of a run. The copies of disks that committed are what their points must restore to.
    pub(super) fn finish(&mut self, act: Act) -> Result<RunReport> {
        let report = act.running.wait();
        if let Some(fence) = &report.fence {
            self.show.say(&format!("  {}", fence_line(fence)));
            for failure in &fence.thaw_failures {
                self.show.say(&format!("  did not thaw: {failure}"));
            }
        }
        let copies =
            std::mem::take(&mut *act.fenced.lock().unwrap_or_else(PoisonError::into_inner));
        for ((disk, copy), ended) in self.disks.iter().zip(copies).zip(&report.disks) {
            if let (DiskOutcome::Committed(_), Some(run)) = (&ended.outcome, report.run) {
                self.copies.insert(
                    (disk.name.clone(), run),
                    during("copying a disk inside the fence", copy)?,
                );
            }
        }
        Ok(report)
    }

    /// How many points each disk has.
    pub(super) fn points(&self) -> Result<Vec<usize>> {
        let contents = catalogue::read(&self.directory)?;
        Ok(self
            .disks
            .iter()
            .map(|disk| contents.points_of(&disk.name).count())
            .collect())
    }

    /// The names of the images in the backup directory.
    pub(super) fn files(&self) -> Result<Vec<String>> {
        let names = catalogue::list_files(&self.directory)?;
        let names = names
            .into_iter()
            .map(|name| name.to_string_lossy().into_owned());
        Ok(names.filter(|name| name.ends_with(".qcow2")).collect())
    }

    /// Notes and shows a check.
    pub(super) fn check(&mut self, what: impl Into<String>, holds: bool) {
        let what = what.into();
        self.show.check(&what, holds);
        self.verdict.note(what, holds);
    }

    /// Lets the tests reach for evidence.
    pub(super) fn tamper(&mut self, evidence: Evidence<'_>) {
        (self.tamper)(evidence);
    }

    /// Every disk of the run committed.
    pub(super) fn check_all_committed(&mut self, report: &RunReport) {
        let committed =
            |ended: &cohort_backup::DiskReport| matches!(ended.outcome, DiskOutcome::Committed(_));
        self.check(
            "every disk of the group has its new point",
            report.disks.iter().all(committed),
        );
    }

    /// No disk has more points than before.
    pub(super) fn check_no_new_point(&mut self, before: &[usize]) -> Result<()> {
        let mut after = self.points()?;
        self.tamper(Evidence::Points(&mut after));
        self.check("no disk of the group has a new point", after == before);
        Ok(())
    }

    /// Shows what each disk is left with, and checks it against the table.
    pub(super) fn show_and_check_bits(&mut self, report: &RunReport, end: End) {
        for (index, policy) in POLICIES.into_iter().enumerate() {
            let Some(rows) = &report.disks[index].rows else {
                continue;
            };
            let (name, hot) = (
                self.disks[index].name.clone(),
                self.disks[index].writer.hot(),
            );
            self.show.say(&format!("  {name} ({policy})"));
            self.show_rows(rows, end);
            let (point, partial) = checks::expected(end, policy, rows);
            let mut view = rows.point_view.clone();
            self.tamper(Evidence::Bits(&mut view));
            let mut holds = checks::same_but_for_new_writes(&view, &point, &hot, CLUSTER);
            holds &= match (&rows.partial_view, &partial) {
                (Some(view), Some(expected)) => {
                    checks::same_but_for_new_writes(view, expected, &hot, CLUSTER)
                }
                (None, None) => true,
                (Some(_), None) | (None, Some(_)) => false,
            };
            self.check(
                format!("{name} is left with what the policy {policy} promises"),
                holds,
            );
        }
    }

    fn show_rows(&self, rows: &Rows, end: End) {
        self.show.bits("base: dirty before", Kind::Base, &rows.base);
        self.show
            .bits("since: written meanwhile", Kind::Since, &rows.since);
        if end != End::Committed {
            self.show
                .bits("remaining: not durable", Kind::Remaining, &rows.remaining);
        }
        self.show
            .bits("dirty against the point", Kind::View, &rows.point_view);
        if let Some(partial) = &rows.partial_view {
            self.show
                .bits("dirty against the partial", Kind::View, partial);
        }
    }

    /// The last word.
    pub(super) fn end(self) -> Verdict {
        self.show.verdict(self.verdict.made, &self.verdict.failed);
        self.verdict
    }
}

/// Looks again and again until `holds`: for what has no event of its own to wait for.
pub(super) fn until(holds: impl Fn() -> bool) {
    let (_open, never) = mpsc::channel::<()>();
    while !holds() && never.recv_timeout(Duration::from_millis(1)) == Err(RecvTimeoutError::Timeout)
    {
    }
}
