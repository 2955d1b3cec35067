//! The fair ready queue: spans of members, first in, first out, with the rest of a cut span at the tail.
//!
//! Whoever says `Again` goes behind everybody who was already waiting, so nobody is starved by however
//! many busy jobs. A worker takes a piece of a span at a time, and goes on with it for a bounded time: a group of a
//! million members holds up a lone job by no more.

use std::collections::VecDeque;

use crate::sync::{Condvar, Mutex};

/// Something that a worker may take a piece of.
pub(crate) trait Cut: Sized {
    /// Cuts a first piece off, while so many others wait behind it; what is left, if anything, goes to the queue's tail.
    fn cut(self, others: usize) -> (Self, Option<Self>);
}

/// A queue of work for threads that do nothing else.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    inner: Mutex<Inner<T>>,
    filled: Condvar,
}

#[derive(Debug)]
struct Inner<T> {
    items: VecDeque<T>,
    /// Threads in [`Queue::take`] that found nothing.
    idle: usize,
    closed: bool,
}

impl<T: Cut> Queue<T> {
    pub(crate) fn new() -> Self {
        let inner = Inner {
            items: VecDeque::new(),
            idle: 0,
            closed: false,
        };
        Self {
            inner: Mutex::new(inner),
            filled: Condvar::new(),
        }
    }

    /// Adds an item at the tail.
    pub(crate) fn put(&self, item: T) {
        let mut inner = self.inner.lock();
        inner.items.push_back(item);
        let idle = inner.idle > 0;
        drop(inner);
        if idle {
            self.filled.notify_one();
        }
    }

    /// Takes a piece of the first item, waiting until there is one; `None` once the queue is closed and
    /// empty.
    pub(crate) fn take(&self) -> Option<T> {
        let mut inner = self.inner.lock();
        loop {
            if let Some(item) = inner.items.pop_front() {
                let (piece, rest) = item.cut(inner.items.len());
                if let Some(rest) = rest {
                    inner.items.push_back(rest);
                    if inner.idle > 0 {
                        self.filled.notify_one();
                    }
                }
                return Some(piece);
            }
            if inner.closed {
                return None;
            }
            inner.idle += 1;
            inner = self.filled.wait(inner);
            inner.idle -= 1;
        }
    }

    /// Lets the waiting threads go once the queue is empty.
    pub(crate) fn close(&self) {
        self.inner.lock().closed = true;
        self.filled.notify_all();
    }

    /// Whether something waits and nobody is there to take it.
    pub(crate) fn is_backed_up(&self) -> bool {
        let inner = self.inner.lock();
        !inner.items.is_empty() && inner.idle == 0
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// A span of numbers, cut in pieces of two.
    #[derive(Debug, PartialEq)]
    struct Span(u32, u32);

    impl Cut for Span {
        fn cut(self, _: usize) -> (Self, Option<Self>) {
            let middle = self.1.min(self.0 + 2);
            let rest = (middle < self.1).then_some(Self(middle, self.1));
            (Self(self.0, middle), rest)
        }
    }

    #[test]
    fn the_rest_of_a_span_waits_behind_the_others() {
        let queue = Queue::new();
        queue.put(Span(0, 5));
        queue.put(Span(7, 8));
        queue.close();
        let order: Vec<_> = std::iter::from_fn(|| queue.take()).collect();
        assert_eq!(order, [Span(0, 2), Span(7, 8), Span(2, 4), Span(4, 5)]);
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::sync::Arc;
    use loom::sync::atomic::{AtomicUsize, Ordering};
    use loom::thread;

    use super::*;
    use crate::sync::{explore, explore_within};

    /// So many pieces of one.
    struct Span(usize);

    impl Cut for Span {
        fn cut(self, _: usize) -> (Self, Option<Self>) {
            (Self(1), (self.0 > 1).then(|| Self(self.0 - 1)))
        }
    }

    /// Takes pieces until the queue closes, and closes it with the last of `all`.
    fn drain(queue: &Queue<Span>, taken: &AtomicUsize, all: usize) {
        while queue.take().is_some() {
            if taken.fetch_add(1, Ordering::AcqRel) + 1 == all {
                queue.close();
            }
        }
    }

    #[test]
    fn every_piece_is_taken_once_and_no_worker_sleeps_through_one() {
        explore_within(
            Some(2),
            "three threads, a span of two and a lone job",
            || {
                let queue = Arc::new(Queue::new());
                let taken = Arc::new(AtomicUsize::new(0));
                let worker = thread::spawn({
                    let (queue, taken) = (Arc::clone(&queue), Arc::clone(&taken));
                    move || drain(&queue, &taken, 3)
                });
                let putter = thread::spawn({
                    let queue = Arc::clone(&queue);
                    move || {
                        queue.put(Span(2));
                        queue.put(Span(1));
                    }
                });
                // A lost wake-up would leave somebody asleep here, which loom reports as a deadlock.
                drain(&queue, &taken, 3);
                worker.join().unwrap();
                putter.join().unwrap();
                assert_eq!(taken.load(Ordering::Acquire), 3);
            },
        );
    }

    #[test]
    fn a_put_wakes_the_only_idle_worker() {
        explore("one worker, idle or not yet, and a piece put down", || {
            let queue = Arc::new(Queue::new());
            let worker = thread::spawn({
                let queue = Arc::clone(&queue);
                move || queue.take().is_some()
            });
            queue.put(Span(1));
            // Nobody else comes by: a worker that was not woken sleeps for ever.
            assert!(worker.join().unwrap());
        });
    }

    #[test]
    fn two_workers_share_a_span() {
        explore("two workers and a span of two", || {
            let queue = Arc::new(Queue::new());
            let taken = Arc::new(AtomicUsize::new(0));
            let worker = thread::spawn({
                let (queue, taken) = (Arc::clone(&queue), Arc::clone(&taken));
                move || drain(&queue, &taken, 2)
            });
            queue.put(Span(2));
            drain(&queue, &taken, 2);
            worker.join().unwrap();
            assert_eq!(taken.load(Ordering::Acquire), 2);
        });
    }

    #[test]
    fn closing_wakes_every_idle_worker() {
        explore("close against two idle workers", || {
            let queue = Arc::new(Queue::<Span>::new());
            let workers: Vec<_> = (0..2)
                .map(|_| {
                    let queue = Arc::clone(&queue);
                    thread::spawn(move || assert!(queue.take().is_none()))
                })
                .collect();
            queue.close();
            for worker in workers {
                worker.join().unwrap();
            }
        });
    }
}
