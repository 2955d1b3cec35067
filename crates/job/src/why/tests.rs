//! The sentence in every situation there is: a script of requests and events, whom to ask, what it says.

mod living;
mod stopping;

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
type Row = (Vec<Do>, u32, &'static str, &'static str);

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
    let rows = living::rows().into_iter().chain(stopping::rows());
    for (row, (script, member, reason, expected)) in rows.enumerate() {
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
