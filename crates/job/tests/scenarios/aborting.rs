//! What an abort does to a peer in every status, and what a verdict, a panic or a stuck member does.

use cohort_job::core::{Event, Order, Report, Request};
use cohort_job::{Cause, Error, Phase, Refused, Status, Verdict, WaitsFor};

use crate::rig::{AUTO, DISCARD, KEEP, KEPT, Rig};

/// Member 0 fails while member 1 is as `prepare` left it; what member 1 went through from there on.
fn peer_of_a_failure(prepare: impl Fn(&mut Rig)) -> (String, Rig) {
    let mut rig = Rig::launched(&[KEPT, KEPT]);
    prepare(&mut rig);
    let before = rig.path(1).len();
    rig.fails(0, "EIO");
    if rig.stepping.contains(&1) {
        rig.step(1, Report::Again);
    }
    rig.settle();
    assert_eq!(rig.outcomes(), "EIO, cancelled");
    (rig.path(1)[before..].trim().to_owned(), rig)
}

#[test]
fn peers_stop_in_every_status_when_one_fails() {
    let straight = "aborting CANCELLED concluded";
    type Case = (&'static str, &'static str, fn(&mut Rig));
    let cases: [Case; 8] = [
        ("in a step", straight, |_| {}),
        ("asleep", straight, |rig| rig.step(1, Report::Wait)),
        (
            "paused by a user",
            "running aborting CANCELLED concluded",
            |rig| {
                rig.ask(Request::Pause(1)).expect("it runs");
                rig.step(1, Report::Wait);
            },
        ),
        (
            "held by the engine",
            "running aborting CANCELLED concluded",
            |rig| {
                rig.ask(Request::Hold(1)).expect("it runs");
                rig.step(1, Report::Wait);
            },
        ),
        ("ready", straight, |rig| rig.ready(1)),
        ("standby", "ready aborting CANCELLED concluded", |rig| {
            rig.ready(1);
            rig.ask(Request::Pause(1)).expect("it is ready");
        }),
        ("waiting", straight, |rig| rig.done(1)),
        ("cancelled softly, converging", straight, |rig| {
            rig.ready(1);
            rig.ask(Request::Cancel(1, KEEP)).expect("it is ready");
        }),
    ];
    for (what, expected, prepare) in cases {
        assert_eq!(peer_of_a_failure(prepare).0, expected, "{what}");
    }
}

#[test]
fn a_peer_that_still_waits_for_its_turn_to_start_never_runs() {
    // Members beyond the first turn are still created when the first one fails.
    let mut rig = Rig::open(&[]);
    rig.ask(Request::Add {
        count: 1500,
        spec: KEPT,
    })
    .expect("an open group takes members");
    let mut out = Vec::new();
    rig.core
        .apply(Request::Launch, &mut out)
        .expect("it is launched once");
    assert_eq!(
        (rig.status(1023), rig.status(1024)),
        (Some(Status::Running), Some(Status::Created))
    );
    let report = Report::Failed(Error::new("EIO"));
    rig.core.handle(
        Event::Ran {
            order: Order::Step,
            members: 0..1,
            report,
        },
        &mut out,
    );
    let report = Report::Again;
    rig.core.handle(
        Event::Ran {
            order: Order::Step,
            members: 1..1024,
            report,
        },
        &mut out,
    );
    rig.core.handle(Event::Continue, &mut out);
    rig.core.handle(Event::Continue, &mut out);
    assert!((0..1500).all(|member| rig.status(member) == Some(Status::Aborting)));
    assert_eq!(rig.core.phase(), Phase::Deciding);
}

#[test]
fn a_soft_cancelled_ready_member_counts_as_a_success() {
    let mut rig = Rig::launched(&[KEPT, KEPT]);
    rig.ready(0);
    rig.ask(Request::Cancel(0, KEEP)).expect("it is ready");
    rig.done(0);
    assert_eq!(rig.statuses(), "waiting running");
    rig.done(1);
    rig.settle();
    assert_eq!(rig.outcomes(), "short, committed");
}

#[test]
fn a_soft_cancelled_ready_member_aborts_with_its_failing_peer() {
    let mut rig = Rig::launched(&[KEPT, KEPT]);
    rig.ready(0);
    rig.ask(Request::Cancel(0, KEEP)).expect("it is ready");
    rig.done(0);
    rig.fails(1, "EIO");
    rig.settle();
    assert_eq!(rig.outcomes(), "cancelled, EIO");
}

#[test]
fn two_failures_have_one_cause_and_two_errors() {
    let mut rig = Rig::launched(&[KEPT, KEPT]);
    rig.fails(1, "ENOSPC");
    rig.fails(0, "EIO");
    rig.settle();
    assert_eq!(rig.outcomes(), "EIO, ENOSPC");
    assert_eq!(rig.aborted(), Some((Cause::Failed(1), KEEP)));
    assert_eq!(rig.hooks(), ["abort 0", "abort 1", "clean 0", "clean 1"]);
}

#[test]
fn cancel_of_a_waiting_member_returns_at_once_and_stops_the_running_peer() {
    let mut rig = Rig::launched(&[KEPT, KEPT]);
    rig.done(0);
    rig.ask(Request::Cancel(0, KEEP)).expect("it waits");
    assert_eq!(rig.statuses(), "aborting running");
    assert!(rig.log.contains(&"Stop(1..2)".to_owned()));
    let peers = WaitsFor::Peers { first: 1, count: 1 };
    assert_eq!(rig.core.waits_for(0), Some(peers));
    rig.step(1, Report::Again);
    rig.settle();
    assert_eq!(rig.outcomes(), "cancelled, cancelled");
}

#[test]
fn verbs_but_cancel_are_refused_while_the_group_stops() {
    let mut rig = Rig::launched(&[KEPT, KEPT]);
    rig.fails(0, "EIO");
    for request in [
        Request::Pause(1),
        Request::SetSpeed {
            member: 1,
            raises: true,
        },
    ] {
        let refused = rig.ask(request).expect_err("it stops");
        assert!(
            matches!(
                refused,
                Refused::Stopping {
                    cause: Cause::Failed(0),
                    ..
                }
            ),
            "{refused}"
        );
    }
    rig.ask(Request::Cancel(1, DISCARD))
        .expect("the verdict is not fixed");
}

#[test]
fn a_failed_journal_leaves_the_group_in_doubt() {
    let mut rig = Rig::launched(&[AUTO, AUTO]);
    rig.done(0);
    rig.done(1);
    rig.hook(Report::Done);
    rig.hook(Report::Done);
    rig.deciding = None;
    rig.tell(Event::Decided(Err(Error::new("no space left"))));
    assert_eq!(
        (rig.statuses().as_str(), rig.ended),
        ("pending pending", None)
    );
    assert_eq!(rig.core.waits_for(0), Some(WaitsFor::InDoubt));
    assert_eq!((rig.deciding, rig.hook.clone()), (None, None));
    let refused = rig
        .ask(Request::Cancel(0, DISCARD))
        .expect_err("the verdict is fixed");
    assert!(
        refused
            .to_string()
            .contains("not known before the next start"),
        "{refused}"
    );
}

#[test]
fn a_panic_before_the_verdict_fails_and_one_after_it_is_owed() {
    let panic = || Report::Panicked(Error::new("boom"));
    let mut rig = Rig::launched(&[KEPT, KEPT]);
    rig.step(0, panic());
    rig.step(1, Report::Again);
    rig.settle();
    assert_eq!(
        (rig.outcomes().as_str(), rig.ended),
        ("boom, cancelled", Some(false))
    );

    let mut rig = Rig::launched(&[KEPT, KEPT]);
    rig.done(0);
    rig.done(1);
    rig.hook(Report::Done);
    rig.hook(Report::Done);
    rig.write();
    rig.hook(panic());
    rig.settle();
    assert_eq!(
        (rig.outcomes().as_str(), rig.ended),
        ("committed, committed", Some(true))
    );
    let expected = [
        "prepare 0",
        "prepare 1",
        "commit 0",
        "commit 1",
        "clean 0",
        "clean 1",
    ];
    assert_eq!(rig.hooks(), expected);
}

#[test]
fn a_panic_of_a_task_fails_its_job() {
    let mut rig = Rig::launched(&[KEPT]);
    rig.tell(Event::Spawned {
        member: 0,
        tasks: 2,
    });
    rig.done(0);
    rig.tell(Event::TaskPanicked(0, Error::new("boom")));
    assert_eq!(
        (rig.statuses().as_str(), rig.core.phase()),
        ("waiting", Phase::Stopping)
    );
    rig.tell(Event::TaskEnded(0));
    rig.settle();
    assert_eq!(rig.outcomes(), "boom");
}

#[test]
fn a_stuck_member_holds_its_group_until_it_is_given_up() {
    let mut rig = Rig::launched(&[KEPT, KEPT]);
    let refused = Refused::NotStuck {
        status: Status::Running,
    };
    assert_eq!(rig.ask(Request::GiveUp(0)), Err(refused));
    rig.done(1);
    rig.tell(Event::Stuck(0));
    assert_eq!(rig.core.waits_for(0), Some(WaitsFor::Stuck(0)));
    rig.ask(Request::GiveUp(0)).expect("it is stuck");
    rig.settle();
    assert!(rig.outcomes().starts_with("given up"), "{}", rig.outcomes());
    // The lost member is told nothing: its driver is still in the step.
    assert_eq!(rig.hooks(), ["abort 1", "clean 1"]);
    assert_eq!(rig.ended, Some(true));
    // What its worker says at last is ignored.
    rig.tell(Event::Ran {
        order: Order::Step,
        members: 0..1,
        report: Report::Done,
    });
    assert_eq!(rig.statuses(), "concluded concluded");
}

#[test]
fn only_what_runs_is_stuck_and_it_is_told_once() {
    let mut rig = Rig::launched(&[KEPT, KEPT, KEPT]);
    let told = |rig: &Rig| {
        let told = rig.log.iter().filter(|line| line.starts_with("Stuck"));
        told.cloned().collect::<Vec<_>>()
    };
    // A look at the clock may come late: one sleeps by then, one returned.
    rig.step(0, Report::Wait);
    rig.done(1);
    (0..2).for_each(|member| rig.tell(Event::Stuck(member)));
    assert_eq!(told(&rig), [""; 0]);
    // A step, and a task of a member that is in no step.
    rig.tell(Event::Spawned {
        member: 2,
        tasks: 1,
    });
    rig.tell(Event::Stuck(2));
    rig.tell(Event::Stuck(2));
    assert_eq!(told(&rig), ["Stuck(2)"]);
    rig.step(2, Report::Wait);
    rig.tell(Event::Stuck(2));
    assert_eq!(told(&rig), ["Stuck(2)", "Stuck(2)"]);
}

#[test]
fn a_member_stuck_in_prepare_is_given_up_and_the_group_aborts() {
    let mut rig = Rig::launched(&[KEPT, KEPT, KEPT]);
    (0..3).for_each(|member| rig.done(member));
    rig.hook(Report::Done);
    rig.tell(Event::Stuck(1));
    assert_eq!(rig.core.waits_for(2), Some(WaitsFor::Stuck(1)));
    rig.hook = None;
    rig.ask(Request::GiveUp(1)).expect("it is stuck");
    rig.settle();
    assert_eq!(rig.aborted(), Some((Cause::Failed(1), KEEP)));
    assert_eq!(
        rig.hooks()[3..],
        ["abort 0", "abort 2", "clean 0", "clean 2"]
    );
}

#[test]
fn a_member_stuck_in_commit_owes_its_hook_and_the_rest_commits() {
    let mut rig = Rig::launched(&[KEPT, KEPT]);
    (0..2).for_each(|member| rig.done(member));
    rig.hook(Report::Done);
    rig.hook(Report::Done);
    rig.write();
    rig.tell(Event::Stuck(0));
    rig.hook = None;
    rig.ask(Request::GiveUp(0)).expect("it is stuck");
    rig.settle();
    assert_eq!(
        (rig.outcomes().as_str(), rig.ended),
        ("committed, committed", Some(true))
    );
}

#[test]
fn a_replayed_group_runs_its_hooks_again_and_asks_no_journal() {
    let mut rig = Rig::open(&[KEPT, KEPT]);
    rig.ask(Request::Replay(Verdict::Commit))
        .expect("it is open");
    assert_eq!(rig.deciding, None);
    rig.settle();
    assert_eq!(rig.outcomes(), "committed, committed");
    assert_eq!(rig.hooks(), ["commit 0", "commit 1", "clean 0", "clean 1"]);

    let cause = Cause::ProcessEnded;
    let mut rig = Rig::open(&[KEPT]);
    rig.ask(Request::Replay(Verdict::Abort {
        cause,
        disposition: KEEP,
    }))
    .expect("it is open");
    rig.settle();
    assert_eq!(
        (rig.outcomes().as_str(), rig.aborted()),
        ("cancelled", Some((cause, KEEP)))
    );
}
