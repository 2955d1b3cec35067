//! What must hold of every action at the moment it is ordered. Numbers name the invariants of
//! `docs/simulator.md`.

use std::ops::Range;

use cohort_job::core::{Action, Core, Notice, Order};
use cohort_job::{Hooks, Outcome, Phase, Status, Verdict};

use super::onlooker::{Onlooker, Prepared, Seen};

/// Ends with a sentence unless something holds.
macro_rules! hold {
    ($holds:expr, $($words:tt)+) => {
        if !$holds {
            return Err(format!($($words)+));
        }
    };
}
pub(crate) use hold;

/// What must hold of an action before it is carried out.
pub(crate) fn check(core: &Core, saw: &Onlooker, action: &Action) -> Result<(), String> {
    match action {
        Action::Run {
            order: Order::Step,
            members,
        } => each(members, |member| may_step(core, saw, member)),
        Action::Run { order, members } => may_run(core, saw, *order, members),
        Action::Hold(span) | Action::Release(span) => each(span, |member| {
            let stopped = saw.one(member).gate_stopped;
            hold!(
                !stopped,
                "a late hold or release undoes the stop of {member}"
            );
            Ok(())
        }),
        Action::Stop(span) => each(span, |member| {
            hold!(core.cause().is_some(), "a stop without a cause");
            hold!(!saw.one(member).at_rest(), "a stop for {member}, at rest");
            Ok(())
        }),
        Action::Ask(span, asked) => each(span, |member| {
            let so = core.asked(member) == *asked && saw.one(member).asked <= *asked;
            hold!(so, "what {member} is asked is not so, or falls back");
            Ok(())
        }),
        Action::WakeAt(span, _) => each(span, |member| {
            let one = saw.one(member);
            hold!(!one.stepping, "an alarm for {member}, in a step");
            hold!(!one.lost, "an alarm for {member}, given up");
            Ok(())
        }),
        Action::Decide(verdict) => may_decide(core, saw, *verdict),
        Action::Notify(notice) => may_tell(core, saw, notice),
        Action::Continue => {
            hold!(!saw.continuing, "two turns are asked for");
            Ok(())
        }
        Action::Ended { owed } => {
            hold!(saw.ended.is_none(), "the group ends twice");
            let over = saw.count(Status::Concluded) + saw.count(Status::Null);
            hold!(over == saw.len(), "the group ended before its members");
            hold!(
                *owed == saw.owed,
                "owed is {owed}, and should be {}",
                saw.owed
            );
            Ok(())
        }
    }
}

fn each(span: &Range<u32>, check: impl FnMut(u32) -> Result<(), String>) -> Result<(), String> {
    hold!(!span.is_empty(), "an action for nobody");
    span.clone().try_for_each(check)
}

fn may_step(core: &Core, saw: &Onlooker, member: u32) -> Result<(), String> {
    let one = saw.one(member);
    hold!(
        core.cause().is_none(),
        "{member} is stepped in a group that stops"
    );
    hold!(!one.stepping, "{member} is stepped twice at once");
    hold!(!one.lost, "{member} is stepped, and was given up");
    let held = one.holds > 0 || core.is_paused_by_user(member);
    hold!(!held, "{member} is stepped, and is held");
    let at_work = matches!(one.status, Status::Running | Status::Ready);
    hold!(at_work, "{member} is stepped in {}", one.status);
    Ok(())
}

/// I18 to I23: all prepares, the verdict, all commits or aborts, all cleans; in creation order, each once.
fn may_run(core: &Core, saw: &Onlooker, order: Order, members: &Range<u32>) -> Result<(), String> {
    hold!(saw.hook.is_none(), "two hook spans are out");
    hold!(saw.stepping == 0, "{order} while a step runs");
    // A prepare may leave tasks behind that run beside the next one's prepare.
    hold!(
        order == Order::Prepare || saw.busy == 0,
        "{order} while a task runs"
    );
    match saw.hooks_from {
        Some((last, from)) if last == order => {
            hold!(members.start >= from, "{order} of {members:?} again");
        }
        Some(_) | None => begins(core, saw, order)?,
    }
    let from = saw.hooks_from.filter(|(last, _)| *last == order);
    let skipped = from.map_or(0, |(_, from)| from)..members.start;
    let hook = hook_of(order);
    for member in skipped {
        hold!(!saw.one(member).has(hook), "{order} passes {member} over");
    }
    each(members, |member| {
        let one = saw.one(member);
        hold!(
            one.has(hook),
            "{order} of {member}, which has none or is lost"
        );
        let fresh = match order {
            Order::Step | Order::Prepare => one.prepared == Prepared::No,
            Order::Commit | Order::Abort => one.settled.is_none(),
            Order::Clean => !one.cleaned,
        };
        hold!(fresh, "I18: {order} of {member} twice");
        Ok(())
    })
}

/// The first hook of its kind.
fn begins(core: &Core, saw: &Onlooker, order: Order) -> Result<(), String> {
    let all = |hook: Hooks, through: fn(&Seen) -> bool| {
        saw.members.iter().all(|one| !one.has(hook) || through(one))
    };
    match order {
        Order::Step => unreachable!("not a hook"),
        Order::Prepare => {
            hold!(core.cause().is_none(), "prepare in a group that stops");
            hold!(
                saw.count(Status::Pending) == saw.len(),
                "I21: prepare before all are pending"
            );
            hold!(!saw.manual || saw.finalized, "I32: nobody said finalize");
        }
        Order::Commit => {
            hold!(
                saw.decided == Some(Verdict::Commit),
                "commit against the verdict"
            );
            hold!(
                saw.written == Some(true),
                "commit before the verdict is written"
            );
            let prepared = all(Hooks::PREPARE, |one| one.prepared == Prepared::Well);
            hold!(prepared, "I22: commit, and a prepare is missing");
        }
        Order::Abort => {
            let aborts = matches!(saw.decided, Some(Verdict::Abort { .. }));
            hold!(aborts, "abort against the verdict");
            hold!(
                saw.written == Some(true),
                "abort before the verdict is written"
            );
        }
        Order::Clean => {
            let hook = match saw.decided {
                Some(Verdict::Commit) => Hooks::COMMIT,
                Some(Verdict::Abort { .. }) => Hooks::ABORT,
                None => return Err("clean without a verdict".into()),
            };
            hold!(
                saw.written == Some(true),
                "clean before the verdict is written"
            );
            let settled = all(hook, |one| one.settled.is_some());
            hold!(settled, "I19: clean before all are settled");
        }
    }
    Ok(())
}

fn hook_of(order: Order) -> Hooks {
    match order {
        Order::Step => Hooks::NONE,
        Order::Prepare => Hooks::PREPARE,
        Order::Commit => Hooks::COMMIT,
        Order::Abort => Hooks::ABORT,
        Order::Clean => Hooks::CLEAN,
    }
}

fn may_decide(core: &Core, saw: &Onlooker, verdict: Verdict) -> Result<(), String> {
    hold!(saw.decided.is_none(), "two verdicts");
    hold!(saw.sealed, "a verdict before the membership is sealed");
    hold!(saw.busy == 0, "a verdict while something runs");
    hold!(saw.hook.is_none(), "a verdict while a hook runs");
    match verdict {
        Verdict::Commit => {
            hold!(core.cause().is_none(), "commit in a group that stops");
            hold!(saw.failed == 0, "I23: commit, and a member failed");
            hold!(saw.lost == 0, "commit, and a member was given up");
            let prepared = |one: &Seen| !one.has(Hooks::PREPARE) || one.prepared == Prepared::Well;
            hold!(
                saw.members.iter().all(prepared),
                "I22: commit, and a prepare is missing"
            );
        }
        Verdict::Abort { cause, disposition } => {
            hold!(
                core.cause() == Some(cause),
                "the verdict tells another cause"
            );
            hold!(
                core.disposition() == disposition,
                "the verdict tells another disposition"
            );
            hold!(
                saw.count(Status::Aborting) == saw.len(),
                "abort is decided before all came to rest"
            );
        }
    }
    Ok(())
}

fn may_tell(core: &Core, saw: &Onlooker, notice: &Notice) -> Result<(), String> {
    match notice {
        Notice::Status(_, Status::Created) => Ok(()),
        Notice::Status(span, to) => each(span, |member| may_enter(core, saw, member, *to)),
        Notice::Ended(span, outcome) => {
            for (other, one) in saw.members.iter().enumerate() {
                let clean = one.cleaned || !one.has(Hooks::CLEAN);
                hold!(clean, "an end is told before {other} is cleaned");
            }
            each(span, |member| may_end(saw, member, outcome))
        }
        Notice::Failed(member, _) => {
            hold!(saw.one(*member).failed, "{member} failed without failing");
            Ok(())
        }
        Notice::Stuck(member) => {
            hold!(saw.one(*member).stuck, "{member} is not known to be stuck");
            Ok(())
        }
        Notice::GivenUp(member) => {
            hold!(saw.one(*member).lost, "{member} was not given up");
            Ok(())
        }
        Notice::Decided(verdict) => {
            // A group without members has nobody to tell after a restart: nothing is written.
            let empty = saw.len() == 0 && core.verdict() == Some(*verdict);
            let so = saw.decided == Some(*verdict) && saw.written == Some(true);
            hold!(so || empty, "a verdict that is not written");
            Ok(())
        }
        Notice::InDoubt(_) => {
            hold!(
                saw.written == Some(false),
                "in doubt, and the write succeeded"
            );
            Ok(())
        }
        Notice::Owed(member, order, _) => {
            hold!(*order > Order::Prepare, "{order} of {member} is owed");
            Ok(())
        }
    }
}

fn may_enter(core: &Core, saw: &Onlooker, member: u32, to: Status) -> Result<(), String> {
    let one = saw.one(member);
    let from = one.status;
    hold!(
        from.leads_to().contains(&to),
        "I1: {member}: {from} -> {to}"
    );
    match to {
        Status::Paused | Status::Standby => {
            let held = one.holds > 0 || core.is_paused_by_user(member);
            hold!(held, "I12: {member} is parked without a hold");
            hold!(one.at_rest(), "I13: {member} is parked, and runs");
        }
        Status::Waiting | Status::Pending => {
            let stopping = core.cause().is_some() && !saw.replayed;
            hold!(!stopping, "I30: {member} is {to} in a group that stops");
        }
        Status::Aborting => {
            hold!(
                core.cause().is_some(),
                "{member} is aborting without a cause"
            );
            hold!(one.at_rest(), "{member} is aborting, and runs");
        }
        Status::Concluded => {
            hold!(
                one.told.is_some(),
                "{member} is concluded, and how is not told"
            );
            hold!(
                saw.written == Some(true),
                "concluded before the verdict is written"
            );
        }
        Status::Ready => hold!(one.converged, "I3: {member} is ready by itself"),
        Status::Running => hold!(saw.sealed, "{member} runs in an open group"),
        Status::Created => {}
        Status::Null => {
            hold!(from == Status::Concluded, "{member} is dismissed too early");
            hold!(
                core.phase() >= Phase::Committing,
                "dismissed without a verdict"
            );
        }
    }
    Ok(())
}

/// I7, I8, I27, I40.
fn may_end(saw: &Onlooker, member: u32, outcome: &Outcome) -> Result<(), String> {
    let one = saw.one(member);
    hold!(one.told.is_none(), "{member} ends twice");
    match (outcome, saw.decided) {
        (Outcome::Committed { short }, Some(Verdict::Commit)) => {
            hold!(
                one.settled != Some(Order::Abort),
                "I8: {member} was aborted"
            );
            let soft = one.soft;
            hold!(*short == soft, "{member}: short is {short}, soft is {soft}");
        }
        (
            Outcome::Failed { disposition, .. },
            Some(Verdict::Abort {
                disposition: all, ..
            }),
        ) => {
            hold!(one.failed, "{member} failed without failing");
            hold!(*disposition == all, "members settle by two dispositions");
        }
        (
            Outcome::Cancelled { cause, disposition },
            Some(Verdict::Abort {
                cause: why,
                disposition: all,
            }),
        ) => {
            hold!(!one.failed, "the error of {member} is lost");
            hold!(
                *cause == why && *disposition == all,
                "members are told two reasons"
            );
        }
        (_, verdict) => return Err(format!("I27: {outcome:?} against {verdict:?}")),
    }
    Ok(())
}
