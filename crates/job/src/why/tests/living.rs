//! Jobs on their way to a commit.

use super::*;

pub(super) fn rows() -> Vec<Row> {
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
            "ready: it was cancelled when it was ready, and finishes without its switch-over; it runs, or waits for a thread",
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
            "waiting: it was cancelled when it was ready, and finishes without its switch-over; it waits for 'b' and 1 more",
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
        (
            soft_end(),
            1,
            "",
            "committed: it was cancelled when it was ready, and finished without the switch-over",
        ),
    ]
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
