//! Pause, sleep, speed and progress (9.4, 9.5).

use std::sync::mpsc::channel;
use std::time::Duration;

use cohort_job::{Context, Driver, JobHandle, JobSpec, Snapshot, Status, Step, from_fn};

use crate::kit::{Act, COMMITTED, DISCARD, KEEP, Puppet, Stage, outcome, reaches};

const LONG: Duration = Duration::from_secs(3_600);

#[test]
fn a_second_pause_and_a_second_resume_are_refused() {
    let mut stage = Stage::new();
    let (job, puppet) = stage.launch(JobSpec::new("id0"));
    job.pause().unwrap();
    assert!(
        job.pause()
            .unwrap_err()
            .to_string()
            .contains("already paused")
    );
    stage.until(&job, Status::Paused);
    assert_eq!(
        job.why(),
        "paused: it was paused by a user and waits for a resume"
    );
    job.resume().unwrap();
    assert!(
        job.resume()
            .unwrap_err()
            .to_string()
            .contains("was not paused by a user")
    );
    puppet.act(Act::Done);
    assert_eq!(outcome(&job), COMMITTED);
}

#[test]
fn a_job_paused_before_its_launch_parks_before_its_first_step() {
    let mut stage = Stage::new();
    let mut txn = stage.engine.group("group");
    let (driver, puppet) = Puppet::new();
    let job = txn.add(JobSpec::new("id0"), driver).unwrap();
    job.pause().unwrap();
    txn.launch();
    stage.until(&job, Status::Paused);
    assert_eq!(stage.path(&job), "created running paused");
    assert_eq!(puppet.steps(), 0);
    job.resume().unwrap();
    puppet.act(Act::Done);
    assert_eq!(outcome(&job), COMMITTED);
}

#[test]
fn members_that_are_held_in_one_go_start_when_that_is_taken_back_unless_something_else_holds_them()
{
    let mut stage = Stage::new();
    let mut txn = stage.engine.group("group");
    // More than are held under one lock.
    let count = 2_500;
    let members = txn.add_all(
        &JobSpec::unnamed(),
        (0..count).map(|_| from_fn(|_| Step::done())),
    );
    assert_eq!(members.unwrap(), 0..count);
    let (driver, puppet) = Puppet::new();
    let last = txn.add(JobSpec::new("last"), driver).unwrap();
    let holds = txn.handle().hold_all();
    let other = txn.handle().hold_all();
    last.pause().unwrap();
    let group = txn.launch();
    reaches("held", || last.status() == Status::Paused);
    let first = group.job(0).unwrap();
    assert!(group.members().iter().all(JobHandle::is_held));
    drop(holds);
    assert!(first.is_held() && first.status() == Status::Paused);
    drop(other);
    reaches("released", || first.status() == Status::Waiting);
    assert_eq!(last.status(), Status::Paused);
    last.resume().unwrap();
    puppet.act(Act::Done);
    assert_eq!(outcome(&last), COMMITTED);
    for job in [&first, &last] {
        let path = "created running paused running waiting pending concluded null";
        assert_eq!(stage.path(job), path);
    }
}

#[test]
fn holds_on_members_that_are_gone_are_none() {
    let stage = Stage::new();
    let (job, puppet) = stage.launch(JobSpec::new("id0"));
    let held = job.txn().hold_all();
    assert!(job.is_held());
    drop(held);
    puppet.act(Act::Done);
    assert_eq!(outcome(&job), COMMITTED);
    reaches("dismissed", || job.status() == Status::Null);
    drop(job.txn().hold_all());
}

#[test]
fn paused_is_announced_only_when_no_step_runs_and_no_task_is_in_flight() {
    let mut stage = Stage::new();
    let (job, puppet) = stage.launch(JobSpec::new("id0"));
    let (begun, begins) = channel();
    let (hold, until) = channel::<()>();
    puppet.act(Act::Task(Box::new(move || {
        begun.send(()).unwrap();
        let _ = until.recv();
    })));
    begins.recv().unwrap();
    job.pause().unwrap();
    assert_eq!(job.status(), Status::Running);
    drop(hold);
    stage.until(&job, Status::Paused);
    job.resume().unwrap();
    puppet.act(Act::Done);
    assert_eq!(outcome(&job), COMMITTED);
}

#[test]
fn a_wake_of_a_paused_job_is_invisible() {
    let mut stage = Stage::new();
    let (job, puppet) = stage.launch(JobSpec::new("id0"));
    puppet.act(Act::Again);
    job.pause().unwrap();
    stage.until(&job, Status::Paused);
    let steps = puppet.steps();
    (0..100).for_each(|_| puppet.wake());
    assert_eq!((puppet.steps(), job.status()), (steps, Status::Paused));
    job.resume().unwrap();
    puppet.act(Act::Done);
    assert_eq!(outcome(&job), COMMITTED);
    assert_eq!(
        stage.path(&job),
        "created running paused running waiting pending concluded null"
    );
}

#[test]
fn a_sleeping_job_parks_at_once_and_does_not_sleep_the_rest() {
    let mut stage = Stage::new();
    let (job, puppet) = stage.launch(JobSpec::new("id0"));
    puppet.act(Act::Sleep(LONG));
    reaches("sleep", || job.why() == "running: it sleeps");
    job.pause().unwrap();
    stage.until(&job, Status::Paused);
    puppet.act(Act::Done);
    job.resume().unwrap();
    assert_eq!(outcome(&job), COMMITTED);
}

#[test]
fn a_sleep_ends_by_itself() {
    let stage = Stage::new();
    let (job, puppet) = stage.launch(JobSpec::new("id0"));
    puppet.act(Act::Sleep(Duration::from_millis(5)));
    puppet.act(Act::Sleep(Duration::ZERO));
    puppet.act(Act::Done);
    assert_eq!(outcome(&job), COMMITTED);
}

#[test]
fn a_job_that_always_says_again_is_paused_and_stopped() {
    struct Restless;
    impl Driver for Restless {
        fn step(&mut self, cx: &mut Context<'_>) -> Step {
            cx.progress().advance(1);
            Step::Again
        }
    }
    let mut stage = Stage::new();
    let job = stage
        .engine
        .launch(JobSpec::new("restless"), Restless)
        .unwrap();
    job.pause().unwrap();
    stage.until(&job, Status::Paused);
    let parked = job.progress();
    assert_eq!(job.progress(), parked, "no step runs while it is paused");
    job.resume().unwrap();
    job.cancel(crate::kit::KEEP).unwrap();
    outcome(&job);
    assert!(job.progress().done >= parked.done);
}

#[test]
fn pause_is_refused_in_waiting_and_resume_says_not_paused() {
    let mut stage = Stage::new();
    let (jobs, puppets) = stage.group(2, |spec| spec);
    puppets[0].act(Act::Done);
    stage.until(&jobs[0], Status::Waiting);
    assert!(
        jobs[0]
            .pause()
            .unwrap_err()
            .to_string()
            .contains("cannot pause in status 'waiting'")
    );
    assert!(
        jobs[0]
            .resume()
            .unwrap_err()
            .to_string()
            .contains("was not paused")
    );
    assert!(jobs[0].set_speed(5).is_err());
    puppets[1].act(Act::Done);
    outcome(&jobs[1]);
}

/// Pays for pieces of ten units, and says when it paid for one.
struct Payer {
    pieces: u64,
    paid: std::sync::mpsc::Sender<u64>,
}

impl Driver for Payer {
    fn step(&mut self, cx: &mut Context<'_>) -> Step {
        if self.pieces == 0 {
            return Step::done();
        }
        if let Err(wait) = cx.pay(10) {
            return Step::Sleep(wait);
        }
        self.pieces -= 1;
        self.paid.send(self.pieces).unwrap();
        Step::Again
    }
}

#[test]
fn the_first_piece_is_free_and_no_limit_means_none() {
    let stage = Stage::new();
    let (paid, pieces) = channel();
    // Ten units at one unit a second: the second piece would come after ten seconds of slices of one.
    let job = stage
        .engine
        .launch(JobSpec::new("slow").speed(1), Payer { pieces: 3, paid })
        .unwrap();
    assert_eq!(pieces.recv(), Ok(2));
    assert_eq!(job.speed(), 1);
    assert_eq!(job.outcome(), None);
    job.set_speed(0).unwrap();
    assert_eq!(outcome(&job), COMMITTED);
    assert_eq!(pieces.iter().count(), 2);
}

#[test]
fn a_refused_speed_leaves_the_old_one() {
    let stage = Stage::new();
    let (job, puppet) = stage.launch(JobSpec::new("id0").speed(7).manual_dismiss());
    puppet.act(Act::Done);
    outcome(&job);
    assert!(job.set_speed(9).is_err());
    assert_eq!(job.speed(), 7);
}

#[test]
fn progress_survives_pause_failure_and_conclusion() {
    let mut stage = Stage::new();
    let (job, puppet) = stage.launch(JobSpec::new("id0").manual_dismiss());
    assert_eq!(job.progress(), Snapshot::default());
    puppet.act(Act::Progress(5));
    job.pause().unwrap();
    stage.until(&job, Status::Paused);
    job.resume().unwrap();
    puppet.act(Act::Progress(2));
    puppet.act(Act::Fail("no"));
    outcome(&job);
    assert_eq!(job.progress(), Snapshot { done: 7, total: 0 });
}

#[test]
fn holds_nest_beside_the_users_pause() {
    let mut stage = Stage::new();
    let (job, puppet) = stage.launch(JobSpec::new("a"));
    let holds = [job.hold().unwrap(), job.hold().unwrap()];
    job.pause().unwrap();
    stage.until(&job, Status::Paused);
    let steps = puppet.steps();
    job.resume().unwrap();
    let [first, last] = holds;
    drop(first);
    assert_eq!((job.status(), puppet.steps()), (Status::Paused, steps));
    drop(last);
    puppet.act(Act::Done);
    assert_eq!(outcome(&job), COMMITTED);
    let path = stage.path(&job);
    assert_eq!(path.matches("paused").count(), 1, "{path}");
}

#[test]
fn a_job_that_pauses_itself_says_why_and_waits_for_a_resume() {
    let mut stage = Stage::new();
    let mut full = true;
    let driver = cohort_job::from_fn(move |cx| {
        if std::mem::take(&mut full) {
            cx.pause("the target is full");
            return cohort_job::Step::Again;
        }
        cohort_job::Step::done()
    });
    let job = stage.engine.launch(JobSpec::new("a"), driver).unwrap();
    stage.until(&job, Status::Paused);
    assert_eq!(
        job.why(),
        "paused: it was paused by its own driver (the target is full) and waits for a resume"
    );
    assert!(job.pause().is_err(), "it is paused already");
    job.resume().unwrap();
    assert_eq!(outcome(&job), COMMITTED);
}

#[test]
fn a_pause_by_a_user_is_not_told_as_the_drivers_before() {
    let mut stage = Stage::new();
    let mut full = true;
    let mirror = from_fn(move |cx| {
        cx.ready();
        if std::mem::take(&mut full) {
            cx.pause("the target is full");
            return Step::Again;
        }
        Step::Wait("keeps up")
    });
    let job = stage.engine.launch(JobSpec::new("id0"), mirror).unwrap();
    stage.until(&job, Status::Standby);
    // A soft cancel takes the driver's pause back, and a user pauses it anew.
    job.cancel(KEEP).unwrap();
    job.pause().unwrap();
    reaches("its pause", || job.status() == Status::Standby);
    let why = job.why();
    assert!(
        why.ends_with("it was paused by a user and waits for a resume"),
        "{why}"
    );
    job.cancel(DISCARD).unwrap();
    outcome(&job);
}
