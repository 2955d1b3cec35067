//! When what was written is sent on its way to the storage: often enough that it works while the rest is copied and the
//! last flush finds little to do.

use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes that are sent at once: enough that the call does not show.
const MUCH: u64 = 4 << 20;

/// What was written and not yet sent on its way.
#[derive(Debug, Default)]
pub(crate) struct WriteBack(AtomicU64);

impl WriteBack {
    /// More was written.
    pub(crate) fn wrote(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Whether it is time to send it, which is said to one caller alone.
    pub(crate) fn is_due(&self) -> bool {
        let much = |waiting| (waiting >= MUCH).then_some(0);
        let taken = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, much);
        taken.is_ok()
    }
}
