//! A verdict as it is stored: JSON with exactly these fields, and its way from the engine's words and back.
//!
//! An unknown or missing field makes a row unreadable rather than half understood; `docs/format.md` repeats the fields.

use std::time::{SystemTime, UNIX_EPOCH};

use cohort_job::{Cause, Disposition, Entry, GroupName, Kind, MemberName, Owed, Record, Verdict};
use serde::{Deserialize, Serialize};

use crate::RecordBytes;

/// What became of a group of jobs, written once, before the first hook runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decided {
    /// The group's name.
    pub group: String,
    /// When it was decided.
    pub decided_unix_ms: u64,
    /// Commit, or abort and why.
    pub outcome: Outcome,
    /// Whether hooks of this group may still have to run.
    pub owed: bool,
    /// Its members that had prepared, in creation order.
    pub members: Vec<Member>,
}

/// The verdict on a group, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Outcome {
    /// Every member commits.
    Commit,
    /// Every member aborts.
    Abort(Aborted),
}

/// Why and how a group was aborted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Aborted {
    /// What ended the group.
    pub cause: AbortCause,
    /// What becomes of what its members leave.
    pub disposition: Settling,
}

/// What ended a group, as it is stored. Members are told by their place in creation order, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum AbortCause {
    /// This member failed.
    Failed(u32),
    /// A user cancelled this member.
    Cancelled(u32),
    /// A user cancelled the group.
    User,
    /// The group was dropped before its launch.
    Rollback,
    /// The engine shut down.
    Shutdown,
    /// The process ended before there was a verdict.
    ProcessEnded,
}

/// What became of what the members of an aborted group left, as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Settling {
    /// Each by its own policy.
    Keep,
    /// Nothing was to remain.
    Discard,
}

/// A member of a decided group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// What kind of driver it needs.
    pub kind: String,
    /// What it prepared; dropped once nothing is owed.
    pub record: Option<RecordBytes>,
}

impl Decided {
    /// A verdict that was reached now, with hooks that are still to run.
    #[must_use]
    pub fn now(group: &GroupName, verdict: Verdict, records: &[Entry]) -> Self {
        // A clock before 1970 is said to be at it: this is information for people.
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            group: group.as_str().to_owned(),
            decided_unix_ms: now.map_or(0, |since| {
                u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
            }),
            outcome: verdict.into(),
            owed: true,
            members: records.iter().map(member).collect(),
        }
    }

    /// Whether the engine means this one: groups may share a name.
    pub(crate) fn is(&self, owed: &Owed) -> bool {
        self.group == owed.group.as_str() && self.owed() == *owed
    }

    /// What the engine is told at the next start.
    #[must_use]
    pub fn owed(&self) -> Owed {
        let entry = |member: &Member| {
            let bytes = member.record.as_ref().map(|record| record.0.clone());
            let (name, kind) = (MemberName::new(&member.name), Kind::new(&member.kind));
            (name, kind, Record(bytes.unwrap_or_default()))
        };
        Owed {
            group: GroupName::new(&self.group),
            verdict: (&self.outcome).into(),
            records: self.members.iter().map(entry).collect(),
        }
    }
}

fn member((name, kind, record): &Entry) -> Member {
    Member {
        name: name.as_str().to_owned(),
        kind: kind.as_str().to_owned(),
        record: Some(RecordBytes(record.0.clone())),
    }
}

impl From<Verdict> for Outcome {
    fn from(verdict: Verdict) -> Self {
        let Verdict::Abort { cause, disposition } = verdict else {
            return Self::Commit;
        };
        let cause = match cause {
            Cause::Failed(member) => AbortCause::Failed(member),
            Cause::Cancelled(member) => AbortCause::Cancelled(member),
            Cause::User => AbortCause::User,
            Cause::Rollback => AbortCause::Rollback,
            Cause::Shutdown => AbortCause::Shutdown,
            Cause::ProcessEnded => AbortCause::ProcessEnded,
        };
        let disposition = match disposition {
            Disposition::Keep => Settling::Keep,
            Disposition::Discard => Settling::Discard,
        };
        Self::Abort(Aborted { cause, disposition })
    }
}

impl From<&Outcome> for Verdict {
    fn from(outcome: &Outcome) -> Self {
        let Outcome::Abort(aborted) = outcome else {
            return Self::Commit;
        };
        let cause = match aborted.cause {
            AbortCause::Failed(member) => Cause::Failed(member),
            AbortCause::Cancelled(member) => Cause::Cancelled(member),
            AbortCause::User => Cause::User,
            AbortCause::Rollback => Cause::Rollback,
            AbortCause::Shutdown => Cause::Shutdown,
            AbortCause::ProcessEnded => Cause::ProcessEnded,
        };
        let disposition = match aborted.disposition {
            Settling::Keep => Disposition::Keep,
            Settling::Discard => Disposition::Discard,
        };
        Self::Abort { cause, disposition }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_verdict_comes_back_as_it_went() {
        let causes = [
            Cause::Failed(3),
            Cause::Cancelled(0),
            Cause::User,
            Cause::Rollback,
            Cause::Shutdown,
            Cause::ProcessEnded,
        ];
        let aborts = causes.into_iter().flat_map(|cause| {
            [Disposition::Keep, Disposition::Discard]
                .map(|disposition| Verdict::Abort { cause, disposition })
        });
        for verdict in aborts.chain([Verdict::Commit]) {
            let text = serde_json::to_string(&Outcome::from(verdict)).unwrap();
            let read: Outcome = serde_json::from_str(&text).unwrap();
            assert_eq!(Verdict::from(&read), verdict, "{text}");
        }
    }

    #[test]
    fn the_text_is_that_of_the_format() {
        let record = (
            MemberName::new("disk"),
            Kind::new("copy"),
            Record(vec![0, 254]),
        );
        let verdict = Verdict::Abort {
            cause: Cause::Failed(2),
            disposition: Disposition::Keep,
        };
        let mut decided = Decided::now(&"night".into(), verdict, &[record]);
        decided.decided_unix_ms = 7;
        let text = json!({
            "group": "night",
            "decided_unix_ms": 7,
            "outcome": {"abort": {"cause": {"failed": 2}, "disposition": "keep"}},
            "owed": true,
            "members": [{"name": "disk", "kind": "copy", "record": "00fe"}],
        });
        assert_eq!(serde_json::to_value(&decided).unwrap(), text);
    }
}
