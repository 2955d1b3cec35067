//! The simulated workers and tasks of one group: who calls a driver when, and what is reported of it, by the
//! rules that the real ones keep. There are as many workers as are needed, so a member that does not return
//! holds up nobody but its group.

use std::ops::Range;

use cohort_job::core::{Event, Order, Report};
use cohort_job::{Error, Time};

use super::agenda::{Cx, Due};
use super::group::Group;
use super::orders::hold;
use super::script::{Act, End, HookAct, HookEnd, Micros, NEVER};

/// A call that takes longer holds up its span: another worker takes the rest of a step span.
const BLOCKED_AFTER: u32 = 10_000;
/// A call or task that takes longer is reported as stuck.
const STUCK_AFTER: u32 = 50_000;

/// One worker with one span.
#[derive(Debug)]
pub(crate) struct Worker {
    order: Order,
    /// Members not begun.
    rest: Range<u32>,
    /// Members from here on are not reported; all that were begun came to `same`.
    unreported: u32,
    same: Option<Report>,
    /// The call it is in; how many it began.
    call: Option<(u32, Call)>,
    calls: u32,
    /// Reported stuck; disowned, so that what it says does not count.
    stuck: bool,
    disowned: bool,
    /// It is about to give back what it has not begun.
    gives_back: bool,
    /// Some member was told to be stuck, and nothing was reported since.
    told: bool,
}

#[derive(Debug, Clone, Copy)]
enum Call {
    Step(Act),
    Hook(HookAct),
}

impl Group {
    /// Has a worker take a span after so long.
    pub(crate) fn employ(&mut self, cx: &mut Cx, order: Order, rest: Range<u32>, lag: u32) {
        let id = self.next_worker;
        self.next_worker += 1;
        let unreported = rest.start;
        let worker = Worker {
            order,
            rest,
            unreported,
            same: None,
            call: None,
            calls: 0,
            stuck: false,
            disowned: false,
            gives_back: false,
            told: false,
        };
        self.workers.insert(id, worker);
        self.later(cx, lag, Due::Begin(id));
    }

    /// The worker begins with its next member, or is through.
    pub(crate) fn begin(&mut self, cx: &mut Cx, id: u32) -> Result<(), String> {
        if self
            .workers
            .get(&id)
            .is_some_and(|worker| worker.gives_back)
        {
            self.give_back(cx, id)?;
        }
        loop {
            let Some(worker) = self.workers.get_mut(&id) else {
                return Ok(());
            };
            let Some(member) = worker.rest.next() else {
                self.report_run(cx, id, None)?;
                self.workers.remove(&id);
                return Ok(());
            };
            worker.calls += 1;
            let order = worker.order;
            if std::mem::take(&mut worker.told) {
                // Who was said to be stuck came back: nobody may give it up any more.
                self.report_run(cx, id, Some(member))?;
            }
            let seat = &mut self.seats[member as usize];
            if order == Order::Step && (seat.held || seat.stopped || seat.lost) {
                self.came_to(cx, id, member, Report::Left)?;
                continue;
            }
            hold!(!seat.in_call, "{order} of {member} inside another call");
            seat.in_call = true;
            self.call(cx, id, member, order);
            return Ok(());
        }
    }

    fn call(&mut self, cx: &mut Cx, id: u32, member: u32, order: Order) {
        let seat = &mut self.seats[member as usize];
        let (call, takes) = if order == Order::Step {
            let act = seat.next_act();
            (Call::Step(act), act.takes)
        } else {
            let act = seat.next_hook(order);
            (Call::Hook(act), act.takes)
        };
        let worker = self.workers.get_mut(&id).expect("it is at work");
        worker.call = Some((member, call));
        let calls = worker.calls;
        let mut rest = 0..0;
        if order == Order::Step && takes > BLOCKED_AFTER {
            rest = worker.rest.clone();
            worker.rest = rest.start..rest.start;
        }
        if !rest.is_empty() {
            self.employ(cx, order, rest, BLOCKED_AFTER);
        }
        if matches!(call, Call::Step(Act { woken: true, .. })) {
            self.later(cx, takes.min(BLOCKED_AFTER) / 2, Due::Alarm(member));
        }
        if takes > STUCK_AFTER {
            self.later(cx, STUCK_AFTER, Due::Watch(id, calls));
        }
        if takes != NEVER {
            self.later(cx, takes, Due::Returns(id));
        }
    }

    /// The call that the worker is in returns.
    pub(crate) fn returns(&mut self, cx: &mut Cx, id: u32) -> Result<(), String> {
        let Some(worker) = self.workers.get_mut(&id) else {
            return Ok(());
        };
        let (member, call) = worker.call.take().expect("it is in a call");
        let order = worker.order;
        worker.stuck = false;
        self.seats[member as usize].in_call = false;
        if worker.disowned {
            self.workers.remove(&id);
            return self.says(cx, order, member..member + 1, Report::Done);
        }
        match call {
            Call::Step(act) => self.step_returned(cx, id, member, act)?,
            Call::Hook(act) => self.hook_returned(cx, id, member, order, act)?,
        }
        if self.workers[&id].gives_back {
            return Ok(());
        }
        self.begin(cx, id)
    }

    fn step_returned(&mut self, cx: &mut Cx, id: u32, member: u32, act: Act) -> Result<(), String> {
        let error = || Error::new("a step");
        let report = match act.end {
            End::Again | End::Yields => Report::Again,
            End::Sleeps(time) => {
                let at = cx.now + Micros::from(time);
                Report::Sleep(Time(std::time::Duration::from_micros(at)))
            }
            End::Waits => Report::Wait,
            End::Done => Report::Done,
            End::Fails => Report::Failed(error()),
            End::Panics => Report::Panicked(error()),
        };
        let plain = act.tasks == 0 && !act.ready;
        let seat = &self.seats[member as usize];
        let free = !seat.held && !seat.stopped && !seat.lost;
        if act.end == End::Again && plain && free {
            // To the core it is still in its step: whoever takes it looks at its gate.
            self.report_run(cx, id, Some(member))?;
            self.passed(id, member);
            self.employ(cx, Order::Step, member..member + 1, self.shell.lag);
            return Ok(());
        }
        if plain && matches!(report, Report::Again | Report::Wait | Report::Done) {
            return self.came_to(cx, id, member, report);
        }
        self.report_run(cx, id, Some(member))?;
        self.spawn(cx, member, act.tasks, act.task_takes, act.task_panics)?;
        if act.ready {
            self.tell(cx, Event::Ready(member))?;
        }
        self.passed(id, member);
        self.says(cx, Order::Step, member..member + 1, report)
    }

    fn hook_returned(
        &mut self,
        cx: &mut Cx,
        id: u32,
        member: u32,
        order: Order,
        act: HookAct,
    ) -> Result<(), String> {
        let error = Error::new("a hook");
        let report = match act.end {
            HookEnd::Well => Report::Done,
            HookEnd::Fails if order == Order::Prepare => Report::Failed(error),
            HookEnd::Fails | HookEnd::Panics => Report::Panicked(error),
        };
        let well = report == Report::Done;
        if order == Order::Prepare && well {
            let seat = &mut self.seats[member as usize];
            seat.left_record = seat.spec.record;
        }
        self.hook_ran(member, order, well)?;
        let tasks = if order == Order::Prepare {
            act.tasks
        } else {
            0
        };
        if well && tasks == 0 {
            self.came_to(cx, id, member, report)?;
        } else {
            self.report_run(cx, id, Some(member))?;
            self.spawn(cx, member, tasks, act.takes, false)?;
            self.passed(id, member);
            self.says(cx, order, member..member + 1, report)?;
        }
        let worker = self.workers.get_mut(&id).expect("it is at work");
        let refused = !well && order == Order::Prepare;
        if refused || worker.calls >= self.shell.slice {
            // It is told a little later: who speaks meanwhile finds the rest of the span still out.
            worker.gives_back = true;
            if std::mem::take(&mut worker.told) {
                // But who was said to be stuck is told to be back at once: nobody may give it up any more.
                let next = worker.rest.start;
                self.report_run(cx, id, Some(next))?;
            }
            self.later(cx, self.shell.lag, Due::Begin(id));
        }
        Ok(())
    }

    /// The rest of a hook span goes back to the core, which may have changed its mind.
    fn give_back(&mut self, cx: &mut Cx, id: u32) -> Result<(), String> {
        let worker = self.workers.get_mut(&id).expect("it is at work");
        let (order, rest) = (worker.order, worker.rest.clone());
        if rest.is_empty() {
            return Ok(());
        }
        worker.rest = rest.end..rest.end;
        self.report_run(cx, id, Some(rest.start))?;
        self.passed(id, rest.end - 1);
        self.says(cx, order, rest, Report::Left)
    }

    /// A result that neighbours may share.
    fn came_to(&mut self, cx: &mut Cx, id: u32, member: u32, report: Report) -> Result<(), String> {
        let worker = &self.workers[&id];
        if worker.same.as_ref() != Some(&report) {
            self.report_run(cx, id, Some(member))?;
            let worker = self.workers.get_mut(&id).expect("it is at work");
            worker.same = Some(report);
        }
        Ok(())
    }

    /// Reports what is unreported below `upto`, or below what was not begun.
    fn report_run(&mut self, cx: &mut Cx, id: u32, upto: Option<u32>) -> Result<(), String> {
        let worker = self.workers.get_mut(&id).expect("it is at work");
        let run = worker.unreported..upto.unwrap_or(worker.rest.start);
        worker.unreported = run.end;
        match worker.same.take() {
            Some(report) if !run.is_empty() => {
                let order = worker.order;
                self.says(cx, order, run, report)
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Whatever became of `member` is told by itself.
    fn passed(&mut self, id: u32, member: u32) {
        let worker = self.workers.get_mut(&id).expect("it is at work");
        worker.unreported = member + 1;
    }

    fn says(
        &mut self,
        cx: &mut Cx,
        order: Order,
        members: Range<u32>,
        report: Report,
    ) -> Result<(), String> {
        let watched = members.clone();
        self.tell(
            cx,
            Event::Ran {
                order,
                members,
                report,
            },
        )?;
        for member in watched {
            self.watch_tasks(cx, member);
        }
        Ok(())
    }

    fn spawn(
        &mut self,
        cx: &mut Cx,
        member: u32,
        tasks: u32,
        takes: u32,
        panics: bool,
    ) -> Result<(), String> {
        if tasks == 0 {
            return Ok(());
        }
        self.tell(cx, Event::Spawned { member, tasks })?;
        for task in 0..tasks {
            if takes != NEVER {
                let last = task + 1 == tasks;
                self.later(cx, takes + task, Due::TaskEnds(member, panics && last));
            }
        }
        Ok(())
    }

    /// A task of a member is over.
    pub(crate) fn task_ends(
        &mut self,
        cx: &mut Cx,
        member: u32,
        panics: bool,
    ) -> Result<(), String> {
        let event = if panics {
            Event::TaskPanicked(member, Error::new("a task"))
        } else {
            Event::TaskEnded(member)
        };
        self.tell(cx, event)?;
        self.watch_tasks(cx, member);
        self.watch_call(cx, member);
        Ok(())
    }

    /// A task's end takes back that its member is stuck; if its call still is, that is told again.
    fn watch_call(&mut self, cx: &mut Cx, member: u32) {
        let in_it =
            |worker: &Worker| worker.stuck && worker.call.is_some_and(|(of, _)| of == member);
        let stuck = self.workers.iter().find(|(_, worker)| in_it(worker));
        if let Some((id, worker)) = stuck {
            let due = Due::Watch(*id, worker.calls);
            self.later(cx, STUCK_AFTER, due);
        }
    }

    fn watch_tasks(&mut self, cx: &mut Cx, member: u32) {
        if self.saw.one(member).tasks > 0 {
            self.later(cx, STUCK_AFTER, Due::TasksWatched(member));
        }
    }

    /// The watch looks at a member's tasks: whoever has had some for so long is reported.
    pub(crate) fn tasks_watched(&mut self, cx: &mut Cx, member: u32) -> Result<(), String> {
        let one = self.saw.one(member);
        if one.tasks == 0 || one.stuck {
            return Ok(());
        }
        self.tell(cx, Event::Stuck(member))
    }

    /// The watch looks at a worker: if it is still in the same call, the member is stuck.
    pub(crate) fn watch(&mut self, cx: &mut Cx, id: u32, calls: u32) -> Result<(), String> {
        let Some(worker) = self.workers.get(&id) else {
            return Ok(());
        };
        let Some((member, _)) = worker.call.filter(|_| worker.calls == calls) else {
            return Ok(());
        };
        self.report_run(cx, id, Some(member))?;
        let worker = self.workers.get_mut(&id).expect("it is at work");
        (worker.stuck, worker.told) = (true, true);
        self.tell(cx, Event::Stuck(member))
    }

    /// A member was given up: what its worker says does not count any more.
    pub(crate) fn disown(&mut self, member: u32) {
        self.seats[member as usize].lost = true;
        let in_it =
            |worker: &&mut Worker| worker.stuck && worker.call.is_some_and(|(of, _)| of == member);
        if let Some(worker) = self.workers.values_mut().find(in_it) {
            worker.disowned = true;
            worker.rest = worker.rest.start..worker.rest.start;
        }
    }
}
