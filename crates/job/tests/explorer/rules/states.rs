//! What must hold of every state after every move, and of the move that led there.

use cohort_job::core::{Event, Request};
use cohort_job::{Asked, Cause, Disposition, Hooks, Outcome, Phase, Status, Verdict, WaitsFor};

use crate::model::Model;
use crate::world::{Move, World};

/// What must hold after every move.
pub(crate) fn after_move(
    world: &World,
    before: &World,
    model: &Model,
    step: &Move,
) -> Result<(), String> {
    only_rises(world, before, step)?;
    phases_follow(before.core.phase(), world.core.phase())?;
    for member in 0..world.len() {
        of_member(world, member)?;
        names_what_it_waits_for(world, member)?;
    }
    hold!(
        spurious_is_invisible(world, before, step),
        "D-11: a wake of a parked member was seen"
    );
    if let Move::Ask(Request::CancelAll(Cause::Shutdown, _)) = step {
        let manual = (0..world.len()).any(|member| model.spec(member).manual_finalize);
        hold!(
            world.core.cause().is_some() || world.finalized || !manual,
            "a shutdown that waits for a user's finalize"
        );
    }
    of_group(world, model)
}

/// Cause and verdict are set once, the disposition rises by a user's word before the verdict, and what
/// is asked never falls back.
fn only_rises(world: &World, before: &World, step: &Move) -> Result<(), String> {
    let (old, new) = (&before.core, &world.core);
    if let Some(cause) = old.cause() {
        hold!(new.cause() == Some(cause), "the cause changed");
    } else if let Some(cause) = new.cause() {
        let replayed = matches!(step, Move::Ask(Request::Replay(_)));
        hold!(
            old.verdict().is_none() || replayed,
            "{cause:?} after the verdict"
        );
        causes(world, step, cause)?;
    }
    hold!(
        old.verdict().is_none() || old.verdict() == new.verdict(),
        "the verdict changed"
    );
    hold!(
        old.disposition() <= new.disposition(),
        "the disposition fell"
    );
    if old.disposition() < new.disposition() {
        hold!(
            old.verdict().is_none(),
            "the disposition rose after the verdict"
        );
        let word = matches!(
            step,
            Move::Ask(
                Request::Cancel(_, Disposition::Discard)
                    | Request::CancelAll(Cause::User, Disposition::Discard)
                    | Request::Replay(_)
            )
        );
        hold!(word, "only a user's word means Discard");
    }
    if let Move::Ask(Request::Cancel(member, disposition)) = *step {
        let soft = disposition == Disposition::Keep && old.has_converged(member);
        hold!(soft || new.cause().is_some(), "a cancel without effect");
        hold!(
            !soft || old.cause() == new.cause(),
            "a soft cancel of a ready member disturbs"
        );
        hold!(
            new.disposition() >= disposition,
            "the disposition was not heard"
        );
        hold!(
            !new.is_paused_by_user(member),
            "I16: still paused after a cancel"
        );
    }
    for member in 0..before.len() {
        let fell = old.asked(member) == Asked::Finish && new.asked(member) != Asked::Finish;
        hold!(!fell, "member {member} forgot that it was cancelled");
        let paused = !old.is_paused_by_user(member) && new.is_paused_by_user(member);
        let asked = *step == Move::Ask(Request::Pause(member));
        hold!(!paused || asked, "member {member} is paused by nobody");
    }
    Ok(())
}

/// Whether `step` explains that the group stops because of `cause`.
fn causes(world: &World, step: &Move, cause: Cause) -> Result<(), String> {
    let explained = match (cause, step) {
        (Cause::Cancelled(member), Move::Ask(Request::Cancel(other, _))) => member == *other,
        (Cause::User | Cause::Shutdown, Move::Ask(Request::CancelAll(other, _))) => cause == *other,
        (Cause::Rollback, Move::Ask(Request::Rollback)) => true,
        (_, Move::Ask(Request::Replay(Verdict::Abort { cause: other, .. }))) => cause == *other,
        // D-1: whoever failed is named, not whoever made the group converge.
        (Cause::Failed(member), Move::Tell(Event::Ran { members, .. })) => {
            members.contains(&member) && world.one(member).failed
        }
        (Cause::Failed(member), Move::Tell(Event::TaskPanicked(other, _))) => member == *other,
        (Cause::Failed(member), Move::Ask(Request::GiveUp(other))) => member == *other,
        _ => false,
    };
    hold!(explained, "{cause:?} does not follow from {step:?}");
    Ok(())
}

fn phases_follow(from: Phase, to: Phase) -> Result<(), String> {
    // Several changes may happen in one turn; none leads back, and the two ways never cross.
    let crossed = (from == Phase::Committing && to == Phase::Aborting)
        || (from == Phase::Stopping && to == Phase::Committing);
    hold!(from <= to && !crossed, "{from:?} -> {to:?}");
    Ok(())
}

fn of_member(world: &World, member: u32) -> Result<(), String> {
    let (one, core) = (world.one(member), &world.core);
    let stored = (one.status != Status::Null).then_some(one.status);
    hold!(
        core.status(member) == stored,
        "member {member}: what is stored was not announced"
    );
    let stopping = core.cause().is_some();
    let at_work = matches!(one.status, Status::Running | Status::Ready);
    if at_work && !stopping && one.at_rest() {
        hold!(
            !world.is_held(member),
            "member {member} is held and at rest, but not parked"
        );
    }
    if at_work && !stopping && !world.is_held(member) && !one.stepping && !world.continuing {
        hold!(
            !one.woken,
            "member {member} sleeps on, and something happened that it must see"
        );
    }
    if matches!(one.status, Status::Paused | Status::Standby) && !stopping {
        hold!(
            world.is_held(member),
            "I12: member {member} is parked without a hold"
        );
        hold!(
            one.at_rest(),
            "I13: something of the parked member {member} runs"
        );
    }
    if at_work && !stopping {
        let held = world.is_held(member);
        hold!(
            one.gate_held == held,
            "the gate of member {member} is not what its holds are"
        );
    }
    let returned = matches!(one.status, Status::Waiting | Status::Pending);
    if returned && core.verdict().is_none() {
        hold!(
            !core.is_paused_by_user(member),
            "member {member} returned, and a user still holds it"
        );
    }
    let restless = stopping && core.phase() == Phase::Stopping && !world.continuing;
    if restless && !one.at_rest() {
        hold!(
            one.gate_stopped,
            "I29: member {member} runs on and was not told to stop"
        );
    }
    if restless && one.at_rest() {
        hold!(
            one.status == Status::Aborting,
            "member {member} is at rest, but not aborting"
        );
    }
    hold!(
        one.failed == core.error(member).is_some() || one.status == Status::Null || one.lost,
        "the error of member {member} is lost"
    );
    hold!(
        one.status != Status::Null || core.error(member).is_none(),
        "the error of member {member} outlives it"
    );
    hold!(
        !one.soft || core.has_converged(member),
        "a soft cancel was heard before ready"
    );
    if one.status == Status::Concluded {
        let committed = matches!(core.outcome(member), Some(Outcome::Committed { .. }));
        let verdict = core.verdict() == Some(Verdict::Commit);
        hold!(
            committed == verdict,
            "I27: member {member} ended against the verdict"
        );
    }
    Ok(())
}

fn of_group(world: &World, model: &Model) -> Result<(), String> {
    let core = &world.core;
    hold!(
        core.verdict() == world.decided,
        "a verdict that nobody was asked to write"
    );
    if world.written == Some(false) {
        hold!(
            core.in_doubt() && core.phase() == Phase::Deciding,
            "a group in doubt went on"
        );
    }
    let pending = world.seen.iter().any(|one| one.status == Status::Pending);
    if pending && core.cause().is_none() && !model.replay {
        let all = world.seen.iter().all(|one| one.status >= Status::Waiting);
        hold!(all, "I31: some are pending, and some did not return");
    }
    if core.phase() == Phase::Done {
        hold!(world.ended, "a group is done and did not say so");
        for (member, one) in world.seen.iter().enumerate() {
            let hooks = model.spec(member as u32).hooks != Hooks::NONE;
            hold!(
                one.cleaned || one.lost || !hooks,
                "I19: member {member} was not cleaned"
            );
            hold!(
                one.settled.is_some() || one.lost || !hooks,
                "I18: {member} was not settled"
            );
        }
    }
    Ok(())
}

/// Nothing waits without saying for what, and what it says is so.
fn names_what_it_waits_for(world: &World, member: u32) -> Result<(), String> {
    let one = world.one(member);
    let Some(waits) = world.core.waits_for(member) else {
        hold!(
            one.status == Status::Null,
            "member {member} does not say what it waits for"
        );
        return Ok(());
    };
    let true_ = match waits {
        WaitsFor::Launch => !world.sealed,
        WaitsFor::Step => one.stepping,
        WaitsFor::Tasks(tasks) => one.tasks == tasks && tasks > 0,
        WaitsFor::Driver => !one.stepping && matches!(one.status, Status::Running | Status::Ready),
        WaitsFor::Resume { user, internal } => {
            (user == world.core.is_paused_by_user(member) && u32::from(internal) == one.holds)
                && (user || internal > 0)
        }
        WaitsFor::Peers { first, count } => {
            let other = world.one(first);
            let behind = other.status < Status::Waiting || !other.at_rest();
            count > 0 && behind && (first != member || count > 1)
        }
        WaitsFor::Finalize => {
            let manual = |member| world.core.status(member) == Some(Status::Pending);
            !world.finalized && manual(member)
        }
        WaitsFor::Hook(member) => world
            .hook
            .as_ref()
            .is_some_and(|(_, span)| span.start == member),
        WaitsFor::Turn => world.continuing,
        WaitsFor::Journal => world.deciding,
        WaitsFor::InDoubt => world.written == Some(false),
        WaitsFor::Stuck(member) => world.one(member).stuck,
        WaitsFor::Dismiss => one.status == Status::Concluded,
    };
    hold!(
        true_,
        "member {member} says it waits for {waits:?}, which is not so"
    );
    Ok(())
}

fn spurious_is_invisible(world: &World, before: &World, step: &Move) -> bool {
    let Move::Tell(Event::Woken(member)) = step else {
        return true;
    };
    let parked = matches!(before.one(*member).status, Status::Paused | Status::Standby);
    !parked || world.core == before.core
}
