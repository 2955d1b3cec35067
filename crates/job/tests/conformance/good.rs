//! Drivers that keep the rules, of every kind.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cohort_job::testing::{self, Check};
use cohort_job::{
    Abort, Asked, Commit, Context, Disposition, Driver, Error, Record, Step, blocking, for_each,
};

/// A small world: what is staged, and what counts.
#[derive(Debug, Clone, PartialEq, Default)]
struct World {
    staged: Option<u64>,
    published: Option<u64>,
}

/// Adds numbers up in tasks, stages the sum in prepare, publishes it in commit.
struct Sum {
    world: Arc<Mutex<World>>,
    left: u64,
    sum: u64,
    results: (Sender<u64>, Receiver<u64>),
}

impl Sum {
    fn new(world: Arc<Mutex<World>>, left: u64) -> Self {
        *world.lock().unwrap() = World::default();
        Self::over(world, left)
    }

    fn over(world: Arc<Mutex<World>>, left: u64) -> Self {
        Self {
            world,
            left,
            sum: 0,
            results: channel(),
        }
    }

    fn rebuilt(world: Arc<Mutex<World>>, record: &Record) -> Self {
        let mut sum = Self::over(world, 0);
        sum.sum = u64::from_le_bytes(record.0[..].try_into().unwrap());
        sum
    }
}

impl Driver for Sum {
    fn step(&mut self, cx: &mut Context<'_>) -> Step {
        if cx.progress().snapshot().total == 0 {
            cx.progress().set_remaining(self.left);
        }
        for number in self.results.1.try_iter() {
            self.sum += number;
            cx.progress().advance(1);
        }
        while self.left > 0 && cx.tasks() < 2 {
            let (number, results) = (self.left, self.results.0.clone());
            cx.spawn(move || results.send(number).unwrap_or(()));
            self.left -= 1;
        }
        if cx.tasks() > 0 {
            return Step::Wait("waits for its sums");
        }
        Step::done()
    }

    fn prepare(&mut self, _: &mut Context<'_>) -> Result<Record, Error> {
        self.world.lock().unwrap().staged = Some(self.sum);
        Ok(Record(self.sum.to_le_bytes().to_vec()))
    }

    fn commit(&mut self, _: &Commit) {
        self.world.lock().unwrap().published = Some(self.sum);
    }

    fn abort(&mut self, why: &Abort) {
        let mut world = self.world.lock().unwrap();
        if why.disposition == Disposition::Discard {
            world.staged = None;
        }
    }

    fn clean(&mut self) {
        self.world
            .lock()
            .unwrap()
            .published
            .inspect(|sum| assert_eq!(*sum, self.sum));
    }
}

#[test]
fn a_driver_with_tasks_hooks_and_a_record_passes() {
    let world = Arc::new(Mutex::new(World::default()));
    let [fresh, seen, again] = [(); 3].map(|()| Arc::clone(&world));
    let passed = Check::new(move || Sum::new(Arc::clone(&fresh), 3))
        .rebuild(move |record| Sum::rebuilt(Arc::clone(&again), record))
        .observe(move || seen.lock().unwrap().clone())
        .run()
        .unwrap();
    println!("{passed}");
    assert!(passed.runs() > 200, "{passed}");
}

/// Converges after three steps, keeps up until it is asked to end.
struct Mirror {
    steps: u32,
    sleepy: bool,
}

impl Driver for Mirror {
    fn step(&mut self, cx: &mut Context<'_>) -> Step {
        self.steps += 1;
        if self.steps < 3 {
            return Step::Again;
        }
        cx.ready();
        match cx.asked() {
            Asked::Run if self.sleepy => Step::Sleep(Duration::from_secs(3600)),
            Asked::Run if self.steps > 5 => Step::Wait("waits for writes"),
            Asked::Run => Step::Again,
            Asked::Complete | Asked::Finish if self.steps > 3 => Step::done(),
            Asked::Complete | Asked::Finish => Step::Again,
        }
    }
}

#[test]
fn converging_drivers_pass() {
    for sleepy in [false, true] {
        let passed = testing::check(move || Mirror { steps: 0, sleepy }).unwrap();
        assert!(passed.runs() > 50, "{passed}");
    }
}

#[test]
fn the_adapters_pass() {
    testing::check(|| for_each(vec![1, 2, 3], |_, _| Ok(()))).unwrap();
    testing::check(|| {
        blocking(|reins| {
            reins.progress().set_remaining(4);
            for _ in 0..4 {
                reins.pause_point()?;
                reins.progress().advance(1);
            }
            Ok(())
        })
    })
    .unwrap();
}

/// Waits for a thread outside the engine, which wakes it.
struct Outside(Option<Arc<AtomicBool>>);

impl Driver for Outside {
    fn step(&mut self, cx: &mut Context<'_>) -> Step {
        let came = self.0.get_or_insert_with(|| {
            let came = Arc::new(AtomicBool::new(false));
            let (waker, comes) = (cx.waker(), Arc::clone(&came));
            std::thread::spawn(move || {
                comes.store(true, Ordering::SeqCst);
                waker.wake();
            });
            came
        });
        if came.load(Ordering::SeqCst) {
            return Step::done();
        }
        Step::Wait("waits for the world")
    }
}

#[test]
fn a_driver_that_is_woken_from_outside_passes() {
    testing::Check::new(|| Outside(None))
        .orders(4)
        .run()
        .unwrap();
}

#[test]
fn a_driver_of_many_steps_is_tried_at_some_of_its_moments() {
    static RUNS: AtomicU64 = AtomicU64::new(0);
    let passed = Check::new(|| {
        RUNS.fetch_add(1, Ordering::SeqCst);
        for_each(0..1_000, |_, _| Ok(()))
    })
    .moments(5)
    .orders(2)
    .run()
    .unwrap();
    assert!(!passed.is_exhaustive(), "{passed}");
    assert_eq!(passed.runs() as u64, RUNS.load(Ordering::SeqCst));
}

#[test]
fn a_driver_that_pauses_itself_passes() {
    testing::check(|| {
        let mut full = true;
        cohort_job::from_fn(move |cx| {
            if std::mem::take(&mut full) {
                cx.pause("the target is full");
                return Step::Again;
            }
            Step::done()
        })
    })
    .unwrap();
}
