//! Handles in async programs: awaiting one is waiting for it, without a thread and without a runtime.
//!
//! A future leaves its waker with the group, under the group's lock, and takes it away when it is dropped.

use std::collections::BTreeMap;
use std::fmt;
use std::future::{Future, IntoFuture};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::driver::caught;
use crate::group::Group;
use crate::{JobHandle, Outcome, TxnHandle, Verdict};

/// The wakers of those who await a group. One pointer while there are none.
#[derive(Debug, Default)]
pub(crate) struct Wakers(Option<Box<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    wakers: BTreeMap<u64, Waker>,
}

impl Wakers {
    /// Keeps a waker, in place of the one that was kept under this key before.
    fn keep(&mut self, key: Option<u64>, waker: &Waker) -> u64 {
        let waiting = self.0.get_or_insert_default();
        let key = key.unwrap_or_else(|| {
            waiting.next += 1;
            waiting.next
        });
        match waiting.wakers.get_mut(&key) {
            Some(kept) => kept.clone_from(waker),
            None => drop(waiting.wakers.insert(key, waker.clone())),
        }
        key
    }

    fn forget(&mut self, key: u64) -> Option<Waker> {
        self.0.as_mut()?.wakers.remove(&key)
    }

    /// Takes all, to wake them once the lock was let go.
    pub(crate) fn take(&mut self) -> Self {
        Self(self.0.take())
    }

    /// Wakes them: whoever they belong to looks again.
    pub(crate) fn wake(self) {
        for (_, waker) in self.0.into_iter().flat_map(|waiting| waiting.wakers) {
            // What an executor does in there is not our failure.
            let _ = catch_unwind(AssertUnwindSafe(|| waker.wake())).map_err(caught);
        }
    }
}

/// One await of a group.
struct Await {
    group: Arc<Group>,
    key: Option<u64>,
}

impl Await {
    fn poll(&mut self, cx: &Context<'_>) -> Poll<()> {
        let mut turn = self.group.lock();
        if turn.is_settled() {
            return Poll::Ready(());
        }
        self.key = Some(turn.wakers.keep(self.key, cx.waker()));
        Poll::Pending
    }
}

impl Drop for Await {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            // Dropped after the lock: whose waker it is, is not ours to know.
            let waker = self.group.lock().wakers.forget(key);
            drop(waker);
        }
    }
}

/// Waits for a job; made by awaiting its handle.
///
/// With the smallest of executors, one that parks its thread:
///
/// ```
/// use std::future::IntoFuture;
/// use std::pin::pin;
/// use std::sync::Arc;
/// use std::task::{Context, Poll, Wake, Waker};
/// use std::thread::{self, Thread};
/// use cohort_job::{Engine, JobSpec, Step, Verdict, from_fn};
///
/// struct Unpark(Thread);
/// impl Wake for Unpark {
///     fn wake(self: Arc<Self>) {
///         self.0.unpark();
///     }
/// }
/// fn block_on<F: IntoFuture>(future: F) -> F::Output {
///     let mut future = pin!(future.into_future());
///     let waker = Waker::from(Arc::new(Unpark(thread::current())));
///     loop {
///         match future.as_mut().poll(&mut Context::from_waker(&waker)) {
///             Poll::Ready(output) => return output,
///             Poll::Pending => thread::park(),
///         }
///     }
/// }
///
/// let job = Engine::new()?.launch(JobSpec::new("j"), from_fn(|_| Step::done()))?;
/// let verdict = block_on(async {
///     let outcome = (&job).await;
///     assert_eq!(outcome, job.outcome());
///     job.txn().await
/// });
/// assert_eq!(verdict, Some(Verdict::Commit));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a future does nothing unless it is awaited"]
pub struct JobFuture {
    job: JobHandle,
    end: Await,
}

/// Waits for a group; made by awaiting its handle.
///
/// Example: [`JobFuture`].
#[must_use = "a future does nothing unless it is awaited"]
pub struct TxnFuture {
    txn: TxnHandle,
    end: Await,
}

impl Future for JobFuture {
    /// How it ended, once its group is over; none if the group is in doubt.
    type Output = Option<Outcome>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.end.poll(cx).map(|()| self.job.outcome())
    }
}

impl Future for TxnFuture {
    /// What was decided, once every hook has returned; none if the group is in doubt.
    type Output = Option<Verdict>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.end.poll(cx).map(|()| {
            let verdict = self.txn.verdict();
            verdict.filter(|_| !self.txn.in_doubt())
        })
    }
}

impl IntoFuture for JobHandle {
    type Output = Option<Outcome>;
    type IntoFuture = JobFuture;

    fn into_future(self) -> JobFuture {
        let end = Await::new(&self.group);
        JobFuture { job: self, end }
    }
}

impl IntoFuture for &JobHandle {
    type Output = Option<Outcome>;
    type IntoFuture = JobFuture;

    fn into_future(self) -> JobFuture {
        self.clone().into_future()
    }
}

impl IntoFuture for TxnHandle {
    type Output = Option<Verdict>;
    type IntoFuture = TxnFuture;

    fn into_future(self) -> TxnFuture {
        let end = Await::new(&self.group);
        TxnFuture { txn: self, end }
    }
}

impl IntoFuture for &TxnHandle {
    type Output = Option<Verdict>;
    type IntoFuture = TxnFuture;

    fn into_future(self) -> TxnFuture {
        self.clone().into_future()
    }
}

impl Await {
    fn new(group: &Arc<Group>) -> Self {
        Self {
            group: Arc::clone(group),
            key: None,
        }
    }
}

impl fmt::Debug for JobFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("JobFuture").field(&self.job).finish()
    }
}

impl fmt::Debug for TxnFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TxnFuture").field(&self.txn).finish()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::task::Wake;

    use super::*;
    use crate::{Disposition, Engine, JobSpec, Step, from_fn};

    struct Count(std::sync::atomic::AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        }
    }

    #[test]
    fn a_future_takes_its_waker_away_and_keeps_one_however_often_it_is_polled() {
        let engine = Engine::builder().threads(1).build().unwrap();
        let sleeper = from_fn(|_| Step::Wait("waits for nothing"));
        let job = engine.launch(JobSpec::unnamed(), sleeper).unwrap();
        let count = Arc::new(Count(Default::default()));
        let waker = Waker::from(Arc::clone(&count));
        let mut cx = Context::from_waker(&waker);

        let mut dropped = (&job).into_future();
        let mut kept = job.txn().into_future();
        for _ in 0..3 {
            assert!(Pin::new(&mut dropped).poll(&mut cx).is_pending());
            assert!(Pin::new(&mut kept).poll(&mut cx).is_pending());
        }
        // Ours, the one in `waker`, and one for each future.
        assert_eq!(Arc::strong_count(&count), 4);
        drop(dropped);
        assert_eq!(Arc::strong_count(&count), 3);

        job.cancel(Disposition::Keep).unwrap();
        job.wait();
        let Poll::Ready(Some(Verdict::Abort { .. })) = Pin::new(&mut kept).poll(&mut cx) else {
            panic!("the group is over")
        };
        // Waking comes right after the waiting are let go.
        while Arc::strong_count(&count) > 2 {
            std::thread::yield_now();
        }
        assert_eq!(count.0.load(std::sync::atomic::Ordering::SeqCst), 1);
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use std::task::Wake;

    use loom::sync::atomic::{AtomicU64, Ordering};
    use loom::thread;

    use super::*;
    use crate::sync::{Mutex, explore};

    /// loom's atomics live in one run only, so does this.
    struct Flag(loom::sync::Arc<AtomicU64>);

    impl Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// As `Await::poll` and `Group::finish` do it: both look and change under one lock.
    #[test]
    fn a_future_polled_beside_the_end_is_ready_or_woken() {
        explore("a future that is polled while the group ends", || {
            let group = loom::sync::Arc::new(Mutex::new((false, Wakers::default())));
            let woken = loom::sync::Arc::new(AtomicU64::new(0));
            let end = thread::spawn({
                let group = loom::sync::Arc::clone(&group);
                move || {
                    let mut turn = group.lock();
                    turn.0 = true;
                    let wakers = turn.1.take();
                    drop(turn);
                    wakers.wake();
                }
            });
            let waker = Waker::from(Arc::new(Flag(loom::sync::Arc::clone(&woken))));
            let mut turn = group.lock();
            let ready = turn.0;
            if !ready {
                turn.1.keep(None, &waker);
            }
            drop(turn);
            end.join().unwrap();
            assert_eq!(ready, woken.load(Ordering::SeqCst) == 0);
        });
    }
}
