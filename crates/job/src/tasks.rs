//! Threads for what blocks: as many as are needed at once, each kept a while for the next.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::core::Event;
use crate::driver::caught;
use crate::group::Group;
use crate::pause::Pass;
use crate::seat::Task;
use crate::shell::now;
use crate::sync::{Condvar, Mutex, MutexGuard};

/// Starts the waiting tasks of a job, as many as it may have at a time.
pub(crate) fn launch(group: &Arc<Group>, member: u32) {
    let seat = &group.seats()[member as usize];
    loop {
        let mut odds = seat.odds();
        let limit = if odds.task_limit == 0 {
            group.shell.task_limit()
        } else {
            odds.task_limit
        };
        if odds.running >= limit {
            return;
        }
        let Some(task) = odds.waiting.pop_front() else {
            return;
        };
        odds.running += 1;
        drop(odds);
        let of = Arc::clone(group);
        group
            .shell
            .tasks
            .run(Box::new(move || run_tasks(&of, member, task)));
    }
}

/// Runs a task of a job, then those of its tasks that wait for a thread.
fn run_tasks(group: &Arc<Group>, member: u32, first: Task) {
    let seat = &group.seats()[member as usize];
    let mut next = Some(first);
    while let Some(task) = next {
        let number = group.shell.watch.begins(group, member);
        group.shell.watch.stir(&group.shell);
        // Nobody will look at what a stopped job's task does: one that has not begun need not begin.
        let stopped = seat.gate.pass() == Pass::Stop;
        let entered = group.trace.enter(group, member, None);
        let ended = catch_unwind(AssertUnwindSafe(
            || if stopped { drop(task) } else { task() },
        ));
        drop(entered);
        group.shell.watch.ends(number);
        let mut odds = seat.odds();
        next = odds.waiting.pop_front();
        if next.is_none() {
            odds.running -= 1;
        }
        drop(odds);
        group.tell([match ended {
            Ok(()) => Event::TaskEnded(member),
            Err(panic) => Event::TaskPanicked(member, caught(panic)),
        }]);
    }
}

/// How long an idle thread waits for the next piece of work.
const LINGER: Duration = Duration::from_secs(5);

/// A pool of threads that may block. That of jobs has no bound of its own, since each job has one: so a job whose target
/// stalls ties up its own threads and nobody else's. That of the journal has one, since any number of groups may end at once.
#[derive(Debug)]
pub(crate) struct Tasks {
    /// Threads at a time.
    most: usize,
    inner: Mutex<Inner>,
    changed: Condvar,
}

struct Inner {
    queue: VecDeque<Task>,
    idle: usize,
    threads: usize,
    /// A thread was woken or started for what is in the queue, and has not looked yet. It calls the next one itself if
    /// there is more: many short tasks are then done by few threads, and each of many long ones soon has its own.
    called: bool,
    closed: bool,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner")
            .field("idle", &self.idle)
            .field("threads", &self.threads)
            .finish_non_exhaustive()
    }
}

impl Tasks {
    pub(crate) fn new() -> Self {
        Self::at_most(usize::MAX)
    }

    /// With so many threads at a time: for work that waits for no other work of the pool.
    pub(crate) fn at_most(most: usize) -> Self {
        let inner = Inner {
            queue: VecDeque::new(),
            idle: 0,
            threads: 0,
            called: false,
            closed: false,
        };
        Self {
            most,
            inner: Mutex::new(inner),
            changed: Condvar::new(),
        }
    }

    /// Runs this on a thread that may block. If no thread can be had, it waits for one that is there;
    /// if there is none at all it runs here, which is slow but loses nothing.
    pub(crate) fn run(self: &Arc<Self>, task: Task) {
        let mut inner = self.inner.lock();
        inner.queue.push_back(task);
        self.call(inner);
    }

    /// Calls a thread for what is in the queue, unless one is on its way.
    fn call(self: &Arc<Self>, mut inner: MutexGuard<'_, Inner>) {
        if inner.called || inner.queue.is_empty() {
            return;
        }
        if inner.idle > 0 {
            inner.called = true;
            drop(inner);
            self.changed.notify_one();
            return;
        }
        if inner.threads >= self.most {
            // Whoever is done first takes it: none of them goes while something is in the queue.
            return;
        }
        inner.called = true;
        inner.threads += 1;
        drop(inner);
        let pool = Arc::clone(self);
        let started = thread::Builder::new()
            .name("cohort-task".into())
            .spawn(move || pool.serve());
        if started.is_err() {
            self.do_without_a_thread();
        }
    }

    /// Lets the idle threads go.
    pub(crate) fn close(&self) {
        self.inner.lock().closed = true;
        self.changed.notify_all();
    }

    fn serve(self: &Arc<Self>) {
        let mut inner = self.inner.lock();
        inner.called = false;
        loop {
            if let Some(task) = inner.queue.pop_front() {
                self.call(inner);
                task();
                inner = self.inner.lock();
                continue;
            }
            if inner.closed {
                break;
            }
            inner.idle += 1;
            let until = now() + LINGER;
            // A wake may be for nothing: whoever finished meanwhile took what it was for.
            while inner.queue.is_empty() && !inner.closed {
                let left = until.saturating_duration_since(now());
                if left.is_zero() {
                    break;
                }
                inner = self.changed.wait_timeout(inner, left);
                inner.called = false;
            }
            inner.idle -= 1;
            if inner.queue.is_empty() {
                break;
            }
        }
        inner.threads -= 1;
    }

    fn do_without_a_thread(&self) {
        let mut inner = self.inner.lock();
        inner.threads -= 1;
        inner.called = false;
        while inner.threads == 0
            && let Some(task) = inner.queue.pop_front()
        {
            drop(inner);
            task();
            inner = self.inner.lock();
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_is_woken_for_nothing_stays() {
        let pool = Arc::new(Tasks::new());
        pool.run(Box::new(|| {}));
        while pool.inner.lock().idle == 0 {
            thread::yield_now();
        }
        // Far fewer than a thread lingers for, however busy the machine is.
        for _ in 0..1_000 {
            pool.changed.notify_all();
            thread::yield_now();
        }
        let threads = pool.inner.lock().threads;
        assert_eq!(threads, 1, "it waits for work of its own");
        end(&pool);
    }

    #[test]
    fn tasks_that_wait_for_each_other_get_a_thread_each() {
        let pool = Arc::new(Tasks::new());
        let all = Arc::new(std::sync::Barrier::new(33));
        for _ in 0..32 {
            let all = Arc::clone(&all);
            pool.run(Box::new(move || _ = all.wait()));
        }
        all.wait();
        assert_eq!(pool.inner.lock().threads, 32);
        end(&pool);
    }

    /// Lets the threads go, and waits until they have gone.
    fn end(pool: &Arc<Tasks>) {
        pool.close();
        while pool.inner.lock().threads > 0 {
            thread::yield_now();
        }
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::sync::Arc as LoomArc;
    use loom::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::sync::explore_within;

    /// Two threads that are there from the start; no more are made.
    fn pool_of_two() -> (Arc<Tasks>, [loom::thread::JoinHandle<()>; 2]) {
        let pool = Arc::new(Tasks::at_most(2));
        pool.inner.lock().threads = 2;
        let threads = std::array::from_fn(|_| {
            let pool = Arc::clone(&pool);
            loom::thread::spawn(move || pool.serve())
        });
        (pool, threads)
    }

    fn count(done: &LoomArc<AtomicUsize>) -> Task {
        let done = LoomArc::clone(done);
        Box::new(move || _ = done.fetch_add(1, Ordering::AcqRel))
    }

    #[test]
    fn every_task_is_done_though_one_thread_is_called_at_a_time() {
        explore_within(Some(3), "two threads of a pool and three tasks", || {
            let (pool, threads) = pool_of_two();
            let done = LoomArc::new(AtomicUsize::new(0));
            (0..3).for_each(|_| pool.run(count(&done)));
            pool.close();
            // A lost call would leave a task in the queue, and a thread asleep beside it.
            threads
                .into_iter()
                .for_each(|thread| thread.join().unwrap());
            assert_eq!(done.load(Ordering::Acquire), 3);
        });
    }

    #[test]
    fn a_thread_that_was_called_for_nothing_can_be_called_again() {
        explore_within(Some(3), "two threads and tasks one after the other", || {
            let (pool, threads) = pool_of_two();
            let done = LoomArc::new(AtomicUsize::new(0));
            // The first keeps one thread awake; it takes the second, for which the other was called; the third must be heard.
            for number in 1..=3 {
                pool.run(count(&done));
                // Nobody closes the pool before: a task that nobody was called for would never be done.
                while done.load(Ordering::Acquire) < number {
                    loom::thread::yield_now();
                }
            }
            pool.close();
            threads
                .into_iter()
                .for_each(|thread| thread.join().unwrap());
        });
    }
}
