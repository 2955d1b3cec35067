//! A conformance kit: puts your own driver through what an engine may do to it.
//!
//! [`check`] runs a driver again and again, each time a fresh one, in a group with one peer: undisturbed;
//! woken for no reason; paused and resumed; cancelled, to keep and to discard; with a peer that fails, panics or refuses to
//! prepare; never launched; with a journal that fails; with its hooks repeated as after a crash. Each
//! disturbance comes at every moment of the run, and what the driver's steps, its tasks and its peer do
//! comes in every order, as far as the limits go. It is the engine's own core that decides what happens, in
//! one thread, with a clock that costs no waiting.
//!
//! ```
//! use cohort_job::{for_each, testing};
//!
//! let passed = testing::check(|| for_each(0..5, |_, _| Ok(()))).unwrap();
//! assert!(passed.runs() > 100 && passed.is_exhaustive(), "{passed}");
//! ```
//!
//! [`Crashes`] kills a driver's process at every boundary between these calls, and starts it again.
//!
//! What a check finds it tells with the shortest run that shows it:
//!
//! ```
//! use cohort_job::{Context, Driver, Step, testing};
//!
//! struct Hasty;
//! impl Driver for Hasty {
//!     fn step(&mut self, cx: &mut Context<'_>) -> Step {
//!         cx.spawn(|| println!("who will know how this ends?"));
//!         Step::done()
//!     }
//! }
//!
//! let broken = testing::check(|| Hasty).unwrap_err();
//! assert_eq!(broken.rules(), [testing::Rule::LeavesTasks]);
//! assert!(broken.to_string().contains("step said done with 1 task in flight"));
//! ```

mod bench;
mod calls;
mod choices;
mod crashes;
mod doors;
mod live;
mod outside;
mod plan;
mod report;
mod run;
mod start;
mod tasks;

use std::fmt::Debug;
use std::time::Duration;

pub(crate) use bench::Bench;
use choices::Choices;
pub use crashes::Crashes;
use live::Live;
use plan::{Disturbance, Plan};
use report::Findings;
pub use report::{Breach, Broken, Passed, Rule};
use run::Run;

use crate::{Driver, ErasedDriver, Record};

/// Puts a driver through its paces with the usual limits; see [`Check`] to change them, and to have the
/// traces examined that the driver leaves.
///
/// `make` is called for each run and should make a driver over a fresh world, which, undisturbed, ends well.
///
/// # Errors
/// What the driver broke, and where.
///
/// Example: [the kit](self).
pub fn check<D: Driver>(make: impl FnMut() -> D + Send + 'static) -> Result<Passed, Broken> {
    Check::new(make).run()
}

pub(crate) type Make = Box<dyn FnMut() -> Box<dyn ErasedDriver> + Send>;
pub(crate) type Rebuild = Box<dyn FnMut(&Record) -> Box<dyn ErasedDriver> + Send>;
pub(crate) type Observe = Box<dyn FnMut() -> String + Send>;

/// A check of a driver, with limits and eyes of its own.
///
/// ```
/// use std::sync::{Arc, Mutex};
/// use cohort_job::{Abort, Commit, Context, Driver, Error, Record, Step, testing};
///
/// /// Says what it did to a shared list, and forgets to take it back when it is told to leave no trace.
/// struct Litters(Arc<Mutex<Vec<&'static str>>>);
///
/// impl Driver for Litters {
///     fn step(&mut self, _: &mut Context<'_>) -> Step {
///         Step::done()
///     }
///     fn prepare(&mut self, _: &mut Context<'_>) -> Result<Record, Error> {
///         self.0.lock().unwrap().push("prepared");
///         Ok(Record::default())
///     }
/// }
///
/// let world = Arc::new(Mutex::new(Vec::new()));
/// let fresh = Arc::clone(&world);
/// let broken = testing::Check::new(move || {
///         fresh.lock().unwrap().clear();
///         Litters(Arc::clone(&fresh))
///     })
///     .observe(move || world.lock().unwrap().clone())
///     .run()
///     .unwrap_err();
/// assert_eq!(broken.rules(), [testing::Rule::LeavesTrace]);
/// ```
#[must_use = "nothing is checked before `run`"]
pub struct Check {
    make: Make,
    rebuild: Option<Rebuild>,
    observe: Option<Observe>,
    limits: Limits,
}

/// How much is tried, and how long is waited.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// A run with more steps than this does not end.
    pub(crate) steps: usize,
    /// At how many moments of a run a disturbance is tried.
    pub(crate) moments: usize,
    /// How many orders of events are tried for each.
    pub(crate) orders: usize,
    /// A call or task that takes longer does not return.
    pub(crate) patience: Duration,
}

impl Check {
    /// A check with the usual limits.
    pub fn new<D: Driver>(mut make: impl FnMut() -> D + Send + 'static) -> Self {
        Self {
            make: Box::new(move || Box::new(make())),
            rebuild: None,
            observe: None,
            limits: Limits {
                steps: 100_000,
                moments: 48,
                orders: 32,
                patience: Duration::from_secs(5),
            },
        }
    }

    /// How to make a driver from the record that `prepare` left, as [`Engine::recover`](crate::Engine::recover)
    /// would: repeated hooks then run on such a driver. Otherwise on the one that ran.
    ///
    /// ```
    /// use std::sync::{Arc, Mutex};
    /// use std::time::Duration;
    /// use cohort_job::{Commit, Context, Driver, Error, Record, Step, testing};
    ///
    /// /// Writes a word to a page; after a crash knows it from its record alone.
    /// struct Write(&'static str, Arc<Mutex<Option<String>>>);
    ///
    /// impl Driver for Write {
    ///     fn step(&mut self, _: &mut Context<'_>) -> Step {
    ///         Step::done()
    ///     }
    ///     fn prepare(&mut self, _: &mut Context<'_>) -> Result<Record, Error> {
    ///         Ok(Record(self.0.as_bytes().to_vec()))
    ///     }
    ///     fn commit(&mut self, _: &Commit) {
    ///         *self.1.lock().unwrap() = Some(self.0.to_owned());
    ///     }
    /// }
    ///
    /// let page = Arc::new(Mutex::new(None));
    /// let (fresh, again, look) = (page.clone(), page.clone(), page);
    /// let check = testing::Check::new(move || {
    ///     *fresh.lock().unwrap() = None;
    ///     Write("word", fresh.clone())
    /// });
    /// // The wrong word: what commits after a crash is not what would have committed.
    /// let broken = check
    ///     .rebuild(move |_| Write("world", again.clone()))
    ///     .observe(move || look.lock().unwrap().clone())
    ///     .steps(100)
    ///     .moments(8)
    ///     .orders(8)
    ///     .patience(Duration::from_secs(10))
    ///     .run()
    ///     .unwrap_err();
    /// let breach = &broken.breaches()[0];
    /// assert_eq!(breach.rule, testing::Rule::NotRepeatable);
    /// assert!(breach.what.contains(r#"made Some("world") of Some("word")"#));
    /// ```
    pub fn rebuild<D: Driver>(
        mut self,
        mut rebuild: impl FnMut(&Record) -> D + Send + 'static,
    ) -> Self {
        self.rebuild = Some(Box::new(move |record| Box::new(rebuild(record))));
        self
    }

    /// How to see what the driver leaves in its world. With this it is also checked that a repeated hook
    /// changes nothing, and that a job which never ran, or was told to discard, leaves no trace.
    pub fn observe<T: Debug>(mut self, mut observe: impl FnMut() -> T + Send + 'static) -> Self {
        self.observe = Some(Box::new(move || format!("{:?}", observe())));
        self
    }

    /// After how many steps a run counts as endless; 100,000 unless told.
    pub fn steps(mut self, steps: usize) -> Self {
        self.limits.steps = steps.max(1);
        self
    }

    /// At how many moments each disturbance is tried, spread over the run; 48 unless told.
    pub fn moments(mut self, moments: usize) -> Self {
        self.limits.moments = moments.max(1);
        self
    }

    /// How many orders of steps, tasks and peers are tried for each moment; 32 unless told.
    pub fn orders(mut self, orders: usize) -> Self {
        self.limits.orders = orders.max(1);
        self
    }

    /// How long a call or a task may take, and a job sleep on that was asked to end; five seconds unless told.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.limits.patience = patience;
        self
    }

    /// Runs the check.
    ///
    /// # Errors
    /// What the driver broke, and where.
    ///
    /// # Panics
    /// If one of the closures given to it panics, or no thread can be had.
    pub fn run(self) -> Result<Passed, Broken> {
        let live = Live::default();
        let mut search = Search::new(self, live.clone());
        live.supervise(search.check.limits.patience, move || {
            search.all();
            search.found.result()
        })
    }
}

impl std::fmt::Debug for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Check")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// All runs of one check.
struct Search {
    check: Check,
    live: Live,
    found: Findings,
    /// What the driver leaves when it commits undisturbed.
    committed: Option<String>,
}

impl Search {
    fn new(check: Check, live: Live) -> Self {
        Self {
            check,
            live,
            found: Findings::default(),
            committed: None,
        }
    }

    fn all(&mut self) {
        for me in [0, 1] {
            let length = self.every_order(Plan::new(me, Disturbance::Nothing, 0));
            if self.found.count() > 0 {
                // Disturbed it can only be worse.
                return;
            }
            for disturbance in Disturbance::ALL {
                if disturbance.needs_rebuild() && self.check.rebuild.is_none() {
                    continue;
                }
                let moments = self.moments(disturbance, length);
                let known = self.found.count();
                for moment in moments {
                    if self.found.count() > known {
                        // Later moments would tell the same.
                        break;
                    }
                    self.every_order(Plan::new(me, disturbance, moment));
                    if self.found.never_ends() {
                        // Each further run might be as long.
                        return;
                    }
                }
            }
        }
    }

    fn moments(&mut self, disturbance: Disturbance, length: usize) -> Vec<usize> {
        let last = if disturbance.has_a_moment() {
            length
        } else {
            1
        };
        self.found.spread(last, self.check.limits.moments)
    }

    /// Runs one plan in every order of events; says how many moments its longest run had.
    fn every_order(&mut self, plan: Plan) -> usize {
        let mut choices = Choices::default();
        let mut longest = 0;
        for _ in 0..self.check.limits.orders {
            longest = longest.max(self.one(plan, &mut choices));
            if !choices.next() || self.found.never_ends() {
                return longest;
            }
        }
        self.found.passed.partial = true;
        longest
    }

    fn one(&mut self, plan: Plan, choices: &mut Choices) -> usize {
        self.live.begin(plan);
        let ended = Run::new(&mut self.check, &self.live, plan, choices).all(&self.committed);
        if self.committed.is_none() {
            self.committed = ended.committed;
        }
        self.found.note(&self.live, ended.moments, ended.breaches);
        ended.moments
    }
}
