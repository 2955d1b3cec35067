//! Where a verdict is written before anybody acts on it: the port, and the journal that remembers.
//!
//! The protocol is two-phase commit with presumed abort: what a start finds no verdict of was aborted.

use std::sync::Mutex;

use crate::{Error, GroupName, Kind, MemberName, Record, Verdict};

/// What a member leaves for the next start.
///
/// Example: [`Journal`].
pub type Entry = (MemberName, Kind, Record);

/// A durable place for verdicts.
///
/// The engine asks for one write per group, before its first commit or abort hook, from a thread that
/// may block. A failed write leaves the group *in doubt*: it is never tried again and never guessed; the
/// engine takes no more verdicts to this journal, and the next start reads what is there.
///
/// A start that finds what an earlier process decided, and did not live to carry out:
///
/// ```
/// use std::sync::{Arc, mpsc};
/// use cohort_job::{
///     DriverExt, Engine, Journal, Kind, MemberName, MemoryJournal, Record, Step, Verdict, from_fn,
/// };
///
/// let journal = Arc::new(MemoryJournal::new());
/// let record = (MemberName::new("page"), Kind::new("publish"), Record(b"page 1".to_vec()));
/// journal.decide(&"edition 7".into(), &Verdict::Commit, &[record])?;
///
/// let engine = Engine::builder().journal(journal.clone()).build()?;
/// let (print, printed) = mpsc::channel();
/// let recovered = engine.recover(|_group, _name, kind, record| {
///     let (print, text) = (print.clone(), record.0.clone());
///     let publish = from_fn(|_| Step::done()).on_commit(move |how| {
///         assert!(how.replayed);
///         let _ = print.send(text.clone());
///     });
///     (kind.as_str() == "publish").then(|| Box::new(publish) as _)
/// })?;
/// recovered.groups.iter().for_each(|group| drop(group.wait()));
/// assert_eq!(printed.recv()?, b"page 1");
/// assert!(recovered.unknown.is_empty() && journal.owed()?.is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Journal: Send + Sync {
    /// Writes a group's verdict with the records of its members, durably and as one.
    /// Members without a record are not among them.
    ///
    /// # Errors
    /// If it is not known that the verdict is durable.
    fn decide(
        &self,
        group: &GroupName,
        verdict: &Verdict,
        records: &[Entry],
    ) -> Result<(), JournalError>;

    /// The decided groups whose hooks are not known to have all returned.
    ///
    /// # Errors
    /// If the journal cannot be read.
    fn owed(&self) -> Result<Vec<Owed>, JournalError>;

    /// Every hook of this group returned: nothing is owed to it. It is told as [`Journal::owed`] tells it, and not by its
    /// name, which may have come back meanwhile: a job's group has the job's.
    ///
    /// # Errors
    /// If that could not be written; the next start then runs its hooks again.
    fn done(&self, owed: &Owed) -> Result<(), JournalError>;
}

/// A decided group whose hooks must be run again.
///
/// Example: [`Journal`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owed {
    /// The group's name.
    pub group: GroupName,
    /// What was decided.
    pub verdict: Verdict,
    /// What its members left, in creation order.
    pub records: Vec<Entry>,
}

/// Why a journal could not write or read.
///
/// ```
/// use cohort_job::JournalError;
///
/// assert_eq!(JournalError::new("the disk is full").to_string(), "journal: the disk is full");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("journal: {0}")]
pub struct JournalError(Error);

impl JournalError {
    /// An error from a message or a driver's [`Error`].
    pub fn new(error: impl Into<Error>) -> Self {
        Self(error.into())
    }
}

impl From<JournalError> for Error {
    fn from(error: JournalError) -> Self {
        Self::new(error.to_string())
    }
}

/// A journal in memory. It remembers: an engine built over it after another finds what that one owed.
///
/// Example: [`Journal`].
#[derive(Debug, Default)]
pub struct MemoryJournal(Mutex<Vec<Owed>>);

impl MemoryJournal {
    /// An empty journal.
    pub fn new() -> Self {
        Self::default()
    }

    fn groups(&self) -> std::sync::MutexGuard<'_, Vec<Owed>> {
        self.0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Journal for MemoryJournal {
    fn decide(
        &self,
        group: &GroupName,
        verdict: &Verdict,
        records: &[Entry],
    ) -> Result<(), JournalError> {
        let owed = Owed {
            group: group.clone(),
            verdict: *verdict,
            records: records.to_vec(),
        };
        self.groups().push(owed);
        Ok(())
    }

    fn owed(&self) -> Result<Vec<Owed>, JournalError> {
        Ok(self.groups().clone())
    }

    fn done(&self, owed: &Owed) -> Result<(), JournalError> {
        let mut groups = self.groups();
        if let Some(at) = groups.iter().position(|known| known == owed) {
            groups.remove(at);
        }
        Ok(())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_owed_until_it_is_done() {
        let journal = MemoryJournal::new();
        let (a, b) = (GroupName::new("a"), GroupName::new("b"));
        let record = |byte| {
            (
                MemberName::new("disk"),
                Kind::new("copy"),
                Record(vec![byte]),
            )
        };
        journal.decide(&a, &Verdict::Commit, &[record(1)]).unwrap();
        journal.decide(&b, &Verdict::Commit, &[]).unwrap();
        journal.decide(&a, &Verdict::Commit, &[record(2)]).unwrap();
        let owed = |group: &GroupName, records: &[Entry]| Owed {
            group: group.clone(),
            verdict: Verdict::Commit,
            records: records.to_vec(),
        };
        journal.done(&owed(&b, &[])).unwrap();
        // The same name, and another group.
        journal.done(&owed(&a, &[record(2)])).unwrap();
        assert_eq!(journal.owed().unwrap(), [owed(&a, &[record(1)])]);
        journal.done(&owed(&a, &[record(1)])).unwrap();
        assert_eq!(journal.owed().unwrap(), []);
    }
}
