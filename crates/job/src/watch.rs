//! The watch over calls and tasks that do not come back. It runs on the timer's thread, only while
//! something moves.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::core::Event;
use crate::desk::{BLOCKED_AFTER, Desk, Look};
use crate::group::Group;
use crate::pause::Pass;
use crate::shell::{Shell, now};
use crate::sync::{AtomicU64, Mutex, Ordering};
use crate::{Refused, worker};

/// The watch goes to sleep after so many looks at an idle engine: waking it costs more than looking.
const IDLE_LOOKS: u64 = 20;
/// More threads than this are never started to make up for blocked ones.
const WORKERS_MAX: usize = 512;

/// What the watch remembers.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    awake: AtomicU64,
    idle_looks: AtomicU64,
    tasks: Mutex<Running>,
}

/// The tasks in their calls, oldest first.
#[derive(Debug, Default)]
struct Running {
    next: u64,
    tasks: BTreeMap<u64, InCall>,
}

#[derive(Debug)]
struct InCall {
    group: Arc<Group>,
    member: u32,
    since: Instant,
}

impl Watch {
    /// Something moves: the watch must be awake.
    pub(crate) fn stir(&self, shell: &Shell) {
        if self.awake.load(Ordering::Relaxed) == 0 && self.awake.swap(1, Ordering::AcqRel) == 0 {
            shell.timer.stir();
        }
    }

    /// A task begins; the number is for [`Watch::ends`].
    pub(crate) fn begins(&self, group: &Arc<Group>, member: u32) -> u64 {
        let mut running = self.tasks.lock();
        running.next += 1;
        let number = running.next;
        let task = InCall {
            group: Arc::clone(group),
            member,
            since: now(),
        };
        running.tasks.insert(number, task);
        number
    }

    /// It ended.
    pub(crate) fn ends(&self, number: u64) {
        let task = self.tasks.lock().tasks.remove(&number);
        drop(task);
    }

    /// Tells the core of tasks that keep a job which was told to stop or to pause, and again at every
    /// look: the end of another task of the job takes it back. Whether any run.
    fn look_at_tasks(&self, stuck_after: Duration) -> bool {
        let running = self.tasks.lock();
        let time = now();
        let mut stuck = Vec::new();
        for task in running.tasks.values() {
            if time.saturating_duration_since(task.since) < stuck_after {
                break;
            }
            let awaited = task.group.seats()[task.member as usize].gate.pass() != Pass::Run;
            if awaited {
                stuck.push((Arc::clone(&task.group), task.member));
            }
        }
        let any = !running.tasks.is_empty();
        drop(running);
        for (group, member) in stuck {
            group.tell([Event::Stuck(member)]);
        }
        any
    }
}

/// One look at everything; when to look again.
pub(crate) fn look(shell: &Arc<Shell>) -> Option<Duration> {
    let desks = shell.desks.lock().clone();
    let look = |desk: &Arc<Desk>| desk.look(shell.stuck_after());
    let mut looks: Vec<_> = desks.iter().map(look).collect();
    let blocked = looks.iter().filter(|look| **look == Look::Blocked).count();
    looks.extend(shell.guests.all().iter().map(look));
    let short = desks.len() - blocked < shell.threads() && desks.len() < WORKERS_MAX;
    if short && shell.queue.is_backed_up() && worker::start(shell).is_err() {
        tracing::warn!("no thread can be had in place of a blocked one");
    }
    let tasks = shell.watch.look_at_tasks(shell.stuck_after());
    let watch = &shell.watch;
    if tasks || looks.iter().any(|look| *look != Look::Idle) {
        watch.idle_looks.store(0, Ordering::Relaxed);
    } else if watch.idle_looks.fetch_add(1, Ordering::Relaxed) >= IDLE_LOOKS {
        watch.idle_looks.store(0, Ordering::Relaxed);
        watch.awake.store(0, Ordering::Release);
        // A worker that sat down or a task that began just now may have seen the watch awake.
        let idle = watch.tasks.lock().tasks.is_empty()
            && shell
                .every_desk()
                .iter()
                .all(|desk| desk.look(Duration::MAX) == Look::Idle);
        if idle || watch.awake.swap(1, Ordering::AcqRel) == 1 {
            return None;
        }
    }
    Some(BLOCKED_AFTER)
}

/// Goes on without a member that is stuck.
pub(crate) fn give_up(shell: &Shell, group: &Arc<Group>, member: u32) -> Result<(), Refused> {
    let give_up = || {
        let request = crate::core::Request::GiveUp(member);
        let stop = |_: &mut _| group.seats()[member as usize].gate.stop();
        group.ask_locked(request, stop).map(|((), later)| later)
    };
    for desk in shell.every_desk() {
        if let Some(result) = desk.disown_if(group, member, give_up) {
            let later = result?;
            // Its thread is lost until the call comes back, if ever: it is no worker any more.
            shell.leave(&desk);
            group.carry_out(later);
            return Ok(());
        }
    }
    let later = give_up()?;
    group.carry_out(later);
    Ok(())
}
