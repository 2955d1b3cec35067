//! `cohort verify`: every image read back and compared with its digests, and on request every point rebuilt.

use std::path::PathBuf;

use cohort_backup::catalogue::ByteRange;
use cohort_backup::{
    Damage, PointState, PointVerdict, Selection, Verify, VerifyError, VerifyReport, verify,
};
use serde::Serialize;

use super::watched::{Shown, watched};
use crate::args;
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::human;
use crate::output::{eprint_line, json_line, print_line};

/// What was found, as JSON gives it.
#[derive(Debug, Serialize)]
struct JsonVerified<'a> {
    event: &'static str,
    exit: &'static str,
    code: u8,
    read_bytes: u64,
    points: Vec<JsonPoint<'a>>,
    damage: Vec<JsonDamage<'a>>,
}

/// A point, as JSON gives it.
#[derive(Debug, Serialize)]
struct JsonPoint<'a> {
    name: String,
    state: &'static str,
    rebuilt: bool,
    skipped: &'a [ByteRange],
}

/// What is wrong with a file, as JSON gives it.
#[derive(Debug, Serialize)]
struct JsonDamage<'a> {
    file: &'a str,
    disk: &'a str,
    what: &'a str,
    ranges: &'a [ByteRange],
    points: Vec<String>,
}

/// A message names this many ranges, and counts the rest; JSON has all.
const NAMED: usize = 8;

pub(super) fn run(args: &args::Verify) -> Result {
    let selection = match &args.point {
        None => Selection::All,
        Some(text) => text
            .parse()
            .map_err(|error| Failure::new(Exit::Usage, error))?,
    };
    let mut what = Verify::new(selection);
    if args.restore_test {
        what = what.restore_test(args.scratch.clone().unwrap_or_else(std::env::temp_dir));
    }
    let name = args.dir.display().to_string();
    let shown = Shown {
        name: &name,
        phase: "verifying",
        stopping: "Stopping.",
        json: args.output.json,
    };
    let report = watched(shown, |tell, cancel| verify(&args.dir, &what, tell, cancel))?;
    let report = report.map_err(|error| failure(error, args.scratch.clone()))?;
    let exit = if report.sound() {
        Exit::Done
    } else {
        Exit::Damaged
    };
    report.damage.iter().for_each(print_damage);
    if args.output.json {
        json_line(&json(&report, exit));
    } else {
        print(&report);
    }
    Ok(exit)
}

fn json(report: &VerifyReport, exit: Exit) -> JsonVerified<'_> {
    JsonVerified {
        event: "verified",
        exit: exit.word(),
        code: exit.code(),
        read_bytes: report.read_bytes,
        points: report
            .points
            .iter()
            .map(|point| JsonPoint {
                name: name(point),
                state: word(point.state),
                rebuilt: point.rebuilt,
                skipped: &point.skipped,
            })
            .collect(),
        damage: report
            .damage
            .iter()
            .map(|damage| JsonDamage {
                file: &damage.file,
                disk: damage.disk.as_str(),
                what: &damage.what,
                ranges: &damage.ranges,
                points: names(damage),
            })
            .collect(),
    }
}

fn print(report: &VerifyReport) {
    for point in &report.points {
        let rebuilt = if point.rebuilt {
            ", rebuilt and compared"
        } else {
            ""
        };
        let state = match point.state {
            PointState::Sound => "sound",
            PointState::NoDigests => "readable; not all of it has digests to compare with",
            PointState::Damaged => "DAMAGED",
        };
        let missing: u64 = point.skipped.iter().map(|range| range.length).sum();
        let missing = match missing {
            0 => String::new(),
            bytes => format!(
                "; incomplete: {} could not be read when it was taken",
                human::bytes(bytes)
            ),
        };
        print_line(&format!("{}: {state}{rebuilt}{missing}", name(point)));
    }
    let read = human::bytes(report.read_bytes);
    let points = match report.points.len() {
        1 => "1 point".to_owned(),
        many => format!("{many} points"),
    };
    let dead = report
        .points
        .iter()
        .filter(|point| point.state == PointState::Damaged);
    print_line(&match (report.sound(), dead.count()) {
        (true, _) => format!("{points} verified, {read} read"),
        (false, dead) => format!("{dead} of {points} damaged, {read} read"),
    });
}

fn print_damage(damage: &Damage) {
    let Damage {
        file,
        disk,
        what,
        ranges,
        ..
    } = damage;
    let named = ranges.iter().take(NAMED);
    let named = named.map(|range| format!("{} bytes at byte {}", range.length, range.offset));
    let mut place = named.collect::<Vec<_>>().join(", ");
    if ranges.len() > NAMED {
        place = format!("{place} and {} more ranges", ranges.len() - NAMED);
    }
    let place = if place.is_empty() {
        String::new()
    } else {
        format!(" ({place} of {disk})")
    };
    let dies = match names(damage).join(", ") {
        none if none.is_empty() => "no point dies of that".to_owned(),
        points => format!("with it die {points}"),
    };
    eprint_line(&format!("cohort: {file}: {what}{place}; {dies}"));
}

fn names(damage: &Damage) -> Vec<String> {
    let name = |run| format!("{}@{run}", damage.disk);
    damage.points.iter().map(name).collect()
}

fn name(point: &PointVerdict) -> String {
    format!("{}@{}", point.disk, point.run)
}

fn word(state: PointState) -> &'static str {
    match state {
        PointState::Sound => "sound",
        PointState::NoDigests => "no-digests",
        PointState::Damaged => "damaged",
    }
}

fn failure(error: VerifyError, scratch: Option<PathBuf>) -> Failure {
    match error {
        VerifyError::Directory(error) => error.into(),
        VerifyError::NoSuchPoint(error) => error.into(),
        error @ VerifyError::NoSuchRun(_) => Failure::new(Exit::NoSuchPoint, error),
        error @ VerifyError::Cancelled => Failure::new(Exit::Cancelled, error),
        error @ (VerifyError::Scratch { .. } | _) => {
            let failure = Failure::new(Exit::TargetFailed, error);
            match scratch {
                Some(_) => failure,
                None => Failure {
                    error: failure.error.context("choose a roomy place with --scratch"),
                    ..failure
                },
            }
        }
    }
}
