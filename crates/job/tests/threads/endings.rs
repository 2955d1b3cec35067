//! Finalize, prepare and the hooks (9.5, 9.7), and panics in each of them.

use cohort_job::{
    Cause, Commit, Context, Driver, Engine, Error, JobSpec, News, Outcome, Record, Status, Step,
};

use crate::kit::{Act, COMMITTED, KEEP, Stage, cancelled, failed, outcome};

#[test]
fn one_manual_member_holds_the_group_and_any_member_may_be_finalized() {
    for addressed in [0, 1] {
        let mut stage = Stage::new();
        let mut txn = stage.engine.group("group");
        let (auto, auto_puppet) = crate::kit::Puppet::new();
        let (hand, hand_puppet) = crate::kit::Puppet::new();
        let jobs = [
            txn.add(JobSpec::new("auto"), auto).unwrap(),
            txn.add(JobSpec::new("hand").manual_finalize(), hand)
                .unwrap(),
        ];
        txn.launch();
        auto_puppet.act(Act::Done);
        stage.until(&jobs[0], Status::Waiting);
        assert!(jobs[0].finalize().is_err(), "a peer still runs");
        hand_puppet.act(Act::Done);
        stage.until(&jobs[1], Status::Pending);
        assert_eq!(
            (auto_puppet.calls(), hand_puppet.calls()),
            (String::new(), String::new())
        );
        jobs[addressed].finalize().unwrap();
        assert_eq!(
            (outcome(&jobs[0]), outcome(&jobs[1])),
            (COMMITTED, COMMITTED)
        );
        assert!(jobs[1 - addressed].finalize().is_err());
    }
}

#[test]
fn a_prepare_that_fails_aborts_everybody_wherever_it_is() {
    for (count, bad) in [(2, 0), (2, 1), (3, 0), (3, 1), (3, 2)] {
        let stage = Stage::new();
        let (jobs, puppets) = stage.group(count, |spec| spec);
        puppets[bad].refuses();
        puppets.iter().for_each(|puppet| puppet.act(Act::Done));
        for (member, (job, puppet)) in jobs.iter().zip(&puppets).enumerate() {
            let prepared = if member <= bad { "prepare " } else { "" };
            let expected = if member == bad {
                failed("prepare says no")
            } else {
                cancelled(Cause::Failed(bad as u32), KEEP)
            };
            assert_eq!(outcome(job), expected, "member {member} of {count}");
            assert_eq!(
                puppet.calls(),
                format!("{prepared}abort(Failed({bad}),Keep) clean dropped")
            );
        }
    }
}

#[test]
fn all_prepares_come_before_any_commit_and_all_commits_before_any_clean() {
    let mut stage = Stage::new();
    let order = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    struct Noter(
        usize,
        std::sync::Arc<std::sync::Mutex<Vec<(&'static str, usize)>>>,
    );
    impl Noter {
        fn note(&self, what: &'static str) {
            self.1.lock().unwrap().push((what, self.0));
        }
    }
    impl cohort_job::Driver for Noter {
        fn step(&mut self, _: &mut cohort_job::Context<'_>) -> cohort_job::Step {
            cohort_job::Step::done()
        }
        fn prepare(
            &mut self,
            _: &mut cohort_job::Context<'_>,
        ) -> Result<cohort_job::Record, cohort_job::Error> {
            self.note("prepare");
            Ok(cohort_job::Record::default())
        }
        fn commit(&mut self, _: &cohort_job::Commit) {
            self.note("commit");
        }
        fn clean(&mut self) {
            self.note("clean");
        }
    }
    let mut txn = stage.engine.group("group");
    let jobs: Vec<_> = (0..100)
        .map(|number| {
            txn.add(
                JobSpec::new(format!("j{number}")),
                Noter(number, order.clone()),
            )
            .unwrap()
        })
        .collect();
    txn.launch();
    jobs.iter()
        .for_each(|job| assert_eq!(outcome(job), COMMITTED));
    let expected: Vec<_> = ["prepare", "commit", "clean"]
        .into_iter()
        .flat_map(|hook| (0..100).map(move |m| (hook, m)))
        .collect();
    assert_eq!(*order.lock().unwrap(), expected);
    let ended: Vec<u32> = stage
        .news()
        .iter()
        .filter_map(|news| {
            let News::Ended(subject, _) = news else {
                return None;
            };
            Some(subject.job.member)
        })
        .collect();
    assert_eq!(
        ended,
        (0..100).collect::<Vec<_>>(),
        "members in creation order"
    );
}

#[test]
fn a_panic_in_a_step_or_in_prepare_fails_that_job() {
    let stage = Stage::new();
    let (jobs, puppets) = stage.group(2, |spec| spec);
    puppets[1].act(Act::Panic);
    assert_eq!(outcome(&jobs[1]), failed("panicked: the puppet broke"));
    assert_eq!(outcome(&jobs[0]), cancelled(Cause::Failed(1), KEEP));

    let (jobs, puppets) = stage.group(2, |spec| spec);
    puppets[0].panics_in("prepare");
    puppets.iter().for_each(|puppet| puppet.act(Act::Done));
    assert_eq!(outcome(&jobs[0]), failed("panicked: prepare went wrong"));
    assert_eq!(
        puppets[0].calls(),
        "prepare abort(Failed(0),Keep) clean dropped"
    );
    assert_eq!(puppets[1].calls(), "abort(Failed(0),Keep) clean dropped");
}

#[test]
fn a_panic_after_the_verdict_changes_no_verdict_and_is_owed() {
    for hook in ["commit", "clean"] {
        let mut stage = Stage::new();
        let (jobs, puppets) = stage.group(2, |spec| spec);
        puppets[0].panics_in(hook);
        puppets.iter().for_each(|puppet| puppet.act(Act::Done));
        assert_eq!(
            (outcome(&jobs[0]), outcome(&jobs[1])),
            (COMMITTED, COMMITTED)
        );
        assert_eq!(puppets[1].calls(), "prepare commit clean dropped");
        assert!(puppets[0].calls().starts_with("prepare commit clean"));
        let owed =
            |news: &News| matches!(news, News::Owed(subject, ..) if subject.job == jobs[0].id());
        stage.until_news("the owed hook", owed);
    }
    let stage = Stage::new();
    let (job, puppet) = stage.launch(JobSpec::new("id0"));
    puppet.panics_in("abort");
    puppet.act(Act::Fail("no"));
    assert_eq!(outcome(&job), failed("no"));
    assert_eq!(puppet.calls(), "abort(Failed(0),Keep) clean dropped");
}

#[test]
fn a_panicking_drop_hurts_nobody() {
    struct Bomb;
    impl cohort_job::Driver for Bomb {
        const HOOKS: cohort_job::Hooks = cohort_job::Hooks::NONE;
        fn step(&mut self, _: &mut cohort_job::Context<'_>) -> cohort_job::Step {
            cohort_job::Step::done()
        }
    }
    impl Drop for Bomb {
        fn drop(&mut self) {
            crate::kit::panics("dropped badly");
        }
    }
    let stage = Stage::new();
    let job = stage.engine.launch(JobSpec::new("bomb"), Bomb).unwrap();
    assert_eq!(outcome(&job), COMMITTED);
    let (job, puppet) = stage.launch(JobSpec::new("next"));
    puppet.act(Act::Done);
    assert_eq!(outcome(&job), COMMITTED);
}

#[test]
fn dismissing_one_leaves_the_others() {
    let stage = Stage::new();
    let (jobs, puppets) = stage.group(3, JobSpec::manual_dismiss);
    puppets.iter().for_each(|puppet| puppet.act(Act::Done));
    outcome(&jobs[0]);
    jobs[1].dismiss().unwrap();
    assert_eq!(
        (jobs[0].status(), jobs[1].status()),
        (Status::Concluded, Status::Null)
    );
    assert_eq!(jobs[1].outcome(), Some(COMMITTED), "a handle remembers");
    jobs[0].dismiss().unwrap();
    jobs[2].dismiss().unwrap();
    assert!(stage.engine.job_by_id(jobs[2].id()).is_none());
    assert!(stage.engine.snapshot().jobs.is_empty());
}

#[test]
fn a_failing_job_is_never_pending_even_with_manual_finalize() {
    let mut stage = Stage::new();
    let (job, puppet) = stage.launch(JobSpec::new("id0").manual_finalize().manual_dismiss());
    puppet.act(Act::Fail("no"));
    assert!(matches!(outcome(&job), Outcome::Failed { .. }));
    assert_eq!(stage.path(&job), "created running aborting concluded");
}

#[test]
fn a_panic_whose_payload_panics_when_it_is_dropped_is_a_panic_like_any_other() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            crate::kit::panics("dropped badly");
        }
    }
    struct Thrower(&'static str);
    impl Thrower {
        fn throws(&self, place: &str) {
            if self.0 == place {
                std::panic::resume_unwind(Box::new(Bomb));
            }
        }
    }
    impl Driver for Thrower {
        fn step(&mut self, cx: &mut Context<'_>) -> Step {
            self.throws("step");
            if self.0 == "task" {
                cx.spawn(|| std::panic::resume_unwind(Box::new(Bomb)));
            }
            Step::done()
        }
        fn prepare(&mut self, _: &mut Context<'_>) -> Result<Record, Error> {
            self.throws("prepare");
            Ok(Record::default())
        }
        fn commit(&mut self, _: &Commit) {
            self.throws("commit");
        }
    }
    for (place, expected) in [
        ("step", failed("panicked: no message")),
        ("task", failed("panicked: no message")),
        ("prepare", failed("panicked: no message")),
        ("commit", COMMITTED),
    ] {
        let stage = Stage::with(Engine::builder().threads(1));
        let job = stage.engine.launch(JobSpec::new(place), Thrower(place));
        assert_eq!(outcome(&job.unwrap()), expected, "{place}");
    }
}
