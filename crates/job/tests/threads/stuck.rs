//! Calls that do not come back: named, given up, and never in anybody else's way.

use std::sync::mpsc::channel;
use std::time::Duration;

use cohort_job::{Cause, Engine, JobSpec, News, Outcome, Status};

use crate::kit::{Act, COMMITTED, KEEP, Puppet, Stage, cancelled, outcome};

fn impatient() -> Stage {
    Stage::with(
        Engine::builder()
            .threads(2)
            .stuck_after(Duration::from_millis(50)),
    )
}

fn is_stuck(job: &cohort_job::JobHandle) -> impl Fn(&News) -> bool + use<> {
    let id = job.id();
    move |news| matches!(news, News::Stuck(subject) if subject.job == id)
}

#[test]
fn blocked_steps_hold_up_no_other_group() {
    let stage = Stage::new();
    // More blocked jobs than workers.
    let blocked: Vec<_> = (0..5)
        .map(|number| {
            let (job, puppet) = stage.launch(JobSpec::new(format!("blocked{number}")));
            let (hold, until) = channel();
            puppet.act(Act::Block(until));
            puppet.act(Act::Done);
            (job, hold)
        })
        .collect();
    let (job, puppet) = stage.launch(JobSpec::new("free"));
    puppet.act(Act::Done);
    assert_eq!(outcome(&job), COMMITTED);
    for (job, hold) in blocked {
        drop(hold);
        assert_eq!(outcome(&job), COMMITTED);
    }
}

#[test]
fn a_blocked_step_holds_up_no_neighbour_in_its_span() {
    let mut stage = Stage::new();
    let mut txn = stage.engine.group("group");
    let (hold, until) = channel();
    let mut until = Some(until);
    let jobs: Vec<_> = (0..40)
        .map(|number| {
            let (driver, puppet) = Puppet::new();
            // Ordered before the launch, so that the very first step of the first span blocks.
            if let Some(until) = until.take() {
                puppet.act(Act::Block(until));
            }
            puppet.act(Act::Done);
            txn.add(JobSpec::new(format!("j{number}")), driver).unwrap()
        })
        .collect();
    txn.launch();
    for job in &jobs[1..] {
        stage.until(job, Status::Waiting);
    }
    drop(hold);
    assert_eq!(outcome(&jobs[0]), COMMITTED);
}

#[test]
fn a_member_stuck_in_a_step_is_named_and_given_up() {
    let mut stage = impatient();
    let (jobs, puppets) = stage.group(3, |spec| spec);
    let (hold, until) = channel::<()>();
    puppets[1].act(Act::Block(until));
    stage.until_news("stuck", is_stuck(&jobs[1]));
    assert_eq!(
        jobs[1].why(),
        "running: it is stuck: its step, hook or task does not return"
    );
    puppets[0].act(Act::Done);
    stage.until(&jobs[0], Status::Waiting);
    assert!(jobs[0].give_up().is_err(), "it is not stuck");
    jobs[1].give_up().unwrap();
    assert!(matches!(outcome(&jobs[1]), Outcome::Failed { .. }));
    assert_eq!(outcome(&jobs[0]), cancelled(Cause::Failed(1), KEEP));
    assert_eq!(outcome(&jobs[2]), cancelled(Cause::Failed(1), KEEP));
    assert_eq!(puppets[1].calls(), "", "nothing late was called");
    // The engine still has its workers.
    let (job, puppet) = stage.launch(JobSpec::new("next"));
    puppet.act(Act::Done);
    assert_eq!(outcome(&job), COMMITTED);
    drop(hold);
}

#[test]
fn a_member_that_was_stuck_and_comes_back_goes_on() {
    let mut stage = impatient();
    let (jobs, puppets) = stage.group(2, |spec| spec);
    let (hold, until) = channel::<()>();
    puppets[0].act(Act::Block(until));
    stage.until_news("stuck", is_stuck(&jobs[0]));
    drop(hold);
    puppets.iter().for_each(|puppet| puppet.act(Act::Done));
    assert_eq!(
        (outcome(&jobs[0]), outcome(&jobs[1])),
        (COMMITTED, COMMITTED)
    );
    assert!(jobs[0].give_up().is_err());
}

#[test]
fn a_step_that_stays_stuck_is_told_again_after_a_task_of_its_job_ends() {
    let mut stage = impatient();
    let (job, puppet) = stage.launch(JobSpec::new("id0"));
    let (end, ends) = channel::<()>();
    let (hold, until) = channel::<()>();
    puppet.act(Act::Task(Box::new(move || {
        let _ = ends.recv();
    })));
    puppet.act(Act::Block(until));
    stage.until_news("stuck", is_stuck(&job));
    drop(end);
    stage.until_news_times(2, "stuck again", is_stuck(&job));
    job.give_up().unwrap();
    assert!(matches!(outcome(&job), Outcome::Failed { .. }));
    drop(hold);
}

#[test]
fn a_member_stuck_in_a_hook_is_given_up_and_its_hook_is_owed() {
    for (hook, member) in [
        ("prepare", 0),
        ("prepare", 2),
        ("commit", 0),
        ("commit", 1),
        ("clean", 2),
    ] {
        let mut stage = impatient();
        let (jobs, puppets) = stage.group(3, JobSpec::manual_finalize);
        puppets.iter().for_each(|puppet| puppet.act(Act::Done));
        stage.until(&jobs[2], Status::Pending);
        let hold = puppets[member].blocks_in(hook);
        jobs[0].finalize().unwrap();
        stage.until_news("stuck", is_stuck(&jobs[member]));
        jobs[member].give_up().unwrap();
        for (number, job) in jobs.iter().enumerate() {
            match (hook, number == member) {
                ("prepare", true) => assert!(matches!(outcome(job), Outcome::Failed { .. })),
                ("prepare", false) => {
                    assert_eq!(outcome(job), cancelled(Cause::Failed(member as u32), KEEP))
                }
                _ => assert_eq!(outcome(job), COMMITTED),
            }
        }
        for (number, puppet) in puppets.iter().enumerate() {
            let calls = puppet.calls();
            assert_eq!(
                number != member,
                calls.ends_with("clean dropped"),
                "{hook} {member}: {number} {calls}"
            );
            let commits = calls.matches("commit").count() + calls.matches("abort").count();
            assert!(commits <= 1, "{calls}");
        }
        drop(hold);
    }
}

#[test]
fn a_task_that_keeps_a_cancelled_job_is_named_and_given_up() {
    let mut stage = impatient();
    let (job, puppet) = stage.launch(JobSpec::new("id0"));
    let (begun, begins) = channel();
    let (hold, until) = channel::<()>();
    puppet.act(Act::Task(Box::new(move || {
        begun.send(()).unwrap();
        let _ = until.recv();
    })));
    begins.recv().unwrap();
    job.cancel(KEEP).unwrap();
    stage.until_news("stuck", is_stuck(&job));
    job.give_up().unwrap();
    assert!(matches!(
        outcome(&job),
        Outcome::Failed { .. } | Outcome::Cancelled { .. }
    ));
    drop(hold);
}

#[test]
fn a_job_that_came_back_and_goes_on_is_stuck_no_more() {
    let mut stage = impatient();
    let (job, puppet) = stage.launch(JobSpec::new("id0"));
    let (first, until) = channel();
    puppet.act(Act::Block(until));
    stage.until_news("stuck", is_stuck(&job));
    // It goes on at once, into a step that does not return either: that is news only if the first was over.
    let (second, until) = channel();
    puppet.act(Act::Block(until));
    puppet.act(Act::Done);
    drop(first);
    stage.until_news_times(2, "stuck again", is_stuck(&job));
    drop(second);
    assert_eq!(outcome(&job), COMMITTED);
}
