//! The catalogue as an engine's journal, until the run is over: engines live on in their threads for a while,
//! and the directory must be free when the run is.

use std::sync::{Arc, Mutex, PoisonError};

use cohort_job::{GroupName, Journal, JournalError, Kind, MemberName, Owed, Record, Verdict};

use crate::catalogue::Catalogue;

/// A journal that can be taken back.
pub(crate) struct Lent(Mutex<Option<Arc<Catalogue>>>);

impl Lent {
    pub(crate) fn new(catalogue: Arc<Catalogue>) -> Arc<Self> {
        Arc::new(Lent(Mutex::new(Some(catalogue))))
    }

    /// Takes the catalogue back. No group of the engine may be undecided.
    pub(crate) fn take_back(&self) -> Option<Arc<Catalogue>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn with<T>(
        &self,
        action: impl FnOnce(&Catalogue) -> Result<T, JournalError>,
    ) -> Result<T, JournalError> {
        let catalogue = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        action(&*catalogue.ok_or_else(|| JournalError::new("the run is over"))?)
    }
}

impl Journal for Lent {
    fn decide(
        &self,
        group: &GroupName,
        verdict: &Verdict,
        records: &[(MemberName, Kind, Record)],
    ) -> Result<(), JournalError> {
        self.with(|catalogue| catalogue.decide(group, verdict, records))
    }

    fn owed(&self) -> Result<Vec<Owed>, JournalError> {
        self.with(Journal::owed)
    }

    fn done(&self, owed: &Owed) -> Result<(), JournalError> {
        self.with(|catalogue| catalogue.done(owed))
    }
}
