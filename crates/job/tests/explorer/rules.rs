//! What must hold: of every action when it is ordered, and of every state after every move. Numbers name
//! the invariants of the engine's specification where there is one.

use std::ops::Range;

use cohort_job::core::{Action, Event, Notice, Order, Request};
use cohort_job::{
    Asked, Cause, Disposition, Hooks, Outcome, Phase, Status, Verb, Verdict, WaitsFor,
};

use crate::model::Model;
use crate::world::{Move, Prepared, Seen, World};

/// Fails the exploration with a sentence unless something holds.
macro_rules! hold {
    ($holds:expr, $($words:tt)+) => {
        if !$holds {
            return Err(format!($($words)+));
        }
    };
}

/// What must hold of an action, before it is carried out.
pub(crate) fn before_action(world: &World, model: &Model, action: &Action) -> Result<(), String> {
    match action {
        Action::Run {
            order: Order::Step,
            members,
        } => members
            .clone()
            .try_for_each(|member| may_step(world, member)),
        Action::Run { order, members } => {
            hold!(world.hook.is_none(), "two hook spans are out");
            hold!(!members.is_empty(), "an empty hook span");
            // A prepare may leave tasks behind that run beside the next one's prepare.
            let runs = |one: &Seen| match order {
                Order::Step | Order::Prepare => one.stepping,
                Order::Commit | Order::Abort | Order::Clean => !one.at_rest(),
            };
            hold!(!world.seen.iter().any(runs), "a hook while something runs");
            // Hooks of one span run one after the other, so each sees what those before it did.
            let mut so_far = world.clone();
            for member in members.clone() {
                may_run(&so_far, model, *order, member)?;
                let one = &mut so_far.seen[member as usize];
                match order {
                    Order::Prepare => one.prepared = Prepared::Well,
                    Order::Commit | Order::Abort => one.settled = Some(*order),
                    Order::Clean | Order::Step => one.cleaned = true,
                }
            }
            Ok(())
        }
        Action::Hold(span) | Action::Release(span) => {
            for member in span.clone() {
                hold!(
                    !world.one(member).gate_stopped,
                    "a late hold or release undoes a stop"
                );
            }
            Ok(())
        }
        Action::Stop(span) => {
            hold!(world.core.cause().is_some(), "a stop without a cause");
            for member in span.clone() {
                hold!(!world.one(member).at_rest(), "a stop for a member at rest");
            }
            Ok(())
        }
        Action::Ask(span, asked) => {
            hold!(!span.is_empty(), "nobody is asked");
            let stopping = world.core.cause().is_some();
            hold!(!stopping, "asked in a group that stops");
            let so = span
                .clone()
                .all(|member| world.core.asked(member) == *asked);
            hold!(so, "asked otherwise than told");
            Ok(())
        }
        Action::WakeAt(span, _) => {
            for member in span.clone() {
                hold!(
                    !world.one(member).stepping,
                    "a timer for a member in a step"
                );
            }
            Ok(())
        }
        Action::Decide(verdict) => may_decide(world, model, *verdict),
        Action::Notify(notice) => may_notify(world, model, notice),
        Action::Continue => {
            hold!(!world.continuing, "two turns are asked for");
            Ok(())
        }
        Action::Ended { .. } => {
            hold!(!world.ended, "a group ends twice");
            let over = world.seen.iter().all(|one| one.status >= Status::Concluded);
            hold!(over, "the group ended before its members");
            Ok(())
        }
    }
}

fn may_step(world: &World, member: u32) -> Result<(), String> {
    let one = world.one(member);
    hold!(
        world.core.cause().is_none(),
        "member {member} is stepped in a group that stops"
    );
    hold!(!one.stepping, "member {member} is stepped twice at once");
    hold!(!one.lost, "member {member} is stepped though given up");
    hold!(
        !world.is_held(member),
        "member {member} is stepped though held"
    );
    let at_work = matches!(one.status, Status::Running | Status::Ready);
    hold!(at_work, "member {member} is stepped in {}", one.status);
    Ok(())
}

/// I18 to I23, and the order of hooks: all prepares, the verdict, all commits or aborts, all cleans.
fn may_run(world: &World, model: &Model, order: Order, member: u32) -> Result<(), String> {
    let one = world.one(member);
    // Whoever was given up or does not have the hook is not waited for.
    let all = |members: Range<u32>, hook: Hooks, through: fn(&Seen) -> bool| {
        members.into_iter().all(|member| {
            let one = world.one(member);
            one.lost || !model.spec(member).hooks.has(hook) || through(one)
        })
    };
    let everybody = || 0..world.len();
    hold!(
        !one.lost,
        "{order:?} of member {member}, which was given up"
    );
    let hook = match order {
        Order::Step => Hooks::NONE,
        Order::Prepare => Hooks::PREPARE,
        Order::Commit => Hooks::COMMIT,
        Order::Abort => Hooks::ABORT,
        Order::Clean => Hooks::CLEAN,
    };
    hold!(
        model.spec(member).hooks.has(hook),
        "{order:?} of member {member}, which has none"
    );
    match order {
        Order::Step => unreachable!("not a hook"),
        Order::Prepare => {
            hold!(
                world.core.cause().is_none(),
                "prepare in a group that stops"
            );
            hold!(
                one.prepared == Prepared::No,
                "member {member} is prepared twice"
            );
            let pending = world.seen.iter().all(|one| one.status == Status::Pending);
            hold!(pending, "prepare before every member is pending");
            let manual = (0..world.len()).any(|member| model.spec(member).manual_finalize);
            hold!(
                !manual || world.finalized,
                "prepare before anybody said finalize"
            );
            let in_order = all(0..member, Hooks::PREPARE, |one| {
                one.prepared == Prepared::Well
            });
            hold!(in_order, "prepare of member {member} before its elders");
        }
        Order::Commit | Order::Abort => {
            let expected = match world.decided {
                Some(Verdict::Commit) => Order::Commit,
                Some(Verdict::Abort { .. }) => Order::Abort,
                None => return Err(format!("{order:?} without a verdict")),
            };
            hold!(order == expected, "{order:?} against the verdict");
            hold!(
                world.written == Some(true),
                "{order:?} before the verdict is written"
            );
            hold!(one.settled.is_none(), "member {member} is settled twice");
            let settles = if order == Order::Commit {
                Hooks::COMMIT
            } else {
                Hooks::ABORT
            };
            let in_order = all(0..member, settles, |one| one.settled.is_some());
            hold!(in_order, "{order:?} of member {member} before its elders");
            let well = all(everybody(), Hooks::PREPARE, |one| {
                one.prepared == Prepared::Well
            });
            hold!(
                order == Order::Abort || well,
                "commit though a prepare is missing"
            );
        }
        Order::Clean => {
            hold!(!one.cleaned, "member {member} is cleaned twice");
            let settled = all(everybody(), Hooks::ALL, |one| one.settled.is_some());
            hold!(settled, "clean before all are settled");
            let in_order = all(0..member, Hooks::CLEAN, |one| one.cleaned);
            hold!(in_order, "clean of member {member} before its elders");
        }
    }
    Ok(())
}

fn may_decide(world: &World, model: &Model, verdict: Verdict) -> Result<(), String> {
    hold!(world.decided.is_none(), "two verdicts");
    hold!(world.sealed, "a verdict before the membership is sealed");
    hold!(
        world.seen.iter().all(|one| one.at_rest()),
        "a verdict while something runs"
    );
    match verdict {
        Verdict::Commit => {
            hold!(world.core.cause().is_none(), "commit in a group that stops");
            hold!(
                !world.seen.iter().any(|one| one.failed),
                "commit though a member failed"
            );
            hold!(
                !world.seen.iter().any(|one| one.lost),
                "commit though a member was given up"
            );
            let prepares = |member| model.spec(member).hooks.has(Hooks::PREPARE);
            let prepared =
                |member| !prepares(member) || world.one(member).prepared == Prepared::Well;
            hold!(
                (0..world.len()).all(prepared),
                "commit though a prepare is missing"
            );
        }
        Verdict::Abort { cause, disposition } => {
            hold!(
                world.core.cause() == Some(cause),
                "the verdict tells another cause"
            );
            hold!(
                world.core.disposition() == disposition,
                "the verdict tells another disposition"
            );
            let stopped = world.seen.iter().all(|one| one.status == Status::Aborting);
            hold!(
                stopped,
                "an abort is decided before all members came to rest"
            );
        }
    }
    Ok(())
}

fn may_notify(world: &World, model: &Model, notice: &Notice) -> Result<(), String> {
    match notice {
        // New members; the first status of each.
        Notice::Status(_, Status::Created) => Ok(()),
        Notice::Status(span, to) => span
            .clone()
            .try_for_each(|member| may_enter(world, member, *to)),
        Notice::Ended(span, outcome) => span
            .clone()
            .try_for_each(|member| may_end(world, model, member, outcome)),
        Notice::Failed(..)
        | Notice::Stuck(_)
        | Notice::GivenUp(_)
        | Notice::Decided(_)
        | Notice::InDoubt(_)
        | Notice::Owed(..) => Ok(()),
    }
}

fn may_enter(world: &World, member: u32, to: Status) -> Result<(), String> {
    let one = world.one(member);
    let from = one.status;
    hold!(
        from.leads_to().contains(&to),
        "I1: member {member}: {from} -> {to}"
    );
    match to {
        Status::Paused | Status::Standby => {
            hold!(
                world.is_held(member),
                "member {member} is parked without a hold"
            );
            hold!(
                one.at_rest(),
                "member {member} is parked while something of it runs"
            );
        }
        Status::Waiting | Status::Pending => {
            let replayed = world.written.is_some();
            let stopping = world.core.cause().is_some() && !replayed;
            hold!(!stopping, "I30: {to} in a group that stops");
            let rest = world.seen.iter().all(Seen::at_rest);
            hold!(
                to == Status::Waiting || rest,
                "member {member} is pending while something runs"
            );
        }
        Status::Aborting => {
            hold!(world.core.cause().is_some(), "aborting without a cause");
            hold!(
                one.at_rest(),
                "member {member} is aborting while something of it runs"
            );
        }
        Status::Concluded => {
            hold!(one.told, "concluded before it is told how");
            hold!(
                world.written == Some(true),
                "concluded before the verdict is written"
            );
        }
        Status::Ready => {
            let back = from == Status::Standby;
            hold!(
                back || world.core.cause().is_none(),
                "member {member} converges in a group that stops"
            );
        }
        Status::Created | Status::Running | Status::Null => {}
    }
    Ok(())
}

/// I7, I8, I27, I40, and that one outcome is told of each.
fn may_end(world: &World, model: &Model, member: u32, outcome: &Outcome) -> Result<(), String> {
    let one = world.one(member);
    let verdict = world.decided.ok_or("an end without a verdict")?;
    hold!(!one.told, "member {member} ends twice");
    for (other, one) in world.seen.iter().enumerate() {
        let hooks = model.spec(other as u32).hooks.has(Hooks::CLEAN);
        hold!(
            one.cleaned || one.lost || !hooks,
            "{member} ends before {other} is cleaned"
        );
    }
    match (outcome, verdict) {
        (Outcome::Committed { short }, Verdict::Commit) => {
            hold!(
                one.settled != Some(Order::Abort),
                "committed after an abort"
            );
            hold!(
                *short == one.soft,
                "member {member}: short is {short}, soft is {}",
                one.soft
            );
        }
        (
            Outcome::Failed {
                disposition: how, ..
            },
            Verdict::Abort { disposition, .. },
        ) => {
            hold!(one.failed, "member {member} failed without failing");
            hold!(*how == disposition, "members settle by two dispositions");
        }
        (
            Outcome::Cancelled {
                disposition: how,
                cause: why,
            },
            Verdict::Abort { disposition, cause },
        ) => {
            hold!(!one.failed, "the error of member {member} is lost");
            hold!(
                *how == disposition && *why == cause,
                "members are told two reasons"
            );
        }
        _ => return Err(format!("{outcome:?} against {verdict:?}")),
    }
    Ok(())
}

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

/// Whether a request should be accepted, told from what an onlooker saw: the second telling of every
/// check that the core makes.
pub(crate) fn should_accept(world: &World, request: &Request) -> bool {
    let core = &world.core;
    let undecided = world.decided.is_none();
    let free = undecided && core.cause().is_none();
    let is = |verb: Verb, member: u32| verb.accepted_in().contains(&world.one(member).status);
    let here = |member: u32| world.one(member).status != Status::Null;
    match *request {
        Request::Add { .. } | Request::Launch | Request::Rollback => !world.sealed,
        Request::Replay(_) => !world.sealed && core.cause().is_none(),
        Request::Cancel(member, _) => is(Verb::Cancel, member) && undecided,
        Request::CancelAll(..) => undecided,
        Request::Pause(member) => {
            is(Verb::Pause, member) && free && !core.is_paused_by_user(member)
        }
        Request::Resume(member) => is(Verb::Resume, member) && core.is_paused_by_user(member),
        Request::Hold(member) => here(member),
        Request::Release(member) => here(member) && world.one(member).holds > 0,
        Request::SetSpeed { member, .. } => is(Verb::SetSpeed, member) && free,
        Request::Complete(member) => {
            is(Verb::Complete, member) && free && core.asked(member) != Asked::Finish
        }
        Request::Finalize(member) => {
            is(Verb::Finalize, member) && free && !world.finalized && core.phase() == Phase::Open
        }
        Request::Dismiss(member) => is(Verb::Dismiss, member),
        Request::GiveUp(member) => here(member) && world.one(member).stuck,
    }
}
