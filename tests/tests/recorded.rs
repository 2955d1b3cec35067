//! What the threaded engine did, replayed through the pure core: the same orders, the same notices, and every
//! rule of the simulator holds of it.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cohort_job::{
    Context, Disposition, Driver, Engine, Error, Hooks, JobHandle, JobSpec, MemoryJournal, Record,
    Step, TextRecorder,
};
use cohort_tests::sim::replay;

/// What the recorder writes to, readable while it grows.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Shared {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).expect("it is text")
    }
}

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Works a little in every way there is, and ends as its number says.
struct Worker {
    number: u32,
    steps: u32,
}

impl Driver for Worker {
    const HOOKS: Hooks = Hooks::ALL;

    fn step(&mut self, cx: &mut Context<'_>) -> Step {
        self.steps += 1;
        match self.steps {
            1 => {
                (0..self.number % 3).for_each(|_| cx.spawn(|| ()));
                Step::Again
            }
            2 => Step::Sleep(Duration::from_micros(u64::from(self.number % 7) * 50)),
            3 if self.number.is_multiple_of(4) => {
                cx.ready();
                cx.waker().wake();
                Step::Wait("waits for a word")
            }
            3 | 4 => Step::Again,
            _ if self.number.is_multiple_of(53) => Step::failed("says no\nin two lines"),
            _ => Step::done(),
        }
    }

    fn prepare(&mut self, _: &mut Context<'_>) -> Result<Record, Error> {
        if self.number.is_multiple_of(71) {
            return Err("cannot prepare".into());
        }
        Ok(Record(vec![1]))
    }
}

/// Runs many groups with users who speak at any moment, and gives what was recorded.
fn recorded() -> String {
    let text = Shared::default();
    let engine = Engine::builder()
        .threads(3)
        .journal(Arc::new(MemoryJournal::new()))
        .recorder(Arc::new(TextRecorder::new(text.clone())))
        .build()
        .expect("threads can be had");
    let mut groups = Vec::new();
    let mut number = 0;
    for size in [1, 2, 3, 5, 8, 40, 300, 1_500, 1, 2, 3, 4] {
        let mut txn = engine.group(format!("group-{}", groups.len()));
        let mut jobs = Vec::new();
        for _ in 0..size {
            number += 1;
            let mut spec = JobSpec::unnamed();
            if number % 5 == 0 {
                spec = spec.manual_dismiss();
            }
            if size == 3 {
                spec = spec.manual_finalize();
            }
            jobs.push(
                txn.add(spec, Worker { number, steps: 0 })
                    .expect("it is open"),
            );
        }
        let group = txn.launch();
        say_something(&jobs);
        groups.push((group, jobs));
    }
    drop(engine.group("never launched"));
    let deadline = Instant::now() + Duration::from_secs(60);
    let rest = engine.shutdown(deadline);
    assert!(rest.is_empty(), "groups did not end: {rest:?}");
    for (_, jobs) in &groups {
        for job in jobs {
            // Refused by whoever is gone, which is recorded too.
            let _ = job.dismiss();
        }
    }
    text.text()
}

fn say_something(jobs: &[JobHandle]) {
    for (at, job) in jobs.iter().enumerate().take(20) {
        // Whether each is accepted depends on what the workers did meanwhile.
        let _ = job.pause();
        let _ = job.set_speed(at as u64);
        let _ = job.resume();
        let _ = job.complete();
        let _ = job.finalize();
        if at == 7 {
            let _ = job.cancel(Disposition::Keep);
            let _ = job.cancel(Disposition::Discard);
        }
    }
}

#[test]
fn a_recording_of_the_engine_replays_in_the_core() {
    let text = recorded();
    let replayed = match replay(text.as_bytes()) {
        Ok(replayed) => replayed,
        Err((line, what)) => panic!("line {line}: {what}"),
    };
    println!("{replayed:?} in {} lines", text.lines().count());
    assert_eq!((replayed.groups, replayed.jobs), (13, 1_869));
    assert!(replayed.turns > 100 && replayed.refused > 0);
}

#[test]
fn a_recording_that_was_changed_is_found_out() {
    let text = recorded();
    let line = text
        .lines()
        .position(|line| line.contains("does run clean"));
    let line = line.expect("somebody was cleaned");
    let without: Vec<&str> = text
        .lines()
        .enumerate()
        .filter(|(at, _)| *at != line)
        .map(|(_, line)| line)
        .collect();
    let (_, what) = replay(without.join("\n").as_bytes()).expect_err("an order is missing");
    assert!(what.contains("run clean"), "{what}");
    let (line, what) = replay("#1 ask launch\nnonsense".as_bytes()).expect_err("nonsense");
    assert!(line == 2 && what.contains("nonsense"), "{line}: {what}");
}
