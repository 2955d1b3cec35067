//! `cohort explain`: what each disk is left with after every possible end of a run, from the table that decides it.

use cohort_backup::catalogue::{self, Contents, Decision, DiskName};
use cohort_backup::{BitmapPolicy, Ended, fate};
use serde::Serialize;

use super::sources::{PerDisk, Source};
use crate::args;
use crate::exit::Exit;
use crate::failure::Result;
use crate::output::{json_line, print_line};

/// The ends that people ask about, and the row of the table that each of them is.
const ENDS: [(&str, Ended); 6] = [
    ("success", Ended::Committed),
    ("its own error", Ended::Kept),
    ("a peer's error", Ended::Kept),
    ("a soft cancel, of it or of a peer", Ended::Kept),
    ("a forced cancel, of it or of a peer", Ended::Discarded),
    ("anything, before it began", Ended::NeverStarted),
];

const POLICIES: [BitmapPolicy; 4] = [
    BitmapPolicy::OnSuccess,
    BitmapPolicy::Always,
    BitmapPolicy::Ask,
    BitmapPolicy::Never,
];

/// One answer.
#[derive(Debug, Serialize)]
struct Answer<'a> {
    event: &'static str,
    disk: Option<&'a str>,
    policy: String,
    /// Whether the disk is served by us, so that writes to it are recorded.
    fenced: bool,
    after: &'static str,
    left_with: &'static str,
}

/// What the next run would do.
#[derive(Debug, Serialize)]
struct Plan<'a> {
    event: &'static str,
    disk: &'a str,
    plan: &'a str,
}

pub(super) fn run(args: &args::Explain) -> Result {
    let policies = PerDisk::<BitmapPolicy>::parse("--policy", &args.policy)?;
    let disks = names(&args.sources)?;
    if disks.is_empty() {
        rules(args.output.json);
        return Ok(Exit::Done);
    }
    policies.all_used(&disks)?;
    let contents = args.to.as_deref().map(catalogue::read).transpose()?;
    for disk in &disks {
        // What is named on the command line is read, not served.
        explain(
            Some(disk),
            policies.of(disk).unwrap_or_default(),
            false,
            args.output.json,
        );
        if let Some(contents) = &contents {
            next_run(disk, contents, args.output.json);
        }
    }
    Ok(Exit::Done)
}

/// The names that the disks would get.
fn names(sources: &[String]) -> Result<Vec<DiskName>> {
    sources
        .iter()
        .map(|text| Source::parse(text).disk_name())
        .collect()
}

/// The whole table, for served disks and for others.
fn rules(json: bool) {
    for fenced in [true, false] {
        for policy in POLICIES {
            explain(None, policy, fenced, json);
        }
    }
}

/// What the next run would begin with, by what the directory holds.
fn next_run(disk: &DiskName, contents: &Contents, json: bool) {
    let last = contents
        .latest(disk)
        .map(|(run, _)| format!("{disk}@{run}"));
    let plan = match (
        contents.partials.get(disk).map(|partial| partial.decision),
        last,
    ) {
        (Some(Decision::Keep), _) => "continues the partial copy".into(),
        (Some(Decision::Undecided), _) => "is refused until somebody says keep or discard".into(),
        (None, Some(last)) => format!("compares the disk with {last} and copies what differs"),
        (None, None) => "copies the whole disk".into(),
    };
    if json {
        json_line(&Plan {
            event: "next-run",
            disk: disk.as_str(),
            plan: &plan,
        });
    } else {
        print_line(&format!("  the next run {plan}"));
    }
}

fn explain(disk: Option<&DiskName>, policy: BitmapPolicy, fenced: bool, json: bool) {
    if !json {
        let who = disk.map_or_else(|| "a disk".to_owned(), ToString::to_string);
        let how = if fenced {
            "served by us: every write is recorded"
        } else {
            "read only: what changed is found by comparing"
        };
        print_line(&format!("{who}, policy {policy} ({how})"));
    }
    for (after, ended) in ENDS {
        let left_with = fate(ended, policy).explained(fenced);
        if json {
            let disk = disk.map(DiskName::as_str);
            json_line(&Answer {
                event: "explain",
                disk,
                policy: policy.to_string(),
                fenced,
                after,
                left_with,
            });
        } else {
            print_line(&format!("  after {after:<36} {left_with}"));
        }
    }
}
