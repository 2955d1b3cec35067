//! A hold on a job from outside its calls: to have it stepped, and to see what it is told meanwhile.

use std::fmt;
use std::sync::Arc;

use crate::Progress;
use crate::core::Event;
use crate::group::Group;
use crate::pause::Pass;
use crate::seat::Seat;
use crate::testing::Bench;

/// Where a job lives: in a group under an engine, or alone on the bench of the conformance kit.
#[derive(Clone)]
pub(crate) enum Anchor {
    Group(Arc<Group>, u32),
    Bench(Arc<Bench>),
}

impl Anchor {
    fn wake(&self) {
        match self {
            Self::Group(group, member) => group.tell([Event::Woken(*member)]),
            Self::Bench(bench) => bench.wake(),
        }
    }

    fn seat(&self) -> &Seat {
        match self {
            // Given out in calls only, so after the launch.
            Self::Group(group, member) => &group.seats()[*member as usize],
            Self::Bench(bench) => bench.seat(),
        }
    }
}

/// Has a job stepped when something happened outside. A wake during a step is not lost; one that
/// comes after the job's end, or while it is paused, does no harm.
///
/// ```
/// use std::sync::atomic::{AtomicBool, Ordering};
/// use std::sync::{Arc, mpsc};
/// use cohort_job::{Engine, JobSpec, Step, from_fn};
///
/// let here = Arc::new(AtomicBool::new(false));
/// let (hand_out, wakers) = mpsc::channel();
/// let arrived = Arc::clone(&here);
/// let waits = from_fn(move |cx| {
///     let _ = hand_out.send(cx.waker());
///     if arrived.load(Ordering::Acquire) {
///         return Step::done();
///     }
///     Step::Wait("waits for the post")
/// });
/// let job = Engine::new()?.launch(JobSpec::new("reader"), waits)?;
///
/// // Elsewhere: first the fact, then the wake, which is not lost whatever the job does just now.
/// let waker = wakers.recv()?;
/// here.store(true, Ordering::Release);
/// waker.wake();
/// job.wait();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Waker(pub(crate) Anchor);

impl Waker {
    /// Wakes the job.
    pub fn wake(&self) {
        self.0.wake();
    }
}

/// Lets a task see what its job was told while the task runs, and count what it did.
///
/// A job that is stopped or paused waits for its tasks: one that takes long should look now and then,
/// and return when [`Token::should_return`] says so.
///
/// ```
/// use cohort_job::{Disposition, Engine, JobSpec, Step, from_fn};
///
/// let mut started = false;
/// let driver = from_fn(move |cx| {
///     if !started {
///         started = true;
///         let token = cx.token();
///         cx.spawn(move || while !token.should_return() { std::thread::yield_now() });
///     }
///     Step::Wait("waits for its task")
/// });
/// let job = Engine::new()?.launch(JobSpec::new("j"), driver)?;
/// job.cancel(Disposition::Keep)?;
/// job.wait();
/// assert_eq!(job.why(), "cancelled because a user cancelled it");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Token(pub(crate) Anchor);

impl Token {
    /// The job was stopped: its work does not count any more, and it waits for this task to return.
    pub fn is_stopped(&self) -> bool {
        self.0.seat().gate.pass() == Pass::Stop
    }

    /// The job is held or stopped, and waits for this task to return. A held one is stepped again later.
    pub fn should_return(&self) -> bool {
        self.0.seat().gate.pass() != Pass::Run
    }

    /// Whether the job has a speed limit.
    pub(crate) fn is_limited(&self) -> bool {
        let odds = self.0.seat().odds_if_any();
        odds.is_some_and(|odds| odds.limit.speed() > 0)
    }

    /// The job's progress.
    pub fn progress(&self) -> &Progress {
        &self.0.seat().cold().progress
    }
}

impl fmt::Debug for Waker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waker").finish_non_exhaustive()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("should_return", &self.should_return())
            .finish_non_exhaustive()
    }
}
