//! The sentence in every situation there is: a script of requests and events, whom to ask, what it says.

use super::*;
use crate::core::{Action, Core, Event, Report, Request};
use crate::{Hooks, Kind, MemberName, Phase, Spec, Time, Verdict};

use Cause::{ProcessEnded, Rollback, Shutdown, User};
use Disposition::{Discard, Keep};
use Event::{Decided, Ready, Spawned, Stuck};
use Request::{
    Cancel, CancelAll, Complete, Dismiss, Finalize, GiveUp, Hold, Launch, Pause, Replay,
};

enum Do {
    Ask(Request),
    Tell(Event),
}
use Do::{Ask, Tell};

fn ran(order: Order, member: u32, report: Report) -> Do {
    Tell(Event::Ran {
        order,
        members: member..member + 1,
        report,
    })
}

fn step(member: u32, report: Report) -> Do {
    ran(Order::Step, member, report)
}

fn left(order: Order, members: std::ops::Range<u32>) -> Do {
    let report = Report::Left;
    Tell(Event::Ran {
        order,
        members,
        report,
    })
}

fn fails(member: u32) -> Do {
    step(member, Report::Failed(Error::new("no space left")))
}

/// All three return well; the hooks so far, of all three.
fn done(hooks: &[Order]) -> Vec<Do> {
    let mut script = vec![Ask(Launch)];
    script.extend((0..3).map(|member| step(member, Report::Done)));
    if hooks.is_empty() {
        return script;
    }
    script.push(Ask(Finalize(0)));
    for &order in hooks {
        if matches!(order, Order::Commit) {
            script.push(Tell(Decided(Ok(()))));
        }
        script.extend((0..3).map(|member| ran(order, member, Report::Done)));
    }
    script
}

fn with(mut script: Vec<Do>, more: impl IntoIterator<Item = Do>) -> Vec<Do> {
    script.extend(more);
    script
}

/// A group of 'a', 'b' and a third that has no name, manual in all things, after this script.
fn play(core: Core, script: Vec<Do>) -> Turn {
    let mut turn = Turn::new();
    turn.core = core;
    let spec = Spec {
        manual_finalize: true,
        manual_dismiss: true,
        hooks: Hooks::ALL,
    };
    let add = Ask(Request::Add { count: 3, spec });
    for (member, name) in [(0, "a"), (1, "b")] {
        turn.names
            .add(member, MemberName::new(name), Kind::new("test"));
    }
    for play in std::iter::once(add).chain(script) {
        let mut actions = Vec::new();
        match play {
            Ask(request) => turn.core.apply(request, &mut actions).expect("accepted"),
            Tell(event) => turn.core.handle(event, &mut actions),
        }
        for action in actions {
            if let Action::Notify(notice) = action {
                turn.remember(&notice);
            }
        }
    }
    turn
}

/// Who is asked after which script, what its driver last said, and what the answer is.
fn table() -> Vec<(Vec<Do>, u32, &'static str, &'static str)> {
    let launched = || vec![Ask(Launch)];
    let all_ready = || with(launched(), (0..3).map(|member| Tell(Ready(member))));
    vec![
        // Before the launch, and running.
        (
            vec![],
            0,
            "",
            "created: it waits for the launch of its group",
        ),
        (
            vec![Ask(Pause(0))],
            0,
            "",
            "created: a user paused it; it waits for the launch of its group",
        ),
        (launched(), 0, "", "running: it runs, or waits for a thread"),
        (
            with(launched(), [step(0, Report::Wait)]),
            0,
            "waits for the reader",
            "running: it waits for the reader",
        ),
        (
            with(launched(), [step(0, Report::Wait)]),
            0,
            "",
            "running: it waits for what its driver waits for",
        ),
        (
            with(
                launched(),
                [step(0, Report::Sleep(Time(Default::default())))],
            ),
            0,
            "sleeps",
            "running: it sleeps",
        ),
        // Held.
        (
            vec![Ask(Pause(0)), Ask(Launch)],
            0,
            "",
            "paused: it was paused by a user and waits for a resume",
        ),
        (
            vec![Ask(Hold(0)), Ask(Launch)],
            0,
            "",
            "paused: it is held once by the engine",
        ),
        (
            vec![Ask(Pause(0)), Ask(Hold(0)), Ask(Hold(0)), Ask(Launch)],
            0,
            "",
            "paused: it was paused by a user, and is held 2 times by the engine",
        ),
        (
            with(launched(), [Ask(Pause(0))]),
            0,
            "",
            "running: a user paused it; it runs, or waits for a thread",
        ),
        (
            with(
                launched(),
                [
                    Tell(Spawned {
                        member: 0,
                        tasks: 2,
                    }),
                    Ask(Pause(0)),
                    step(0, Report::Wait),
                ],
            ),
            0,
            "",
            "running: a user paused it; it waits for 2 tasks of its own to end",
        ),
        // Converging.
        (
            with(launched(), [Tell(Ready(0))]),
            0,
            "",
            "ready: it runs, or waits for a thread",
        ),
        (
            with(launched(), [Tell(Ready(0)), step(0, Report::Wait)]),
            0,
            "keeps up",
            "ready: it keeps up",
        ),
        (
            with(launched(), [Tell(Ready(0)), Ask(Complete(0))]),
            0,
            "",
            "ready: a user asked it to complete; it runs, or waits for a thread",
        ),
        (
            with(launched(), [Tell(Ready(0)), Ask(Cancel(0, Keep))]),
            0,
            "",
            "ready: a user cancelled it, so it finishes without its switch-over; it runs, or waits for a thread",
        ),
        (
            with(
                launched(),
                [Tell(Ready(0)), Ask(Pause(0)), step(0, Report::Wait)],
            ),
            0,
            "",
            "standby: it was paused by a user and waits for a resume",
        ),
        (
            with(
                all_ready(),
                [Ask(CancelAll(User, Keep)), step(0, Report::Done)],
            ),
            0,
            "",
            "waiting: a user cancelled it, so it finishes without its switch-over; it waits for 'b' and 1 more",
        ),
        // Waiting for peers.
        (
            with(launched(), [step(0, Report::Done)]),
            0,
            "",
            "waiting: it waits for 'b' and 1 more",
        ),
        (
            with(launched(), [step(0, Report::Done), step(1, Report::Done)]),
            0,
            "",
            "waiting: it waits for '#2'",
        ),
        (
            with(
                launched(),
                [
                    Tell(Spawned {
                        member: 0,
                        tasks: 1,
                    }),
                    step(0, Report::Done),
                ],
            ),
            0,
            "",
            "waiting: it waits for a task of its own to end",
        ),
        // Pending, prepare, the verdict, commit, clean.
        (done(&[]), 1, "", "pending: it waits for a user's finalize"),
        (
            with(done(&[]), [Ask(Finalize(2))]),
            0,
            "",
            "pending: it is in its prepare hook",
        ),
        (
            with(done(&[]), [Ask(Finalize(2))]),
            1,
            "",
            "pending: it waits for the prepare hook of 'a'",
        ),
        (
            done(&[Order::Prepare]),
            1,
            "",
            "pending: it waits for the verdict to be written",
        ),
        (
            with(
                done(&[Order::Prepare]),
                [Tell(Decided(Err("no space left".into())))],
            ),
            1,
            "",
            "pending: it is in doubt: whether the verdict was written is not known before the next start",
        ),
        (
            with(done(&[Order::Prepare]), [Tell(Decided(Ok(())))]),
            2,
            "",
            "pending: it waits for the commit hook of 'a'",
        ),
        (
            done(&[Order::Prepare, Order::Commit]),
            0,
            "",
            "pending: it is in its clean hook",
        ),
        (
            done(&[Order::Prepare, Order::Commit, Order::Clean]),
            0,
            "",
            "committed",
        ),
        (
            with(
                done(&[Order::Prepare, Order::Commit, Order::Clean]),
                [Ask(Dismiss(0))],
            ),
            0,
            "",
            "committed",
        ),
        // A failure, and whom it reaches.
        (
            with(launched(), [fails(1)]),
            0,
            "",
            "running: its group stops because 'b' failed (no space left); it runs, or waits for a thread",
        ),
        (
            with(launched(), [fails(1)]),
            1,
            "",
            "aborting: its group stops because it failed (no space left); it waits for 'a' and 1 more",
        ),
        (
            with(launched(), [step(0, Report::Wait), fails(1), fails(2)]),
            2,
            "",
            "aborting: its group stops because 'b' failed (no space left), and failed itself (no space left); it waits for the verdict to be written",
        ),
        (
            with(
                launched(),
                [
                    Tell(Spawned {
                        member: 0,
                        tasks: 1,
                    }),
                    step(0, Report::Wait),
                    fails(1),
                ],
            ),
            0,
            "",
            "running: its group stops because 'b' failed (no space left); it waits for a task of its own to end",
        ),
        (
            with(
                launched(),
                [
                    fails(1),
                    step(0, Report::Left),
                    step(2, Report::Done),
                    Tell(Decided(Ok(()))),
                ],
            ),
            0,
            "",
            "aborting: its group stops because 'b' failed (no space left); it is in its abort hook",
        ),
        (
            with(
                done(&[]),
                [
                    Ask(Finalize(0)),
                    ran(Order::Prepare, 0, Report::Failed("disk full".into())),
                    left(Order::Prepare, 1..3),
                ],
            ),
            2,
            "",
            "aborting: its group stops because 'a' failed (disk full); it waits for the verdict to be written",
        ),
        (
            ended_by(with(launched(), [fails(1)])),
            1,
            "",
            "failed: no space left",
        ),
        (
            ended_by(with(launched(), [fails(1)])),
            0,
            "",
            "cancelled because 'b' failed (no space left)",
        ),
        // Cancels.
        (
            with(launched(), [Ask(Cancel(1, Discard))]),
            1,
            "",
            "running: its group stops because a user cancelled it, and discards everything; it runs, or waits for a thread",
        ),
        (
            with(launched(), [Ask(Cancel(1, Keep))]),
            0,
            "",
            "running: its group stops because a user cancelled 'b'; it runs, or waits for a thread",
        ),
        (
            ended_by(with(launched(), [Ask(CancelAll(User, Discard))])),
            2,
            "",
            "cancelled because a user cancelled its group; everything was discarded",
        ),
        (
            ended_by(with(launched(), [Ask(CancelAll(Shutdown, Keep))])),
            2,
            "",
            "cancelled because the engine shuts down",
        ),
        (
            vec![Ask(Cancel(0, Keep))],
            0,
            "",
            "aborting: its group stops because a user cancelled it; it waits for the launch of its group",
        ),
        (
            vec![Ask(Request::Rollback)],
            0,
            "",
            "aborting: its group stops because its group was never launched; it waits for the verdict to be written",
        ),
        // What does not come back.
        (
            with(launched(), [Tell(Stuck(0))]),
            0,
            "",
            "running: it is stuck: its step, hook or task does not return",
        ),
        (
            with(done(&[]), [Ask(Finalize(0)), Tell(Stuck(0))]),
            1,
            "",
            "pending: it waits for 'a', which is stuck",
        ),
        (
            with(launched(), [Tell(Stuck(0)), Ask(GiveUp(0))]),
            1,
            "",
            "running: its group stops because 'a' failed (given up: it was stuck and did not come back); it runs, or waits for a thread",
        ),
        // After a restart.
        (
            vec![Ask(Replay(Verdict::Commit))],
            0,
            "",
            "pending: it is in its commit hook",
        ),
        (
            vec![Ask(Replay(Verdict::Abort {
                cause: ProcessEnded,
                disposition: Keep,
            }))],
            1,
            "",
            "aborting: its group stops because the process ended before a verdict was written; it waits for the abort hook of 'a'",
        ),
        (
            soft_end(),
            1,
            "",
            "committed: it was cancelled when it was ready, and finished without the switch-over",
        ),
    ]
}

/// The whole abort of a group whose members may still be in their steps.
fn ended_by(mut script: Vec<Do>) -> Vec<Do> {
    let failed = |play: &Do| matches!(play, Tell(Event::Ran { .. }));
    let left = if script.iter().any(failed) {
        vec![0, 2]
    } else {
        vec![0, 1, 2]
    };
    script.extend(left.into_iter().map(|member| step(member, Report::Left)));
    script.push(Tell(Decided(Ok(()))));
    for order in [Order::Abort, Order::Clean] {
        script.extend((0..3).map(|member| ran(order, member, Report::Done)));
    }
    script
}

/// All converge, the group is cancelled softly, and commits.
fn soft_end() -> Vec<Do> {
    let mut script = vec![Ask(Launch)];
    script.extend((0..3).map(|member| Tell(Ready(member))));
    script.push(Ask(CancelAll(User, Keep)));
    script.extend((0..3).map(|member| step(member, Report::Done)));
    script.push(Ask(Finalize(0)));
    for order in [Order::Prepare, Order::Commit, Order::Clean] {
        if order == Order::Commit {
            script.push(Tell(Decided(Ok(()))));
        }
        script.extend((0..3).map(|member| ran(order, member, Report::Done)));
    }
    script
}

/// Every kind of wait, phase and cause; without wildcards, so that a new one is not forgotten here.
fn kinds(turn: &Turn, member: u32) -> Vec<String> {
    let core = &turn.core;
    let waits = core.waits_for(member).map(|waits| match waits {
        WaitsFor::Launch => "launch",
        WaitsFor::Step => "step",
        WaitsFor::Tasks(_) => "tasks",
        WaitsFor::Driver => "driver",
        WaitsFor::Resume { .. } => "resume",
        WaitsFor::Peers { .. } => "peers",
        WaitsFor::Finalize => "finalize",
        WaitsFor::Hook(_) => "hook",
        WaitsFor::Turn => "turn",
        WaitsFor::Journal => "journal",
        WaitsFor::InDoubt => "in doubt",
        WaitsFor::Stuck(_) => "stuck",
        WaitsFor::Dismiss => "dismiss",
    });
    let phase = match core.phase() {
        Phase::Open => "open",
        Phase::Preparing => "preparing",
        Phase::Stopping => "stopping",
        Phase::Deciding => "deciding",
        Phase::Committing => "committing",
        Phase::Aborting => "aborting group",
        Phase::Done => "done",
    };
    let cause = core.cause().map(|cause| match cause {
        Cause::Failed(_) => "failed",
        Cause::Cancelled(_) => "cancelled",
        User => "user",
        Rollback => "rollback",
        Shutdown => "shutdown",
        ProcessEnded => "process ended",
    });
    let status = core.status(member).map(|status| status.as_str());
    [waits, Some(phase), cause, status]
        .into_iter()
        .flatten()
        .map(String::from)
        .collect()
}

#[test]
fn every_job_says_why_in_one_sentence() {
    let mut seen = std::collections::BTreeSet::new();
    for (row, (script, member, reason, expected)) in table().into_iter().enumerate() {
        let turn = play(Core::new(), script);
        assert_eq!(tell(&turn, member, reason, None), expected, "row {row}");
        seen.extend(kinds(&turn, member));
    }
    let never: Vec<_> = [
        "launch",
        "step",
        "tasks",
        "driver",
        "resume",
        "peers",
        "finalize",
        "hook",
        "journal",
        "in doubt",
        "stuck",
        "dismiss",
        "open",
        "preparing",
        "stopping",
        "deciding",
        "committing",
        "aborting group",
        "done",
        "failed",
        "cancelled",
        "user",
        "rollback",
        "shutdown",
        "process ended",
    ]
    .into_iter()
    .chain(Status::ALL.map(Status::as_str))
    .filter(|kind| !seen.contains(*kind) && *kind != "null")
    .collect();
    assert!(never.is_empty(), "in no row: {never:?}");
}

#[test]
fn between_two_turns_of_a_large_group_it_waits_for_the_next() {
    let turn = play(Core::with_turn(1), vec![Ask(Launch)]);
    assert_eq!(
        tell(&turn, 2, "", None),
        "created: it waits for its group's next turn"
    );
}

#[test]
fn in_doubt_it_says_what_the_journal_said() {
    let script = with(
        done(&[Order::Prepare]),
        [Tell(Decided(Err("no space left".into())))],
    );
    let turn = play(Core::new(), script);
    let sentence = tell(
        &turn,
        0,
        "",
        Some(&Error::new("writing the verdict: no space left")),
    );
    assert!(
        sentence.ends_with("next start (writing the verdict: no space left)"),
        "{sentence}"
    );
}
