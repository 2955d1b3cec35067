//! A file none of whose syncs is believed once one has failed.
//!
//! The system tells a sync that failed to one of those who wait for it, and what others wrote went with it: their own
//! sync, a moment later, finds nothing left to do and says that all is well.

use std::io;
use std::sync::{Arc, PoisonError};

use crate::sync::Mutex;

use super::file::File;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Believed {
    file: Arc<dyn File>,
    /// Why no sync is believed any more. Held through each of them, so that none begins before another that failed is known.
    failed: Mutex<Option<String>>,
}

impl Believed {
    pub(super) fn new(file: Arc<dyn File>) -> Self {
        let failed = Mutex::new(None);
        Self { file, failed }
    }

    /// Gives the file itself, to say there that it failed. No other sync goes on meanwhile, which could be told in its place
    /// that what is said there is gone.
    pub(super) fn anyway<T>(&self, say: impl FnOnce(&dyn File) -> T) -> T {
        let _turn = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        say(&*self.file)
    }
}

impl File for Believed {
    crate::forward_file!(file: read_at, write_at, len, set_len, write_zeroes, discard, run_at);

    fn sync_data(&self) -> io::Result<()> {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(why) = &*failed {
            return Err(io::Error::other(format!(
                "what was written may be lost: an earlier sync failed: {why}"
            )));
        }
        let synced = self.file.sync_data();
        if let Err(error) = &synced {
            *failed = Some(error.to_string());
        }
        synced
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// Its first sync fails.
    #[derive(Debug, Default)]
    struct Once(AtomicU32);

    impl File for Once {
        fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<()> {
            Ok(())
        }
        fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
            Ok(())
        }
        fn sync_data(&self) -> io::Result<()> {
            match self.0.fetch_add(1, Ordering::SeqCst) {
                0 => Err(io::Error::other("the disk is on fire")),
                _ => Ok(()),
            }
        }
        fn len(&self) -> io::Result<u64> {
            Ok(0)
        }
        fn set_len(&self, _: u64) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn no_sync_is_believed_once_one_has_failed() {
        let file = Believed::new(Arc::new(Once::default()));
        assert!(file.sync_data().is_err());
        let told = file.sync_data().unwrap_err().to_string();
        assert!(
            told.contains("earlier sync failed: the disk is on fire"),
            "{told}"
        );
        assert!(file.anyway(|file| file.sync_data()).is_ok());
    }
}
