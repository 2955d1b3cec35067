//! When a thread begins, and what becomes of old data that none can take.

use cohort_bitmap::{DirtyBitmap, Granularity};

use super::*;
use crate::ledger::Before;
use crate::{Broken, Ledger};

const CLUSTER: u64 = 512;

struct Nowhere;

impl Sink for Nowhere {
    fn save(&self, _: u64, _: &[u8]) -> Result<(), Box<dyn Error + Send + Sync>> {
        Ok(())
    }
}

#[test]
fn a_thread_begins_when_there_is_more_than_those_that_wait_will_take() {
    let savers = Savers::new(Arc::new(Nowhere), 3);
    let mut queue = savers.shared.queue.lock();
    let threads = &mut queue.threads;
    assert_eq!(threads.running, 0, "nobody has written");
    assert_eq!(threads.next_saver(0), None);
    assert_eq!(threads.next_saver(1), Some(0));
    assert_eq!(threads.next_saver(1), Some(1), "that one is at work");
    threads.idle = 1;
    assert_eq!(threads.next_saver(1), None, "one of them will");
    assert_eq!(threads.next_saver(2), Some(2));
    threads.idle = 0;
    assert_eq!(threads.next_saver(9), None, "no more than three");
    assert!(!threads.needs_spiller(), "there is no scratch file");
}

/// A writer does not wait for a thread that will never be there, and the backup does not take it for saved.
#[test]
fn what_no_thread_can_save_counts_as_not_saved() {
    for (staging, is_staged) in [
        (Staging::none(), false),
        (Staging::in_memory(CLUSTER), true),
    ] {
        let granularity = Granularity::new(CLUSTER).unwrap();
        let manifest = DirtyBitmap::all_dirty(CLUSTER, granularity).unwrap();
        let ledger = Arc::new(Ledger::new(manifest));
        let Before::Claimed(claim) = ledger.before_write(&(0..1)) else {
            panic!("a cluster is owed");
        };
        let savers = Savers::staging(Arc::new(Nowhere), 1, staging);
        let outcome = Arc::new(Outcome::new());
        let save = Save::new(claim, vec![0; CLUSTER as usize], "d", &outcome);
        let mut queue = savers.shared.queue.lock();
        queue.threads.running = 1;
        queue.pressing.push_back(save);
        queue.admit();
        drop(queue);
        let passes = matches!(ledger.before_write(&(0..1)), Before::Pass);
        assert_eq!(passes, is_staged);
        savers.shared.without_saver(&io::Error::other("no more"));
        let why = if is_staged {
            ledger.broken()
        } else {
            outcome.get().cloned()
        };
        let Some(Broken::Target { cause, .. }) = why else {
            panic!("{why:?}");
        };
        assert_eq!(cause.to_string(), "no thread brings it there: no more");
        assert_eq!(ledger.counts().written, 0);
        assert_eq!(savers.level().used, 0, "its room is free again");
    }
}
