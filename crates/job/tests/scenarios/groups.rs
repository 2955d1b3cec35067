//! Groups that end well, and groups that do not (`test-blockjob-txn`), and how they are finalized.

use cohort_job::core::{Report, Request};
use cohort_job::{Cause, Disposition, Error, Phase, Refused, Status, Verb, Verdict, WaitsFor};

use crate::rig::{AUTO, DISCARD, KEEP, KEPT, MANUAL, Rig};

#[test]
fn a_lone_job_lives_through_every_status_of_success() {
    let mut rig = Rig::launched(&[AUTO]);
    rig.done(0);
    rig.settle();
    let expected = "0:created, 0:running, 0:waiting, 0:pending, prepare 0, decide commit, \
                    Decided(Commit), commit 0, clean 0, 0:COMPLETED, 0:concluded, 0:null";
    assert_eq!(rig.log.join(", "), expected);
    assert_eq!(rig.ended, Some(false));
}

#[test]
fn a_lone_job_that_fails_never_waits() {
    let mut rig = Rig::launched(&[MANUAL]);
    rig.fails(0, "EIO");
    rig.settle();
    assert_eq!(
        rig.path(0),
        "created running aborting COMPLETED(EIO) concluded"
    );
    assert_eq!(rig.hooks(), ["abort 0", "clean 0"]);
}

#[test]
fn a_lone_job_that_is_cancelled_is_cancelled() {
    let mut rig = Rig::launched(&[KEPT]);
    rig.ask(Request::Cancel(0, KEEP)).expect("it runs");
    rig.step(0, Report::Again);
    rig.settle();
    assert_eq!(rig.outcomes(), "cancelled");
}

#[test]
fn a_pair_that_returns_well_commits_together() {
    for order in [[0, 1], [1, 0]] {
        let mut rig = Rig::launched(&[KEPT, KEPT]);
        rig.done(order[0]);
        let waits = WaitsFor::Peers {
            first: order[1],
            count: 1,
        };
        assert_eq!(rig.core.waits_for(order[0]), Some(waits));
        assert_eq!(rig.core.phase(), Phase::Open);
        rig.done(order[1]);
        rig.settle();
        assert_eq!(rig.outcomes(), "committed, committed");
        // D-7, D-14: phases do not mix, and members go in creation order, whoever came first.
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
}

#[test]
fn a_pair_in_which_one_fails_aborts_together() {
    let mut rig = Rig::launched(&[KEPT, KEPT]);
    rig.fails(0, "EIO");
    rig.step(1, Report::Again);
    rig.settle();
    assert_eq!(rig.outcomes(), "EIO, cancelled");

    // The peer waits already.
    let mut rig = Rig::launched(&[KEPT, KEPT]);
    rig.done(0);
    rig.fails(1, "EIO");
    rig.settle();
    assert_eq!(rig.outcomes(), "cancelled, EIO");
    assert_eq!(rig.aborted(), Some((Cause::Failed(1), KEEP)));
}

#[test]
fn a_pair_in_which_one_is_cancelled_aborts_together() {
    for member in [0, 1] {
        for disposition in [KEEP, DISCARD] {
            let mut rig = Rig::launched(&[KEPT, KEPT]);
            rig.ask(Request::Cancel(member, disposition))
                .expect("it runs");
            rig.step(0, Report::Again);
            rig.step(1, Report::Wait);
            rig.settle();
            assert_eq!(rig.outcomes(), "cancelled, cancelled");
            // What a user said of one reaches every peer with the same meaning.
            assert_eq!(rig.aborted(), Some((Cause::Cancelled(member), disposition)));
        }
    }
}

#[test]
fn a_peer_that_returns_well_after_the_cancel_is_cancelled() {
    let mut rig = Rig::launched(&[KEPT, KEPT]);
    rig.ask(Request::Cancel(0, KEEP)).expect("it runs");
    rig.done(1);
    rig.done(0);
    rig.settle();
    assert_eq!(rig.outcomes(), "cancelled, cancelled");
}

#[test]
fn each_member_keeps_its_own_error() {
    let mut rig = Rig::launched(&[KEPT, KEPT, KEPT]);
    rig.done(1);
    rig.fails(0, "EIO");
    rig.fails(2, "ENOSPC");
    rig.settle();
    assert_eq!(rig.outcomes(), "EIO, cancelled, ENOSPC");
    assert_eq!(rig.aborted(), Some((Cause::Failed(0), KEEP)));
}

#[test]
fn groups_do_not_know_each_other() {
    let mut one = Rig::launched(&[KEPT]);
    let mut other = Rig::launched(&[KEPT]);
    one.fails(0, "EIO");
    one.settle();
    other.done(0);
    other.settle();
    assert_eq!(
        (one.outcomes(), other.outcomes()),
        ("EIO".into(), "committed".into())
    );
}

#[test]
fn an_empty_group_is_done_at_once() {
    let mut rig = Rig::open(&[]);
    rig.ask(Request::Launch).expect("it may be empty");
    assert_eq!((rig.ended, rig.deciding), (Some(false), None));
}

#[test]
fn an_open_group_without_members_waits_for_its_launch() {
    let mut rig = Rig::open(&[]);
    rig.ask(Request::Add {
        count: 0,
        spec: MANUAL,
    })
    .expect("an open group takes nobody as well");
    assert_eq!((rig.core.phase(), rig.ended), (Phase::Open, None));
    rig.ask(Request::Launch).expect("it may be empty");
    assert_eq!(rig.ended, Some(false));
}

#[test]
fn an_empty_group_that_was_cancelled_aborts() {
    let mut rig = Rig::open(&[]);
    rig.ask(Request::CancelAll(Cause::User, KEEP))
        .expect("nothing is decided");
    rig.ask(Request::Launch).expect("it may be empty");
    assert_eq!(rig.aborted(), Some((Cause::User, KEEP)));
    assert_eq!(rig.ended, Some(false));
}

#[test]
fn a_second_soft_cancel_of_the_group_asks_nobody_again() {
    let mut rig = Rig::launched(&[AUTO, AUTO]);
    (0..2).for_each(|member| rig.ready(member));
    let cancel = Request::CancelAll(Cause::User, KEEP);
    rig.ask(cancel.clone()).expect("nothing is decided");
    rig.ask(cancel).expect("nothing is decided yet");
    let told = rig.log.iter().filter(|line| line.starts_with("Ask"));
    assert_eq!(told.count(), 1);
}

#[test]
fn membership_is_sealed_at_launch() {
    let mut rig = Rig::launched(&[AUTO]);
    assert_eq!(
        rig.ask(Request::Add {
            count: 1,
            spec: AUTO
        }),
        Err(Refused::Sealed)
    );
    assert_eq!(rig.ask(Request::Launch), Err(Refused::Sealed));
    assert_eq!(rig.ask(Request::Rollback), Err(Refused::Sealed));
}

#[test]
fn a_member_added_after_a_cancel_is_born_cancelled() {
    let mut rig = Rig::open(&[AUTO]);
    rig.ask(Request::Cancel(0, KEEP)).expect("it is created");
    rig.ask(Request::Add {
        count: 1,
        spec: AUTO,
    })
    .expect("it is not sealed");
    assert_eq!(rig.statuses(), "aborting aborting");
    rig.ask(Request::Launch).expect("it is launched once");
    rig.settle();
    assert_eq!(rig.path(1), "created aborting CANCELLED concluded null");
}

#[test]
fn a_launch_that_is_rolled_back_leaves_nobody() {
    let mut rig = Rig::open(&[MANUAL, AUTO]);
    rig.ask(Request::Rollback).expect("it was not launched");
    rig.settle();
    assert_eq!(rig.aborted(), Some((Cause::Rollback, KEEP)));
    assert_eq!(rig.path(0), "created aborting CANCELLED concluded null");
    assert_eq!(rig.hooks(), ["abort 0", "abort 1", "clean 0", "clean 1"]);
    assert!(rig.core.is_forgotten());
}

#[test]
fn one_manual_member_keeps_all_pending_until_any_is_finalized() {
    for told in [0, 1] {
        let mut rig = Rig::launched(&[MANUAL, KEPT]);
        let refused = Refused::Status {
            verb: Verb::Finalize,
            status: Status::Running,
        };
        assert_eq!(rig.ask(Request::Finalize(told)), Err(refused));
        rig.done(0);
        rig.done(1);
        assert_eq!(rig.statuses(), "pending pending");
        assert_eq!(rig.core.waits_for(1), Some(WaitsFor::Finalize));
        rig.ask(Request::Finalize(told))
            .expect("any pending member will do");
        rig.settle();
        assert_eq!(rig.outcomes(), "committed, committed");
    }
}

#[test]
fn finalize_while_a_peer_runs_is_refused() {
    let mut rig = Rig::launched(&[MANUAL, AUTO]);
    rig.done(0);
    let refused = Refused::Status {
        verb: Verb::Finalize,
        status: Status::Waiting,
    };
    assert_eq!(rig.ask(Request::Finalize(0)), Err(refused));
}

#[test]
fn second_finalize_is_refused() {
    let mut rig = Rig::launched(&[MANUAL]);
    rig.done(0);
    rig.ask(Request::Finalize(0)).expect("it is pending");
    let refused = Refused::Finalizing {
        status: Status::Pending,
    };
    assert_eq!(rig.ask(Request::Finalize(0)), Err(refused));
    rig.hook(Report::Done);
    let (verdict, status) = (Verdict::Commit, Status::Pending);
    let refused = Refused::Decided {
        verb: Verb::Finalize,
        status,
        verdict,
        in_doubt: false,
    };
    assert_eq!(rig.ask(Request::Finalize(0)), Err(refused));
}

/// D-1: for 2 and 3 members, whoever came last, whoever's prepare fails.
#[test]
fn nobody_commits_when_any_prepare_fails() {
    for members in [2_u32, 3] {
        for last in 0..members {
            for failing in 0..members {
                let mut rig = Rig::launched(&vec![KEPT; members as usize]);
                (0..members)
                    .filter(|&member| member != last)
                    .for_each(|member| rig.done(member));
                rig.done(last);
                (0..failing).for_each(|_| rig.hook(Report::Done));
                rig.hook(Report::Failed(Error::new("no")));
                rig.settle();
                let of = |hook: &str| {
                    rig.hooks()
                        .iter()
                        .filter(|line| line.starts_with(hook))
                        .count() as u32
                };
                assert_eq!(
                    (of("commit"), of("abort"), of("clean")),
                    (0, members, members)
                );
                assert_eq!(rig.aborted(), Some((Cause::Failed(failing), KEEP)));
                let expected: Vec<&str> = (0..members)
                    .map(|m| if m == failing { "no" } else { "cancelled" })
                    .collect();
                assert_eq!(rig.outcomes(), expected.join(", "));
            }
        }
    }
}

#[test]
fn cancel_of_one_pending_member_aborts_all() {
    let mut rig = Rig::launched(&[MANUAL, AUTO]);
    rig.done(0);
    rig.done(1);
    rig.ask(Request::Cancel(1, KEEP)).expect("it is pending");
    rig.settle();
    assert_eq!(rig.hooks(), ["abort 0", "abort 1", "clean 0", "clean 1"]);
    assert_eq!(rig.statuses(), "concluded null");
}

#[test]
fn cancel_during_prepare_lets_the_hook_return() {
    let mut rig = Rig::launched(&[AUTO, AUTO]);
    rig.done(0);
    rig.done(1);
    rig.ask(Request::Cancel(0, DISCARD))
        .expect("prepare is no verdict");
    assert_eq!(rig.core.phase(), Phase::Preparing);
    rig.hook(Report::Done);
    assert_eq!(rig.core.phase(), Phase::Preparing);
    rig.hook(Report::Left);
    assert_eq!(
        rig.deciding,
        Some(Verdict::Abort {
            cause: Cause::Cancelled(0),
            disposition: DISCARD,
        })
    );
}

#[test]
fn dismissing_one_leaves_the_others() {
    let mut rig = Rig::launched(&[KEPT, AUTO, KEPT]);
    (0..3).for_each(|member| rig.done(member));
    rig.settle();
    assert_eq!(rig.statuses(), "concluded null concluded");
    rig.ask(Request::Dismiss(0)).expect("it is concluded");
    assert_eq!(rig.statuses(), "null null concluded");
    assert_eq!(rig.ask(Request::Dismiss(0)), Err(Refused::Gone));
    rig.ask(Request::Dismiss(2)).expect("it is concluded");
    assert!(rig.core.is_forgotten());
}

#[test]
fn shutdown_keeps_and_lets_the_converged_finish() {
    let mut rig = Rig::launched(&[KEPT, KEPT]);
    rig.ask(Request::CancelAll(Cause::Shutdown, Disposition::Discard))
        .expect("it is open");
    rig.step(0, Report::Again);
    rig.step(1, Report::Again);
    assert_eq!(rig.aborted(), Some((Cause::Shutdown, KEEP)));

    let mut rig = Rig::launched(&[KEPT, KEPT]);
    rig.ready(0);
    rig.ready(1);
    rig.ask(Request::CancelAll(Cause::Shutdown, KEEP))
        .expect("it is open");
    rig.done(0);
    rig.done(1);
    rig.settle();
    assert_eq!(rig.outcomes(), "short, short");
}

#[test]
fn a_shutdown_counts_on_no_word_that_only_a_user_could_say() {
    let shutdown = || Request::CancelAll(Cause::Shutdown, KEEP);
    // A converged group whose finalize is a user's, before and after its members returned.
    for pending in [false, true] {
        let mut rig = Rig::launched(&[KEPT, MANUAL]);
        for member in 0..2 {
            rig.ready(member);
            if pending {
                rig.ask(Request::Complete(member)).expect("it is ready");
                rig.done(member);
            }
        }
        rig.ask(shutdown()).expect("it is undecided");
        assert_eq!(rig.aborted(), Some((Cause::Shutdown, KEEP)), "{pending}");
    }
    // Finalized: nothing is missing.
    let mut rig = Rig::launched(&[MANUAL]);
    rig.ready(0);
    rig.ask(Request::Complete(0)).expect("it is ready");
    rig.done(0);
    rig.ask(Request::Finalize(0)).expect("it is pending");
    rig.ask(shutdown()).expect("it is undecided");
    rig.settle();
    assert_eq!(rig.outcomes(), "short");

    // Paused: the first shutdown takes the pause back, a second finds it paused again and gives up.
    let mut rig = Rig::launched(&[KEPT]);
    rig.ready(0);
    rig.ask(Request::Pause(0)).expect("it is ready");
    rig.ask(shutdown()).expect("it is undecided");
    assert_eq!(rig.statuses(), "ready");
    rig.ask(Request::Pause(0)).expect("it is ready");
    rig.step(0, Report::Again);
    assert_eq!(rig.statuses(), "standby");
    rig.ask(shutdown()).expect("it is undecided");
    assert_eq!(rig.aborted(), Some((Cause::Shutdown, KEEP)));
}
