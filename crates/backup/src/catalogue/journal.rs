//! The catalogue as the journal of the groups that write into its directory.
//!
//! A verdict is one durable transaction: the verdict itself, and on commit the points of its members,
//! the views they replace, the partials they continued or supersede; on *abort, Discard* the partials
//! that were enlisted. What a start finds no verdict of was aborted, and its files are garbage.

use cohort_job::{
    Cause, Disposition, GroupName, Journal, JournalError, Kind, MemberName, Owed, Record, Verdict,
};

use super::contents::Contents;
use super::model::{AbortCause, Aborted, Decided, Member, Outcome, RecordBytes, Settling};
use super::record::PointRecord;
use super::{Catalogue, now_unix_ms};

impl Journal for Catalogue {
    fn decide(
        &self,
        group: &GroupName,
        verdict: &Verdict,
        records: &[(MemberName, Kind, Record)],
    ) -> Result<(), JournalError> {
        let decided = Decided {
            group: group.as_str().to_owned(),
            decided_unix_ms: now_unix_ms(),
            outcome: stored(*verdict),
            owed: true,
            members: records.iter().map(member).collect(),
        };
        let mut state = self.lock();
        if let Some(why) = &state.closed {
            return Err(error(format!(
                "no more verdicts are taken until the next start: {why}"
            )));
        }
        let written = points(verdict, records).and_then(|points| {
            let enlisted = state.enlisted.remove(group.as_str()).unwrap_or_default();
            let written = state.change(|contents: &mut Contents| {
                for point in points {
                    contents.commit_point(point)?;
                }
                if matches!(
                    verdict,
                    Verdict::Abort {
                        disposition: Disposition::Discard,
                        ..
                    }
                ) {
                    for disk in &enlisted {
                        contents.drop_partial(disk);
                    }
                }
                contents.add_verdict(decided)
            });
            written.map_err(|error| error.to_string())
        });
        written.map_err(|why| {
            state.closed = Some(why.as_str().into());
            error(why)
        })
    }

    fn owed(&self) -> Result<Vec<Owed>, JournalError> {
        let contents = self.snapshot().map_err(|why| error(why.to_string()))?;
        Ok(contents.owed().map(owed).collect())
    }

    fn done(&self, group: &GroupName) -> Result<(), JournalError> {
        let done = self.change(|contents| contents.verdict_done(group.as_str()));
        done.map_err(|why| error(why.to_string()))
    }
}

/// The points of a committed group. An empty record commits without one; other kinds are not ours.
fn points(
    verdict: &Verdict,
    records: &[(MemberName, Kind, Record)],
) -> Result<Vec<PointRecord>, String> {
    if *verdict != Verdict::Commit {
        return Ok(Vec::new());
    }
    let ours = |(_, kind, record): &&(MemberName, Kind, Record)| {
        kind.as_str() == PointRecord::KIND && !record.0.is_empty()
    };
    let decode = |(name, _, record): &(MemberName, Kind, Record)| {
        PointRecord::decode(&record.0).map_err(|error| format!("member {name}: {error}"))
    };
    records.iter().filter(ours).map(decode).collect()
}

fn member((name, kind, record): &(MemberName, Kind, Record)) -> Member {
    Member {
        name: name.as_str().to_owned(),
        kind: kind.as_str().to_owned(),
        record: Some(RecordBytes(record.0.clone())),
    }
}

fn owed(decided: &Decided) -> Owed {
    let entry = |member: &Member| {
        let bytes = member.record.as_ref().map(|record| record.0.clone());
        let (name, kind) = (MemberName::new(&member.name), Kind::new(&member.kind));
        (name, kind, Record(bytes.unwrap_or_default()))
    };
    Owed {
        group: GroupName::new(&decided.group),
        verdict: verdict_of(&decided.outcome),
        records: decided.members.iter().map(entry).collect(),
    }
}

fn stored(verdict: Verdict) -> Outcome {
    let Verdict::Abort { cause, disposition } = verdict else {
        return Outcome::Commit;
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
    Outcome::Abort(Aborted { cause, disposition })
}

fn verdict_of(outcome: &Outcome) -> Verdict {
    let Outcome::Abort(aborted) = outcome else {
        return Verdict::Commit;
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
    Verdict::Abort { cause, disposition }
}

fn error(text: String) -> JournalError {
    JournalError::new(text)
}
