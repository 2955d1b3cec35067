//! Progress as it is seen: a bar per disk on a terminal, plain lines in a pipe, objects in JSON. Bars and lines go to
//! standard error, so that standard output holds results only.

use std::io::IsTerminal;
use std::time::Duration;

use cohort_job::{Estimate, Remaining};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::human;
use crate::output::{self, eprint_line};

/// In a pipe a disk gets a line when this share of it was done since its last line,
const LINE_STEP: f64 = 0.25;

/// and when it has been silent for this long, so that a log shows that the run lives.
const LINE_SILENCE: Duration = Duration::from_secs(10);

/// JSON progress comes at most this often for a disk.
const JSON_STEP: Duration = Duration::from_millis(500);

/// One disk at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DiskNow {
    /// The disk's name.
    pub(crate) name: String,
    /// What it is doing, in a word or two: `scanning`, `copying`, `waiting for peers`.
    pub(crate) phase: String,
    /// Bytes done.
    pub(crate) done: u64,
    /// Bytes there are to do, as far as is known.
    pub(crate) total: u64,
    /// What it waits for the operator to mend.
    pub(crate) stopped: Option<String>,
}

/// Where and how progress is shown.
#[derive(Debug)]
pub(crate) struct Progress {
    rows: Vec<Row>,
    face: Face,
}

/// What is remembered of one disk between two looks.
#[derive(Debug, Default)]
struct Row {
    estimate: Estimate,
    phase: String,
    shown_share: f64,
    shown_at: Duration,
    /// What the disk waits for the operator to mend.
    stopped: Option<String>,
}

#[derive(Debug)]
enum Face {
    Bars {
        all: MultiProgress,
        bars: Vec<ProgressBar>,
    },
    Lines,
    Json,
}

/// A disk that waits for the operator.
#[derive(Debug, Serialize)]
struct JsonStopped<'a> {
    event: &'static str,
    disk: &'a str,
    message: &'a str,
    resume: &'a str,
}

/// A line of JSON progress.
#[derive(Debug, Serialize)]
struct JsonProgress<'a> {
    event: &'static str,
    disk: &'a str,
    phase: &'a str,
    done_bytes: u64,
    total_bytes: u64,
    bytes_per_second: u64,
}

impl Progress {
    /// Chooses the face: JSON if asked for, bars on a terminal, lines elsewhere.
    pub(crate) fn new(json: bool) -> Progress {
        let face = if json {
            Face::Json
        } else if std::io::stderr().is_terminal() {
            Face::Bars {
                all: MultiProgress::with_draw_target(ProgressDrawTarget::stderr()),
                bars: Vec::new(),
            }
        } else {
            Face::Lines
        };
        Progress {
            rows: Vec::new(),
            face,
        }
    }

    /// Shows where the disks are at `now`, counted from the start of the run. The order of the disks must not change.
    pub(crate) fn show(&mut self, now: Duration, disks: &[DiskNow]) {
        self.rows
            .resize_with(disks.len().max(self.rows.len()), Row::default);
        for (index, disk) in disks.iter().enumerate() {
            let row = &mut self.rows[index];
            if row.phase != disk.phase {
                // Another kind of work has another rate.
                *row = Row {
                    stopped: row.stopped.take(),
                    phase: disk.phase.clone(),
                    shown_at: now,
                    shown_share: share(disk),
                    ..Row::default()
                };
            }
            row.estimate.note(now, disk.done);
            match &mut self.face {
                Face::Bars { all, bars } => {
                    if bars.is_empty() {
                        *bars = make_bars(all, disks);
                    }
                    show_bar(&bars[index], disk, &row.estimate);
                }
                Face::Lines => show_line(row, now, disk),
                Face::Json => show_json(row, now, disk),
            }
            if row.stopped != disk.stopped {
                row.stopped.clone_from(&disk.stopped);
                self.show_stopped(disk);
            }
        }
    }

    /// Says what a disk waits for the operator to mend, and how it is told to go on.
    fn show_stopped(&self, disk: &DiskNow) {
        let (name, Some(message)) = (&disk.name, &disk.stopped) else {
            return;
        };
        let resume = format!("kill -CONT {}", std::process::id());
        match self.face {
            Face::Json => output::json_line(&JsonStopped {
                event: "stopped",
                disk: name,
                message,
                resume: &resume,
            }),
            Face::Bars { .. } | Face::Lines => self.say(&format!(
                "{name}: stopped: {message}\n{name}: mend it, then have it try again: {resume}"
            )),
        }
    }

    /// Says a line of its own among the progress.
    pub(crate) fn say(&self, line: &str) {
        match &self.face {
            // As `finish`: a terminal that went away is no reason to fail.
            Face::Bars { all, .. } => drop(all.println(line)),
            Face::Lines | Face::Json => eprint_line(line),
        }
    }

    /// Takes the bars away; what follows is the result.
    pub(crate) fn finish(self) {
        if let Face::Bars { all, .. } = self.face {
            // A terminal that went away is no reason to fail a backup that did not.
            let _ = all.clear();
        }
    }
}

/// Bars for all disks, before any of them is drawn.
fn make_bars(all: &MultiProgress, disks: &[DiskNow]) -> Vec<ProgressBar> {
    // Not the full width: a terminal that echoes ^C must not have to break the line.
    let style = ProgressStyle::with_template("{prefix:>12} {bar:24.cyan/dim} {percent:>3}%  {msg}");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = |disk: &DiskNow| {
        let bar = ProgressBar::new(disk.total)
            .with_style(style.clone())
            .with_prefix(disk.name.clone());
        all.add(bar)
    };
    disks.iter().map(bar).collect()
}

fn show_bar(bar: &ProgressBar, disk: &DiskNow, estimate: &Estimate) {
    // A disk whose work is not yet known has done none of it.
    bar.set_length(disk.total.max(1));
    bar.set_position(disk.done);
    bar.set_message(message(disk, estimate));
}

fn show_line(row: &mut Row, now: Duration, disk: &DiskNow) {
    let share = share(disk);
    if share < row.shown_share + LINE_STEP && now < row.shown_at + LINE_SILENCE {
        return;
    }
    (row.shown_share, row.shown_at) = (share, now);
    eprint_line(&format!(
        "{}: {:3.0}%  {}",
        disk.name,
        share * 100.0,
        message(disk, &row.estimate)
    ));
}

/// How much of its present work a disk has done, from 0 to 1.
fn share(disk: &DiskNow) -> f64 {
    if disk.total == 0 {
        return 0.0;
    }
    disk.done as f64 / disk.total as f64
}

fn show_json(row: &mut Row, now: Duration, disk: &DiskNow) {
    if now < row.shown_at + JSON_STEP {
        return;
    }
    row.shown_at = now;
    output::json_line(&JsonProgress {
        event: "progress",
        disk: &disk.name,
        phase: &disk.phase,
        done_bytes: disk.done,
        total_bytes: disk.total,
        bytes_per_second: row.estimate.rate() as u64,
    });
}

/// `copying  1.20 of 4.00 GiB, 512 MiB/s, 5 s left`.
fn message(disk: &DiskNow, estimate: &Estimate) -> String {
    let mut text = format!(
        "{}  {} of {}",
        disk.phase,
        human::bytes(disk.done),
        human::bytes(disk.total)
    );
    if estimate.rate() > 0.0 {
        text += &format!(", {}/s", human::bytes(estimate.rate() as u64));
    }
    match estimate.remaining(disk.total.saturating_sub(disk.done)) {
        Remaining::Unknown => {}
        Remaining::Stalled => text += ", stalled",
        Remaining::Between(_, latest) if latest.is_zero() => {}
        Remaining::Between(soonest, latest) if latest <= soonest.mul_f64(1.25) => {
            text += &format!(", {} left", human::duration(latest));
        }
        Remaining::Between(soonest, latest) => {
            text += &format!(
                ", {} to {} left",
                human::duration(soonest),
                human::duration(latest)
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{DiskNow, Estimate, message};

    #[test]
    fn a_message_says_phase_bytes_rate_and_time_left() {
        let disk = DiskNow {
            name: "a".into(),
            phase: "copying".into(),
            done: 512 << 20,
            total: 1 << 30,
            stopped: None,
        };
        let mut estimate = Estimate::default();
        assert_eq!(message(&disk, &estimate), "copying  512 MiB of 1.00 GiB");
        for second in 0..=8 {
            estimate.note(Duration::from_secs(second), second * (64 << 20));
        }
        assert_eq!(
            message(&disk, &estimate),
            "copying  512 MiB of 1.00 GiB, 64.0 MiB/s, 8.0 s left"
        );
    }
}
