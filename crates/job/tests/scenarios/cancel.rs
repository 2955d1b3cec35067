//! One job cancelled in every status, softly and by force (the cancel cases of `test-blockjob`).

use cohort_job::core::{Event, Report, Request};
use cohort_job::{Asked, Cause, Phase, Refused, Status, Verb, Verdict};

use crate::rig::{AUTO, DISCARD, KEEP, MANUAL, Rig};

/// Cancels the one member by force and lets its group end.
fn cancel(rig: &mut Rig) {
    rig.ask(Request::Cancel(0, DISCARD))
        .expect("accepted before the verdict");
}

#[test]
fn cancel_created_never_runs() {
    let mut rig = Rig::open(&[MANUAL]);
    cancel(&mut rig);
    assert_eq!(rig.statuses(), "aborting");
    rig.ask(Request::Launch).expect("the launch ends it");
    rig.settle();
    // What never ran leaves nothing to look at, even where dismissal is manual.
    assert_eq!(rig.path(0), "created aborting CANCELLED concluded null");
    assert_eq!(rig.hooks(), ["abort 0", "clean 0"]);
    assert!(rig.stepping.is_empty());
}

#[test]
fn cancel_running_concludes_when_the_step_returns() {
    let mut rig = Rig::launched(&[MANUAL]);
    cancel(&mut rig);
    assert_eq!(rig.statuses(), "running");
    rig.step(0, Report::Again);
    rig.settle();
    assert_eq!(rig.path(0), "created running aborting CANCELLED concluded");
    rig.ask(Request::Dismiss(0)).expect("it is concluded");
    assert_eq!(rig.statuses(), "null");
}

#[test]
fn cancel_paused_shows_running_first() {
    let mut rig = Rig::launched(&[MANUAL]);
    rig.ask(Request::Pause(0)).expect("it runs");
    rig.step(0, Report::Wait);
    assert_eq!(rig.statuses(), "paused");
    cancel(&mut rig);
    rig.settle();
    assert_eq!(
        rig.path(0),
        "created running paused running aborting CANCELLED concluded"
    );
}

#[test]
fn cancel_ready_by_force_aborts() {
    let mut rig = Rig::launched(&[MANUAL]);
    rig.ready(0);
    cancel(&mut rig);
    rig.settle();
    assert_eq!(
        rig.path(0),
        "created running ready aborting CANCELLED concluded"
    );
}

#[test]
fn cancel_standby_shows_ready_first() {
    let mut rig = Rig::launched(&[MANUAL]);
    rig.ready(0);
    rig.ask(Request::Pause(0)).expect("it is ready");
    assert_eq!(rig.statuses(), "standby");
    cancel(&mut rig);
    rig.settle();
    assert_eq!(
        rig.path(0),
        "created running ready standby ready aborting CANCELLED concluded"
    );
}

#[test]
fn cancel_pending_aborts_what_was_complete() {
    let mut rig = Rig::launched(&[MANUAL]);
    rig.ready(0);
    rig.ask(Request::Complete(0)).expect("it is ready");
    assert_eq!(rig.statuses(), "ready");
    rig.done(0);
    assert_eq!(rig.statuses(), "pending");
    cancel(&mut rig);
    rig.settle();
    assert_eq!(rig.outcomes(), "cancelled");
    assert_eq!(rig.hooks(), ["abort 0", "clean 0"]);
}

#[test]
fn cancel_concluded_is_refused() {
    let mut rig = Rig::launched(&[MANUAL]);
    rig.done(0);
    rig.ask(Request::Finalize(0)).expect("it is pending");
    rig.settle();
    assert_eq!(rig.outcomes(), "committed");
    let refused = Refused::Status {
        verb: Verb::Cancel,
        status: Status::Concluded,
    };
    assert_eq!(rig.ask(Request::Cancel(0, DISCARD)), Err(refused));
    rig.ask(Request::Dismiss(0)).expect("it is concluded");
    assert_eq!(rig.ask(Request::Cancel(0, KEEP)), Err(Refused::Gone));
}

#[test]
fn cancel_while_aborting_raises_until_the_verdict() {
    let mut rig = Rig::launched(&[MANUAL, MANUAL]);
    rig.fails(0, "EIO");
    assert_eq!(rig.statuses(), "aborting running");
    rig.ask(Request::Cancel(0, DISCARD))
        .expect("the verdict is not fixed yet");
    rig.step(1, Report::Again);
    assert_eq!(rig.aborted(), Some((Cause::Failed(0), DISCARD)));
    let late = rig.ask(Request::Cancel(1, DISCARD));
    let verdict = Verdict::Abort {
        cause: Cause::Failed(0),
        disposition: DISCARD,
    };
    let status = Status::Aborting;
    let refused = Refused::Decided {
        verb: Verb::Cancel,
        status,
        verdict,
        in_doubt: false,
    };
    assert_eq!(late, Err(refused));
}

#[test]
fn returned_but_not_settled_is_a_definite_state() {
    let mut rig = Rig::launched(&[MANUAL]);
    rig.tell(Event::Spawned {
        member: 0,
        tasks: 1,
    });
    rig.done(0);
    // D-12: its task still runs, yet it counts as completed.
    assert_eq!(rig.statuses(), "waiting");
    let refused = Refused::Status {
        verb: Verb::Pause,
        status: Status::Waiting,
    };
    assert_eq!(rig.ask(Request::Pause(0)), Err(refused));
    cancel(&mut rig);
    assert_eq!(rig.core.phase(), Phase::Stopping);
    rig.tell(Event::TaskEnded(0));
    rig.settle();
    assert_eq!(rig.hooks(), ["abort 0", "clean 0"]);
}

#[test]
fn soft_cancel_of_a_ready_job_ends_well_and_short() {
    let mut rig = Rig::launched(&[MANUAL]);
    rig.ready(0);
    rig.ask(Request::Cancel(0, KEEP)).expect("it is ready");
    assert_eq!(rig.core.asked(0), Asked::Finish);
    let refused = Refused::Finishing {
        status: Status::Ready,
    };
    assert_eq!(rig.ask(Request::Complete(0)), Err(refused));
    rig.done(0);
    rig.ask(Request::Finalize(0)).expect("it is pending");
    rig.settle();
    assert_eq!(rig.outcomes(), "short");
    assert_eq!(rig.hooks(), ["prepare 0", "commit 0", "clean 0"]);
}

#[test]
fn soft_cancel_means_the_same_at_every_time_after_ready() {
    // In standby: the user's hold is taken back, and it finishes.
    let mut rig = Rig::launched(&[MANUAL]);
    rig.ready(0);
    rig.ask(Request::Pause(0)).expect("it is ready");
    rig.ask(Request::Cancel(0, KEEP)).expect("it is in standby");
    assert_eq!(rig.statuses(), "ready");
    rig.done(0);
    rig.ask(Request::Finalize(0)).expect("it is pending");
    rig.settle();
    assert_eq!(rig.outcomes(), "short");

    // In pending: nothing is left to stop, and nothing is switched over.
    let mut rig = Rig::launched(&[MANUAL]);
    rig.ready(0);
    rig.ask(Request::Complete(0)).expect("it is ready");
    rig.done(0);
    rig.ask(Request::Cancel(0, KEEP)).expect("it is pending");
    rig.ask(Request::Finalize(0)).expect("it is pending still");
    rig.settle();
    assert_eq!(rig.outcomes(), "short");
}

#[test]
fn soft_cancel_before_ready_aborts_and_keeps() {
    let mut rig = Rig::launched(&[MANUAL]);
    rig.ask(Request::Cancel(0, KEEP)).expect("it runs");
    // Converging now comes too late.
    rig.tell(Event::Ready(0));
    rig.step(0, Report::Again);
    rig.settle();
    assert_eq!(rig.path(0), "created running aborting CANCELLED concluded");
    assert_eq!(rig.aborted(), Some((Cause::Cancelled(0), KEEP)));
}

#[test]
fn forced_then_soft_stays_forced_and_soft_then_forced_is_forced() {
    for (first, second) in [(DISCARD, KEEP), (KEEP, DISCARD)] {
        let mut rig = Rig::launched(&[AUTO]);
        rig.ask(Request::Cancel(0, first)).expect("it runs");
        rig.ask(Request::Cancel(0, second))
            .expect("it is not decided");
        rig.step(0, Report::Again);
        assert_eq!(rig.aborted(), Some((Cause::Cancelled(0), DISCARD)));
    }
}

#[test]
fn complete_twice_has_one_effect_and_works_in_standby() {
    let mut rig = Rig::launched(&[MANUAL]);
    let refused = Refused::Status {
        verb: Verb::Complete,
        status: Status::Running,
    };
    assert_eq!(rig.ask(Request::Complete(0)), Err(refused));
    rig.ready(0);
    rig.ask(Request::Pause(0)).expect("it is ready");
    rig.ask(Request::Complete(0)).expect("it is in standby");
    rig.ask(Request::Complete(0)).expect("again, to no effect");
    assert_eq!(rig.statuses(), "standby");
    assert!(rig.stepping.is_empty());
    rig.ask(Request::Resume(0)).expect("a user paused it");
    assert_eq!(
        (rig.core.asked(0), rig.stepping.len()),
        (Asked::Complete, 1)
    );
    let told = rig.log.iter().filter(|line| line.starts_with("Ask"));
    assert_eq!(told.count(), 1, "the driver is told once");
}

#[test]
fn an_error_after_a_forced_cancel_is_kept() {
    let mut rig = Rig::launched(&[MANUAL]);
    cancel(&mut rig);
    rig.fails(0, "EIO");
    rig.settle();
    assert_eq!(rig.outcomes(), "EIO");
    assert_eq!(rig.aborted(), Some((Cause::Cancelled(0), DISCARD)));
}
