//! One member in the simulated shell: its gate, and a driver that does what the script says.

use std::collections::VecDeque;

use cohort_job::Asked;
use cohort_job::core::Order;

use super::script::{Act, End, HookAct, MemberSpec};

/// A member.
#[derive(Debug)]
pub(crate) struct Seat {
    /// What the script calls it.
    pub(crate) number: u32,
    pub(crate) spec: MemberSpec,
    acts: VecDeque<Act>,
    hooks: VecDeque<(Order, HookAct)>,
    /// Its gate.
    pub(crate) held: bool,
    pub(crate) stopped: bool,
    pub(crate) asked: Asked,
    /// A worker is in a call of its driver.
    pub(crate) in_call: bool,
    /// Its driver said that it converged.
    pub(crate) ready: bool,
    /// Its prepare returned a record.
    pub(crate) left_record: bool,
    /// Its hook returned well, in any life.
    pub(crate) committed: bool,
    pub(crate) aborted: bool,
    /// Its worker was disowned.
    pub(crate) lost: bool,
}

impl Seat {
    pub(crate) fn new(spec: MemberSpec) -> Self {
        Self {
            number: 0,
            spec,
            acts: VecDeque::new(),
            hooks: VecDeque::new(),
            held: false,
            stopped: false,
            asked: Asked::Run,
            in_call: false,
            ready: false,
            left_record: false,
            committed: false,
            aborted: false,
            lost: false,
        }
    }

    pub(crate) fn plan(&mut self, act: Act) {
        self.acts.push_back(act);
    }

    pub(crate) fn plan_hook(&mut self, order: Order, act: HookAct) {
        self.hooks.push_back((order, act));
    }

    /// From now on its driver means well.
    pub(crate) fn forget_plans(&mut self) {
        self.acts.clear();
        self.hooks.clear();
    }

    /// What its next step does. A converging driver converges, and returns well once it is asked to.
    pub(crate) fn next_act(&mut self) -> Act {
        let mut act = self.acts.pop_front().unwrap_or_else(|| {
            let stays = self.spec.converges && self.asked == Asked::Run;
            Act {
                ready: stays && !self.ready,
                ..Act::plain(if stays { End::Waits } else { End::Done })
            }
        });
        // A converging job does not return well before it is asked to.
        if self.spec.converges && self.asked == Asked::Run && act.end == End::Done {
            act.end = End::Waits;
        }
        self.ready |= act.ready;
        act
    }

    /// What the next call of this hook does.
    pub(crate) fn next_hook(&mut self, order: Order) -> HookAct {
        let at = self.hooks.iter().position(|(of, _)| *of == order);
        at.and_then(|at| self.hooks.remove(at))
            .map_or_else(HookAct::default, |(_, act)| act)
    }

    /// A process ended, and another rebuilt it from its record.
    pub(crate) fn rebuilt(&mut self) -> Self {
        Self {
            number: self.number,
            acts: VecDeque::new(),
            hooks: std::mem::take(&mut self.hooks),
            left_record: true,
            committed: self.committed,
            aborted: self.aborted,
            ..Self::new(self.spec)
        }
    }
}
