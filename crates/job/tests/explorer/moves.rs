//! Every move that may be made in a state, always in the same order.

use std::ops::Range;
use std::time::Duration;

use cohort_job::core::{Event, Order, Report, Request};
use cohort_job::{Cause, Disposition, Error, Status, Time, Verdict, WaitsFor};

use crate::model::Model;
use crate::rules;
use crate::world::{Move, World};

const KEEP: Disposition = Disposition::Keep;
const DISCARD: Disposition = Disposition::Discard;

/// What workers may do next.
pub(crate) fn events(world: &World, model: &Model) -> Vec<Event> {
    let mut events = Vec::new();
    if world.continuing {
        events.push(Event::Continue);
    }
    if world.deciding {
        events.push(Event::Decided(Ok(())));
        if model.journal_fails {
            events.push(Event::Decided(Err(Error::new("no space"))));
        }
    }
    if let Some((order, span)) = &world.hook {
        of_hook(world, model, *order, span.clone(), &mut events);
    }
    for member in 0..world.len() {
        of_member(world, model, member, &mut events);
    }
    events
}

fn of_hook(world: &World, model: &Model, order: Order, span: Range<u32>, events: &mut Vec<Event>) {
    let first = span.start..span.start + 1;
    let mut ran = |members: Range<u32>, report| {
        events.push(Event::Ran {
            order,
            members,
            report,
        });
    };
    // What spawned a task was begun, and is not given back.
    if (model.again && world.one(span.start).tasks == 0) || world.give_back {
        ran(span.clone(), Report::Left);
    }
    if world.give_back {
        return;
    }
    ran(first.clone(), Report::Done);
    if span.len() > 1 {
        ran(span.clone(), Report::Done);
    }
    if order == Order::Prepare {
        ran(first.clone(), Report::Failed(Error::new("prepare")));
    }
    if model.panics {
        ran(first, Report::Panicked(Error::new("panic")));
    }
    let one = world.one(span.start);
    if model.stuck && !one.stuck {
        events.push(Event::Stuck(span.start));
    }
    if order == Order::Prepare && model.prepare_tasks && one.tasks < model.tasks {
        events.push(Event::Spawned {
            member: span.start,
            tasks: 1,
        });
    }
}

fn of_member(world: &World, model: &Model, member: u32, events: &mut Vec<Event>) {
    let one = world.one(member);
    if one.lost {
        return;
    }
    if one.stepping {
        of_step(world, model, member, events);
    }
    if one.tasks > 0 {
        events.push(Event::TaskEnded(member));
        if model.panics {
            events.push(Event::TaskPanicked(member, Error::new("task")));
        }
    }
    if model.stuck && !one.stuck && (one.stepping || one.tasks > 0) {
        events.push(Event::Stuck(member));
    }
    if one.stepped && one.status < Status::Concluded {
        events.push(Event::Woken(member));
    }
}

fn of_step(world: &World, model: &Model, member: u32, events: &mut Vec<Event>) {
    let mut ran = |report| {
        events.push(Event::Ran {
            order: Order::Step,
            members: member..member + 1,
            report,
        });
    };
    ran(Report::Done);
    ran(Report::Wait);
    ran(Report::Failed(Error::new("step")));
    if model.again {
        ran(Report::Again);
        ran(Report::Left);
        ran(Report::Sleep(Time(Duration::ZERO)));
    }
    if model.panics {
        ran(Report::Panicked(Error::new("panic")));
    }
    if world.one(member).tasks < model.tasks {
        events.push(Event::Spawned { member, tasks: 1 });
    }
    if model.converge >> member & 1 == 1 {
        events.push(Event::Ready(member));
    }
}

/// Everything that may be asked, accepted or not.
fn requests(world: &World, model: &Model) -> Vec<Request> {
    let mut requests = vec![Request::Launch, Request::Rollback];
    if world.sealed || world.len() < model.members.len() as u32 + model.more {
        requests.push(Request::Add {
            count: 1,
            spec: model.spec(world.len()),
        });
    }
    if model.replay {
        let cause = Cause::ProcessEnded;
        requests.push(Request::Replay(Verdict::Commit));
        requests.push(Request::Replay(Verdict::Abort {
            cause,
            disposition: KEEP,
        }));
        requests.push(Request::Replay(Verdict::Abort {
            cause,
            disposition: DISCARD,
        }));
    }
    if model.cancel_all {
        requests.push(Request::CancelAll(Cause::User, KEEP));
        requests.push(Request::CancelAll(Cause::User, DISCARD));
        requests.push(Request::CancelAll(Cause::Shutdown, DISCARD));
    }
    for member in 0..world.len() {
        requests.push(Request::Cancel(member, KEEP));
        if model.discard {
            requests.push(Request::Cancel(member, DISCARD));
        }
        if model.pause {
            requests.extend([Request::Pause(member), Request::Resume(member)]);
        }
        if model.hold {
            // At most one hold of the engine at a time; one more is only a larger number.
            let held = world.one(member).holds > 0;
            requests.push(Request::Release(member));
            requests.extend((!held).then_some(Request::Hold(member)));
        }
        if model.speed {
            requests.push(Request::SetSpeed {
                member,
                raises: true,
            });
            requests.push(Request::SetSpeed {
                member,
                raises: false,
            });
        }
        requests.extend([
            Request::Complete(member),
            Request::Finalize(member),
            Request::Dismiss(member),
            Request::GiveUp(member),
        ]);
    }
    requests
}

/// Every move that may be made now. Requests that are refused are no moves, but each is tried: whether it
/// is refused must be as told a second time in [`rules::should_accept`], and must change nothing.
pub(crate) fn moves(world: &World, model: &Model) -> Result<Vec<Move>, (Move, String)> {
    let mut moves: Vec<Move> = events(world, model).into_iter().map(Move::Tell).collect();
    let mut scratch = world.core.clone();
    let mut out = Vec::new();
    for request in requests(world, model) {
        let should = rules::should_accept(world, &request);
        let wrong = match scratch.apply(request.clone(), &mut out) {
            Ok(()) if should => {
                scratch.clone_from(&world.core);
                out.clear();
                moves.push(Move::Ask(request));
                continue;
            }
            Err(_) if !should && out.is_empty() && scratch == world.core => continue,
            Ok(()) => "accepted, and should be refused".to_owned(),
            Err(refused) if should => format!("refused ({refused}), and should be accepted"),
            Err(_) => "refused, and changed something".to_owned(),
        };
        return Err((Move::Ask(request), wrong));
    }
    Ok(moves)
}

/// The next move of workers that are fair and mean well, and of users who give exactly what is waited for.
/// `None` once all is over, or nobody in this process can end it.
pub(crate) fn fair(world: &World) -> Result<Option<Move>, String> {
    if let Some(event) = fair_event(world) {
        return Ok(Some(Move::Tell(event)));
    }
    let stuck = (0..world.len()).find(|&member| world.one(member).stuck);
    if let Some(member) = stuck {
        return Ok(Some(Move::Ask(Request::GiveUp(member))));
    }
    let mut waits = Vec::new();
    for member in 0..world.len() {
        let Some(wait) = world.core.waits_for(member) else {
            continue;
        };
        let request = match wait {
            WaitsFor::Launch => Request::Launch,
            WaitsFor::Resume { user: true, .. } => Request::Resume(member),
            WaitsFor::Resume { user: false, .. } => Request::Release(member),
            WaitsFor::Finalize => Request::Finalize(member),
            WaitsFor::Dismiss => Request::Dismiss(member),
            WaitsFor::Driver => return Ok(Some(Move::Tell(Event::Woken(member)))),
            WaitsFor::InDoubt => return Ok(None),
            WaitsFor::Peers { .. } => {
                waits.push(member);
                continue;
            }
            WaitsFor::Step
            | WaitsFor::Tasks(_)
            | WaitsFor::Hook(_)
            | WaitsFor::Turn
            | WaitsFor::Journal
            | WaitsFor::Stuck(_) => {
                return Err(format!(
                    "member {member} waits for {wait:?}, and nobody does it"
                ));
            }
        };
        return Ok(Some(Move::Ask(request)));
    }
    if !waits.is_empty() {
        return Err(format!("members {waits:?} wait for each other"));
    }
    if !world.sealed {
        return Ok(Some(Move::Ask(Request::Launch)));
    }
    match world.core.is_forgotten() {
        true => Ok(None),
        false => Err(format!("nothing is left to do in {:?}", world.core.phase())),
    }
}

/// Workers' next well-meant report. A stuck member's worker says nothing.
fn fair_event(world: &World) -> Option<Event> {
    let moves = |member: u32| !world.one(member).stuck;
    if world.continuing {
        return Some(Event::Continue);
    }
    if world.deciding {
        return Some(Event::Decided(Ok(())));
    }
    if let Some((order, span)) = &world.hook
        && moves(span.start)
    {
        let report = if world.give_back {
            Report::Left
        } else {
            Report::Done
        };
        let end = if world.give_back {
            span.end
        } else {
            span.start + 1
        };
        return Some(Event::Ran {
            order: *order,
            members: span.start..end,
            report,
        });
    }
    let member = (0..world.len()).find(|&member| !world.one(member).at_rest() && moves(member))?;
    Some(if world.one(member).tasks > 0 {
        Event::TaskEnded(member)
    } else {
        let report = Report::Done;
        Event::Ran {
            order: Order::Step,
            members: member..member + 1,
            report,
        }
    })
}
