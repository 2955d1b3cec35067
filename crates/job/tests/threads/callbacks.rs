//! What is asked of the engine from inside a driver, of every status at once, and of very many jobs (9.12).

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use cohort_job::{
    Abort, Cause, Commit, Context, Disposition, Driver, Engine, Error, JobHandle, JobSpec, Outcome,
    Record, Status, Step,
};

use crate::kit::{Act, COMMITTED, KEEP, Stage, cancelled, deadline, now, outcome};

/// Asks everything of everybody, in every callback.
struct Meddler {
    jobs: Arc<OnceLock<Vec<JobHandle>>>,
    engine: Engine,
    cancels: bool,
    fails: bool,
    steps: u32,
    hooks: Arc<Hooks>,
}

#[derive(Default)]
struct Hooks {
    settled: AtomicU32,
    cleaned: AtomicU32,
    dropped: AtomicU32,
}

fn meddle(engine: &Engine, jobs: &OnceLock<Vec<JobHandle>>, cancels: bool) {
    for job in jobs.get().into_iter().flatten() {
        let _ = (job.pause(), job.resume(), job.set_speed(1 << 30));
        let _ = (job.complete(), job.finalize(), job.dismiss(), job.give_up());
        let _ = (job.status(), job.outcome(), job.progress(), job.name());
        // The past of a deadline: waiting in earnest would be waiting for oneself.
        let _ = (job.wait_until(now()), job.txn().wait_until(now()));
        if cancels {
            let _ = (job.cancel(KEEP), job.txn().cancel(Disposition::Keep));
        }
        assert!(!job.why().is_empty());
        drop(job.hold());
    }
    let _ = (engine.snapshot(), engine.subscribe(1), engine.job("m0"));
    // Members are sealed, but other groups are not.
    drop(engine.group("never launched"));
}

impl Meddler {
    fn meddle(&self) {
        meddle(&self.engine, &self.jobs, self.cancels);
    }
}

impl Driver for Meddler {
    fn step(&mut self, cx: &mut Context<'_>) -> Step {
        // The handles come right after the launch.
        if self.jobs.get().is_none() {
            return Step::Again;
        }
        self.meddle();
        self.steps += 1;
        match self.steps {
            1 => {
                let (engine, jobs, cancels) =
                    (self.engine.clone(), Arc::clone(&self.jobs), self.cancels);
                cx.spawn(move || meddle(&engine, &jobs, cancels));
                Step::Wait("waits for its task")
            }
            2..4 => Step::Again,
            _ if cx.tasks() > 0 => Step::Wait("waits for its task"),
            _ if self.fails => Step::failed("told to"),
            _ => Step::done(),
        }
    }

    fn prepare(&mut self, _: &mut Context<'_>) -> Result<Record, Error> {
        self.meddle();
        Ok(Record::default())
    }

    fn commit(&mut self, _: &Commit) {
        self.meddle();
        self.hooks.settled.fetch_add(1, Ordering::SeqCst);
    }

    fn abort(&mut self, _: &Abort) {
        self.meddle();
        self.hooks.settled.fetch_add(1, Ordering::SeqCst);
    }

    fn clean(&mut self) {
        self.meddle();
        self.hooks.cleaned.fetch_add(1, Ordering::SeqCst);
    }
}

impl Drop for Meddler {
    fn drop(&mut self) {
        self.meddle();
        self.hooks.dropped.fetch_add(1, Ordering::SeqCst);
    }
}

/// 95.
#[test]
fn every_callback_may_ask_everything_and_nothing_locks_up() {
    for (cancels, fails) in [(false, false), (false, true), (true, false)] {
        let engine = Engine::builder().threads(2).build().unwrap();
        let hooks = Arc::new(Hooks::default());
        let jobs = Arc::new(OnceLock::new());
        let mut txn = engine.group("meddlers");
        let mut members = Vec::new();
        for member in 0..3 {
            let meddler = Meddler {
                jobs: Arc::clone(&jobs),
                engine: engine.clone(),
                cancels,
                fails: fails && member == 1,
                steps: 0,
                hooks: Arc::clone(&hooks),
            };
            let spec = JobSpec::new(format!("m{member}"))
                .manual_dismiss()
                .manual_finalize();
            members.push(txn.add(spec, meddler).unwrap());
        }
        let group = txn.launch();
        assert!(jobs.set(members.clone()).is_ok());
        // Manual finalize: nobody is left to say it but us, unless somebody meddles.
        let end = deadline();
        while group
            .wait_until(now() + std::time::Duration::from_millis(1))
            .is_none()
        {
            let _ = members[0].finalize();
            assert!(now() < end, "{}", members[0].why());
        }
        let committed = !cancels && !fails;
        for job in &members {
            assert_eq!(
                matches!(job.outcome(), Some(Outcome::Committed { .. })),
                committed
            );
        }
        let counts = [&hooks.settled, &hooks.cleaned, &hooks.dropped];
        assert_eq!(counts.map(|count| count.load(Ordering::SeqCst)), [3; 3]);
    }
}

/// 97.
#[test]
fn shutdown_ends_jobs_of_every_status_at_once() {
    let mut stage = Stage::new();
    let mut open = stage.engine.group("open");
    let (driver, _created) = crate::kit::Puppet::new();
    let created = open.add(JobSpec::new("created"), driver).unwrap();
    let (running, _a) = stage.launch(JobSpec::new("running"));
    let (paused, _b) = stage.launch(JobSpec::new("paused"));
    paused.pause().unwrap();
    let (ready, puppet) = stage.launch(JobSpec::new("ready"));
    puppet.ends_when_asked();
    puppet.act(Act::Ready);
    let (standby, other) = stage.launch(JobSpec::new("standby"));
    other.ends_when_asked();
    other.act(Act::Ready);
    stage.until(&standby, Status::Ready);
    standby.pause().unwrap();
    let (pair, puppets) = stage.group(2, |spec| spec);
    puppets[0].act(Act::Done);
    let (pending, last) = stage.launch(JobSpec::new("pending").manual_finalize());
    last.act(Act::Done);
    let (concluded, first) = stage.launch(JobSpec::new("concluded").manual_dismiss());
    first.act(Act::Done);
    for (job, status) in [
        (&created, Status::Created),
        (&running, Status::Running),
        (&paused, Status::Paused),
        (&ready, Status::Ready),
        (&standby, Status::Standby),
        (&pair[0], Status::Waiting),
        (&pending, Status::Pending),
        (&concluded, Status::Concluded),
    ] {
        stage.until(job, status);
        assert_eq!(job.status(), status);
    }
    // Whoever holds an open group launches it still, and it ends as cancelled.
    let left = stage.engine.shutdown(now());
    assert!(left.iter().any(|group| group.name().as_str() == "open"));
    open.launch();
    assert!(stage.engine.shutdown(deadline()).is_empty());
    let shutdown = cancelled(Cause::Shutdown, KEEP);
    for job in [&created, &running, &paused, &pair[0], &pair[1], &pending] {
        assert_eq!(outcome(job), shutdown, "{:?}", job.name());
    }
    for job in [&ready, &standby] {
        assert_eq!(outcome(job), Outcome::Committed { short: true });
    }
    assert_eq!(outcome(&concluded), COMMITTED);
}

/// 98.
#[test]
fn ten_thousand_lone_jobs_leave_nothing() {
    let engine = Engine::builder().threads(2).build().unwrap();
    let held = Arc::new(());
    for round in 0..2 {
        let mut jobs = Vec::new();
        for number in 0..5_000 {
            let own = Arc::clone(&held);
            let sleeper = cohort_job::from_fn(move |_| {
                let _ = &own;
                Step::Sleep(std::time::Duration::from_secs(3600))
            });
            // The names of the first round are free for the second.
            let spec = JobSpec::new(format!("j{number}")).manual_dismiss();
            jobs.push(engine.launch(spec, sleeper).unwrap());
        }
        for job in &jobs {
            job.cancel(KEEP).unwrap();
        }
        for job in &jobs {
            job.wait();
            job.dismiss().unwrap();
            assert_eq!(job.status(), Status::Null, "round {round}");
        }
        assert!(engine.snapshot().jobs.is_empty());
        assert!(engine.job_by_id(jobs[0].id()).is_none());
        assert_eq!(Arc::strong_count(&held), 1, "every driver is gone");
    }
}
