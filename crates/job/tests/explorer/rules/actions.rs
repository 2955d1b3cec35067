//! What must hold of every action when it is ordered, before it is carried out.

use std::ops::Range;

use cohort_job::core::{Action, Notice, Order};
use cohort_job::{Hooks, Outcome, Status, Verdict};

use crate::model::Model;
use crate::world::{Prepared, Seen, World};

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
