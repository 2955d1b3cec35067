//! Desks for threads that run a job where they stand: kept for the next, and looked at like the workers'.

use std::sync::Arc;

use crate::desk::Desk;
use crate::sync::Mutex;

/// Every desk of a guest, and those nobody sits at.
#[derive(Debug, Default)]
pub(crate) struct Guests(Mutex<Desks>);

#[derive(Debug, Default)]
struct Desks {
    all: Vec<Arc<Desk>>,
    free: Vec<Arc<Desk>>,
}

impl Guests {
    /// A desk for whoever comes.
    pub(crate) fn come(&self) -> Arc<Desk> {
        let mut desks = self.0.lock();
        desks.free.pop().unwrap_or_else(|| {
            let desk = Arc::new(Desk::default());
            desks.all.push(Arc::clone(&desk));
            desk
        })
    }

    /// Its guest goes.
    pub(crate) fn go(&self, desk: Arc<Desk>) {
        let mut desks = self.0.lock();
        if desks.all.iter().any(|known| Arc::ptr_eq(known, &desk)) {
            desks.free.push(desk);
        }
    }

    /// Its guest does not come back: nobody else may sit there.
    pub(crate) fn lose(&self, desk: &Arc<Desk>) {
        self.0.lock().all.retain(|known| !Arc::ptr_eq(known, desk));
    }

    /// Every desk.
    pub(crate) fn all(&self) -> Vec<Arc<Desk>> {
        self.0.lock().all.clone()
    }
}
