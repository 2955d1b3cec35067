//! `cohort doctor`: what kills and failures left in a directory, what every answer to it would mean, and the answers.

mod backup;
mod daemon;
mod journal;

use serde::Serialize;

use crate::args;
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::output::{json_line, print_line};

/// The answer that changes nothing.
const LEAVE: &str = "leave";

/// Something that a kill or a failure left.
#[derive(Debug, Serialize)]
struct Finding<T> {
    /// How it is named in an answer: its kind, a colon, and what it is.
    id: String,
    what: String,
    answers: Vec<Answer>,
    /// What an answer is carried out on.
    #[serde(skip)]
    subject: T,
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Answer {
    answer: &'static str,
    /// What it leads to.
    then: String,
}

/// All that was found, as JSON gives it.
#[derive(Debug, Serialize)]
struct JsonFindings<'a, T> {
    event: &'static str,
    directory: String,
    /// Whether somebody writes into the directory now.
    writer: bool,
    findings: &'a [Finding<T>],
}

/// An answer that was carried out, as JSON gives it.
#[derive(Debug, Serialize)]
struct JsonResolved<'a> {
    event: &'static str,
    id: &'a str,
    #[serde(flatten)]
    answer: &'a Answer,
}

pub(super) fn run(args: &args::Doctor) -> Result {
    if args.dir.join("journal.redb").exists() {
        journal::run(args)
    } else {
        backup::run(args)
    }
}

impl<T> Finding<T> {
    /// Something that is left as it is unless one of `answers` is given.
    fn new(
        id: String,
        what: String,
        left: &str,
        answers: &[(&'static str, String)],
        subject: T,
    ) -> Self {
        let leave = (LEAVE, left.to_owned());
        let answers = std::iter::once(&leave).chain(answers).cloned();
        Finding {
            id,
            what,
            answers: answers
                .map(|(answer, then)| Answer { answer, then })
                .collect(),
            subject,
        }
    }
}

/// Shows all that was found.
fn show<T: Serialize>(args: &args::Doctor, writer: bool, findings: &[Finding<T>]) {
    let directory = args.dir.display().to_string();
    if args.output.json {
        return json_line(&JsonFindings {
            event: "doctor",
            directory,
            writer,
            findings,
        });
    }
    if writer {
        print_line(&format!(
            "{directory}: somebody writes here now: what that run has not decided yet is not in doubt"
        ));
    }
    if findings.is_empty() {
        return print_line(&format!(
            "{directory}: nothing is in doubt, and nothing is left over"
        ));
    }
    for finding in findings {
        print_line(&format!("{}  {}", finding.id, finding.what));
        for Answer { answer, then } in &finding.answers {
            print_line(&format!("    {answer:<8} {then}"));
        }
    }
    print_line(&format!(
        "Nothing was changed. To answer: cohort doctor {directory} --resolve FINDING=ANSWER"
    ));
}

/// The findings that are answered, each with its answer.
///
/// # Errors
/// Names what is no finding or no answer of one; then nothing must be changed.
fn chosen<'a, T>(
    args: &args::Doctor,
    findings: &'a [Finding<T>],
) -> Result<Vec<(&'a Finding<T>, &'a Answer)>> {
    let choose = |text: &String| {
        let (id, word) = text.rsplit_once('=').unwrap_or((text, ""));
        let Some(finding) = findings.iter().find(|finding| finding.id == id) else {
            let ids: Vec<_> = findings.iter().map(|finding| finding.id.as_str()).collect();
            let there = match ids.as_slice() {
                [] => "nothing was found here".to_owned(),
                ids => format!("there are {}", ids.join(", ")),
            };
            let message = format_args!("--resolve {text}: nothing of that name was found; {there}");
            return Err(Failure::say(Exit::Usage, message));
        };
        let found = finding.answers.iter().find(|answer| answer.answer == word);
        found.map(|answer| (finding, answer)).ok_or_else(|| {
            let words: Vec<_> = finding.answers.iter().map(|a| a.answer).collect();
            let words = words.join(", ");
            let message = format_args!("--resolve {text}: the answers to {id} are {words}");
            Failure::say(Exit::Usage, message)
        })
    };
    args.resolve.iter().map(choose).collect()
}

/// Looks at all answers before the directory is opened to be written, which by itself writes. Whether nothing is to be
/// changed, which is then said.
///
/// # Errors
/// As [`chosen`].
fn only_left<T>(args: &args::Doctor, findings: &[Finding<T>]) -> Result<bool> {
    let chosen = chosen(args, findings)?;
    let left = chosen.iter().all(|(_, answer)| answer.answer == LEAVE);
    if left {
        for (finding, answer) in chosen {
            resolved(args, finding, answer);
        }
    }
    Ok(left)
}

/// Says that an answer was carried out.
fn resolved<T>(args: &args::Doctor, finding: &Finding<T>, answer: &Answer) {
    let id = &finding.id;
    if args.output.json {
        json_line(&JsonResolved {
            event: "resolved",
            id,
            answer,
        });
    } else {
        print_line(&format!("{id}: {}: {}", answer.answer, answer.then));
    }
}
