//! How a run ended, disk by disk: text or JSON, and the exit code that follows from it.

use cohort_backup::catalogue::{ByteRange, Decision, Partial};
use cohort_backup::{
    Continued, Delays, DiskOutcome, DiskReport, FenceReport, RunReport, WritersReport,
};
use cohort_job::{Cause, Disposition};
use serde::Serialize;

use crate::exit::Exit;
use crate::failure::{self, Failure};
use crate::human;
use crate::output::{eprint_line, json_text, print_line};

/// A run's result as JSON gives it.
#[derive(Debug, Serialize)]
struct JsonRun<'a> {
    event: &'static str,
    exit: &'static str,
    code: u8,
    run: Option<u64>,
    disks: Vec<JsonDisk<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fence: Option<JsonFence<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unclosed: Option<String>,
}

/// What the common instant of served disks cost, in microseconds.
#[derive(Debug, Serialize)]
struct JsonFence<'a> {
    bound_us: u128,
    closed_us: u128,
    #[serde(skip_serializing_if = "Option::is_none")]
    frozen_us: Option<u128>,
    delays: JsonDelays,
    thaw_failures: &'a [String],
}

/// How long writes were held up.
#[derive(Debug, Serialize)]
struct JsonDelays {
    writes: u64,
    p99_us: u128,
    worst_us: u128,
}

/// What a run cost the writers of a served disk.
#[derive(Debug, Serialize)]
struct JsonWriters {
    bound_us: u128,
    delays: JsonDelays,
    staged_peak_bytes: u64,
    staging_bytes: u64,
}

/// What a run took over from a partial.
#[derive(Debug, Serialize)]
struct JsonContinued {
    run: u64,
    kept_bytes: u64,
    whole_bytes: u64,
}

/// A disk's result as JSON gives it.
#[derive(Debug, Serialize)]
struct JsonDisk<'a> {
    name: &'a str,
    source: &'a str,
    outcome: &'static str,
    exit: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    point: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    size_bytes: u64,
    copied_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    continued: Option<JsonContinued>,
    #[serde(skip_serializing_if = "Option::is_none")]
    partial: Option<Partial>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stepped_down: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    writers: Option<JsonWriters>,
    skipped: &'a [ByteRange],
    notes: &'a [String],
}

/// What is told of a run's end, here or by a daemon.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) exit: Exit,
    /// Lines for people, and whether each is good news; those go to standard output.
    pub(crate) lines: Vec<(bool, String)>,
    /// The result as a line of JSON.
    pub(crate) result: String,
}

impl Told {
    /// The report on a run.
    pub(crate) fn of(report: &RunReport) -> Told {
        let exit = exit_of(report);
        let result = JsonRun {
            event: "result",
            exit: exit.word(),
            code: exit.code(),
            run: report.run.map(|run| run.0),
            disks: report
                .disks
                .iter()
                .map(|disk| json_disk(report, disk))
                .collect(),
            fence: report.fence.as_ref().map(json_fence),
            unclosed: report.unclosed.as_ref().map(ToString::to_string),
        };
        let mut told = Told {
            exit,
            lines: Vec::new(),
            result: json_text(&result),
        };
        for disk in &report.disks {
            told.disk(report, disk);
        }
        if let Some(fence) = &report.fence {
            told.bad(fence_line(fence));
            for failure in &fence.thaw_failures {
                told.bad(format!("did not thaw: {failure}"));
            }
        }
        if let Some(unclosed) = &report.unclosed {
            told.bad(unclosed.to_string());
        }
        told
    }

    /// Prints it, and tells how the process exits.
    pub(super) fn print(&self, json: bool) -> Exit {
        if json {
            print_line(&self.result);
        }
        for (good, line) in &self.lines {
            match good {
                false => eprint_line(line),
                true if json => {}
                true => print_line(line),
            }
        }
        self.exit
    }

    fn bad(&mut self, line: String) {
        self.lines.push((false, format!("cohort: {line}")));
    }

    /// A disk's lines.
    fn disk(&mut self, report: &RunReport, disk: &DiskReport) {
        let name = &disk.name;
        let (word, message) = outcome(report, disk);
        if matches!(disk.outcome, DiskOutcome::Committed(_)) {
            let point = report.run.map_or_else(String::new, |run| format!("@{run}"));
            let (copied, size) = (human::bytes(disk.copied_bytes), human::bytes(disk.size));
            let line = format!("{name}{point}: {copied} copied of {size}");
            self.lines.push((true, line));
        } else {
            self.bad(format!("{name}: {word}: {}", message.unwrap_or_default()));
        }
        if let Some(step) = &disk.stepped_down {
            self.bad(format!("{name}: {step}"));
        }
        if let Some(continued) = disk.continued.as_ref().filter(|_| !is_discarded(disk)) {
            self.bad(format!("{name}: {}", took_over(continued)));
        }
        for note in &disk.notes {
            self.bad(format!("{name}: {note}"));
        }
        if let (Some(partial), false) =
            (&disk.left, matches!(disk.outcome, DiskOutcome::Refused(_)))
        {
            self.bad(format!("{name}: {}", kept(partial)));
        }
    }
}

/// A command that did nothing is told in the same form.
impl From<&Failure> for Told {
    fn from(failure: &Failure) -> Told {
        let (line, result) = failure.told();
        Told {
            exit: failure.exit,
            lines: vec![(false, line)],
            result,
        }
    }
}

/// The first outcome that is not success decides, and a disk's own failure is worth more than that of a peer.
fn exit_of(report: &RunReport) -> Exit {
    let exits: Vec<Exit> = report.disks.iter().map(exit_of_disk).collect();
    let own = exits
        .iter()
        .find(|exit| !matches!(exit, Exit::Done | Exit::Cancelled | Exit::Discarded));
    let any = exits.iter().find(|exit| **exit != Exit::Done);
    own.or(any).copied().unwrap_or(Exit::Done)
}

fn exit_of_disk(disk: &DiskReport) -> Exit {
    match &disk.outcome {
        DiskOutcome::Committed(_) => Exit::Done,
        DiskOutcome::Failed(error) | DiskOutcome::NotStarted(error) => failure::exit_of_disk(error),
        DiskOutcome::Aborted {
            disposition: Disposition::Keep,
            ..
        } => Exit::Cancelled,
        DiskOutcome::Aborted {
            disposition: Disposition::Discard,
            ..
        } => Exit::Discarded,
        DiskOutcome::Refused(_) => Exit::Undecided,
        DiskOutcome::InDoubt(_) => Exit::InDoubt,
    }
}

/// Whether nothing is left of what was copied, in this run or before.
fn is_discarded(disk: &DiskReport) -> bool {
    matches!(
        disk.outcome,
        DiskOutcome::Aborted {
            disposition: Disposition::Discard,
            ..
        }
    )
}

/// The word for an outcome, and what there is to say about it.
fn outcome(report: &RunReport, disk: &DiskReport) -> (&'static str, Option<String>) {
    match &disk.outcome {
        DiskOutcome::Committed(_) => ("committed", None),
        DiskOutcome::Failed(error) => ("failed", Some(error.to_string())),
        DiskOutcome::NotStarted(error) => ("not-started", Some(error.to_string())),
        DiskOutcome::Aborted { cause, .. } => ("aborted", Some(why(report, *cause))),
        DiskOutcome::Refused(unanswered) => ("refused", Some(unanswered.to_string())),
        DiskOutcome::InDoubt(why) => ("in-doubt", Some(why.clone())),
    }
}

fn json_disk<'a>(report: &'a RunReport, disk: &'a DiskReport) -> JsonDisk<'a> {
    let (outcome, message) = outcome(report, disk);
    JsonDisk {
        name: disk.name.as_str(),
        source: &disk.source,
        outcome,
        exit: exit_of_disk(disk).word(),
        point: report
            .run
            .map(|run| run.0)
            .filter(|_| matches!(disk.outcome, DiskOutcome::Committed(_))),
        message,
        size_bytes: disk.size,
        copied_bytes: disk.copied_bytes,
        continued: disk.continued.map(|continued| JsonContinued {
            run: continued.run.0,
            kept_bytes: continued.kept_bytes,
            whole_bytes: continued.whole_bytes,
        }),
        partial: disk.left.as_ref().map(super::list::without_map),
        stepped_down: disk.stepped_down.as_ref().map(ToString::to_string),
        writers: disk.writers.as_ref().map(json_writers),
        skipped: &disk.skipped,
        notes: &disk.notes,
    }
}

fn json_fence(fence: &FenceReport) -> JsonFence<'_> {
    JsonFence {
        bound_us: fence.bound.as_micros(),
        closed_us: fence.closed_for.as_micros(),
        frozen_us: fence.frozen_for.map(|time| time.as_micros()),
        delays: json_delays(&fence.delays),
        thaw_failures: &fence.thaw_failures,
    }
}

fn json_writers(writers: &WritersReport) -> JsonWriters {
    JsonWriters {
        bound_us: writers.bound.as_micros(),
        delays: json_delays(&writers.delays),
        staged_peak_bytes: writers.staging.peak,
        staging_bytes: writers.staging.size,
    }
}

fn json_delays(delays: &Delays) -> JsonDelays {
    JsonDelays {
        writes: delays.writes,
        p99_us: delays.p99.as_micros(),
        worst_us: delays.worst.as_micros(),
    }
}

/// What a fence cost, in a line for people.
pub(crate) fn fence_line(fence: &FenceReport) -> String {
    let FenceReport {
        bound,
        closed_for,
        delays,
        frozen_for,
        ..
    } = fence;
    let frozen = frozen_for.map_or_else(String::new, |time| format!(", frozen for {time:.1?}"));
    let Delays { writes, p99, worst } = delays;
    let waited = match writes {
        0 => "no write waited".to_owned(),
        1 => format!("one write waited {worst:.1?}"),
        _ => format!(
            "{writes} writes waited, 99 % of them {p99:.1?} at most, the longest {worst:.1?}"
        ),
    };
    format!("fence: closed for {closed_for:.1?}{frozen}; {waited} (bound {bound:?})")
}

/// Why a group that this disk belonged to did not commit.
fn why(report: &RunReport, cause: Cause) -> String {
    let failed = |disk: &&DiskReport| matches!(disk.outcome, DiskOutcome::Failed(_));
    match cause {
        Cause::Failed(_) => match report.disks.iter().find(failed) {
            Some(peer) => format!("{} failed, and its group with it", peer.name),
            None => "a disk of its group failed".into(),
        },
        Cause::Cancelled(_) | Cause::User => "the run was stopped".into(),
        Cause::Rollback => "its group was not launched".into(),
        Cause::Shutdown => "the program was shut down".into(),
        Cause::ProcessEnded => "the process ended".into(),
    }
}

/// What the partial that was continued saved.
fn took_over(continued: &Continued) -> String {
    format!(
        "kept {} of {} from the partial of run {}",
        human::bytes(continued.kept_bytes),
        human::bytes(continued.whole_bytes),
        continued.run
    )
}

/// What a partial saves, and what happens to it.
fn kept(partial: &Partial) -> String {
    let (saved, whole) = (
        human::bytes(partial.durable_bytes),
        human::bytes(partial.durable_bytes + partial.remaining_bytes),
    );
    match partial.decision {
        Decision::Keep => format!("kept {saved} of {whole}; the next run continues it"),
        Decision::Undecided => format!(
            "holds {saved} of {whole}; say whether it counts: cohort bitmap decide keep|discard"
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_fence_says_of_writes_that_waited_what_there_is_to_say() {
        let said = |writes, frozen_for| {
            let micros = Duration::from_micros;
            let (p99, worst) = (micros(30), micros(40));
            fence_line(&FenceReport {
                bound: Duration::from_secs(1),
                closed_for: micros(50),
                delays: Delays { writes, p99, worst },
                frozen_for,
                thaw_failures: Vec::new(),
            })
        };
        let none = "fence: closed for 50.0µs; no write waited (bound 1s)";
        assert_eq!(said(0, None), none);
        let one = "fence: closed for 50.0µs, frozen for 2.0s; one write waited 40.0µs (bound 1s)";
        assert_eq!(said(1, Some(Duration::from_secs(2))), one);
        let many = "fence: closed for 50.0µs; 7 writes waited, 99 % of them 30.0µs at most, the longest 40.0µs (bound 1s)";
        assert_eq!(said(7, None), many);
    }
}
