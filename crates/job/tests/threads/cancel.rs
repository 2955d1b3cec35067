//! Cancel in every status (9.2), and completion (9.3).

use cohort_job::{Asked, Cause, JobSpec, Outcome, Status, Verdict};

use crate::kit::{Act, COMMITTED, DISCARD, KEEP, Puppet, Stage, cancelled, outcome};

fn manual(name: &str) -> JobSpec {
    JobSpec::new(name).manual_finalize().manual_dismiss()
}

#[test]
fn a_created_job_is_cancelled_without_having_run() {
    let mut stage = Stage::new();
    let mut txn = stage.engine.group("group");
    let (driver, puppet) = Puppet::new();
    let job = txn.add(manual("id0"), driver).unwrap();
    job.cancel(DISCARD).expect("created jobs can be cancelled");
    let verdict = txn.launch().wait();
    let expected = Verdict::Abort {
        cause: Cause::Cancelled(0),
        disposition: DISCARD,
    };
    assert_eq!(verdict, Some(expected));
    assert_eq!(puppet.steps(), 0);
    assert_eq!(puppet.calls(), "abort(Cancelled(0),Discard) clean dropped");
    stage.until(&job, Status::Null);
    assert_eq!(stage.path(&job), "created aborting concluded null");
}

#[test]
fn a_member_added_to_a_cancelled_group_is_born_cancelled() {
    let stage = Stage::new();
    let mut txn = stage.engine.group("group");
    let first = txn.add(JobSpec::new("a"), Puppet::new().0).unwrap();
    first.cancel(KEEP).unwrap();
    let (driver, puppet) = Puppet::new();
    let second = txn.add(JobSpec::new("b"), driver).unwrap();
    txn.launch();
    assert_eq!(outcome(&second), cancelled(Cause::Cancelled(0), KEEP));
    assert_eq!(puppet.steps(), 0);
}

#[test]
fn a_running_job_is_cancelled_and_stays_until_dismissed() {
    let mut stage = Stage::new();
    let (job, puppet) = stage.launch(manual("id0"));
    stage.until(&job, Status::Running);
    job.cancel(DISCARD).unwrap();
    assert_eq!(outcome(&job), cancelled(Cause::Cancelled(0), DISCARD));
    assert_eq!(job.status(), Status::Concluded);
    assert_eq!(puppet.calls(), "abort(Cancelled(0),Discard) clean dropped");
    job.dismiss().unwrap();
    assert_eq!(stage.path(&job), "created running aborting concluded null");
    assert!(stage.engine.job("id0").is_none());
}

#[test]
fn a_paused_job_is_cancelled() {
    let mut stage = Stage::new();
    let (job, _puppet) = stage.launch(manual("id0"));
    job.pause().unwrap();
    stage.until(&job, Status::Paused);
    job.cancel(DISCARD).unwrap();
    assert_eq!(outcome(&job), cancelled(Cause::Cancelled(0), DISCARD));
    assert_eq!(
        stage.path(&job),
        "created running paused running aborting concluded"
    );
}

#[test]
fn a_ready_job_is_cancelled_by_force() {
    let mut stage = Stage::new();
    let (job, puppet) = stage.launch(manual("id0"));
    puppet.act(Act::Ready);
    stage.until(&job, Status::Ready);
    job.cancel(DISCARD).unwrap();
    assert_eq!(outcome(&job), cancelled(Cause::Cancelled(0), DISCARD));
    assert_eq!(stage.path(&job), "created running ready aborting concluded");
}

#[test]
fn a_job_in_standby_is_cancelled_by_force() {
    let mut stage = Stage::new();
    let (job, puppet) = stage.launch(manual("id0"));
    puppet.act(Act::Ready);
    stage.until(&job, Status::Ready);
    job.pause().unwrap();
    stage.until(&job, Status::Standby);
    job.cancel(DISCARD).unwrap();
    assert_eq!(outcome(&job), cancelled(Cause::Cancelled(0), DISCARD));
    assert_eq!(
        stage.path(&job),
        "created running ready standby ready aborting concluded"
    );
}

#[test]
fn a_pending_job_is_cancelled_and_aborts() {
    let mut stage = Stage::new();
    let (job, puppet) = stage.launch(manual("id0"));
    puppet.ends_when_asked();
    puppet.act(Act::Ready);
    stage.until(&job, Status::Ready);
    job.complete().unwrap();
    stage.until(&job, Status::Pending);
    assert_eq!(puppet.asked(), Some(Asked::Complete));
    job.cancel(DISCARD).unwrap();
    assert_eq!(outcome(&job), cancelled(Cause::Cancelled(0), DISCARD));
    assert_eq!(puppet.calls(), "abort(Cancelled(0),Discard) clean dropped");
}

#[test]
fn a_concluded_job_refuses_cancel_and_is_dismissed() {
    let mut stage = Stage::new();
    let (job, puppet) = stage.launch(manual("id0"));
    puppet.act(Act::Done);
    stage.until(&job, Status::Pending);
    assert_eq!(job.why(), "pending: it waits for a user's finalize");
    job.finalize().unwrap();
    assert_eq!(outcome(&job), COMMITTED);
    let refused = job.cancel(DISCARD).unwrap_err();
    assert!(
        refused
            .to_string()
            .starts_with("job 'id0' cannot cancel in status 'concluded'"),
        "{refused}"
    );
    assert_eq!(
        (job.status(), job.outcome()),
        (Status::Concluded, Some(COMMITTED))
    );
    job.dismiss().unwrap();
    assert!(job.dismiss().is_err(), "one dismissal is enough");
}

#[test]
fn a_cancel_while_an_abort_hook_runs_is_refused_with_the_verdict() {
    let mut stage = Stage::new();
    let (job, puppet) = stage.launch(manual("id0"));
    let hold = puppet.blocks_in("abort");
    stage.until(&job, Status::Running);
    job.cancel(KEEP).unwrap();
    stage.until_news("the verdict", |news| {
        matches!(news, cohort_job::News::Decided(_))
    });
    let refused = job.cancel(DISCARD).unwrap_err();
    assert!(
        refused.to_string().contains("its group is decided: abort"),
        "{refused}"
    );
    drop(hold);
    assert_eq!(outcome(&job), cancelled(Cause::Cancelled(0), KEEP));
}

#[test]
fn a_forced_cancel_after_a_soft_one_raises_the_disposition_until_the_verdict() {
    for (first, then) in [(KEEP, DISCARD), (DISCARD, KEEP)] {
        let stage = Stage::new();
        let (job, puppet) = stage.launch(JobSpec::new("id0"));
        let (begun, begins) = std::sync::mpsc::channel();
        let (hold, until) = std::sync::mpsc::channel::<()>();
        puppet.act(Act::Task(Box::new(move || {
            begun.send(()).unwrap();
            let _ = until.recv();
        })));
        // With a task in flight the job cannot come to rest, so there is no verdict yet.
        begins.recv().unwrap();
        job.cancel(first).unwrap();
        job.cancel(then).unwrap();
        drop(hold);
        assert_eq!(outcome(&job), cancelled(Cause::Cancelled(0), DISCARD));
    }
}

#[test]
fn a_soft_cancel_of_a_ready_job_is_success_and_complete_is_then_refused() {
    let mut stage = Stage::new();
    let (job, puppet) = stage.launch(JobSpec::new("id0"));
    puppet.act(Act::Ready);
    stage.until(&job, Status::Ready);
    job.cancel(KEEP).unwrap();
    let refused = job.complete().unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("finishes without the switch-over"),
        "{refused}"
    );
    puppet.act(Act::Done);
    assert_eq!(outcome(&job), Outcome::Committed { short: true });
    assert_eq!(puppet.asked(), Some(Asked::Finish));
}

#[test]
fn complete_twice_has_one_effect_and_waits_for_resume_in_standby() {
    let mut stage = Stage::new();
    let (job, puppet) = stage.launch(JobSpec::new("id0"));
    puppet.ends_when_asked();
    assert!(job.complete().is_err(), "not ready yet");
    puppet.act(Act::Ready);
    stage.until(&job, Status::Ready);
    job.pause().unwrap();
    stage.until(&job, Status::Standby);
    job.complete().unwrap();
    job.complete().unwrap();
    assert_eq!(job.status(), Status::Standby);
    job.resume().unwrap();
    assert_eq!(outcome(&job), COMMITTED);
}

#[test]
fn two_who_dismiss_at_once_succeed_once() {
    for _ in 0..100 {
        let stage = Stage::new();
        let (job, puppet) = stage.launch(JobSpec::new("id0").manual_dismiss());
        puppet.act(Act::Done);
        outcome(&job);
        let other = job.clone();
        let thread = std::thread::spawn(move || other.dismiss().is_ok());
        let mine = job.dismiss().is_ok();
        assert!(mine ^ thread.join().unwrap());
    }
}
