//! Functions, closures, iterators and futures as jobs, under a real engine.

use std::future::{Future, IntoFuture};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use cohort_job::{
    Cause, Disposition, DriverExt, Engine, JobSpec, News, Outcome, Status, Step, Update, Verdict,
    blocking, for_each, from_fn,
};

const PATIENCE: Duration = Duration::from_secs(30);

#[allow(clippy::disallowed_methods, reason = "tests stand outside the engine")]
fn now() -> Instant {
    Instant::now()
}

fn engine() -> Engine {
    Engine::builder().threads(2).build().unwrap()
}

/// Waits until the condition holds; only a hang makes it fail.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = now() + PATIENCE;
    while !holds() {
        assert!(now() < end, "never came to {what}");
        thread::yield_now();
    }
}

#[test]
fn a_paused_function_stands_still_and_paused_is_true() {
    let engine = engine();
    let turns = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&turns);
    let job = engine
        .launch(
            JobSpec::new("f"),
            blocking(move |reins| {
                loop {
                    reins.pause_point()?;
                    counted.fetch_add(1, Ordering::SeqCst);
                }
            }),
        )
        .unwrap();
    until("its first turn", || turns.load(Ordering::SeqCst) > 0);
    for _ in 0..3 {
        job.pause().unwrap();
        until("paused", || job.status() == Status::Paused);
        let stands = turns.load(Ordering::SeqCst);
        thread::yield_now();
        assert_eq!(turns.load(Ordering::SeqCst), stands);
        job.resume().unwrap();
        until("a turn after the resume", || {
            turns.load(Ordering::SeqCst) > stands
        });
    }
    // Cancelled while it runs.
    job.cancel(Disposition::Keep).unwrap();
    let ended = job.wait_until(now() + PATIENCE);
    assert!(
        matches!(ended, Some(Outcome::Cancelled { .. })),
        "{ended:?}"
    );
}

#[test]
fn a_function_cancelled_while_it_is_paused_returns_before_the_job_is_over() {
    let engine = engine();
    let (began, begun) = channel();
    let (let_go, let_return) = channel();
    let returned = Arc::new(AtomicBool::new(false));
    let says = Arc::clone(&returned);
    let work = blocking(move |reins| {
        began.send(()).unwrap();
        let stopped = loop {
            if let Err(stopped) = reins.pause_point() {
                break stopped;
            }
        };
        assert!(reins.is_stopped() && reins.pause_point().is_err());
        let_return.recv().unwrap();
        says.store(true, Ordering::SeqCst);
        Err(stopped.into())
    });
    let job = engine.launch(JobSpec::new("f"), work).unwrap();
    begun.recv().unwrap();
    job.pause().unwrap();
    until("paused", || job.status() == Status::Paused);
    job.cancel(Disposition::Discard).unwrap();
    // Somebody who did not wait for it would be over by the time this is seen.
    until("the abort that waits", || job.why().contains("abort hook"));
    let_go.send(()).unwrap();
    job.wait_until(now() + PATIENCE).unwrap();
    assert!(returned.load(Ordering::SeqCst));
    assert_eq!(
        job.why(),
        "cancelled because a user cancelled it; everything was discarded"
    );
}

#[test]
fn a_function_that_fails_or_panics_fails_the_job() {
    let engine = engine();
    let fails = blocking(|_| Err("no such disk".into()));
    let job = engine.launch(JobSpec::new("fails"), fails).unwrap();
    job.wait();
    assert_eq!(job.why(), "failed: no such disk");
    let panics = blocking(|_| panic!("no such luck"));
    let job = engine.launch(JobSpec::new("panics"), panics).unwrap();
    job.wait();
    assert_eq!(job.why(), "failed: panicked: no such luck");
}

#[test]
fn a_function_that_never_looks_is_reported_by_name_and_given_up() {
    let engine = Engine::builder()
        .threads(1)
        .stuck_after(Duration::from_millis(20))
        .build()
        .unwrap();
    let news = engine.subscribe(1 << 10);
    let (hold, released) = channel::<()>();
    let (began, begun) = channel();
    let held = Arc::new(());
    let deaf = blocking({
        let held = Arc::clone(&held);
        move |_| {
            began.send(()).unwrap();
            let _ = (released.recv(), held);
            Ok(())
        }
    });
    let job = engine.launch(JobSpec::new("deaf"), deaf).unwrap();
    begun.recv().unwrap();
    job.cancel(Disposition::Keep).unwrap();
    let stuck = news.into_iter().find_map(|update| {
        let Update::Notice(notice) = update else {
            return None;
        };
        let ended = matches!(notice.news, News::Ended(..));
        assert!(!ended, "it cannot have ended");
        let News::Stuck(subject) = notice.news else {
            return None;
        };
        Some(subject)
    });
    assert_eq!(stuck.unwrap().name, job.name());
    job.give_up().unwrap();
    job.wait_until(now() + PATIENCE).unwrap();
    assert_eq!(
        job.why(),
        "failed: given up: it was stuck and did not come back"
    );
    drop(hold);
    until("the function to be gone", || Arc::strong_count(&held) == 1);
}

#[test]
fn a_function_never_launched_never_runs() {
    let engine = engine();
    let ran = Arc::new(AtomicBool::new(false));
    let says = Arc::clone(&ran);
    let mut txn = engine.group("g");
    let work = blocking(move |_| {
        says.store(true, Ordering::SeqCst);
        Ok(())
    });
    let job = txn.add(JobSpec::new("f"), work).unwrap();
    drop(txn);
    job.wait_until(now() + PATIENCE).unwrap();
    assert!(!ran.load(Ordering::SeqCst));
    assert_eq!(Arc::strong_count(&ran), 1, "the function is gone");
}

#[test]
fn a_function_pays_for_its_speed_limit_and_is_let_go_when_it_is_lifted() {
    let engine = engine();
    let work = blocking(|reins| {
        for _ in 0..3 {
            reins.pay(1 << 20)?;
            reins.progress().add_remaining(1);
            reins.progress().advance(1);
        }
        Ok(())
    });
    let job = engine.launch(JobSpec::new("f").speed(1), work).unwrap();
    until("the first piece, which is free", || {
        job.progress().done == 1
    });
    until("sleeps", || job.why() == "running: it sleeps");
    assert_eq!(job.progress().done, 1);
    job.set_speed(0).unwrap();
    assert_eq!(
        job.wait_until(now() + PATIENCE),
        Some(Outcome::Committed { short: false })
    );
    assert_eq!(job.progress().done, 3);
}

#[test]
fn an_iterator_fails_at_its_item_and_counts_those_before() {
    let job = engine()
        .launch(
            JobSpec::unnamed(),
            for_each(
                1..10,
                |n, _| if n == 4 { Err("four".into()) } else { Ok(()) },
            ),
        )
        .unwrap();
    job.wait();
    assert_eq!(job.why(), "failed: four");
    assert_eq!((job.progress().done, job.progress().total), (3, 9));
}

#[test]
fn an_iterator_that_does_not_know_its_length_ends_with_the_right_one() {
    let evens = (0..20).filter(|n| n % 2 == 0);
    let job = engine()
        .launch(JobSpec::unnamed(), for_each(evens, |_, _| Ok(())))
        .unwrap();
    job.wait();
    assert_eq!((job.progress().done, job.progress().total), (10, 10));
}

#[test]
fn added_hooks_run_after_the_drivers_own_and_only_theirs() {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let [a, b, c, d] = [(); 4].map(|()| Arc::clone(&calls));
    let driver = from_fn(|_| Step::done())
        .on_commit(move |_| a.lock().unwrap().push("first"))
        .on_commit(move |_| b.lock().unwrap().push("second"))
        .on_abort(move |_| c.lock().unwrap().push("abort"))
        .on_clean(move || d.lock().unwrap().push("clean"));
    engine().launch(JobSpec::unnamed(), driver).unwrap().wait();
    assert_eq!(*calls.lock().unwrap(), ["first", "second", "clean"]);
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<F: IntoFuture>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut cx = Context::from_waker(&waker);
    let mut future = pin!(future.into_future());
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return output;
        }
        thread::park_timeout(PATIENCE);
    }
}

#[test]
fn handles_can_be_awaited_before_and_after_the_end() {
    let engine = engine();
    let mut txn = engine.group("g");
    let job = txn.add(JobSpec::new("a"), blocking(|_| Ok(()))).unwrap();
    let group = txn.launch();
    assert_eq!(block_on(&group), Some(Verdict::Commit));
    assert_eq!(block_on(&job), Some(Outcome::Committed { short: false }));
    assert_eq!(block_on(job), Some(Outcome::Committed { short: false }));
}

#[test]
fn an_open_group_can_be_awaited_until_it_is_rolled_back() {
    let engine = engine();
    let mut txn = engine.group("g");
    let job = txn
        .add(JobSpec::new("a"), from_fn(|_| Step::done()))
        .unwrap();
    let waiting = job.into_future();
    drop(txn);
    let ended = block_on(waiting);
    let cause = Cause::Rollback;
    let disposition = Disposition::Keep;
    assert_eq!(ended, Some(Outcome::Cancelled { cause, disposition }));
}

#[test]
fn many_futures_of_many_threads_all_learn_of_the_end() {
    let engine = engine();
    for _ in 0..50 {
        let job = engine
            .launch(JobSpec::unnamed(), for_each(0..3, |_, _| Ok(())))
            .unwrap();
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| assert!(block_on(&job).is_some()));
            }
        });
    }
}

/// Dropping everything in any order frees everything: drivers, what they hold, the engine's journal.
#[test]
fn dropped_handles_futures_and_receivers_leak_nothing() {
    let held = Arc::new(());
    let gone: Weak<()> = Arc::downgrade(&held);
    let journal = Arc::new(cohort_job::MemoryJournal::default());
    let journal_gone = Arc::downgrade(&journal);
    let engine = Engine::builder()
        .threads(2)
        .journal(journal)
        .build()
        .unwrap();
    let subscription = engine.subscribe(8);
    let slow = engine.subscribe(1);
    let mut txn = engine.group("g");
    let own = Arc::clone(&held);
    let job = txn
        .add(
            JobSpec::new("a").manual_dismiss(),
            from_fn(move |_| {
                let _ = &own;
                Step::Wait("waits for ever")
            }),
        )
        .unwrap();
    drop(held);
    let waiting = (&job).into_future();
    let group = txn.launch();
    let open = engine.group("never launched");
    drop((slow, waiting));
    job.cancel(Disposition::Keep).unwrap();
    group.wait();
    assert_eq!(
        gone.strong_count(),
        0,
        "the driver goes before the group is over"
    );
    drop((engine, group, open));
    let id = job.id();
    drop(job);
    let mut last = None;
    for update in subscription {
        if let Update::Notice(notice) = update
            && let News::Status(subject, status) = notice.news
            && subject.job == id
        {
            last = Some(status);
        }
    }
    // With nobody left who could dismiss it, it is forgotten as it is.
    assert_eq!(last, Some(Status::Concluded));
    until("the engine to be gone", || journal_gone.strong_count() == 0);
}
