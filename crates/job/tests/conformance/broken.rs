//! One way to break each rule, and what the kit says of it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use cohort_job::testing::{Broken, Check, Rule, check};
use cohort_job::{
    Abort, Asked, Commit, Context, Disposition, Driver, DriverExt, Error, Record, Step, from_fn,
};

/// The kit finds this rule broken, and nothing else, and says so in these words.
#[track_caller]
fn assert_says(broken: &Broken, rule: Rule, words: &str) {
    assert_eq!(broken.rules(), [rule], "{broken}");
    let text = broken.to_string();
    assert!(text.contains(words), "{text}");
}

#[track_caller]
fn says<D: Driver>(rule: Rule, words: &str, make: impl FnMut() -> D + Send + 'static) {
    let broken = check(make).expect_err("it is broken");
    assert_says(&broken, rule, words);
}

#[test]
fn steps_that_panic_or_fail() {
    says(Rule::StepPanics, "step panicked: oh dear", || {
        from_fn(|_| panic!("oh dear"))
    });
    says(Rule::StepFails, "step failed: no luck", || {
        from_fn(|_| Step::failed("no luck"))
    });
}

#[test]
fn a_step_that_takes_any_wake_for_the_one_it_waits_for() {
    let broken = check(|| {
        let mut waited = false;
        from_fn(move |cx| {
            if waited && cx.tasks() > 0 {
                panic!("stepped without need");
            }
            if waited {
                return Step::done();
            }
            waited = true;
            cx.spawn(|| ());
            Step::Wait("waits for its task")
        })
    })
    .expect_err("it is broken");
    assert_says(&broken, Rule::StepPanics, "stepped without need");
    let text = broken.to_string();
    assert!(text.contains("woken for no reason before event"), "{text}");
}

#[test]
fn an_abort_that_only_breaks_when_it_is_to_discard() {
    let broken = check(|| {
        let mut steps = 0;
        from_fn(move |_| {
            steps += 1;
            match steps {
                1 => Step::Sleep(Duration::from_secs(60)),
                2 => Step::done(),
                _ => Step::Again,
            }
        })
        .on_abort(|why| {
            assert!(
                why.disposition == Disposition::Keep,
                "never thought of that"
            )
        })
    })
    .expect_err("it is broken");
    assert_says(
        &broken,
        Rule::HookPanics,
        "abort panicked: never thought of that",
    );
    assert!(broken.breaches()[0].plan.contains("Discard"), "{broken}");
}

#[test]
fn a_task_that_panics() {
    says(Rule::TaskPanics, "task 1 panicked: in the task", || {
        let mut begun = false;
        from_fn(move |cx| {
            if std::mem::replace(&mut begun, true) {
                return Step::done();
            }
            cx.spawn(|| panic!("in the task"));
            Step::Wait("waits for its task")
        })
    });
}

#[test]
fn tasks_nobody_waits_for() {
    says(Rule::LeavesTasks, "said done with 1 task in flight", || {
        from_fn(|cx| {
            cx.spawn(|| ());
            Step::done()
        })
    });
    says(
        Rule::LeavesTasks,
        "in flight, whose result nobody will see",
        || {
            let mut begun = false;
            from_fn(move |cx| {
                if std::mem::replace(&mut begun, true) {
                    return Step::done();
                }
                cx.spawn(|| ());
                cx.spawn(|| ());
                Step::Again
            })
        },
    );
}

#[test]
fn calls_and_tasks_that_do_not_return() {
    let impatient = Duration::from_millis(500);
    let park = || loop {
        std::thread::park();
    };
    let broken = Check::new(move || from_fn(|_| Step::done()).on_commit(move |_| park()))
        .patience(impatient)
        .run()
        .unwrap_err();
    assert_says(&broken, Rule::Blocks, "commit has not returned after 500ms");

    let broken = Check::new(move || from_fn(|_| Step::done()).on_abort(move |_| park()))
        .patience(impatient)
        .run()
        .unwrap_err();
    assert_says(&broken, Rule::Blocks, "abort has not returned");

    let broken = Check::new(move || {
        let mut begun = false;
        from_fn(move |cx| {
            if !std::mem::replace(&mut begun, true) {
                cx.spawn(park);
            }
            Step::Wait("waits for its task")
        })
    })
    .patience(impatient)
    .run()
    .unwrap_err();
    assert_says(
        &broken,
        Rule::TaskBlocks,
        "1 task did not return within 500ms",
    );
}

#[test]
fn waits_that_nothing_ends() {
    says(
        Rule::WaitsForNothing,
        "it waits for Godot, without a task in flight, and nobody holds its waker",
        || from_fn(|_| Step::Wait("waits for Godot")),
    );
    let broken = Check::new(|| {
        let mut kept = Vec::new();
        from_fn(move |cx| {
            kept.push(cx.waker());
            Step::Wait("waits for Godot")
        })
    })
    .patience(Duration::from_millis(50))
    .run()
    .unwrap_err();
    assert_says(&broken, Rule::WaitsForNothing, "nobody woke it for 50ms");
}

#[test]
fn jobs_that_never_end() {
    let endless = Check::new(|| from_fn(|_| Step::Again)).steps(500).run();
    assert_says(&endless.unwrap_err(), Rule::NeverEnds, "within 500 steps");
    let deaf = Check::new(|| {
        from_fn(|cx| {
            cx.ready();
            Step::Again
        })
    });
    let broken = deaf.steps(500).run().unwrap_err();
    assert_says(
        &broken,
        Rule::NeverEnds,
        "although it was asked to complete",
    );
    // Completes, but does not know of a soft cancel.
    let half = Check::new(|| {
        from_fn(|cx| {
            cx.ready();
            match cx.asked() {
                Asked::Complete => Step::done(),
                Asked::Run | Asked::Finish => Step::Again,
            }
        })
    });
    let broken = half.steps(500).run().unwrap_err();
    assert_says(&broken, Rule::NeverEnds, "although it was asked to finish");
    // The same, asleep most of the time.
    let drowsy = Check::new(|| {
        from_fn(|cx| {
            cx.ready();
            match cx.asked() {
                Asked::Complete => Step::done(),
                Asked::Run | Asked::Finish => Step::Sleep(Duration::from_millis(1)),
            }
        })
    });
    let broken = drowsy.patience(Duration::from_secs(1)).run().unwrap_err();
    assert_says(
        &broken,
        Rule::NeverEnds,
        "it slept on for 1s, although it was asked to finish",
    );
}

#[test]
fn a_ready_job_that_ends_by_itself() {
    says(Rule::EndsUnasked, "ended before anybody asked", || {
        from_fn(|cx| {
            cx.ready();
            Step::done()
        })
    });
}

#[test]
fn progress_that_says_something_else() {
    says(Rule::MiscountsProgress, "the progress 3 of 5", || {
        from_fn(|cx| {
            cx.progress().set_remaining(5);
            cx.progress().advance(3);
            Step::done()
        })
    });
    says(Rule::MiscountsProgress, "the progress 3 of 0", || {
        from_fn(|cx| {
            cx.progress().advance(3);
            Step::done()
        })
    });
}

/// A driver over a list that everybody sees, with one fault.
struct Faulty {
    list: List,
    fault: Fault,
    begun: bool,
}

type List = Arc<Mutex<Vec<&'static str>>>;

#[derive(Clone, Copy, PartialEq)]
enum Fault {
    PrepareFails,
    CommitTwice,
    CleanAgainPanics,
    AbortUnrunPanics,
    AbortForgets,
    AbortUnrunLitters,
    RecordLacks,
}

impl Faulty {
    fn note(&self, what: &'static str) {
        let mut list = self.list.lock().unwrap();
        if !list.contains(&what) || self.fault == Fault::CommitTwice {
            list.push(what);
        }
    }
}

impl Driver for Faulty {
    fn step(&mut self, _: &mut Context<'_>) -> Step {
        self.begun = true;
        Step::done()
    }

    fn prepare(&mut self, _: &mut Context<'_>) -> Result<Record, Error> {
        self.note("staged");
        if self.fault == Fault::PrepareFails {
            return Err("the disk is full".into());
        }
        Ok(Record(b"staged".to_vec()))
    }

    fn commit(&mut self, _: &Commit) {
        if self.fault != Fault::RecordLacks || self.begun {
            self.note("published");
        }
    }

    fn abort(&mut self, why: &Abort) {
        if self.fault == Fault::AbortUnrunPanics {
            assert!(self.begun, "nothing to abort");
        }
        if self.fault == Fault::AbortUnrunLitters && !self.begun {
            self.note("aborted");
        }
        if why.disposition == Disposition::Discard && self.fault != Fault::AbortForgets {
            self.list.lock().unwrap().retain(|what| *what == "aborted");
        }
    }

    fn clean(&mut self) {
        let published = self.list.lock().unwrap().contains(&"published");
        if self.fault == Fault::CleanAgainPanics && published {
            assert!(std::mem::take(&mut self.begun), "nothing to clean");
        }
    }
}

fn over_a_list(fault: Fault, rebuild: bool) -> Broken {
    let list = List::default();
    let [fresh, again, seen] = [(); 3].map(|()| Arc::clone(&list));
    let faulty = move |list: &List| Faulty {
        list: Arc::clone(list),
        fault,
        begun: false,
    };
    let mut check = Check::new(move || {
        fresh.lock().unwrap().clear();
        faulty(&fresh)
    })
    .observe(move || seen.lock().unwrap().clone());
    if rebuild {
        check = check.rebuild(move |_| faulty(&again));
    }
    check.run().expect_err("it is broken")
}

#[test]
fn hooks_that_cannot_be_repeated() {
    let broken = over_a_list(Fault::CommitTwice, true);
    assert_says(
        &broken,
        Rule::NotRepeatable,
        "commit, called again as after a crash, made [\"staged\", \"published\", \"published\"]",
    );
    let broken = over_a_list(Fault::CleanAgainPanics, false);
    assert_says(
        &broken,
        Rule::HookPanics,
        "clean panicked: nothing to clean",
    );
    assert!(
        broken.to_string().contains("after a crash, again:"),
        "{broken}"
    );
}

#[test]
fn hooks_that_leave_a_trace() {
    let broken = over_a_list(Fault::AbortForgets, true);
    assert_says(
        &broken,
        Rule::LeavesTrace,
        "it was told to discard, and left [\"staged\"] where [] was",
    );
    let broken = over_a_list(Fault::AbortUnrunLitters, false);
    assert_says(
        &broken,
        Rule::LeavesTrace,
        "it never ran, and left [\"aborted\"]",
    );
}

#[test]
fn an_abort_that_expects_a_job_that_ran() {
    let broken = over_a_list(Fault::AbortUnrunPanics, false);
    assert_says(
        &broken,
        Rule::HookPanics,
        "abort panicked: nothing to abort",
    );
    assert!(
        broken.breaches()[0].plan.contains("before its launch")
            || broken.breaches()[0].plan.contains("before event 1"),
        "{broken}"
    );
}

#[test]
fn a_prepare_that_fails_and_a_record_that_falls_short() {
    let broken = over_a_list(Fault::PrepareFails, false);
    assert_says(
        &broken,
        Rule::PrepareFails,
        "prepare failed: the disk is full",
    );
    let broken = over_a_list(Fault::RecordLacks, true);
    assert_says(
        &broken,
        Rule::RecordFallsShort,
        "rebuilt from its record it commits [\"staged\"]",
    );
}

#[test]
fn a_breach_is_told_with_the_run_that_shows_it() {
    let broken = check(|| {
        from_fn(|cx| {
            cx.spawn(|| ());
            Step::done()
        })
    })
    .unwrap_err();
    let lines: Vec<_> = broken.breaches()[0].trace.clone();
    assert!(
        lines.contains(&"step: done, 1 task spawned".to_owned()),
        "{lines:?}"
    );
    assert_eq!(format!("{broken:?}"), broken.to_string());
}
