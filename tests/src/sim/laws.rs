//! What must hold after every turn, and whether a request should be accepted: the second telling of what the
//! core decides, from what an onlooker saw. Numbers name the invariants of `docs/simulator.md`.

use cohort_job::core::{Core, Event, Request};
use cohort_job::{
    Asked, Cause, Disposition, Input, Outcome, Phase, Status, Verb, Verdict, WaitsFor,
};

use super::onlooker::{Onlooker, Seen};
use super::orders::hold;

/// Groups up to this size are looked at whole after every turn; of larger ones whoever the turn was about, and
/// all now and then.
const SMALL: u32 = 12;
const NOW_AND_THEN: u64 = 32;

/// What a group was before a turn.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Before {
    pub(crate) phase: Phase,
    pub(crate) cause: Option<Cause>,
    pub(crate) disposition: Disposition,
    pub(crate) verdict: Option<Verdict>,
}

impl Before {
    pub(crate) fn of(core: &Core) -> Self {
        Self {
            phase: core.phase(),
            cause: core.cause(),
            disposition: core.disposition(),
            verdict: core.verdict(),
        }
    }
}

/// Checks a group after a turn; `turn` counts them.
pub(crate) fn check(
    core: &Core,
    saw: &mut Onlooker,
    before: Before,
    input: &Input,
    turn: u64,
) -> Result<(), String> {
    only_rises(core, saw, before, input)?;
    phases_follow(before.phase, core.phase())?;
    let touched = std::mem::take(&mut saw.touched);
    let whole = saw.len() <= SMALL
        || before.phase != core.phase()
        || before.cause != core.cause()
        || turn.is_multiple_of(NOW_AND_THEN);
    if whole {
        (0..saw.len()).try_for_each(|member| of_member(core, saw, input, member))?;
    } else {
        touched
            .into_iter()
            .try_for_each(|member| of_member(core, saw, input, member))?;
    }
    of_group(core, saw)
}

/// Cause and verdict are set once; the disposition rises by a user's word, before the verdict.
fn only_rises(core: &Core, saw: &Onlooker, before: Before, input: &Input) -> Result<(), String> {
    match (before.cause, core.cause()) {
        (None, Some(cause)) => explained(saw, input, cause)?,
        (was, is) => hold!(was == is, "I28: the cause changed from {was:?} to {is:?}"),
    }
    let fixed = before.verdict.is_none() || before.verdict == core.verdict();
    hold!(fixed, "the verdict changed");
    hold!(
        before.disposition <= core.disposition(),
        "I39: the disposition fell"
    );
    if before.disposition < core.disposition() {
        hold!(
            before.verdict.is_none(),
            "the disposition rose after the verdict"
        );
        let word = matches!(
            input,
            Input::Ask(
                Request::Cancel(_, Disposition::Discard)
                    | Request::CancelAll(Cause::User, Disposition::Discard)
                    | Request::Replay(_)
            )
        );
        hold!(word, "only a user's word means Discard");
    }
    if let Input::Ask(Request::Cancel(member, how)) = *input {
        let soft = how == Disposition::Keep && saw.one(member).converged;
        hold!(
            soft || core.cause().is_some(),
            "I37: a cancel without effect"
        );
        hold!(
            !soft || before.cause == core.cause(),
            "a soft cancel of the ready disturbs"
        );
        hold!(core.disposition() >= how, "the disposition was not heard");
    }
    Ok(())
}

/// Whether `input` explains that the group stops because of `cause`. D-1: whoever failed is named.
fn explained(saw: &Onlooker, input: &Input, cause: Cause) -> Result<(), String> {
    let so = match (cause, input) {
        (Cause::Cancelled(member), Input::Ask(Request::Cancel(other, _))) => member == *other,
        (Cause::User | Cause::Shutdown, Input::Ask(Request::CancelAll(other, _))) => {
            cause == *other
        }
        (Cause::Rollback, Input::Ask(Request::Rollback)) => true,
        (_, Input::Ask(Request::Replay(Verdict::Abort { cause: other, .. }))) => cause == *other,
        (Cause::Failed(member), Input::Tell(Event::Ran { members, .. })) => {
            members.contains(&member) && saw.one(member).failed
        }
        (Cause::Failed(member), Input::Tell(Event::TaskPanicked(other, _))) => member == *other,
        (Cause::Failed(member), Input::Ask(Request::GiveUp(other))) => member == *other,
        _ => false,
    };
    hold!(so, "{cause:?} does not follow from {input:?}");
    Ok(())
}

fn phases_follow(from: Phase, to: Phase) -> Result<(), String> {
    // Several changes may happen in one turn; none leads back, and the two ways never cross.
    let crossed = (from == Phase::Committing && to == Phase::Aborting)
        || (from == Phase::Stopping && to == Phase::Committing);
    hold!(from <= to && !crossed, "I28: {from:?} -> {to:?}");
    Ok(())
}

fn of_member(core: &Core, saw: &mut Onlooker, input: &Input, member: u32) -> Result<(), String> {
    let paused = core.is_paused_by_user(member);
    let was = std::mem::replace(&mut saw.members[member as usize].paused, paused);
    holds_balance(core, input, member, was, paused)?;
    let one = saw.one(member);
    let stored = (one.status != Status::Null).then_some(one.status);
    hold!(
        core.status(member) == stored,
        "I2: {member} is what was not announced"
    );
    at_work(core, saw, member)?;
    let restless = core.phase() == Phase::Stopping && !saw.continuing;
    if restless && !one.at_rest() {
        hold!(
            one.gate_stopped,
            "I29: {member} runs on and was not told to stop"
        );
    }
    if restless && one.at_rest() {
        hold!(
            one.status == Status::Aborting,
            "{member} is at rest, and not aborting"
        );
    }
    let kept = one.failed == core.error(member).is_some() || one.status == Status::Null || one.lost;
    hold!(kept, "I6: the error of {member} is lost, or from nowhere");
    let finish = core.asked(member) != Asked::Finish || one.soft;
    hold!(finish, "{member} is to finish short, and nobody said so");
    if one.status == Status::Concluded {
        hold!(
            core.outcome(member) == one.told,
            "I7: the outcome of {member} changed"
        );
        let committed = matches!(one.told, Some(Outcome::Committed { .. }));
        let verdict = core.verdict() == Some(Verdict::Commit);
        hold!(
            committed == verdict,
            "I27: {member} ended against the verdict"
        );
    }
    waits(core, saw, member)
}

/// I10, I11, I16: a user's pause comes by that verb alone, and goes by a word or with the job's work.
fn holds_balance(
    core: &Core,
    input: &Input,
    member: u32,
    was: bool,
    is: bool,
) -> Result<(), String> {
    let came = matches!(input, Input::Ask(Request::Pause(other)) if *other == member);
    hold!(was || !is || came, "{member} is paused by nobody");
    if let Input::Ask(Request::Cancel(other, _)) = input {
        hold!(
            *other != member || !is,
            "I16: {member} is still paused after a cancel"
        );
    }
    let went = core.cause().is_some()
        || core.short(member)
        || match input {
            Input::Ask(Request::Resume(other)) => *other == member,
            Input::Tell(Event::Ran { members, .. }) => members.contains(&member),
            Input::Ask(_) | Input::Tell(_) => false,
        };
    hold!(!was || is || went, "{member} is resumed by nobody");
    Ok(())
}

/// Who is held parks as soon as it is true; who is not runs, and sees what happened.
fn at_work(core: &Core, saw: &Onlooker, member: u32) -> Result<(), String> {
    let one = saw.one(member);
    if core.cause().is_some() {
        return Ok(());
    }
    let held = one.holds > 0 || one.paused;
    if one.is_parked() {
        hold!(held, "I12: {member} is parked without a hold");
        hold!(one.at_rest(), "I13: the parked {member} runs");
    }
    if matches!(one.status, Status::Running | Status::Ready) {
        hold!(
            one.gate_held == held,
            "the gate of {member} is not what its holds are"
        );
        hold!(
            !held || !one.at_rest(),
            "{member} is held and at rest, and not parked"
        );
        let asleep = !held && !one.stepping && !saw.continuing;
        hold!(
            !asleep || !one.woken,
            "{member} sleeps on, and something happened"
        );
    }
    let ready = matches!(one.status, Status::Ready | Status::Standby);
    hold!(!ready || one.converged, "{member} is ready by itself");
    let unready = matches!(one.status, Status::Running | Status::Paused);
    hold!(
        !unready || !one.converged,
        "{member} converged, and is not ready"
    );
    Ok(())
}

fn of_group(core: &Core, saw: &Onlooker) -> Result<(), String> {
    let empty = saw.len() == 0;
    let asked_for = core.verdict() == saw.decided || empty;
    hold!(asked_for, "a verdict that nobody was asked to write");
    if saw.written == Some(false) {
        let stays = core.in_doubt() && core.phase() == Phase::Deciding;
        hold!(stays, "a group in doubt went on");
    }
    if saw.count(Status::Pending) > 0 && core.cause().is_none() && !saw.replayed {
        let behind = Status::ALL[..Status::Waiting as usize]
            .iter()
            .any(|status| saw.count(*status) > 0);
        hold!(!behind, "I31: some are pending, and some did not return");
    }
    hold!(
        (core.phase() == Phase::Done) == saw.ended.is_some(),
        "I35: a group is done and did not say so, or the other way round"
    );
    Ok(())
}

/// Nothing waits without saying for what, and what it says is so.
fn waits(core: &Core, saw: &Onlooker, member: u32) -> Result<(), String> {
    let one = saw.one(member);
    let Some(waits) = core.waits_for(member) else {
        hold!(
            one.status == Status::Null,
            "{member} does not say what it waits for"
        );
        return Ok(());
    };
    let so = match waits {
        WaitsFor::Launch => !saw.sealed,
        WaitsFor::Step => one.stepping,
        WaitsFor::Tasks(tasks) => one.tasks == tasks && tasks > 0,
        WaitsFor::Driver => !one.stepping && matches!(one.status, Status::Running | Status::Ready),
        WaitsFor::Resume { user, internal } => {
            user == one.paused && u32::from(internal) == one.holds && (user || internal > 0)
        }
        WaitsFor::Peers { first, count } => {
            let other: &Seen = saw.one(first);
            let behind = other.status < Status::Waiting || !other.at_rest();
            count > 0 && behind && (first != member || count > 1)
        }
        WaitsFor::Finalize => !saw.finalized && one.status == Status::Pending,
        WaitsFor::Hook(first) => saw
            .hook
            .as_ref()
            .is_some_and(|(_, span)| span.start == first),
        WaitsFor::Turn => saw.continuing,
        WaitsFor::Journal => saw.deciding,
        WaitsFor::InDoubt => saw.written == Some(false),
        WaitsFor::Stuck(other) => saw.one(other).stuck,
        WaitsFor::Dismiss => one.status == Status::Concluded,
    };
    hold!(so, "{member} says it waits for {waits:?}, which is not so");
    Ok(())
}

/// Whether a request should be accepted.
pub(crate) fn should_accept(core: &Core, saw: &Onlooker, request: &Request) -> bool {
    let undecided = saw.decided.is_none() && core.verdict().is_none();
    let free = undecided && core.cause().is_none();
    let status = |member: u32| {
        saw.members
            .get(member as usize)
            .map_or(Status::Null, |one| one.status)
    };
    let is = |verb: Verb, member: u32| verb.accepted_in().contains(&status(member));
    let here = |member: u32| status(member) != Status::Null;
    let paused = |member: u32| saw.one(member).paused;
    match *request {
        Request::Add { .. } | Request::Launch | Request::Rollback => !saw.sealed,
        Request::Replay(_) => !saw.sealed && core.cause().is_none(),
        Request::Cancel(member, _) => is(Verb::Cancel, member) && undecided,
        Request::CancelAll(..) => undecided,
        Request::Pause(member) => is(Verb::Pause, member) && free && !paused(member),
        Request::Resume(member) => is(Verb::Resume, member) && free && paused(member),
        Request::Hold(member) => here(member),
        Request::Release(member) => here(member) && saw.one(member).holds > 0,
        Request::SetSpeed { member, .. } => is(Verb::SetSpeed, member) && free,
        Request::Complete(member) => {
            is(Verb::Complete, member) && free && saw.one(member).asked != Asked::Finish
        }
        Request::Finalize(member) => {
            is(Verb::Finalize, member) && free && !saw.finalized && core.phase() == Phase::Open
        }
        Request::Dismiss(member) => is(Verb::Dismiss, member),
        Request::GiveUp(member) => here(member) && saw.one(member).stuck,
    }
}
