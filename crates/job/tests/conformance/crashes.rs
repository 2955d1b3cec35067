//! Drivers whose process is killed: one that bears it, and each way not to.

use std::sync::{Arc, Mutex};

use cohort_job::testing::{Broken, Crashes, Passed, Rule};
use cohort_job::{
    Abort, Commit, Context, Disposition, Driver, ErasedDriver, Error, Hooks, Record, Step, from_fn,
};

/// What outlives a process: what is staged, and what counts.
#[derive(Debug, Clone, PartialEq, Default)]
struct World {
    staged: Option<u8>,
    published: Vec<u8>,
}

type Shared = Arc<Mutex<World>>;

/// Stages a number in prepare, publishes it in commit; perhaps not as it should.
struct Publish {
    world: Shared,
    fault: Fault,
    /// How many steps it takes besides those that it needs.
    idle: u32,
    /// What the steps found, or the record says.
    number: Option<u8>,
    /// It staged the number itself.
    staged: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// Each commit adds, even if it is the second one.
    CommitsTwice,
    /// Abort removes only what this very driver staged.
    AbortLeaves,
    /// What was found is staged by the commit, when the record is long written.
    RecordsLate,
    /// Prepare publishes, abort takes it back.
    PublishesEarly,
    /// A destructor removes what is staged, and nobody else.
    LeavesItToDrop,
    /// An abort that finds something staged publishes it.
    AbortPublishes,
    /// A commit that was done is no commit any more.
    CommitPanicsAgain,
}

impl Publish {
    fn new(world: &Shared, fault: Fault) -> Self {
        Self {
            world: Arc::clone(world),
            fault,
            idle: 0,
            number: None,
            staged: false,
        }
    }
}

impl Driver for Publish {
    fn step(&mut self, _: &mut Context<'_>) -> Step {
        if self.idle > 0 {
            self.idle -= 1;
            return Step::Again;
        }
        match self.number {
            None => self.number = Some(4),
            Some(4) => self.number = Some(7),
            Some(_) => return Step::done(),
        }
        Step::Again
    }

    fn prepare(&mut self, _: &mut Context<'_>) -> Result<Record, Error> {
        let number = self.number.ok_or("nothing was found")?;
        let mut world = self.world.lock().unwrap();
        if self.fault == Fault::PublishesEarly {
            world.published = vec![number];
        } else if self.fault != Fault::RecordsLate {
            world.staged = Some(number);
        }
        self.staged = true;
        Ok(Record(b"published from what is staged".to_vec()))
    }

    fn commit(&mut self, _: &Commit) {
        let staged = self.world.lock().unwrap().staged;
        if self.fault == Fault::CommitPanicsAgain {
            assert!(staged.is_some(), "nothing is staged");
        }
        let mut world = self.world.lock().unwrap();
        if self.fault == Fault::RecordsLate {
            world.staged = self.number;
        }
        if self.fault == Fault::CommitsTwice {
            world.published.push(7);
        } else if let Some(number) = world.staged.take() {
            world.published = vec![number];
        }
    }

    fn abort(&mut self, why: &Abort) {
        let mut world = self.world.lock().unwrap();
        let forgets = self.fault == Fault::AbortLeaves && !self.staged;
        if forgets || self.fault == Fault::LeavesItToDrop {
            return;
        }
        let staged = world.staged.take();
        if self.fault == Fault::PublishesEarly {
            world.published.clear();
        }
        if self.fault == Fault::AbortPublishes && why.disposition == Disposition::Keep {
            world.published.extend(staged);
        }
    }
}

impl Drop for Publish {
    fn drop(&mut self) {
        if self.fault == Fault::LeavesItToDrop {
            self.world.lock().unwrap().staged = None;
        }
    }
}

/// Kills it everywhere. A start sweeps what is staged if it is told to.
fn killed(fault: Fault, sweeps: bool) -> Result<Passed, Broken> {
    let crashes = crashes(fault, 0, sweeps);
    crashes.run()
}

fn crashes(fault: Fault, idle: u32, sweeps: bool) -> Crashes {
    let world = Shared::default();
    let [fresh, again, swept, seen] = [(); 4].map(|()| Arc::clone(&world));
    let crashes = Crashes::new(
        "publish",
        move || {
            *fresh.lock().unwrap() = World::default();
            let mut publish = Publish::new(&fresh, fault);
            publish.idle = idle;
            publish
        },
        move |_, _, kind, record| {
            assert_eq!(record.0, b"published from what is staged");
            (kind.as_str() == "publish").then(|| Box::new(Publish::new(&again, fault)) as _)
        },
        move || seen.lock().unwrap().clone(),
    );
    match sweeps {
        true => crashes.sweep(move || swept.lock().unwrap().staged = None),
        false => crashes,
    }
}

/// The kit finds this rule broken, and nothing else, and says so in these words.
#[track_caller]
fn says(broken: Result<Passed, Broken>, rule: Rule, words: &str) {
    let broken = broken.expect_err("it is broken");
    assert_eq!(broken.rules(), [rule], "{broken}");
    let text = broken.to_string();
    assert!(text.contains(words), "{text}");
}

#[test]
fn a_driver_that_stages_and_publishes_bears_every_kill() {
    let passed = killed(Fault::None, true).unwrap();
    assert!(passed.is_exhaustive(), "{passed}");
    assert!(passed.kills() > 300, "{passed}");
}

#[test]
fn a_driver_of_many_steps_is_killed_between_its_hooks_all_the_same() {
    let passed = crashes(Fault::None, 300, true).moments(8).run().unwrap();
    assert!(!passed.is_exhaustive() && passed.kills() > 300, "{passed}");
    for (fault, rule) in [
        (Fault::CommitsTwice, Rule::NotRepeatable),
        (Fault::RecordsLate, Rule::RecordFallsShort),
    ] {
        let broken = crashes(fault, 300, true).moments(8).run().unwrap_err();
        assert_eq!(broken.rules(), [rule], "{broken}");
    }
}

#[test]
fn what_nobody_decided_and_nobody_sweeps_away_counts() {
    says(
        killed(Fault::None, false),
        Rule::CountsUndecided,
        "left World { staged: Some(7), published: [] } where World { staged: None",
    );
    says(
        killed(Fault::PublishesEarly, true),
        Rule::CountsUndecided,
        "killed without a verdict it left World { staged: None, published: [7] }",
    );
}

#[test]
fn a_kill_runs_no_destructor() {
    says(
        killed(Fault::LeavesItToDrop, false),
        Rule::CountsUndecided,
        "staged: Some(7)",
    );
}

#[test]
fn a_commit_that_is_not_idempotent() {
    says(
        killed(Fault::CommitsTwice, true),
        Rule::NotRepeatable,
        "published: [7, 7] }, at once World { staged: None, published: [7] }",
    );
    says(
        killed(Fault::CommitPanicsAgain, true),
        Rule::HookPanics,
        "commit panicked: nothing is staged",
    );
}

#[test]
fn an_abort_that_knows_what_it_staged_only_as_long_as_it_lives() {
    // Of what was decided the start has the hooks alone; what was not it finds by its name.
    let world = Shared::default();
    let [fresh, again, swept, seen] = [(); 4].map(|()| Arc::clone(&world));
    let decided = Arc::new(Mutex::new(false));
    let [rebuilt, undecided, begun] = [(); 3].map(|()| Arc::clone(&decided));
    let broken = Crashes::new(
        "publish",
        move || {
            *fresh.lock().unwrap() = World::default();
            *begun.lock().unwrap() = false;
            Publish::new(&fresh, Fault::AbortLeaves)
        },
        move |_, _, _, _| {
            *rebuilt.lock().unwrap() = true;
            Some(Box::new(Publish::new(&again, Fault::AbortLeaves)))
        },
        move || seen.lock().unwrap().clone(),
    )
    .sweep(move || {
        if !*undecided.lock().unwrap() {
            swept.lock().unwrap().staged = None;
        }
    })
    .run();
    says(
        broken,
        Rule::LeavesTrace,
        "it was told to discard, killed, and left World { staged: Some(7)",
    );
}

#[test]
fn a_record_that_was_written_before_there_was_anything_to_commit() {
    says(
        killed(Fault::RecordsLate, true),
        Rule::RecordFallsShort,
        "commits World { staged: None, published: [] }, without the crash World { staged: None, published: [7] }",
    );
}

#[test]
fn an_abort_that_publishes() {
    says(
        killed(Fault::AbortPublishes, true),
        Rule::VerdictIgnored,
        "published: [7] } as by a commit",
    );
}

#[test]
fn a_registry_that_does_not_know_the_kind() {
    let world = Shared::default();
    let (fresh, seen) = (Arc::clone(&world), Arc::clone(&world));
    let broken = Crashes::new(
        "publish",
        move || Publish::new(&fresh, Fault::None),
        |_, _, _, _| None,
        move || seen.lock().unwrap().published.clone(),
    );
    says(
        broken.run(),
        Rule::NotRebuilt,
        "no driver of kind \"publish\"",
    );
}

#[test]
fn a_commit_without_a_record() {
    struct Forgetful(Arc<Mutex<u32>>);
    impl Driver for Forgetful {
        const HOOKS: Hooks = Hooks::COMMIT;
        fn step(&mut self, _: &mut Context<'_>) -> Step {
            Step::done()
        }
        fn commit(&mut self, _: &Commit) {
            *self.0.lock().unwrap() = 1;
        }
    }
    let count = Arc::new(Mutex::new(0));
    let (fresh, seen) = (Arc::clone(&count), count);
    let make = move || {
        *fresh.lock().unwrap() = 0;
        Forgetful(Arc::clone(&fresh))
    };
    let never = |_: &_, _: &_, _: &_, _: &_| -> Option<Box<dyn ErasedDriver>> {
        unreachable!("there is no record")
    };
    let broken = Crashes::new("forgetful", make, never, move || *seen.lock().unwrap()).run();
    says(broken, Rule::RecordFallsShort, "it has no record");
}

#[test]
fn a_driver_that_fails_undisturbed_is_told_so() {
    let make = || from_fn(|_| Step::failed("no luck"));
    let broken = Crashes::new("unlucky", make, |_, _, _, _| None, || ()).run();
    says(broken, Rule::StepFails, "no luck");
}

#[test]
fn a_start_that_does_not_return_is_named() {
    let make = || from_fn(|_| Step::done());
    let broken = Crashes::new("stuck", make, |_, _, _, _| None, || ())
        .sweep(|| {
            loop {
                std::thread::park();
            }
        })
        .patience(std::time::Duration::from_millis(300))
        .run();
    says(broken, Rule::Blocks, "the sweep has not returned");
}
