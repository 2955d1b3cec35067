//! Jobs whose group stops, and those that do not come back.

use super::*;

pub(super) fn rows() -> Vec<Row> {
    let launched = || vec![Ask(Launch)];
    vec![
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
