//! One sentence for a job at any moment: what it waits for, or what ended it.

use std::sync::Arc;

use crate::group::{Group, Turn};
use crate::{Cause, Disposition, Outcome, Status, WaitsFor};

/// What this member waits for, or what ended it.
pub(crate) fn sentence(group: &Arc<Group>, member: u32) -> String {
    let reason = group.with_seat(member, |seat| {
        seat.odds_if_any().map_or("", |odds| odds.reason)
    });
    let turn = group.lock();
    if let Some(outcome) = turn.outcome(member) {
        return ended(&turn, member, &outcome);
    }
    let status = turn.core.status(member).unwrap_or(Status::Null);
    let waits = match turn.core.waits_for(member) {
        Some(waits) => waiting(&turn, member, waits, reason.unwrap_or("")),
        None => "is gone".into(),
    };
    match turn.core.cause() {
        Some(cause) if status != Status::Null => {
            format!(
                "{status}: its group stops because {}; it {waits}",
                because(&turn, member, cause)
            )
        }
        _ => format!("{status}: it {waits}"),
    }
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
        WaitsFor::Tasks(count) => format!("waits for {count} of its tasks to end"),
        WaitsFor::Driver if reason.is_empty() => "waits for what its driver waits for".into(),
        WaitsFor::Driver => reason.into(),
        WaitsFor::Resume {
            user: true,
            internal: 0,
        } => "was paused by a user and waits for a resume".into(),
        WaitsFor::Resume {
            user: true,
            internal,
        } => {
            format!("was paused by a user, and {internal} times by the engine")
        }
        WaitsFor::Resume {
            user: false,
            internal,
        } => format!("is held {internal} times by the engine"),
        WaitsFor::Peers { first, count: 1 } => format!("waits for '{}'", name(first)),
        WaitsFor::Peers { first, count } => {
            format!("waits for '{}' and {} more", name(first), count - 1)
        }
        WaitsFor::Finalize => "waits for a user's finalize".into(),
        WaitsFor::Hook(peer) if peer == member => "is in its hook".into(),
        WaitsFor::Hook(peer) => format!("waits for the hook of '{}'", name(peer)),
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
