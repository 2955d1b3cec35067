//! What a job does: the [`Driver`] trait, and what its methods are given and give back.
//!
//! A driver is a step function that can be resumed, neither a thread nor a future. The engine calls
//! one of its methods at a time, never one inside another, and holds no lock of its own meanwhile.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::{Cause, Context, Disposition, Error, Hooks};

/// A job's work, cut into steps, and what to do with the result.
///
/// The order of calls: [`step`](Driver::step) until it says [`Step::Done`]; when every member of the
/// group has, [`prepare`](Driver::prepare); then the verdict is written; then either
/// [`commit`](Driver::commit) or [`abort`](Driver::abort); last [`clean`](Driver::clean).
/// A member that never ran still gets `abort` and `clean`.
///
/// ```
/// use std::sync::{Arc, Mutex};
/// use cohort_job::{Abort, Commit, Context, Disposition, Driver, Engine, Error, Hooks, JobSpec, Record, Step};
///
/// /// Moves a letter from the desk to the box, so that it is in one of them whatever happens.
/// struct Post {
///     letter: &'static str,
///     draft: Option<String>,
///     sent: Arc<Mutex<Vec<String>>>,
/// }
///
/// impl Driver for Post {
///     // There is nothing to clean up, so the engine need not call.
///     const HOOKS: Hooks = Hooks::PREPARE.and(Hooks::COMMIT).and(Hooks::ABORT);
///
///     fn step(&mut self, _: &mut Context<'_>) -> Step {
///         self.draft = Some(self.letter.to_uppercase());
///         Step::done()
///     }
///     fn prepare(&mut self, _: &mut Context<'_>) -> Result<Record, Error> {
///         match &self.draft {
///             Some(draft) if !draft.is_empty() => Ok(Record(draft.clone().into_bytes())),
///             _ => Err("an empty letter".into()),
///         }
///     }
///     fn commit(&mut self, how: &Commit) {
///         let mut sent = self.sent.lock().unwrap();
///         let draft = self.draft.take().unwrap_or_default();
///         // After a crash it may be the second time.
///         if !(how.replayed && sent.contains(&draft)) {
///             sent.push(draft);
///         }
///     }
///     fn abort(&mut self, why: &Abort) {
///         if why.disposition == Disposition::Discard {
///             self.draft = None;
///         }
///     }
/// }
///
/// let sent = Arc::new(Mutex::new(Vec::new()));
/// let post = Post { letter: "dear bob", draft: None, sent: Arc::clone(&sent) };
/// Engine::new()?.run(JobSpec::new("post").kind("letter"), post)?;
/// assert_eq!(*sent.lock().unwrap(), ["DEAR BOB"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Driver: Send + 'static {
    /// The hooks this driver has; the engine does not call the others.
    const HOOKS: Hooks = Hooks::ALL;

    /// Does one bounded slice of the work: aim for less than a millisecond of computing, and hand
    /// whatever may block to [`Context::spawn`].
    fn step(&mut self, cx: &mut Context<'_>) -> Step;

    /// The last chance to say no: every member has returned `Done(Ok)`, no task is in flight.
    /// The record must be all that is needed to commit or abort after a crash.
    ///
    /// # Errors
    /// Whatever stops this job from committing; the whole group then aborts.
    fn prepare(&mut self, cx: &mut Context<'_>) -> Result<Record, Error> {
        let _ = cx;
        Ok(Record::default())
    }

    /// Makes the result count. Cannot refuse, and must bear being told again after a crash.
    fn commit(&mut self, how: &Commit) {
        let _ = how;
    }

    /// Settles what an undone job leaves behind. Cannot refuse, and must bear being told again.
    fn abort(&mut self, why: &Abort) {
        let _ = why;
    }

    /// Gives back what the job held: always called, and last.
    fn clean(&mut self) {}
}

/// What a step found.
///
/// Example: [`Driver`].
#[derive(Debug)]
#[must_use]
pub enum Step {
    /// There is more to do at once.
    Again,
    /// There is more to do after this time, or earlier if something wakes the job.
    Sleep(Duration),
    /// Nothing to do until a task ends, a [`Waker`](crate::Waker) fires or what is asked changes.
    /// The text says for what, as in "waits for the reader": `why` repeats it.
    Wait(&'static str),
    /// The work is over. With tasks still in flight the engine waits for them before it counts.
    Done(Result<(), Error>),
}

impl Step {
    /// The work is done and went well.
    pub const fn done() -> Self {
        Self::Done(Ok(()))
    }

    /// The work failed for this reason.
    pub fn failed(reason: impl Into<Error>) -> Self {
        Self::Done(Err(reason.into()))
    }
}

/// What `prepare` leaves for whoever must commit or abort after a crash; the engine does not look inside.
///
/// Example: [`Driver`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash)]
pub struct Record(pub Vec<u8>);

impl From<Vec<u8>> for Record {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl AsRef<[u8]> for Record {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// How a job is committed.
///
/// Example: [`Driver`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Commit {
    /// The verdict was read from the journal at start: this may be the second time.
    pub replayed: bool,
    /// A converged job was softly cancelled and finished without the switch-over.
    pub short: bool,
}

/// Why a job is aborted, and what that means for what it leaves.
///
/// Example: [`Driver`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Abort {
    /// What ended the group.
    pub cause: Cause,
    /// Whether to settle by the job's own policy or to leave no trace.
    pub disposition: Disposition,
    /// The verdict was read from the journal at start: this may be the second time.
    pub replayed: bool,
}

impl Abort {
    /// An abort with this cause and meaning, not replayed.
    ///
    /// A driver's own tests need one:
    ///
    /// ```
    /// use cohort_job::{Abort, Cause, Disposition};
    ///
    /// let why = Abort::new(Cause::User, Disposition::Discard);
    /// assert!(!why.replayed);
    /// ```
    pub const fn new(cause: Cause, disposition: Disposition) -> Self {
        Self {
            cause,
            disposition,
            replayed: false,
        }
    }
}

/// What a panic that was caught says, as a failure. Its payload is the driver's as well, and may panic when it is dropped.
pub(crate) fn caught(payload: Box<dyn Any + Send>) -> Error {
    let error = panic_error(&*payload);
    if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        // It would have no end.
        std::mem::forget(another);
    }
    error
}

/// What a panic's payload says, as a failure.
pub(crate) fn panic_error(payload: &(dyn Any + Send)) -> Error {
    let text = payload
        .downcast_ref::<&'static str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    Error::new(format!("panicked: {text}"))
}

/// A driver whose type is forgotten: what the engine keeps. Every [`Driver`] is one.
///
/// Example: [`Txn::add_boxed`](crate::Txn::add_boxed).
pub trait ErasedDriver: Send + sealed::Sealed + 'static {
    #[doc(hidden)]
    fn hooks(&self) -> Hooks;
    #[doc(hidden)]
    fn step(&mut self, cx: &mut Context<'_>) -> Step;
    #[doc(hidden)]
    fn prepare(&mut self, cx: &mut Context<'_>) -> Result<Record, Error>;
    #[doc(hidden)]
    fn commit(&mut self, how: &Commit);
    #[doc(hidden)]
    fn abort(&mut self, why: &Abort);
    #[doc(hidden)]
    fn clean(&mut self);
}

impl<D: Driver> ErasedDriver for D {
    fn hooks(&self) -> Hooks {
        D::HOOKS
    }

    fn step(&mut self, cx: &mut Context<'_>) -> Step {
        Driver::step(self, cx)
    }

    fn prepare(&mut self, cx: &mut Context<'_>) -> Result<Record, Error> {
        Driver::prepare(self, cx)
    }

    fn commit(&mut self, how: &Commit) {
        Driver::commit(self, how);
    }

    fn abort(&mut self, why: &Abort) {
        Driver::abort(self, why);
    }

    fn clean(&mut self) {
        Driver::clean(self);
    }
}

/// One in a box is one too, so that drivers of different types can be kept like those of one.
impl ErasedDriver for Box<dyn ErasedDriver> {
    fn hooks(&self) -> Hooks {
        (**self).hooks()
    }

    fn step(&mut self, cx: &mut Context<'_>) -> Step {
        (**self).step(cx)
    }

    fn prepare(&mut self, cx: &mut Context<'_>) -> Result<Record, Error> {
        (**self).prepare(cx)
    }

    fn commit(&mut self, how: &Commit) {
        (**self).commit(how);
    }

    fn abort(&mut self, why: &Abort) {
        (**self).abort(why);
    }

    fn clean(&mut self) {
        (**self).clean();
    }
}

impl fmt::Debug for dyn ErasedDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Driver")
    }
}

mod sealed {
    /// Keeps [`ErasedDriver`](super::ErasedDriver) ours: users implement `Driver`.
    pub trait Sealed {}
    impl<D: super::Driver> Sealed for D {}
    impl Sealed for Box<dyn super::ErasedDriver> {}
}
