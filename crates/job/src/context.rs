//! What a running driver is given: what is asked of it, and what it may ask for.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::core::Request;
use crate::group::Group;
use crate::seat::{Seat, Task};
use crate::testing::Bench;
use crate::token::Anchor;
use crate::turn::Turn;
use crate::{Asked, Error, Progress, Token, Waker};

/// A driver's view of the engine during one call.
///
/// ```
/// use std::sync::mpsc::{Receiver, channel};
/// use cohort_job::{Context, Driver, Engine, JobSpec, Step};
///
/// /// Adds up what three tasks find.
/// #[derive(Default)]
/// struct Sum {
///     found: Option<Receiver<u64>>,
///     sum: u64,
/// }
///
/// impl Driver for Sum {
///     fn step(&mut self, cx: &mut Context<'_>) -> Step {
///         let Some(found) = &self.found else {
///             let (tell, found) = channel();
///             for number in 1..=3 {
///                 let tell = tell.clone();
///                 cx.spawn(move || drop(tell.send(number)));
///             }
///             cx.progress().set_remaining(cx.tasks() as u64);
///             self.found = Some(found);
///             return Step::Wait("waits for its three tasks");
///         };
///         for number in found.try_iter() {
///             self.sum += number;
///             cx.progress().advance(1);
///         }
///         match (cx.tasks(), self.sum) {
///             (0, 6) => Step::done(),
///             (0, sum) => Step::failed(format!("{sum} is not 6")),
///             _ => Step::Wait("waits for the rest of its tasks"),
///         }
///     }
/// }
///
/// let job = Engine::new()?.launch(JobSpec::new("sum"), Sum::default())?;
/// job.wait();
/// assert_eq!((job.why().as_str(), job.progress().done), ("committed", 3));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Context<'a> {
    home: Home<'a>,
    member: u32,
    seat: &'a Seat,
    in_flight: usize,
    spawned: Vec<Task>,
    ready: bool,
}

/// Who makes the call: a group's worker, or the conformance kit.
#[derive(Clone, Copy)]
enum Home<'a> {
    Group(&'a Arc<Group>),
    Bench(&'a Arc<Bench>),
}

impl<'a> Context<'a> {
    /// A call of a member with so many tasks in flight.
    #[inline]
    pub(crate) fn new(
        group: &'a Arc<Group>,
        member: u32,
        seat: &'a Seat,
        in_flight: usize,
    ) -> Self {
        Self {
            home: Home::Group(group),
            member,
            seat,
            in_flight,
            spawned: Vec::new(),
            ready: false,
        }
    }

    /// A call on the bench, with so many tasks in flight.
    pub(crate) fn on_bench(bench: &'a Arc<Bench>, in_flight: usize) -> Self {
        Self {
            home: Home::Bench(bench),
            member: 0,
            seat: bench.seat(),
            in_flight,
            spawned: Vec::new(),
            ready: false,
        }
    }

    fn anchor(&self) -> Anchor {
        match self.home {
            Home::Group(group) => Anchor::Group(Arc::clone(group), self.member),
            Home::Bench(bench) => Anchor::Bench(Arc::clone(bench)),
        }
    }

    /// How long the engine has been there: a clock for deadlines and back-off that tests can wind on.
    ///
    /// ```
    /// use std::time::Duration;
    /// use cohort_job::{Engine, JobSpec, Step, from_fn};
    ///
    /// let mut end = None;
    /// let patient = from_fn(move |cx| {
    ///     let end = *end.get_or_insert(cx.elapsed() + Duration::from_millis(2));
    ///     match end.checked_sub(cx.elapsed()) {
    ///         Some(left) if !left.is_zero() => Step::Sleep(left),
    ///         _ => Step::done(),
    ///     }
    /// });
    /// Engine::new()?.run(JobSpec::new("patient"), patient)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn elapsed(&self) -> Duration {
        match self.home {
            Home::Group(group) => group.shell.elapsed(),
            Home::Bench(bench) => bench.time(),
        }
    }

    /// What is asked besides the work. Anything but [`Asked::Run`] only after [`Context::ready`].
    pub fn asked(&self) -> Asked {
        self.seat.gate.asked()
    }

    /// Says that the job has converged: it could end well at any moment, and keeps stepping until it is
    /// asked to. Saying it again changes nothing.
    pub fn ready(&mut self) {
        self.ready = true;
    }

    /// Pauses the job as a user would, for this reason: it is stepped again when a user resumes it. For an
    /// error that an operator may mend; return [`Step::Again`](crate::Step::Again), and try again when stepped.
    pub fn pause(&mut self, reason: impl Into<Error>) {
        match self.home {
            Home::Group(group) => {
                let member = self.member;
                let remember = |turn: &mut Turn| {
                    turn.paused_themselves.insert(member, reason.into());
                };
                // Refused if a user paused it already, or its group stops: either way it does not run on.
                let _ = group.ask(Request::Pause(member), remember);
            }
            Home::Bench(bench) => bench.pause(),
        }
    }

    /// Hands a blocking piece of work to a thread of its own. It starts once this call has returned; so
    /// many at a time as [`JobSpec::tasks`](crate::JobSpec::tasks) allows, the others wait their turn. When
    /// it ends, the job is stepped again; if it panics, the job fails. One that has not begun when the
    /// job is stopped is dropped instead.
    pub fn spawn(&mut self, task: impl FnOnce() + Send + 'static) {
        self.spawned.push(Box::new(task));
    }

    /// Tasks in flight, those spawned in this call among them. It falls only between calls.
    pub fn tasks(&self) -> usize {
        self.in_flight + self.spawned.len()
    }

    /// Something to keep that has the job stepped when called, from any thread at any time.
    pub fn waker(&self) -> Waker {
        Waker(self.anchor())
    }

    /// Something for tasks to keep, that tells them whether the job was stopped or held meanwhile.
    pub fn token(&self) -> Token {
        Token(self.anchor())
    }

    /// Pays for so many units of the speed limit before doing them. The first piece is free and a big
    /// one is paid for by the wait after it.
    ///
    /// # Errors
    /// How long to wait: nothing was paid. Return [`Step::Sleep`](crate::Step::Sleep) and pay again when stepped.
    pub fn pay(&mut self, units: u64) -> Result<(), Duration> {
        match self.seat.odds_if_any() {
            Some(mut odds) if odds.limit.speed() > 0 => odds.limit.pay(units, self.elapsed()),
            _ => Ok(()),
        }
    }

    /// The job's progress.
    pub fn progress(&self) -> &Progress {
        &self.seat.cold().progress
    }

    /// What the call asked for: tasks, and whether the job is ready.
    #[inline]
    pub(crate) fn into_wishes(self) -> (Vec<Task>, bool) {
        (self.spawned, self.ready)
    }
}

impl fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("member", &self.member)
            .field("asked", &self.asked())
            .finish_non_exhaustive()
    }
}
