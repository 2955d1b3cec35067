//! Group commit: whoever comes while a write is under way shares the next one.
//!
//! ```text
//!  a ─ enqueue ─ write(a) ───────────┐
//!  b ───── enqueue ─ wait ───────────┴─ write(b, c) ─┐
//!  c ───────── enqueue ─ wait ───────────────────────┴─ both are told
//! ```
//!
//! The first to find nobody writing writes what has gathered, its own change among it. So one change alone waits for
//! nobody, and many at once cost as many writes as fit one after the other, however many there are.

use std::sync::{Arc, PoisonError};

use crate::sync::{Condvar, Mutex, MutexGuard};

/// Changes on their way to what makes them durable.
#[derive(Debug)]
pub(crate) struct Batch<C> {
    state: Mutex<State<C>>,
    turned: Condvar,
}

#[derive(Debug)]
struct State<C> {
    /// What nobody writes yet.
    gathered: Vec<C>,
    /// How many changes were ever enqueued, and how many of them are durable.
    enqueued: u64,
    written: u64,
    /// Somebody writes just now.
    writing: bool,
    /// Why nothing more is written: a write failed, and nobody knows whether it counts.
    doubt: Option<Arc<str>>,
}

impl<C> Batch<C> {
    pub(crate) fn new() -> Self {
        let state = State {
            gathered: Vec::new(),
            enqueued: 0,
            written: 0,
            writing: false,
            doubt: None,
        };
        Self {
            state: Mutex::new(state),
            turned: Condvar::new(),
        }
    }

    /// Returns once the change is durable, written by this call or by another's. `write` writes changes in the order in
    /// which they came, as one.
    ///
    /// # Errors
    /// The write that it was in failed, or an earlier one: since then nothing is written.
    pub(crate) fn submit(
        &self,
        change: C,
        write: impl FnOnce(Vec<C>) -> Result<(), String>,
    ) -> Result<(), Arc<str>> {
        let mut state = self.lock();
        if let Some(doubt) = &state.doubt {
            return Err(doubt.clone());
        }
        state.gathered.push(change);
        state.enqueued += 1;
        let mine = state.enqueued;
        while state.writing && state.written < mine {
            state = self
                .turned
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if state.written >= mine {
            return Ok(());
        }
        if let Some(doubt) = &state.doubt {
            return Err(doubt.clone());
        }
        self.write(state, write)
    }

    fn write(
        &self,
        mut state: MutexGuard<'_, State<C>>,
        write: impl FnOnce(Vec<C>) -> Result<(), String>,
    ) -> Result<(), Arc<str>> {
        state.writing = true;
        let changes = std::mem::take(&mut state.gathered);
        let up_to = state.enqueued;
        drop(state);
        let answer = write(changes).map_err(Arc::from);
        let mut state = self.lock();
        state.writing = false;
        match &answer {
            Ok(()) => state.written = up_to,
            Err(why) => state.doubt = Some(Arc::clone(why)),
        }
        drop(state);
        self.turned.notify_all();
        answer
    }

    fn lock(&self) -> MutexGuard<'_, State<C>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread;

    use super::Batch;

    #[test]
    fn who_comes_while_a_write_is_under_way_shares_the_next_one() {
        let batch = Batch::new();
        let (begun, has_begun) = channel();
        let (go_on, told_to) = channel::<()>();
        let (wrote, writes) = channel();
        thread::scope(|scope| {
            scope.spawn(|| {
                batch.submit(0, move |_| {
                    begun.send(()).unwrap();
                    told_to.recv().map_err(|error| error.to_string())
                })
            });
            has_begun.recv().unwrap();
            for change in 1..=4 {
                let (batch, wrote) = (&batch, wrote.clone());
                scope.spawn(move || {
                    let write = |changes: Vec<i32>| {
                        wrote.send(changes.len()).unwrap();
                        Ok(())
                    };
                    batch.submit(change, write).unwrap();
                });
            }
            // Nobody can write before the first is done, so all of them gather.
            while batch.lock().enqueued < 5 {
                thread::yield_now();
            }
            go_on.send(()).unwrap();
        });
        drop(wrote);
        assert_eq!(writes.iter().collect::<Vec<_>>(), [4]);
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::sync::{Arc, Mutex};
    use loom::thread;

    use super::Batch;

    /// Each change is durable when its call returns well, none twice, and in the order in which they were enqueued.
    fn all_are_written_once(writers: u32, preemptions: Option<usize>) {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = preemptions;
        model.check(move || {
            let (batch, file) = (Arc::new(Batch::new()), Arc::new(Mutex::new(Vec::new())));
            let submit = |change| {
                let (batch, file) = (Arc::clone(&batch), Arc::clone(&file));
                move || {
                    let written = batch.submit(change, |changes| {
                        file.lock().unwrap().extend(changes);
                        Ok(())
                    });
                    assert!(written.is_ok());
                    assert!(file.lock().unwrap().contains(&change));
                }
            };
            let others: Vec<_> = (1..writers)
                .map(|change| thread::spawn(submit(change)))
                .collect();
            submit(0)();
            others.into_iter().for_each(|other| other.join().unwrap());
            let mut file = file.lock().unwrap().clone();
            file.sort_unstable();
            assert_eq!(file, (0..writers).collect::<Vec<_>>());
        });
    }

    #[test]
    fn loom_two_writers_are_written_once() {
        all_are_written_once(2, None);
    }

    #[test]
    fn loom_three_writers_are_written_once() {
        all_are_written_once(3, Some(2));
    }

    /// Whoever was in the failed write, or comes after it, is told; nothing is written after it.
    #[test]
    fn loom_a_failed_write_is_told_to_all_who_come_after() {
        loom::model(|| {
            let (batch, tries) = (Arc::new(Batch::new()), Arc::new(Mutex::new(0)));
            let submit = || {
                let (batch, tries) = (Arc::clone(&batch), Arc::clone(&tries));
                move || {
                    let told = batch.submit((), |_| {
                        *tries.lock().unwrap() += 1;
                        Err("the disk is full".into())
                    });
                    assert!(told.is_err());
                }
            };
            let other = thread::spawn(submit());
            submit()();
            other.join().unwrap();
            assert_eq!(*tries.lock().unwrap(), 1);
        });
    }
}
