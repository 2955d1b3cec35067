//! How a run ended, disk by disk: text or JSON, and the exit code that follows from it.

use cohort_backup::catalogue::{ByteRange, Decision, Partial};
use cohort_backup::{DiskOutcome, DiskReport, RunReport};
use cohort_job::{Cause, Disposition};
use serde::Serialize;

use crate::args;
use crate::exit::Exit;
use crate::failure;
use crate::human;
use crate::output::{eprint_line, json_line, print_line};

/// A run's result as JSON gives it.
#[derive(Debug, Serialize)]
struct JsonRun<'a> {
    event: &'static str,
    exit: &'static str,
    code: u8,
    run: Option<u64>,
    disks: Vec<JsonDisk<'a>>,
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
    partial: Option<&'a Partial>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stepped_down: Option<String>,
    skipped: &'a [ByteRange],
    notes: &'a [String],
}

/// Prints the report and tells how the process exits.
pub(super) fn print(report: &RunReport, args: &args::Backup) -> Exit {
    let exit = exit_of(report);
    if args.output.json {
        json_line(&JsonRun {
            event: "result",
            exit: exit.word(),
            code: exit.code(),
            run: report.run.map(|run| run.0),
            disks: report
                .disks
                .iter()
                .map(|disk| json_disk(report, disk))
                .collect(),
        });
    }
    for disk in &report.disks {
        print_disk(report, disk, args.output.json);
    }
    exit
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
        partial: disk.left.as_ref(),
        stepped_down: disk.stepped_down.as_ref().map(ToString::to_string),
        skipped: &disk.skipped,
        notes: &disk.notes,
    }
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

/// A disk's line for people: good news on standard output, everything else on standard error.
fn print_disk(report: &RunReport, disk: &DiskReport, json: bool) {
    let (word, message) = outcome(report, disk);
    match (&disk.outcome, message) {
        (DiskOutcome::Committed(_), _) if json => {}
        (DiskOutcome::Committed(_), _) => {
            let point = report.run.map_or_else(String::new, |run| format!("@{run}"));
            let (copied, size) = (human::bytes(disk.copied_bytes), human::bytes(disk.size));
            print_line(&format!("{}{point}: {copied} copied of {size}", disk.name));
        }
        (_, message) => eprint_line(&format!(
            "cohort: {}: {word}: {}",
            disk.name,
            message.unwrap_or_default()
        )),
    }
    if let Some(step) = &disk.stepped_down {
        eprint_line(&format!("cohort: {}: {step}", disk.name));
    }
    for note in &disk.notes {
        eprint_line(&format!("cohort: {}: {note}", disk.name));
    }
    if let (Some(partial), false) = (&disk.left, matches!(disk.outcome, DiskOutcome::Refused(_))) {
        eprint_line(&format!("cohort: {}: {}", disk.name, kept(partial)));
    }
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
