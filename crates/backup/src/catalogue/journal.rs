//! The catalogue as the journal of the groups that write into its directory.
//!
//! A verdict is one durable transaction: the verdict itself, and on commit the points of its members,
//! the views they replace, the partials they continued or supersede; on *abort, Discard* the partials
//! that were enlisted. What a start finds no verdict of was aborted, and its files are garbage.

use cohort_job::{
    Disposition, GroupName, Journal, JournalError, Kind, MemberName, Owed, Record, Verdict,
};

use super::Catalogue;
use super::contents::Contents;
use super::model::Decided;
use super::record::PointRecord;

impl Journal for Catalogue {
    fn decide(
        &self,
        group: &GroupName,
        verdict: &Verdict,
        records: &[(MemberName, Kind, Record)],
    ) -> Result<(), JournalError> {
        let decided = Decided::now(group, *verdict, records);
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
        Ok(contents.owed().map(Decided::owed).collect())
    }

    fn done(&self, owed: &Owed) -> Result<(), JournalError> {
        // By its name: a run's is its own.
        let done = self.change(|contents| contents.verdict_done(owed.group.as_str()));
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

fn error(text: String) -> JournalError {
    JournalError::new(text)
}
