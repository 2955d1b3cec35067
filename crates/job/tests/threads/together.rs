//! Launched together and rolled back; drained at the end; retried.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cohort_job::{
    Cause, Driver, DriverExt, JobHandle, JobSpec, News, Retry, Status, Step, for_each, from_fn,
};

use crate::kit::{Act, COMMITTED, KEEP, Stage, cancelled, deadline, now, outcome};

fn order_of_aborting(stage: &mut Stage) -> Vec<String> {
    let aborting = |news: &News| {
        let News::Status(subject, Status::Aborting) = news else {
            return None;
        };
        subject.name.as_ref().map(ToString::to_string)
    };
    stage.news().iter().filter_map(aborting).collect()
}

#[test]
fn a_batch_that_cannot_be_whole_is_rolled_back_newest_first() {
    let mut stage = Stage::new();
    let mut batch = stage.engine.individually();
    let mut good: Vec<JobHandle> = Vec::new();
    for name in ["a", "b", "c"] {
        let spec = JobSpec::new(name).manual_dismiss();
        good.push(batch.add(spec, from_fn(|_| Step::done())).unwrap());
    }
    let twice = batch.add(JobSpec::new("a"), from_fn(|_| Step::done()));
    assert_eq!(
        twice.unwrap_err().to_string(),
        "job name 'a' is already in use: dismiss that job first"
    );
    batch.roll_back();
    for job in &good {
        assert_eq!(stage.path(job), "created aborting concluded null");
        assert_eq!(outcome(job), cancelled(Cause::Rollback, KEEP));
    }
    assert_eq!(order_of_aborting(&mut stage), ["c", "b", "a"]);
    assert!(stage.engine.snapshot().jobs.is_empty());
    let again = stage
        .engine
        .launch(JobSpec::new("a"), from_fn(|_| Step::done()));
    assert_eq!(outcome(&again.unwrap()), COMMITTED);
}

#[test]
fn a_batch_that_is_dropped_is_rolled_back_too() {
    let mut stage = Stage::new();
    let mut batch = stage.engine.individually();
    let job = batch
        .add(JobSpec::new("a"), from_fn(|_| Step::done()))
        .unwrap();
    batch
        .add(JobSpec::new("b"), from_fn(|_| Step::done()))
        .unwrap();
    drop(batch);
    assert_eq!(outcome(&job), cancelled(Cause::Rollback, KEEP));
    assert_eq!(order_of_aborting(&mut stage), ["b", "a"]);
}

#[test]
fn members_of_a_batch_do_not_disturb_each_other() {
    let stage = Stage::new();
    let mut batch = stage.engine.individually();
    let bad = batch
        .add(JobSpec::new("bad"), from_fn(|_| Step::failed("no luck")))
        .unwrap();
    let good = batch
        .add(JobSpec::new("good"), for_each(0..9, |_, _| Ok(())))
        .unwrap();
    assert_eq!(batch.launch().len(), 2);
    assert_eq!(outcome(&good), COMMITTED);
    outcome(&bad);
    assert_eq!(bad.why(), "failed: no luck");
}

#[test]
fn a_drain_lets_jobs_end_and_starts_none() {
    let mut stage = Stage::new();
    let (job, puppet) = stage.launch(JobSpec::new("a"));
    stage.until(&job, Status::Running);
    let engine = stage.engine.clone();
    let draining = std::thread::spawn(move || engine.drain(deadline(), deadline()));
    // Whatever is launched from the drain's begin on is cancelled.
    let late = loop {
        let late = stage
            .engine
            .launch(JobSpec::unnamed(), from_fn(|_| Step::done()));
        if outcome(late.as_ref().unwrap()) != COMMITTED {
            break late.unwrap();
        }
    };
    assert_eq!(late.why(), "cancelled because the engine shuts down");
    puppet.act(Act::Done);
    assert!(draining.join().unwrap().is_empty());
    assert_eq!(outcome(&job), COMMITTED);
}

#[test]
fn a_drain_that_takes_too_long_stops_the_rest_and_keeps() {
    let stage = Stage::new();
    let (job, _puppet) = stage.launch(JobSpec::new("a"));
    let rest = stage
        .engine
        .drain(now() + Duration::from_millis(20), deadline());
    assert!(rest.is_empty());
    assert_eq!(outcome(&job), cancelled(Cause::Shutdown, KEEP));
}

#[test]
fn a_failed_step_is_tried_again_within_its_budget() {
    let stage = Stage::new();
    let mut calls = 0;
    let flaky = from_fn(move |cx| {
        calls += 1;
        cx.progress().advance(1);
        if calls < 4 {
            Step::failed("busy")
        } else {
            Step::done()
        }
    });
    let retry = Retry::new(4).back_off(Duration::from_micros(100));
    let job = stage.engine.launch(JobSpec::new("a"), retry.of(flaky));
    let job = job.unwrap();
    assert_eq!((outcome(&job), job.progress().done), (COMMITTED, 4));

    let hopeless = from_fn(|_| Step::failed("broken")).on_clean(|| ());
    let retry = Retry::new(3);
    let job = stage.engine.launch(JobSpec::new("b"), retry.of(hopeless));
    let job = job.unwrap();
    outcome(&job);
    let why = job.why();
    assert!(
        why.starts_with("failed: given up after 3 attempts in ") && why.ends_with(": broken"),
        "{why}"
    );
}

/// Hands a task out in one step, and sees in a later one that it failed; the tenth time it is done without one.
fn with_tasks(begun: &Arc<AtomicU64>, progress: u64) -> impl Driver + use<> {
    let begun = Arc::clone(begun);
    let mut waits = false;
    from_fn(move |cx| {
        if cx.tasks() > 0 {
            return Step::Wait("waits for its task");
        }
        if std::mem::take(&mut waits) {
            return Step::failed("busy");
        }
        if begun.fetch_add(1, Ordering::SeqCst) == 9 {
            return Step::done();
        }
        waits = true;
        cx.progress().advance(progress);
        cx.spawn(|| ());
        Step::Wait("waits for its task")
    })
}

#[test]
fn a_step_that_only_waits_makes_no_budget_whole_and_progress_does() {
    for (progress, tasks) in [(0, 3), (1, 10)] {
        let stage = Stage::new();
        let begun = Arc::new(AtomicU64::new(0));
        let driver = Retry::new(3).of(with_tasks(&begun, progress));
        let job = stage.engine.launch(JobSpec::new("a"), driver).unwrap();
        let committed = outcome(&job) == COMMITTED;
        assert_eq!(
            (begun.load(Ordering::SeqCst), committed),
            (tasks, progress > 0)
        );
    }
}

#[test]
fn an_item_that_failed_is_not_passed_over() {
    let stage = Stage::new();
    let items = for_each(0..3, |item, _| match item {
        1 => Err("item 1 is bad".into()),
        _ => Ok(()),
    });
    let job = stage
        .engine
        .launch(JobSpec::new("a"), Retry::new(3).of(items));
    let job = job.unwrap();
    assert_ne!(outcome(&job), COMMITTED);
    assert!(job.why().ends_with("item 1 is bad"), "{}", job.why());
}
