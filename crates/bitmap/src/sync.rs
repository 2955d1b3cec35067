//! The primitives whose order matters: std's, or loom's when its models run. Chosen here and
//! nowhere else.

#[cfg(not(loom))]
pub(crate) use once_cell::race::OnceBox;
#[cfg(not(loom))]
pub(crate) use std::sync::{
    Arc, Condvar, Mutex, MutexGuard,
    atomic::{AtomicU64, Ordering, fence},
};

#[cfg(loom)]
pub(crate) use loom::sync::{
    Arc, Condvar, Mutex, MutexGuard,
    atomic::{AtomicU64, Ordering, fence},
};
#[cfg(loom)]
pub(crate) use once::OnceBox;

/// `once_cell::race::OnceBox`, told again in terms that loom can see: whoever comes first wins, by one exchange,
/// and the others drop what they made.
#[cfg(loom)]
mod once {
    use std::sync::OnceLock;

    use super::{AtomicU64, Ordering};

    /// No model has more threads that may make the same thing.
    const MAKERS: usize = 4;

    pub(crate) struct OnceBox<T> {
        /// Which of `made` won, plus 1; 0 if none did.
        winner: AtomicU64,
        made: [OnceLock<Box<T>>; MAKERS],
    }

    impl<T> OnceBox<T> {
        pub(crate) fn new() -> Self {
            OnceBox {
                winner: AtomicU64::new(0),
                made: [const { OnceLock::new() }; MAKERS],
            }
        }

        pub(crate) fn get(&self) -> Option<&T> {
            self.at(self.winner.load(Ordering::Acquire))
        }

        pub(crate) fn get_or_init(&self, make: impl FnOnce() -> Box<T>) -> &T {
            if let Some(there) = self.get() {
                return there;
            }
            let mut made = make();
            let mut mine = 0;
            // Which seat a maker takes orders nothing, so that is hidden from loom.
            for (seat, place) in (1..).zip(&self.made) {
                match place.set(made) {
                    Ok(()) => {
                        mine = seat;
                        break;
                    }
                    Err(taken) => made = taken,
                }
            }
            assert!(mine > 0, "more threads than {MAKERS} make the same thing");
            let won = self
                .winner
                .compare_exchange(0, mine, Ordering::Release, Ordering::Acquire);
            self.at(won.err().unwrap_or(mine)).expect("somebody won")
        }

        fn at(&self, seat: u64) -> Option<&T> {
            self.made
                .get(seat.checked_sub(1)? as usize)?
                .get()
                .map(|made| &**made)
        }
    }
}
