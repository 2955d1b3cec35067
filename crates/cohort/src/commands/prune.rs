//! `cohort prune`: points that are not wanted any more, and their images merged into those that lie on them.

use cohort_backup::catalogue::{self, Catalogue};
use cohort_backup::{
    Keep, KeepReason, PointFate, PruneError, PruneReport, Pruned, plan_prune, prune,
};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;

use super::close;
use super::watched::{Shown, watched};
use crate::args;
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::human;
use crate::output::{json_line, print_line};

/// The result as JSON gives it.
#[derive(Debug, Serialize)]
struct JsonPruned {
    event: &'static str,
    dry_run: bool,
    kept: Vec<JsonKept>,
    removed: Vec<String>,
    merged: Vec<JsonMerged>,
    bytes_before: Option<u64>,
    bytes_after: Option<u64>,
}

/// A point that stays, as JSON gives it.
#[derive(Debug, Serialize)]
struct JsonKept {
    name: String,
    why: Vec<String>,
}

/// A point that was merged, as JSON gives it.
#[derive(Debug, Serialize)]
struct JsonMerged {
    name: String,
    copied_bytes: u64,
}

pub(super) fn run(args: &args::Prune) -> Result {
    let keep = Keep {
        last: args.keep_last.unwrap_or(0),
        daily: args.keep_daily.unwrap_or(0),
    };
    if args.dry_run {
        let contents = catalogue::read(&args.dir)?;
        let plan = plan_prune(&contents, &keep, &day);
        show(&plan, None, args.output.json);
        return Ok(Exit::Done);
    }
    let catalogue = Catalogue::open(&args.dir)?;
    let plan = plan_prune(&*catalogue.snapshot()?, &keep, &day);
    let name = args.dir.display().to_string();
    let shown = Shown {
        name: &name,
        phase: "merging",
        stopping: "Stopping: what is left to merge the next prune finishes.",
        json: args.output.json,
    };
    let report = watched(shown, |tell, cancel| prune(&catalogue, &plan, tell, cancel))?;
    show(&plan, Some(&report.map_err(failure)?), args.output.json);
    close(catalogue);
    Ok(Exit::Done)
}

/// The number of the day of a moment, in local time.
fn day(unix_ms: u64) -> i64 {
    let stamp = i64::try_from(unix_ms).ok();
    let stamp = stamp.and_then(|ms| Timestamp::from_millisecond(ms).ok());
    stamp.map_or(0, |stamp| {
        let date = stamp.to_zoned(TimeZone::system()).date();
        i64::from(date.year()) * 366 + i64::from(date.day_of_year())
    })
}

fn show(plan: &[Pruned], report: Option<&PruneReport>, json: bool) {
    if json {
        json_line(&as_json(plan, report));
        return;
    }
    for point in plan {
        let name = name(point);
        print_line(&match (&point.fate, report) {
            (PointFate::Keep(why), _) => format!("{name}: kept ({})", words(why).join(", ")),
            (PointFate::Remove, Some(_)) => format!("{name}: removed"),
            (PointFate::Remove, None) => format!("{name}: would be removed"),
        });
    }
    let Some(report) = report else { return };
    for merged in &report.merged {
        let copied = human::bytes(merged.copied_bytes);
        print_line(&format!(
            "{}@{}: merged, {copied} copied",
            merged.disk, merged.run
        ));
    }
    let (before, after) = report.bytes;
    print_line(&format!(
        "{} before, {} now",
        human::bytes(before),
        human::bytes(after)
    ));
}

fn as_json(plan: &[Pruned], report: Option<&PruneReport>) -> JsonPruned {
    let merged = report.map_or(&[][..], |report| &report.merged);
    let kept = plan.iter().filter_map(|point| match &point.fate {
        PointFate::Keep(why) => Some(JsonKept {
            name: name(point),
            why: words(why),
        }),
        PointFate::Remove => None,
    });
    let removed = plan.iter().filter(|point| point.fate == PointFate::Remove);
    JsonPruned {
        event: "pruned",
        dry_run: report.is_none(),
        kept: kept.collect(),
        removed: removed.map(name).collect(),
        merged: merged
            .iter()
            .map(|merged| JsonMerged {
                name: format!("{}@{}", merged.disk, merged.run),
                copied_bytes: merged.copied_bytes,
            })
            .collect(),
        bytes_before: report.map(|report| report.bytes.0),
        bytes_after: report.map(|report| report.bytes.1),
    }
}

fn name(point: &Pruned) -> String {
    format!("{}@{}", point.disk, point.run)
}

fn words(why: &[KeepReason]) -> Vec<String> {
    why.iter().map(ToString::to_string).collect()
}

fn failure(error: PruneError) -> Failure {
    let exit = match error {
        PruneError::Directory(error) => return error.into(),
        PruneError::Catalogue(error) => return error.into(),
        PruneError::Damaged { .. } => Exit::Damaged,
        PruneError::Unreadable { .. } => Exit::PointDamaged,
        PruneError::Cancelled => Exit::Cancelled,
        _ if error.no_room() => Exit::TargetFull,
        PruneError::Write { .. } | PruneError::File { .. } | _ => Exit::TargetFailed,
    };
    Failure::new(exit, error)
}
