//! Random verbs against random drivers, from two threads: every group ends, whole, each hook once (94, 96).

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cohort_job::{
    Abort, Asked, Commit, Context, Disposition, Driver, Error, JobHandle, JobSpec, Outcome, Record,
    Step, Verdict,
};

use crate::kit::{COMMITTED, Stage, deadline, now, outcome, panics};

/// Enough to see both verdicts often, in a second.
const SEEDS: u64 = 400;

/// A small generator of our own: a seed is a run (xorshift64*).
#[derive(Clone)]
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % sides
    }
}

#[derive(Default)]
struct Counts {
    commits: AtomicU32,
    aborts: AtomicU32,
    cleans: AtomicU32,
    broken: Mutex<Vec<String>>,
}

/// Does whatever the dice say, and notes whoever calls it out of turn.
struct Wild {
    dice: Dice,
    steps_left: u32,
    prepared: bool,
    counts: Arc<Counts>,
}

impl Wild {
    fn ends(&mut self) -> Step {
        match self.dice.roll(30) {
            0 => Step::failed("the dice say so"),
            1 => panics("the dice say so"),
            _ => Step::done(),
        }
    }
}

impl Driver for Wild {
    fn step(&mut self, cx: &mut Context<'_>) -> Step {
        if self.prepared {
            let text = "a step after prepare".to_owned();
            self.counts.broken.lock().unwrap().push(text);
        }
        if cx.asked() != Asked::Run || self.steps_left == 0 {
            return self.ends();
        }
        self.steps_left -= 1;
        cx.progress().advance(1);
        match self.dice.roll(9) {
            0 => cx.ready(),
            1 => return Step::Sleep(Duration::from_micros(self.dice.roll(300))),
            2 => {
                let waker = cx.waker();
                cx.spawn(move || waker.wake());
            }
            3 => {
                cx.spawn(|| ());
                return Step::Wait("waits for its task");
            }
            4 => {
                cx.spawn(std::thread::yield_now);
                return self.ends();
            }
            5 if self.dice.roll(40) == 0 => cx.spawn(|| panics("the dice say so")),
            6 => {
                if let Err(wait) = cx.pay(1) {
                    return Step::Sleep(wait.min(Duration::from_micros(200)));
                }
            }
            _ => {}
        }
        Step::Again
    }

    fn prepare(&mut self, _: &mut Context<'_>) -> Result<Record, Error> {
        self.prepared = true;
        match self.dice.roll(25) {
            0 => Err("the dice say so".into()),
            _ => Ok(Record(vec![1])),
        }
    }

    fn commit(&mut self, _: &Commit) {
        self.counts.commits.fetch_add(1, Ordering::SeqCst);
    }

    fn abort(&mut self, _: &Abort) {
        self.counts.aborts.fetch_add(1, Ordering::SeqCst);
    }

    fn clean(&mut self) {
        self.counts.cleans.fetch_add(1, Ordering::SeqCst);
    }
}

/// One verb on one of the jobs; refusals are fine, they change nothing.
fn meddle(jobs: &[JobHandle], dice: &mut Dice) {
    let job = &jobs[dice.roll(jobs.len() as u64) as usize];
    let _ = match dice.roll(14) {
        0..3 => job.pause(),
        3..7 => job.resume(),
        7 => job.complete(),
        8 => job.finalize(),
        9 => job.set_speed(dice.roll(3) * 1_000),
        10 => job.dismiss(),
        11 if dice.roll(8) == 0 => job.cancel(Disposition::Keep),
        12 if dice.roll(8) == 0 => job.cancel(Disposition::Discard),
        _ => {
            assert!(!job.why().is_empty());
            Ok(())
        }
    };
}

/// Frees a group from whatever it waits for a user to say, until it is over.
fn free(jobs: &[JobHandle]) {
    let end = deadline();
    let txn = jobs[0].txn();
    while txn.wait_until(now() + Duration::from_millis(1)).is_none() {
        for job in jobs {
            let _ = (job.resume(), job.complete(), job.finalize());
        }
        let stuck = || jobs.iter().map(JobHandle::why).collect::<Vec<_>>();
        assert!(now() < end, "{:?}", stuck());
    }
}

/// Runs the group of this seed; whether it committed.
fn one_group(stage: &Stage, seed: u64) -> bool {
    let mut dice = Dice(seed * 2 + 1);
    let count = 1 + dice.roll(5) as usize;
    let mut txn = stage.engine.group("storm");
    let mut counts = Vec::new();
    let mut jobs = Vec::new();
    for _ in 0..count {
        let mut spec = JobSpec::unnamed().tasks(1 + dice.roll(3) as u32);
        if dice.roll(4) == 0 {
            spec = spec.manual_finalize();
        }
        if dice.roll(3) == 0 {
            spec = spec.manual_dismiss();
        }
        let count = Arc::new(Counts::default());
        let steps_left = dice.roll(30) as u32;
        let own = Dice(dice.roll(u64::MAX >> 1) | 1);
        let wild = Wild {
            dice: own,
            steps_left,
            prepared: false,
            counts: Arc::clone(&count),
        };
        jobs.push(txn.add(spec, wild).unwrap());
        counts.push(count);
    }
    let group = txn.launch();
    let (mut here, mut there) = (Dice(dice.roll(1 << 30) | 1), Dice(dice.roll(1 << 30) | 1));
    std::thread::scope(|scope| {
        scope.spawn(|| (0..40).for_each(|_| meddle(&jobs, &mut there)));
        (0..40).for_each(|_| meddle(&jobs, &mut here));
    });
    free(&jobs);

    let committed = group.verdict() == Some(Verdict::Commit);
    for (job, count) in jobs.iter().zip(&counts) {
        let is_commit = matches!(outcome(job), Outcome::Committed { .. });
        assert_eq!(is_commit, committed, "seed {seed}: {:?}", job.outcome());
        let hooks =
            [&count.commits, &count.aborts, &count.cleans].map(|hook| hook.load(Ordering::SeqCst));
        let expected = [u32::from(committed), u32::from(!committed), 1];
        assert_eq!(hooks, expected, "seed {seed}");
        assert_eq!(*count.broken.lock().unwrap(), [""; 0], "seed {seed}");
    }
    committed
}

#[test]
fn every_group_ends_whole_whatever_is_asked_of_it() {
    let stage = Stage::new();
    let commits = (0..SEEDS).filter(|seed| one_group(&stage, *seed)).count() as u64;
    assert!(
        commits > SEEDS / 20 && commits < SEEDS * 19 / 20,
        "{commits} commits show one side only"
    );
    let (job, puppet) = stage.launch(JobSpec::new("after"));
    puppet.act(crate::kit::Act::Done);
    assert_eq!(outcome(&job), COMMITTED);
}
