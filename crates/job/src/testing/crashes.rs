//! A driver whose process is killed, between any two things that happen, and started again.

use std::fmt::Debug;
use std::time::Duration;

use super::choices::Choices;
use super::plan::{Disturbance, Plan};
use super::run::{Remains, Run};
use super::start::{Start, Sweep, see};
use super::{Broken, Check, Findings, Live, Passed, Rule};
use crate::{Disposition, Driver, ErasedDriver, GroupName, Kind, MemberName, Record, Verdict};

type Rebuild =
    Box<dyn FnMut(&GroupName, &MemberName, &Kind, &Record) -> Option<Box<dyn ErasedDriver>> + Send>;

/// How drivers are made of records.
pub(crate) struct Registry {
    pub(crate) kind: Kind,
    pub(crate) rebuild: Rebuild,
}

/// What happens to the group besides the kill: it commits; a peer refuses; it is cancelled, to keep and to discard.
const STORIES: [Disturbance; 4] = [
    Disturbance::Nothing,
    Disturbance::PeerRefuses,
    Disturbance::Cancel(Disposition::Keep),
    Disturbance::Cancel(Disposition::Discard),
];

/// A check of what a driver leaves when its process is killed.
///
/// The driver runs in a group with one peer, which commits, is refused by the peer, or is cancelled. In each
/// of these its process is killed before every event: every step and task's end, every hook, the verdict's write to the
/// journal, and the write that says that all hooks returned. Then comes the next start, which is killed once more between
/// its hooks, and the start after that. A start finds what a journal would have: nothing, or the verdict and the record. It
/// has the driver rebuilt by `rebuild`, runs the hooks that are owed, and sweeps. After it
///
/// - without a verdict the world is what it was before ([`Rule::CountsUndecided`]);
/// - with *commit* it is what an undisturbed commit leaves ([`Rule::RecordFallsShort`] if the driver that was killed had
///   not been told to commit, [`Rule::NotRepeatable`] if it had);
/// - with *abort* and [`Discard`](Disposition::Discard) it is what it was before ([`Rule::LeavesTrace`]); what is left with
///   [`Keep`](Disposition::Keep) is the driver's to choose, but not what a commit leaves ([`Rule::VerdictIgnored`]).
///
/// A killed driver is forgotten, not dropped, for a kill runs no destructor; so what it held open stays open in this
/// process. Of its tasks those that had not begun never do.
///
/// A driver that stages its text in memory, which a killed process takes along:
///
/// ```
/// use std::sync::{Arc, Mutex};
/// use cohort_job::{Commit, Context, Driver, Error, Record, Step, testing};
///
/// /// Writes a word to a page.
/// struct Write {
///     page: Arc<Mutex<String>>,
///     word: Option<String>,
/// }
///
/// impl Driver for Write {
///     fn step(&mut self, _: &mut Context<'_>) -> Step {
///         self.word = Some("word".into());
///         Step::done()
///     }
///     fn prepare(&mut self, _: &mut Context<'_>) -> Result<Record, Error> {
///         Ok(Record(b"there is a word".to_vec()))
///     }
///     fn commit(&mut self, _: &Commit) {
///         if let Some(word) = &self.word {
///             *self.page.lock().unwrap() = word.clone();
///         }
///     }
/// }
///
/// let page = Arc::new(Mutex::new(String::new()));
/// let [fresh, again, look] = [(); 3].map(|()| Arc::clone(&page));
/// let make = move || {
///     fresh.lock().unwrap().clear();
///     Write { page: Arc::clone(&fresh), word: None }
/// };
/// let broken = testing::Crashes::new(
///     "write",
///     make,
///     // The same function that `Engine::recover` is given.
///     move |_group, _name, kind, _record| match kind.as_str() {
///         "write" => Some(Box::new(Write { page: Arc::clone(&again), word: None })),
///         _ => None,
///     },
///     move || look.lock().unwrap().clone(),
/// )
/// .run()
/// .unwrap_err();
/// assert_eq!(broken.rules(), [testing::Rule::RecordFallsShort]);
/// assert!(broken.to_string().contains(r#"commits "", without the crash "word""#));
/// ```
///
/// With the word itself in the record, and `rebuild` reading it there, it passes. What a driver stages where it outlives the
/// process must be swept away by a start that finds no verdict: [`sweep`](Crashes::sweep).
#[must_use = "nothing is checked before `run`"]
pub struct Crashes {
    check: Check,
    registry: Registry,
    sweep: Option<Sweep>,
}

impl Crashes {
    /// A check of drivers of this kind. `make` makes one over a fresh world, which, undisturbed, ends well; `rebuild` makes
    /// one from its record, as for [`Engine::recover`](crate::Engine::recover); `observe` shows what counts in the world.
    pub fn new<D: Driver, T: Debug>(
        kind: impl Into<Kind>,
        make: impl FnMut() -> D + Send + 'static,
        rebuild: impl FnMut(&GroupName, &MemberName, &Kind, &Record) -> Option<Box<dyn ErasedDriver>>
        + Send
        + 'static,
        observe: impl FnMut() -> T + Send + 'static,
    ) -> Self {
        Self {
            check: Check::new(make).observe(observe),
            registry: Registry {
                kind: kind.into(),
                rebuild: Box::new(rebuild),
            },
            sweep: None,
        }
    }

    /// What each start does when the hooks that are owed have run: it removes what no verdict speaks of.
    pub fn sweep(mut self, sweep: impl FnMut() + Send + 'static) -> Self {
        self.sweep = Some(Box::new(sweep));
        self
    }

    /// Before how many events it is killed, and cancelled; 48 unless told. If there are more, half of these are the last ones,
    /// where the hooks are, and half are spread over what comes before.
    pub fn moments(mut self, moments: usize) -> Self {
        self.check = self.check.moments(moments);
        self
    }

    /// How long a call or a task may take; five seconds unless told.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.check = self.check.patience(patience);
        self
    }

    /// Runs the check.
    ///
    /// # Errors
    /// What the driver broke, and where it was killed.
    ///
    /// # Panics
    /// If one of the closures given to it panics, or no thread can be had.
    pub fn run(self) -> Result<Passed, Broken> {
        let live = Live::default();
        let patience = self.check.limits.patience;
        let mut search = Search {
            crashes: self,
            live: live.clone(),
            found: Findings::default(),
            committed: None,
        };
        live.supervise(patience, move || {
            search.all();
            search.found.result()
        })
    }
}

impl std::fmt::Debug for Crashes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Crashes")
            .field("kind", &self.registry.kind)
            .field("check", &self.check)
            .finish_non_exhaustive()
    }
}

/// All kills.
struct Search {
    crashes: Crashes,
    live: Live,
    found: Findings,
    /// What the driver's world is after a commit and the next start.
    committed: Option<String>,
}

/// What came of a process, or of two, and the start after it.
struct Lives {
    remains: Remains,
    /// What the world is now.
    left: Option<String>,
}

impl Search {
    fn all(&mut self) {
        for me in [0, 1] {
            let whole = self.lives(Plan::new(me, Disturbance::Nothing, 0).killed(usize::MAX, None));
            self.committed.get_or_insert(whole.left.unwrap_or_default());
            for story in STORIES {
                let last = if story.has_a_moment() {
                    whole.remains.moments
                } else {
                    1
                };
                for moment in self.moments(last) {
                    self.story(Plan::new(me, story, moment));
                    if self.found.count() > 0 {
                        // Later ones would tell the same, and each might be as long.
                        return;
                    }
                }
            }
        }
    }

    /// Kills one story before each of its events, and once more in the start after that.
    fn story(&mut self, plan: Plan) {
        let whole = self.lives(plan.killed(usize::MAX, None));
        for before in self.moments(whole.remains.moments + 1) {
            // More than commit and clean nobody owes.
            for again_after in [None, Some(1), Some(2)] {
                let killed = self.lives(plan.killed(before, again_after));
                self.found.passed.kills += 1 + usize::from(again_after.is_some());
                if self.found.count() > 0 {
                    return;
                }
                if killed.remains.verdict.is_none() {
                    break;
                }
            }
        }
    }

    /// Which of so many events come next when something happens.
    fn moments(&mut self, all: usize) -> Vec<usize> {
        let limit = self.crashes.check.limits.moments;
        if all <= limit {
            return (0..all).collect();
        }
        let early = all - limit / 2;
        let mut moments = self.found.spread(early, limit - limit / 2);
        moments.extend(early..all);
        moments
    }

    /// One process, the start after it, and the one after that if the first is killed, too.
    fn lives(&mut self, plan: Plan) -> Lives {
        self.live.begin(plan);
        let killed = plan.killed.expect("a plan with a kill");
        let mut choices = Choices::default();
        let run = Run::new(&mut self.crashes.check, &self.live, plan, &mut choices);
        let mut remains = run.die_before(killed.before);
        self.live.note("killed".into());
        let observe = &mut self.crashes.check.observe;
        let settled = see(&self.live, observe).filter(|_| remains.over);
        let mut start = Start {
            registry: &mut self.crashes.registry,
            sweep: &mut self.crashes.sweep,
            live: &self.live,
            breaches: std::mem::take(&mut remains.breaches),
        };
        if killed.again_after.is_some() {
            start.recover(&remains, killed.again_after);
        }
        start.recover(&remains, None);
        let again = see(&self.live, observe);
        start.sweep();
        let mut breaches = start.breaches;
        let left = see(&self.live, observe);
        let whole = killed.before == usize::MAX;
        if breaches.is_empty() && !(whole && remains.verdict == Some(Verdict::Commit)) {
            breaches.extend(self.judge(plan, &remains, left.as_ref()));
        }
        if breaches.is_empty()
            && let (Some(settled), Some(again)) = (settled, again)
            && settled != again
        {
            let what = format!("hooks, called again after the kill, made {again} of {settled}");
            breaches.push((Rule::NotRepeatable, what));
        }
        self.found.note(&self.live, remains.moments, breaches);
        Lives { remains, left }
    }

    /// Whether the world is what the verdict says.
    fn judge(
        &self,
        plan: Plan,
        remains: &Remains,
        left: Option<&String>,
    ) -> Option<(Rule, String)> {
        let (left, before) = (left?, remains.before.as_ref()?);
        let committed = self.committed.as_ref()?;
        let again = plan
            .killed
            .is_some_and(|killed| killed.again_after.is_some());
        match remains.verdict {
            None if left != before => Some((
                Rule::CountsUndecided,
                format!("killed without a verdict it left {left} where {before} was"),
            )),
            Some(Verdict::Commit) if left != committed && (remains.settled || again) => Some((
                Rule::NotRepeatable,
                format!("commit, called again after the kill, left {left}, at once {committed}"),
            )),
            Some(Verdict::Commit) if left != committed => Some((
                Rule::RecordFallsShort,
                format!("rebuilt from its record it commits {left}, without the crash {committed}"),
            )),
            Some(Verdict::Abort { disposition, .. }) if left != before => match disposition {
                Disposition::Discard => Some((
                    Rule::LeavesTrace,
                    format!("it was told to discard, killed, and left {left} where {before} was"),
                )),
                Disposition::Keep if left == committed => Some((
                    Rule::VerdictIgnored,
                    format!("the verdict was abort, and it left {left} as by a commit"),
                )),
                Disposition::Keep => None,
            },
            None | Some(Verdict::Commit | Verdict::Abort { .. }) => None,
        }
    }
}
