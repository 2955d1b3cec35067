//! Blocking tasks: counted, limited per job, and their panics contained.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier};

use cohort_job::{Context, Driver, JobSpec, Step};

use crate::kit::{Act, COMMITTED, KEEP, Stage, failed, outcome, panics, reaches};

#[test]
fn a_task_that_panics_fails_the_job() {
    let stage = Stage::new();
    let (job, puppet) = stage.launch(JobSpec::new("id0"));
    puppet.act(Act::Task(Box::new(|| panics("bad sector"))));
    assert_eq!(outcome(&job), failed("panicked: bad sector"));
}

/// Keeps eight tasks in flight until so many pieces are done, as a copy job does.
struct Copier {
    left: usize,
    results: (Sender<()>, Receiver<()>),
    most: Arc<AtomicUsize>,
}

impl Driver for Copier {
    fn step(&mut self, cx: &mut Context<'_>) -> Step {
        let done = self.results.1.try_iter().count();
        cx.progress().advance(done as u64);
        self.most.fetch_max(cx.tasks(), Ordering::Relaxed);
        while self.left > 0 && cx.tasks() < 8 {
            self.left -= 1;
            let results = self.results.0.clone();
            cx.spawn(move || results.send(()).unwrap());
        }
        if self.left == 0 && cx.tasks() == 0 {
            Step::done()
        } else {
            Step::Wait("waits for its copies")
        }
    }
}

#[test]
fn a_job_with_eight_tasks_in_flight_loses_no_end_of_one() {
    let stage = Stage::new();
    let most = Arc::new(AtomicUsize::new(0));
    let copier = Copier {
        left: 2_000,
        results: channel(),
        most: Arc::clone(&most),
    };
    let job = stage.engine.launch(JobSpec::new("copy"), copier).unwrap();
    assert_eq!(outcome(&job), COMMITTED);
    assert_eq!(job.progress().done, 2_000);
    assert!(most.load(Ordering::Relaxed) <= 8);
}

#[test]
fn done_counts_only_when_the_last_task_has_ended() {
    let stage = Stage::new();
    let (job, puppet) = stage.launch(JobSpec::new("id0"));
    let (hold, until) = channel::<()>();
    let (begun, begins) = channel();
    puppet.act(Act::Task(Box::new(move || {
        begun.send(()).unwrap();
        let _ = until.recv();
    })));
    puppet.act(Act::Done);
    begins.recv().unwrap();
    assert_eq!(puppet.calls(), "");
    drop(hold);
    assert_eq!(outcome(&job), COMMITTED);
}

#[test]
fn a_job_has_no_more_threads_than_its_limit_and_others_have_theirs() {
    let stage = Stage::new();
    let (greedy, puppet) = stage.launch(JobSpec::new("greedy").tasks(2));
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (hold, until) = channel::<()>();
    let until = Arc::new(std::sync::Mutex::new(until));
    let (begun, begins) = channel();
    for _ in 0..5 {
        let (running, most, until, begun) = (
            Arc::clone(&running),
            Arc::clone(&most),
            Arc::clone(&until),
            begun.clone(),
        );
        puppet.act(Act::Task(Box::new(move || {
            most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            begun.send(()).unwrap();
            let _ = until.lock().unwrap().recv();
            running.fetch_sub(1, Ordering::SeqCst);
        })));
    }
    begins.recv().unwrap();
    begins.recv().unwrap();
    // The stalled job ties up its own two threads: another one has as many as it asks for.
    let (other, other_puppet) = stage.launch(JobSpec::new("other").tasks(4));
    let together = Arc::new(Barrier::new(4));
    for _ in 0..4 {
        let together = Arc::clone(&together);
        other_puppet.act(Act::Task(Box::new(move || {
            together.wait();
        })));
    }
    other_puppet.act(Act::Done);
    assert_eq!(outcome(&other), COMMITTED);
    drop(hold);
    puppet.act(Act::Done);
    assert_eq!(outcome(&greedy), COMMITTED);
    assert_eq!(most.load(Ordering::SeqCst), 2);
}

#[test]
fn tasks_that_have_not_begun_when_the_job_stops_never_do() {
    let stage = Stage::new();
    let (job, puppet) = stage.launch(JobSpec::new("id0").tasks(1));
    let ran = Arc::new(AtomicUsize::new(0));
    let (hold, until) = channel::<()>();
    let (begun, begins) = channel();
    puppet.act(Act::Task(Box::new(move || {
        begun.send(()).unwrap();
        let _ = until.recv();
    })));
    begins.recv().unwrap();
    let second = Arc::clone(&ran);
    puppet.act(Act::Task(Box::new(move || {
        second.fetch_add(1, Ordering::SeqCst);
    })));
    puppet.act(Act::Progress(1));
    reaches("the second task handed out", || job.progress().done == 1);
    job.cancel(KEEP).unwrap();
    drop(hold);
    outcome(&job);
    assert_eq!(ran.load(Ordering::SeqCst), 0);
}

#[test]
fn a_wake_during_a_step_is_not_lost() {
    /// Waits for a flag that a task of ours sets while the step that looked at it still runs.
    struct Racer {
        flag: Arc<AtomicUsize>,
    }
    impl Driver for Racer {
        fn step(&mut self, cx: &mut Context<'_>) -> Step {
            if self.flag.load(Ordering::SeqCst) == 1 {
                return Step::done();
            }
            let (flag, waker) = (Arc::clone(&self.flag), cx.waker());
            let thread = std::thread::spawn(move || {
                flag.store(1, Ordering::SeqCst);
                waker.wake();
            });
            thread.join().unwrap();
            Step::Wait("waits for the flag")
        }
    }
    let stage = Stage::new();
    let job = stage
        .engine
        .launch(
            JobSpec::new("racer"),
            Racer {
                flag: Arc::default(),
            },
        )
        .unwrap();
    assert_eq!(outcome(&job), COMMITTED);
}
