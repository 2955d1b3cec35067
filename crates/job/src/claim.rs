//! What of a span is still a worker's own, in two words: where the worker is, and where it must stop.
//!
//! A worker that is blocked may lose what comes after the member it is at, and may come back at any moment. It says where
//! it goes before it takes a driver in hand, and looks where its end is with the driver in hand; whoever takes
//! members away moves the end first, then finds the driver free, then looks where the worker is. So for every
//! member one of the two sees the other: see the model at the end.

use std::ops::Range;

use crate::sync::{AtomicU64, Ordering};

/// One worker's claim on the members of a span. One thread at a time takes from it: under the lock of the desk.
#[derive(Debug, Default)]
pub(crate) struct Claim {
    /// The member the worker is at.
    at: AtomicU64,
    /// Members from here on are not its own.
    end: AtomicU64,
}

impl Claim {
    /// Begins with a span.
    pub(crate) fn stake(&self, members: &Range<u32>) {
        self.go_to(members.start);
        self.set_end(members.end);
    }

    /// The worker goes on to this member, and then takes its driver in hand.
    #[inline]
    pub(crate) fn go_to(&self, member: u32) {
        self.at.store(u64::from(member), Ordering::Release);
    }

    /// The member the worker is at.
    #[inline]
    pub(crate) fn at(&self) -> u32 {
        self.at.load(Ordering::Acquire) as u32
    }

    /// Whether the worker may call this member, whose driver it has in hand.
    #[inline]
    pub(crate) fn covers(&self, member: u32) -> bool {
        member < self.end()
    }

    /// Members from here on are not the worker's.
    #[inline]
    pub(crate) fn end(&self) -> u32 {
        self.end.load(Ordering::Acquire) as u32
    }

    /// The worker itself, or who holds the desk's lock, moves the end.
    pub(crate) fn set_end(&self, end: u32) {
        self.end.store(u64::from(end), Ordering::Release);
    }

    /// Takes what comes after the member the worker is at, from the first that it can be kept from; `is_free` takes a
    /// driver in hand for a moment and says whether it could.
    pub(crate) fn take_rest(&self, is_free: impl Fn(u32) -> bool) -> Range<u32> {
        let end = self.end();
        let mut from = self.at().saturating_add(1).min(end);
        while from < end && !self.bar(from, &is_free) {
            from += 1;
        }
        self.set_end(from);
        from..end
    }

    /// Keeps the worker from this member and what follows. False if it has begun there or may yet: then the caller sets
    /// the end again, and a worker that was stopped meanwhile looks once more.
    pub(crate) fn bar(&self, member: u32, is_free: impl Fn(u32) -> bool) -> bool {
        self.set_end(member);
        is_free(member) && self.at() < member
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;
    use crate::sync::{Baton, Mutex, explore};

    /// What the desk and the slots are in the engine.
    struct World {
        claim: Claim,
        desk: Mutex<()>,
        calls: Vec<Baton<u32>>,
    }

    impl World {
        fn new(count: u32) -> Arc<Self> {
            let claim = Claim::default();
            claim.stake(&(0..count));
            Arc::new(Self {
                claim,
                desk: Mutex::new(()),
                calls: (0..count).map(|_| Baton::new(0)).collect(),
            })
        }

        /// As the worker goes through its span; where it stopped.
        fn work(&self) -> u32 {
            let mut member = 0;
            while (member as usize) < self.calls.len() {
                self.claim.go_to(member);
                let called = match self.calls[member as usize].take() {
                    Some(mut calls) if self.claim.covers(member) => {
                        *calls += 1;
                        true
                    }
                    _ => false,
                };
                if called {
                    member += 1;
                    continue;
                }
                let desk = self.desk.lock();
                let stops = !self.claim.covers(member);
                drop(desk);
                if stops {
                    break;
                }
                thread::yield_now();
            }
            member
        }

        /// As the watch takes the rest away.
        fn rob(&self) -> Range<u32> {
            let _desk = self.desk.lock();
            self.claim
                .take_rest(|member| self.calls[member as usize].take().is_some())
        }

        /// As another worker calls what was taken away.
        fn call_all(&self, members: Range<u32>) {
            for member in members {
                loop {
                    if let Some(mut calls) = self.calls[member as usize].take() {
                        *calls += 1;
                        break;
                    }
                    thread::yield_now();
                }
            }
        }

        fn everybody_was_called_once(&self) {
            for calls in &self.calls {
                assert_eq!(*calls.take().expect("nobody is left"), 1);
            }
        }
    }

    fn model(count: u32) {
        let world = World::new(count);
        let worker = thread::spawn({
            let world = Arc::clone(&world);
            move || world.work()
        });
        let taken = world.rob();
        world.call_all(taken.clone());
        assert_eq!(worker.join().unwrap(), taken.start);
        world.everybody_was_called_once();
    }

    #[test]
    fn the_watch_takes_members_from_a_worker_that_goes_on() {
        explore("a worker of two members against the watch", || model(2));
        explore("a worker of three members against the watch", || model(3));
    }

    #[test]
    fn two_looks_at_one_worker_share_what_they_take() {
        explore(
            "a worker of two members, the watch, and a second look",
            || {
                let world = World::new(2);
                let robber = thread::spawn({
                    let world = Arc::clone(&world);
                    move || {
                        let taken = world.rob();
                        world.call_all(taken);
                    }
                });
                let other = thread::spawn({
                    let world = Arc::clone(&world);
                    move || {
                        let taken = world.rob();
                        world.call_all(taken);
                    }
                });
                world.work();
                robber.join().unwrap();
                other.join().unwrap();
                world.everybody_was_called_once();
            },
        );
    }
}
