//! Whether two transcripts say the same.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::script::{Scenario, Step, Transcript};

/// What the comparison of one scenario comes to.
#[derive(Debug)]
pub(crate) enum Verdict {
    Equal,
    /// Only where the page of differences says so.
    OnPurpose,
    Wrong(String),
}

/// The verdict, and the reasons that were needed.
pub(crate) struct Compared {
    pub(crate) found: Verdict,
    pub(crate) used: BTreeSet<String>,
}

/// Compares. A reason that is given and not needed is wrong, too.
pub(crate) fn compare(scenario: &Scenario, theirs: &Transcript, ours: &Transcript) -> Compared {
    let mut used = BTreeSet::new();
    let mut wrong = String::new();
    let mut judge = |what: &str, theirs: String, ours: String, reason: Option<&String>| match (
        theirs == ours,
        reason,
    ) {
        (true, None) => {}
        (false, Some(reason)) => {
            used.insert(reason.clone());
        }
        (true, Some(reason)) => {
            let _ = writeln!(wrong, "  {what}: equal, though '{reason}' is given: {ours}");
        }
        (false, None) => {
            let _ = writeln!(wrong, "  {what}\n    QEMU:   {theirs}\n    Cohort: {ours}");
        }
    };
    let asked = scenario
        .lines
        .iter()
        .filter(|line| matches!(line.step, Step::Command(..) | Step::Raw(_)));
    let both = theirs.answers.iter().zip(&ours.answers).zip(asked);
    for (((what, theirs), (_, ours)), line) in both {
        judge(
            what,
            format!("{theirs:?}"),
            format!("{ours:?}"),
            line.reason.as_ref(),
        );
    }
    let jobs: BTreeSet<_> = theirs.events.keys().chain(ours.events.keys()).collect();
    for job in jobs {
        let told = |side: &Transcript| {
            side.events
                .get(job)
                .map(|told| told.join(" "))
                .unwrap_or_default()
        };
        judge(
            &format!("events of {job}"),
            told(theirs),
            told(ours),
            scenario.event_reasons.get(job),
        );
    }
    for (file, bytes) in &theirs.files {
        let ours = ours.files.get(file).cloned().unwrap_or_default();
        judge(
            &format!("file {file}"),
            bytes.clone(),
            ours,
            scenario.file_reasons.get(file),
        );
    }
    let found = match (wrong.is_empty(), used.is_empty()) {
        (true, true) => Verdict::Equal,
        (true, false) => Verdict::OnPurpose,
        (false, _) => Verdict::Wrong(wrong),
    };
    Compared { found, used }
}
