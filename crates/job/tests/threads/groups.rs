//! Groups that finish together, or not at all (9.6, 9.8).

use cohort_job::{Cause, Outcome, Status};

use crate::kit::{Act, COMMITTED, DISCARD, KEEP, Stage, cancelled, failed, outcome};

#[test]
fn a_lone_job_that_ends_well_commits() {
    let mut stage = Stage::new();
    let (job, puppet) = stage.launch(cohort_job::JobSpec::new("lone"));
    puppet.act(Act::Done);
    assert_eq!(outcome(&job), COMMITTED);
    assert_eq!(puppet.calls(), "prepare commit clean dropped");
    assert_eq!(
        stage.path(&job),
        "created running waiting pending concluded null"
    );
}

#[test]
fn a_lone_job_that_fails_aborts() {
    let mut stage = Stage::new();
    let (job, puppet) = stage.launch(cohort_job::JobSpec::new("lone"));
    puppet.act(Act::Fail("no luck"));
    assert_eq!(outcome(&job), failed("no luck"));
    assert_eq!(puppet.calls(), "abort(Failed(0),Keep) clean dropped");
    assert_eq!(stage.path(&job), "created running aborting concluded null");
    assert_eq!(job.why(), "failed: no luck");
}

#[test]
fn two_jobs_commit_only_when_both_are_done() {
    let mut stage = Stage::new();
    let (jobs, puppets) = stage.group(2, |spec| spec);
    puppets[0].act(Act::Done);
    stage.until(&jobs[0], Status::Waiting);
    assert_eq!(jobs[0].outcome(), None);
    assert_eq!(jobs[0].why(), "waiting: it waits for 'j1'");
    assert_eq!(puppets[0].calls(), "");
    puppets[1].act(Act::Done);
    assert_eq!(
        (outcome(&jobs[0]), outcome(&jobs[1])),
        (COMMITTED, COMMITTED)
    );
}

#[test]
fn peers_stop_when_one_fails() {
    for first_fails in [true, false] {
        let mut stage = Stage::new();
        let (jobs, puppets) = stage.group(2, |spec| spec);
        let (bad, good) = if first_fails { (0, 1) } else { (1, 0) };
        if !first_fails {
            puppets[good].act(Act::Done);
            stage.until(&jobs[good], Status::Waiting);
        }
        puppets[bad].act(Act::Fail("disk is gone"));
        assert_eq!(outcome(&jobs[bad]), failed("disk is gone"));
        assert_eq!(
            outcome(&jobs[good]),
            cancelled(Cause::Failed(bad as u32), KEEP)
        );
        assert_eq!(
            jobs[good].why(),
            format!("cancelled because 'j{bad}' failed (disk is gone)")
        );
        assert_eq!(
            puppets[good].calls(),
            format!("abort(Failed({bad}),Keep) clean dropped")
        );
    }
}

#[test]
fn a_peer_keeps_its_own_error() {
    let mut stage = Stage::new();
    let (jobs, puppets) = stage.group(3, |spec| spec);
    let (hold, until) = std::sync::mpsc::channel();
    puppets[1].act(Act::Done);
    stage.until(&jobs[1], Status::Waiting);
    puppets[2].act(Act::Block(until));
    puppets[2].act(Act::Fail("second"));
    puppets[0].act(Act::Fail("first"));
    stage.until(&jobs[0], Status::Aborting);
    drop(hold);
    assert_eq!(outcome(&jobs[0]), failed("first"));
    assert_eq!(outcome(&jobs[1]), cancelled(Cause::Failed(0), KEEP));
    // It was in a step when the group stopped: whether it came to its own failure is its own affair.
    let last = outcome(&jobs[2]);
    assert!(
        last == failed("second") || last == cancelled(Cause::Failed(0), KEEP),
        "{last:?}"
    );
}

#[test]
fn a_cancel_of_one_reaches_every_peer_with_its_meaning() {
    for (victim, disposition) in [(0, KEEP), (1, KEEP), (0, DISCARD), (1, DISCARD)] {
        let stage = Stage::new();
        let (jobs, puppets) = stage.group(2, |spec| spec);
        jobs[victim]
            .cancel(disposition)
            .expect("running jobs can be cancelled");
        for (job, puppet) in jobs.iter().zip(&puppets) {
            let cause = Cause::Cancelled(victim as u32);
            assert_eq!(outcome(job), cancelled(cause, disposition));
            assert_eq!(
                puppet.calls(),
                format!("abort({cause:?},{disposition:?}) clean dropped")
            );
        }
    }
}

#[test]
fn a_cancel_that_races_with_done_is_never_half_a_commit() {
    for _ in 0..200 {
        let stage = Stage::new();
        let (jobs, puppets) = stage.group(2, |spec| spec);
        puppets.iter().for_each(|puppet| puppet.act(Act::Done));
        let refused = jobs[0].cancel(KEEP).is_err();
        let outcomes = [outcome(&jobs[0]), outcome(&jobs[1])];
        let commits = outcomes
            .iter()
            .filter(|outcome| **outcome == COMMITTED)
            .count();
        assert!(commits == 0 || commits == 2, "{outcomes:?}");
        assert_eq!(refused, commits == 2, "{outcomes:?}");
    }
}

#[test]
fn a_soft_cancel_of_a_ready_member_finishes_it_and_both_commit() {
    let mut stage = Stage::new();
    let (jobs, puppets) = stage.group(2, |spec| spec);
    puppets[0].ends_when_asked();
    puppets[0].act(Act::Ready);
    stage.until(&jobs[0], Status::Ready);
    jobs[0].cancel(KEEP).expect("ready jobs can be cancelled");
    stage.until(&jobs[0], Status::Waiting);
    puppets[1].act(Act::Done);
    assert_eq!(outcome(&jobs[0]), Outcome::Committed { short: true });
    assert_eq!(outcome(&jobs[1]), COMMITTED);
    assert_eq!(puppets[0].calls(), "prepare commit-short clean dropped");
}

#[test]
fn a_soft_cancelled_ready_member_is_taken_along_when_a_peer_fails() {
    let mut stage = Stage::new();
    let (jobs, puppets) = stage.group(2, |spec| spec);
    puppets[0].act(Act::Ready);
    stage.until(&jobs[0], Status::Ready);
    jobs[0].cancel(KEEP).expect("ready jobs can be cancelled");
    puppets[1].act(Act::Fail("no"));
    assert_eq!(outcome(&jobs[0]), cancelled(Cause::Failed(1), KEEP));
}

#[test]
fn a_failure_reaches_peers_in_every_status() {
    let mut stage = Stage::new();
    let (jobs, puppets) = stage.group(6, |spec| spec);
    puppets[1].act(Act::Sleep(std::time::Duration::from_secs(3_600)));
    jobs[2].pause().unwrap();
    stage.until(&jobs[2], Status::Paused);
    puppets[3].act(Act::Ready);
    stage.until(&jobs[3], Status::Ready);
    puppets[4].act(Act::Ready);
    stage.until(&jobs[4], Status::Ready);
    jobs[4].pause().unwrap();
    stage.until(&jobs[4], Status::Standby);
    puppets[5].act(Act::Done);
    stage.until(&jobs[5], Status::Waiting);
    puppets[0].act(Act::Fail("no"));
    for job in &jobs[1..] {
        assert_eq!(outcome(job), cancelled(Cause::Failed(0), KEEP));
    }
    assert_eq!(
        stage.path(&jobs[2]),
        "created running paused running aborting concluded null"
    );
    assert_eq!(
        stage.path(&jobs[4]),
        "created running ready standby ready aborting concluded null"
    );
}

#[test]
fn ten_thousand_members_commit_together() {
    struct Nothing;
    impl cohort_job::Driver for Nothing {
        fn step(&mut self, _: &mut cohort_job::Context<'_>) -> cohort_job::Step {
            cohort_job::Step::done()
        }
    }
    let stage = Stage::new();
    let mut txn = stage.engine.group("many");
    let jobs: Vec<_> = (0..10_000)
        .map(|_| txn.add(cohort_job::JobSpec::unnamed(), Nothing).unwrap())
        .collect();
    txn.launch();
    assert!(jobs.iter().all(|job| outcome(job) == COMMITTED));
    assert!(
        stage.engine.snapshot().jobs.is_empty(),
        "dismissed jobs leave nothing"
    );
}
