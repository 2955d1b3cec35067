//! Names, launch, rollback, and what is left when everybody has gone (9.1, 9.9).

use std::sync::mpsc::channel;

use cohort_job::{
    AddError, Asked, Cause, Context, Driver, Engine, JobSpec, MemoryJournal, Outcome, Phase,
    Status, Step, Verdict,
};

use crate::kit::{Act, COMMITTED, KEEP, Puppet, Stage, cancelled, deadline, now, outcome, reaches};

#[test]
fn malformed_names_are_refused() {
    let stage = Stage::new();
    for name in ["0id", "", "   ", "123", "_id", "-id", ".id", "#id"] {
        let refused = stage
            .engine
            .launch(JobSpec::new(name), Puppet::new().0)
            .unwrap_err();
        assert!(
            matches!(&refused, AddError::Invalid(invalid) if invalid.name == name),
            "{refused}"
        );
    }
    assert!(
        stage.engine.snapshot().jobs.is_empty(),
        "a refusal leaves nothing"
    );
}

#[test]
fn a_name_is_taken_until_its_owner_is_dismissed() {
    let stage = Stage::new();
    let (job, puppet) = stage.launch(JobSpec::new("id0").manual_dismiss());
    let again = || stage.engine.launch(JobSpec::new("id0"), Puppet::new().0);
    let text = again().unwrap_err().to_string();
    assert_eq!(
        text,
        "job name 'id0' is already in use: dismiss that job first"
    );
    puppet.act(Act::Done);
    assert_eq!(outcome(&job), COMMITTED);
    assert!(again().is_err(), "concluded, but not dismissed");
    job.dismiss().unwrap();
    let second = again().unwrap();
    assert_ne!(second.id(), job.id());
    assert_eq!(
        job.status(),
        Status::Null,
        "a stale handle is not the new job"
    );
    assert_eq!(
        stage.engine.job("id0").map(|found| found.id()),
        Some(second.id())
    );
}

#[test]
fn the_same_name_twice_in_one_group_is_refused() {
    let stage = Stage::new();
    let mut txn = stage.engine.group("group");
    txn.add(JobSpec::new("id0"), Puppet::new().0).unwrap();
    assert!(matches!(
        txn.add(JobSpec::new("id0"), Puppet::new().0),
        Err(AddError::Taken { .. })
    ));
    let group = txn.handle();
    drop(txn);
    group.wait_until(deadline()).expect("a rollback is bounded");
    let mut txn = stage.engine.group("group");
    assert!(
        txn.add(JobSpec::new("id0"), Puppet::new().0).is_ok(),
        "the rollback freed it"
    );
}

#[test]
fn an_unlaunched_group_is_rolled_back_when_dropped() {
    let mut stage = Stage::new();
    let mut txn = stage.engine.group("group");
    let (jobs, puppets): (Vec<_>, Vec<_>) = (0..3)
        .map(|number| {
            let (driver, puppet) = Puppet::new();
            (
                txn.add(JobSpec::new(format!("j{number}")).manual_dismiss(), driver)
                    .unwrap(),
                puppet,
            )
        })
        .unzip();
    let group = txn.handle();
    drop(txn);
    let verdict = group.wait_until(deadline()).expect("a rollback is bounded");
    assert_eq!(
        verdict,
        Verdict::Abort {
            cause: Cause::Rollback,
            disposition: KEEP
        }
    );
    for (job, puppet) in jobs.iter().zip(&puppets) {
        assert_eq!(stage.path(job), "created aborting concluded null");
        assert_eq!(
            (puppet.steps(), puppet.calls().as_str()),
            (0, "abort(Rollback,Keep) clean dropped")
        );
        assert_eq!(job.why(), "cancelled because its group was never launched");
    }
    assert!(stage.engine.snapshot().jobs.is_empty());
}

#[test]
fn an_empty_group_commits() {
    let stage = Stage::new();
    let group = stage.engine.group("empty").launch();
    assert_eq!(group.wait_until(deadline()), Some(Verdict::Commit));
    assert_eq!(group.phase(), Phase::Done);
}

#[test]
fn a_deadline_that_passes_says_nothing_about_the_job() {
    let stage = Stage::new();
    let (job, puppet) = stage.launch(JobSpec::new("id0"));
    assert_eq!(job.wait_until(now()), None);
    puppet.act(Act::Done);
    assert_eq!(outcome(&job), COMMITTED);
}

#[test]
fn shutdown_keeps_what_was_done_and_names_who_is_left() {
    let mut stage = Stage::new();
    let (job, puppet) = stage.launch(JobSpec::new("slow"));
    let (hold, until) = channel::<()>();
    let (begun, begins) = channel();
    puppet.act(Act::Task(Box::new(move || {
        begun.send(()).unwrap();
        let _ = until.recv();
    })));
    begins.recv().unwrap();
    let (paused, _puppet) = stage.launch(JobSpec::new("paused"));
    paused.pause().unwrap();
    stage.until(&paused, Status::Paused);
    let left = stage.engine.shutdown(now());
    assert!(left.iter().any(|group| group.name().as_str() == "slow"));
    drop(hold);
    assert!(stage.engine.shutdown(deadline()).is_empty());
    assert_eq!(outcome(&job), cancelled(Cause::Shutdown, KEEP));
    assert_eq!(outcome(&paused), cancelled(Cause::Shutdown, KEEP));
    let (late, puppet) = stage.launch(JobSpec::new("late"));
    assert_eq!(outcome(&late), cancelled(Cause::Shutdown, KEEP));
    assert_eq!(puppet.steps(), 0);
}

/// Says how it ended, over a channel that closes when the driver is dropped.
struct Messenger {
    steps: u32,
    ends: std::sync::mpsc::Sender<&'static str>,
}

impl Driver for Messenger {
    fn step(&mut self, _: &mut Context<'_>) -> Step {
        match self.steps.checked_sub(1) {
            Some(left) => {
                self.steps = left;
                Step::Again
            }
            None => Step::done(),
        }
    }

    fn commit(&mut self, _: &cohort_job::Commit) {
        self.ends.send("committed").unwrap();
    }

    fn abort(&mut self, _: &cohort_job::Abort) {
        self.ends.send("aborted").unwrap();
    }
}

#[test]
fn dropping_engine_and_handles_lets_what_runs_run_on() {
    let (ends, said) = channel();
    let engine = Engine::builder().threads(2).build().unwrap();
    engine
        .launch(
            JobSpec::new("id0"),
            Messenger {
                steps: 100_000,
                ends,
            },
        )
        .unwrap();
    drop(engine);
    assert_eq!(said.iter().collect::<Vec<_>>(), ["committed"]);
}

#[test]
fn a_job_that_waits_for_a_user_who_is_gone_is_cancelled() {
    // Pending sooner or later, or paused from the start: nobody is left to say the word.
    for paused in [false, true] {
        let (ends, said) = channel();
        let engine = Engine::builder().threads(2).build().unwrap();
        let mut txn = engine.group("group");
        let job = txn
            .add(
                JobSpec::new("id0").manual_finalize(),
                Messenger { steps: 1_000, ends },
            )
            .unwrap();
        if paused {
            job.pause().unwrap();
        }
        let group = txn.launch();
        drop((job, group, engine));
        assert_eq!(said.iter().collect::<Vec<_>>(), ["aborted"]);
    }
}

/// Converged from the start; says how it ended, over a channel that closes when the driver is dropped.
struct Mirror {
    /// What it waits for before it is done, once it is asked to end; nothing if it ends at once.
    takes: Option<std::sync::mpsc::Receiver<()>>,
    /// It pauses itself each time it is asked to end.
    ails: bool,
    ends: std::sync::mpsc::Sender<&'static str>,
}

impl Driver for Mirror {
    fn step(&mut self, cx: &mut Context<'_>) -> Step {
        cx.ready();
        match cx.asked() {
            Asked::Run => return Step::Wait("keeps up"),
            Asked::Complete | Asked::Finish if self.ails => {
                cx.pause("no space");
                return Step::Again;
            }
            Asked::Complete | Asked::Finish => {}
        }
        if let Some(takes) = self.takes.take() {
            cx.spawn(move || _ = takes.recv());
        }
        match cx.tasks() {
            0 => Step::done(),
            _ => Step::Wait("waits for its last task"),
        }
    }

    fn commit(&mut self, how: &cohort_job::Commit) {
        let end = if how.short { "short" } else { "committed" };
        self.ends.send(end).unwrap();
    }

    fn abort(&mut self, _: &cohort_job::Abort) {
        self.ends.send("aborted").unwrap();
    }
}

#[test]
fn a_converged_job_whose_users_are_gone_finishes_however_long_that_takes() {
    let mut stage = Stage::new();
    let (ends, said) = channel();
    let (go, takes) = channel();
    let mirror = Mirror {
        takes: Some(takes),
        ails: false,
        ends,
    };
    let job = stage.engine.launch(JobSpec::new("id0"), mirror).unwrap();
    stage.until(&job, Status::Ready);
    drop((job, stage));
    // Ready still, and at work on its end: it waits for no user any more.
    assert!(said.try_recv().is_err());
    go.send(()).unwrap();
    assert_eq!(said.iter().collect::<Vec<_>>(), ["short"]);
}

#[test]
fn a_converged_job_that_needs_one_word_more_is_aborted_when_nobody_is_left_to_say_it() {
    // Its group waits for a finalize, or it is told to finish and pauses itself.
    for ails in [false, true] {
        let mut stage = Stage::new();
        let (ends, said) = channel();
        let mirror = Mirror {
            takes: None,
            ails,
            ends,
        };
        let spec = JobSpec::new("id0");
        let spec = if ails { spec } else { spec.manual_finalize() };
        let job = stage.engine.launch(spec, mirror).unwrap();
        stage.until(&job, Status::Ready);
        if !ails {
            job.complete().unwrap();
            stage.until(&job, Status::Pending);
        }
        drop((job, stage));
        assert_eq!(said.iter().collect::<Vec<_>>(), ["aborted"], "ails: {ails}");
    }
}

#[test]
fn a_shutdown_waits_for_no_finalize_of_a_converged_job() {
    let mut stage = Stage::new();
    let (job, puppet) = stage.launch(JobSpec::new("id0").manual_finalize());
    puppet.ends_when_asked();
    puppet.act(Act::Ready);
    stage.until(&job, Status::Ready);
    assert!(stage.engine.shutdown(deadline()).is_empty());
    assert_eq!(outcome(&job), cancelled(Cause::Shutdown, KEEP));
}

#[test]
fn an_idle_engine_leaves_no_thread_behind() {
    struct Canary(
        #[expect(dead_code, reason = "only its drop is of interest")] std::sync::mpsc::Sender<()>,
    );
    impl Driver for Canary {
        fn step(&mut self, _: &mut Context<'_>) -> Step {
            Step::Wait("waits for ever")
        }
    }
    let (canary, gone) = channel();
    let engine = Engine::builder().threads(2).build().unwrap();
    let job = engine.launch(JobSpec::new("id0"), Canary(canary)).unwrap();
    job.cancel(KEEP).unwrap();
    assert!(matches!(outcome(&job), Outcome::Cancelled { .. }));
    assert!(gone.recv().is_err(), "the driver is dropped with its job");
    let subscription = engine.subscribe(10);
    drop((job, engine));
    // It ends when the engine closed; its threads let go of what they hold then.
    assert_eq!(subscription.recv(), None);
}

#[test]
fn an_alarm_that_is_still_set_keeps_no_engine() {
    let journal = std::sync::Arc::new(MemoryJournal::new());
    let engine = Engine::builder().threads(2).journal(journal.clone());
    let mut stage = Stage::with(engine);
    let (job, puppet) = stage.launch(JobSpec::new("id0"));
    puppet.act(Act::Sleep(std::time::Duration::from_secs(3600)));
    stage.until(&job, Status::Running);
    reaches("its sleep", || job.why().contains("sleeps"));
    job.cancel(KEEP).unwrap();
    assert!(matches!(outcome(&job), Outcome::Cancelled { .. }));
    drop((job, puppet, stage));
    reaches("the journal being let go", || {
        std::sync::Arc::strong_count(&journal) == 1
    });
}

/// Says its number when it is committed.
struct Numbered(u32, std::sync::mpsc::Sender<u32>);

impl Driver for Numbered {
    fn step(&mut self, _: &mut Context<'_>) -> Step {
        Step::done()
    }

    fn commit(&mut self, _: &cohort_job::Commit) {
        self.1.send(self.0).unwrap();
    }
}

#[test]
fn jobs_from_an_iterator_are_members_like_any_other() {
    let engine = Engine::new().unwrap();
    let (sender, committed) = channel();
    let driver = |number| Numbered(number, sender.clone());
    let mut group = engine.group("many");
    let first = group.add(JobSpec::new("first"), driver(0)).unwrap();
    // More than are taken in at once, and not a multiple of it.
    let span = group.add_all(&JobSpec::unnamed(), (1..3000).map(driver));
    assert_eq!(span.unwrap(), 1..3000);
    let last = group.add(JobSpec::new("last"), driver(3000)).unwrap();
    let group = group.launch();
    assert_eq!(group.wait(), Some(Verdict::Commit));
    assert_eq!(committed.try_iter().count(), 3001, "each once");
    assert_eq!(group.job(0).map(|job| job.id()), Some(first.id()));
    assert_eq!(group.job(3000).map(|job| job.id()), Some(last.id()));
    assert_eq!(
        group.job(1500).and_then(|job| job.outcome()),
        Some(COMMITTED)
    );
    assert!(group.job(3001).is_none());
}

#[test]
fn one_name_is_not_enough_for_several() {
    let engine = Engine::new().unwrap();
    let (sender, committed) = channel();
    let mut group = engine.group("many");
    let drivers = (0..2).map(|number| Numbered(number, sender.clone()));
    let refused = group.add_all(&JobSpec::new("one"), drivers).unwrap_err();
    assert!(matches!(refused, AddError::Taken { .. }), "{refused}");
    assert_eq!(group.launch().wait(), Some(Verdict::Commit));
    assert_eq!(committed.try_iter().collect::<Vec<_>>(), [0], "it stays");
}
