//! Jobs added together lie beside each other, and are called as any others; and jobs run where they stand.

use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, ThreadId};
use std::time::Duration;

use cohort_job::{Commit, Context, Driver, Engine, JobSpec, News, Outcome, Status, Step};

use crate::kit::{COMMITTED, Stage, deadline};

/// Notes who it is when it is committed, and where it was called.
struct Noted {
    number: u32,
    committed: Arc<Mutex<Vec<u32>>>,
}

impl Driver for Noted {
    fn step(&mut self, _: &mut Context<'_>) -> Step {
        Step::done()
    }

    fn commit(&mut self, _: &Commit) {
        self.committed.lock().unwrap().push(self.number);
    }
}

/// Blocks in its step until the other end is dropped, if it has one.
struct Blocking(Option<Receiver<()>>);

impl Driver for Blocking {
    fn step(&mut self, _: &mut Context<'_>) -> Step {
        if let Some(until) = self.0.take() {
            let _ = until.recv();
        }
        Step::done()
    }
}

#[test]
fn members_are_committed_in_creation_order_however_they_were_added() {
    let stage = Stage::new();
    let committed = Arc::default();
    let noted = |number| Noted {
        number,
        committed: Arc::clone(&committed),
    };
    let mut txn = stage.engine.group("mixed");
    let unnamed = JobSpec::unnamed();
    txn.add(unnamed.clone(), noted(0)).unwrap();
    txn.add(JobSpec::new("one"), noted(1)).unwrap();
    // More than one slab.
    let all = txn.add_all(&unnamed, (2..2_050).map(noted)).unwrap();
    assert_eq!(all, 2..2_050);
    assert_eq!(
        txn.add_all(&unnamed, (0..0).map(noted)).unwrap(),
        2_050..2_050
    );
    txn.add(unnamed.clone(), noted(2_050)).unwrap();
    txn.add_all(&unnamed, (2_051..2_054).map(noted)).unwrap();
    let group = txn.launch();
    group.wait_until(deadline()).expect("it ends");
    let committed = committed.lock().unwrap();
    assert!(committed.iter().copied().eq(0..2_054), "{committed:?}");
}

#[test]
fn a_blocked_step_holds_up_no_neighbour_in_its_slab() {
    for blocked in [0, 5, 20, 39] {
        let mut stage = Stage::new();
        let (hold, until) = channel();
        let mut until = Some(until);
        let mut txn = stage.engine.group("group");
        let driver = |number| Blocking((number == blocked).then(|| until.take()).flatten());
        txn.add_all(&JobSpec::unnamed(), (0..40).map(driver))
            .unwrap();
        let group = txn.launch();
        for job in group.members() {
            if job.id().member != blocked {
                stage.until(&job, Status::Waiting);
            }
        }
        drop(hold);
        group.wait_until(deadline()).expect("it ends");
    }
}

#[test]
fn a_short_job_is_run_by_the_thread_that_asks() {
    struct Where(Arc<Mutex<Vec<ThreadId>>>);
    impl Where {
        fn note(&self) {
            self.0.lock().unwrap().push(thread::current().id());
        }
    }
    impl Driver for Where {
        fn step(&mut self, _: &mut Context<'_>) -> Step {
            self.note();
            Step::done()
        }
        fn commit(&mut self, _: &Commit) {
            self.note();
        }
        fn clean(&mut self) {
            self.note();
        }
    }
    let stage = Stage::new();
    let calls = Arc::default();
    let ran = stage
        .engine
        .run(JobSpec::unnamed(), Where(Arc::clone(&calls)));
    assert_eq!(ran.unwrap(), Some(COMMITTED));
    let here = thread::current().id();
    assert_eq!(*calls.lock().unwrap(), [here; 3]);
}

#[test]
fn a_job_that_is_given_up_where_it_is_run_is_over_for_everybody_else() {
    let builder = Engine::builder().stuck_after(Duration::from_millis(50));
    let mut stage = Stage::with(builder);
    let (hold, until) = channel();
    let runner = thread::spawn({
        let engine = stage.engine.clone();
        move || engine.run(JobSpec::new("here"), Blocking(Some(until)))
    });
    stage.until_news("stuck", |news| matches!(news, News::Stuck(_)));
    let job = stage.engine.job("here").expect("it is there");
    job.give_up().unwrap();
    let outcome = job.wait_until(deadline());
    assert!(matches!(outcome, Some(Outcome::Failed { .. })));
    // Its desk is lost with it, and the next has another.
    let ran = stage.engine.run(JobSpec::unnamed(), Blocking(None));
    assert_eq!(ran.unwrap(), Some(COMMITTED));
    drop(hold);
    assert_eq!(runner.join().unwrap().unwrap(), outcome);
}
