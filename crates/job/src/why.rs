//! One sentence for a job at any moment: who asked for what, what failed and whom it reached, and what the job
//! waits for now; or what ended it.

use std::sync::Arc;

use crate::core::Order;
use crate::group::Group;
use crate::turn::Turn;
use crate::{Asked, Cause, Disposition, Error, Outcome, Status, WaitsFor};

/// What this member waits for, or what ended it.
pub(crate) fn sentence(group: &Arc<Group>, member: u32) -> String {
    let reason = group.with_seat(member, |seat| seat.gate.reason());
    let reason = group.shell.reasons.text(reason.unwrap_or_default());
    let turn = group.lock();
    let doubt = turn.core.in_doubt().then(|| group.shell.doubt()).flatten();
    tell(&turn, member, reason, doubt.as_ref())
}

fn tell(turn: &Turn, member: u32, reason: &str, doubt: Option<&Error>) -> String {
    if let Some(outcome) = turn.outcome(member) {
        return ended(turn, member, &outcome);
    }
    let (Some(status), Some(waits)) = (turn.core.status(member), turn.core.waits_for(member))
    else {
        return "is gone".into();
    };
    let told = history(turn, member, status).map_or_else(String::new, |told| told + "; ");
    let mut waits = waiting(turn, member, waits, reason);
    if let Some(doubt) = doubt {
        waits += &format!(" ({doubt})");
    }
    format!("{status}: {told}it {waits}")
}

/// What was asked of it, or reached it, so far.
fn history(turn: &Turn, member: u32, status: Status) -> Option<String> {
    let core = &turn.core;
    if let Some(cause) = core.cause() {
        let own = match (cause, core.error(member)) {
            (Cause::Failed(peer), _) if peer == member => String::new(),
            (_, Some(error)) => format!(", and failed itself ({error})"),
            (_, None) => String::new(),
        };
        let discards = match core.disposition() {
            Disposition::Keep => "",
            Disposition::Discard => ", and discards everything",
        };
        let because = because(turn, member, cause);
        return Some(format!("its group stops because {because}{discards}{own}"));
    }
    match core.asked(member) {
        Asked::Finish => {
            // By a user, or because the engine shuts down.
            let told = "it was cancelled when it was ready, and finishes without its switch-over";
            return Some(told.into());
        }
        Asked::Complete if status < Status::Waiting => {
            return Some("a user asked it to complete".into());
        }
        Asked::Complete | Asked::Run => {}
    }
    let paused = core.is_paused_by_user(member);
    (paused && matches!(status, Status::Created | Status::Running | Status::Ready))
        .then(|| "a user paused it".into())
}

fn ended(turn: &Turn, member: u32, outcome: &Outcome) -> String {
    match outcome {
        Outcome::Committed { short: false } => "committed".into(),
        Outcome::Committed { short: true } => {
            "committed: it was cancelled when it was ready, and finished without the switch-over"
                .into()
        }
        Outcome::Failed { error, disposition } => {
            format!("failed: {error}{}", meaning(*disposition))
        }
        Outcome::Cancelled { cause, disposition } => {
            format!(
                "cancelled because {}{}",
                because(turn, member, *cause),
                meaning(*disposition)
            )
        }
    }
}

fn meaning(disposition: Disposition) -> &'static str {
    match disposition {
        Disposition::Keep => "",
        Disposition::Discard => "; everything was discarded",
    }
}

fn because(turn: &Turn, member: u32, cause: Cause) -> String {
    match cause {
        Cause::Failed(peer) => {
            let who = if peer == member {
                "it".into()
            } else {
                format!("'{}'", turn.names.text(peer))
            };
            match turn.failure(peer) {
                Some(error) => format!("{who} failed ({error})"),
                None => format!("{who} failed"),
            }
        }
        Cause::Cancelled(peer) if peer == member => "a user cancelled it".into(),
        Cause::Cancelled(peer) => format!("a user cancelled '{}'", turn.names.text(peer)),
        Cause::User => "a user cancelled its group".into(),
        Cause::Rollback => "its group was never launched".into(),
        Cause::Shutdown => "the engine shuts down".into(),
        Cause::ProcessEnded => "the process ended before a verdict was written".into(),
    }
}

fn waiting(turn: &Turn, member: u32, waits: WaitsFor, reason: &str) -> String {
    let name = |peer| turn.names.text(peer);
    match waits {
        WaitsFor::Launch => "waits for the launch of its group".into(),
        WaitsFor::Step => "runs, or waits for a thread".into(),
        WaitsFor::Tasks(1) => "waits for a task of its own to end".into(),
        WaitsFor::Tasks(count) => format!("waits for {count} tasks of its own to end"),
        WaitsFor::Driver if reason.is_empty() => "waits for what its driver waits for".into(),
        WaitsFor::Driver => reason.into(),
        WaitsFor::Resume { user: true, .. }
            if let Some(error) = turn.paused_themselves.get(&member) =>
        {
            format!("was paused by its own driver ({error}) and waits for a resume")
        }
        WaitsFor::Resume {
            user: true,
            internal: 0,
        } => "was paused by a user and waits for a resume".into(),
        WaitsFor::Resume {
            user: true,
            internal,
        } => {
            format!(
                "was paused by a user, and is held {} by the engine",
                times(internal)
            )
        }
        WaitsFor::Resume {
            user: false,
            internal,
        } => format!("is held {} by the engine", times(internal)),
        WaitsFor::Peers { first, count: 1 } => format!("waits for '{}'", name(first)),
        WaitsFor::Peers { first, count } => {
            format!("waits for '{}' and {} more", name(first), count - 1)
        }
        WaitsFor::Finalize => "waits for a user's finalize".into(),
        WaitsFor::Hook(peer) if peer == member => format!("is in its {} hook", hook(turn)),
        WaitsFor::Hook(peer) => format!("waits for the {} hook of '{}'", hook(turn), name(peer)),
        WaitsFor::Turn => "waits for its group's next turn".into(),
        WaitsFor::Journal => "waits for the verdict to be written".into(),
        WaitsFor::InDoubt => {
            "is in doubt: whether the verdict was written is not known before the next start".into()
        }
        WaitsFor::Stuck(peer) if peer == member => {
            "is stuck: its step, hook or task does not return".into()
        }
        WaitsFor::Stuck(peer) => format!("waits for '{}', which is stuck", name(peer)),
        WaitsFor::Dismiss => "is over, and waits to be dismissed".into(),
    }
}

fn times(count: u16) -> String {
    match count {
        1 => "once".into(),
        _ => format!("{count} times"),
    }
}

fn hook(turn: &Turn) -> &'static str {
    match turn.core.hook_under_way() {
        Some(Order::Prepare) => "prepare",
        Some(Order::Commit) => "commit",
        Some(Order::Abort) => "abort",
        Some(Order::Clean) => "clean",
        Some(Order::Step) | None => "next",
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
