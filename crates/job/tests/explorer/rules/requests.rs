//! Which requests are accepted: the second telling of every check that the core makes.

use cohort_job::core::Request;
use cohort_job::{Asked, Phase, Status, Verb};

use crate::world::World;

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
