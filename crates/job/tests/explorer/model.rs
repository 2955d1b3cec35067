//! What is explored: which members, what users and workers may do, and the bounds of both.

use cohort_job::{Hooks, Spec};

/// One exploration. Time, speed and progress are abstracted away: a sleep is a wait, and wakes may come at
/// any time or never.
#[derive(Debug, Clone)]
pub(crate) struct Model {
    pub(crate) name: &'static str,
    /// Members added before the exploration begins.
    pub(crate) members: Vec<Spec>,
    /// More members that may be added before the launch.
    pub(crate) more: u32,
    /// Members that may converge, as bits.
    pub(crate) converge: u16,
    /// Members one turn visits: small, so that everything may happen between two turns.
    pub(crate) turn: u32,
    /// The group is launched before the exploration begins; else launch, rollback and cancels before them
    /// are explored too.
    pub(crate) launched: bool,
    /// Verbs `pause` and `resume`.
    pub(crate) pause: bool,
    /// Holds of the engine, at most one per member.
    pub(crate) hold: bool,
    /// Verb `set-speed`.
    pub(crate) speed: bool,
    /// Cancels of the group as a whole, by a user and by shutdown.
    pub(crate) cancel_all: bool,
    /// Forced cancels; soft ones always.
    pub(crate) discard: bool,
    /// At most this many tasks in flight per member; they end or panic.
    pub(crate) tasks: u32,
    /// Prepare may spawn tasks too.
    pub(crate) prepare_tasks: bool,
    /// Steps may ask for another, or be given back; hook spans may be given back.
    pub(crate) again: bool,
    /// Drivers may panic in steps, hooks and tasks.
    pub(crate) panics: bool,
    /// Members may be stuck in steps, hooks and tasks, and be given up.
    pub(crate) stuck: bool,
    /// The journal may fail.
    pub(crate) journal_fails: bool,
    /// States that differ only in what is told count as two: far more of them, and nothing that is told may
    /// matter.
    pub(crate) exact: bool,
    /// The group is replayed from a written verdict instead of launched.
    pub(crate) replay: bool,
}

impl Model {
    /// Everything, for these members.
    pub(crate) fn full(name: &'static str, members: &[Spec]) -> Self {
        Self {
            name,
            members: members.to_vec(),
            more: 0,
            converge: 0,
            turn: 1,
            launched: false,
            pause: true,
            hold: true,
            speed: true,
            cancel_all: true,
            discard: true,
            tasks: 1,
            prepare_tasks: true,
            again: true,
            panics: true,
            stuck: true,
            journal_fails: true,
            exact: false,
            replay: false,
        }
    }

    /// Launched; members step, return or fail, and may be cancelled. To be widened by what a model is about.
    pub(crate) fn plain(name: &'static str, members: &[Spec]) -> Self {
        Self {
            launched: true,
            pause: false,
            hold: false,
            speed: false,
            cancel_all: false,
            tasks: 0,
            prepare_tasks: false,
            again: false,
            panics: false,
            stuck: false,
            journal_fails: false,
            ..Self::full(name, members)
        }
    }

    /// How each member is treated, the added ones like the last.
    pub(crate) fn spec(&self, member: u32) -> Spec {
        let at = (member as usize).min(self.members.len() - 1);
        self.members[at]
    }

    /// The bounds, in one line.
    pub(crate) fn bounds(&self) -> String {
        let mut words = vec![
            format!("turn {}", self.turn),
            format!("tasks ≤ {}", self.tasks),
        ];
        words.push(format!(
            "members ≤ {}",
            self.members.len() + self.more as usize
        ));
        words.push(format!("converging {}", self.converge.count_ones()));
        let may = [
            (!self.launched, "launch/rollback"),
            (self.replay, "replay"),
            (self.exact, "exact"),
            (self.pause, "pause ≤ 1"),
            (self.hold, "hold ≤ 1"),
            (self.speed, "speed"),
            (self.cancel_all, "group cancel, shutdown"),
            (self.discard, "forced cancel"),
            (self.prepare_tasks, "tasks of prepare"),
            (self.again, "again/left"),
            (self.panics, "panics"),
            (self.stuck, "stuck"),
            (self.journal_fails, "journal fails"),
        ];
        words.extend(
            may.iter()
                .filter(|(on, _)| *on)
                .map(|(_, word)| (*word).to_owned()),
        );
        words.join(", ")
    }
}

/// All hooks, everything automatic.
pub(crate) const AUTO: Spec = Spec {
    manual_finalize: false,
    manual_dismiss: false,
    hooks: Hooks::ALL,
};
/// All hooks, finalized and dismissed by hand.
pub(crate) const MANUAL: Spec = Spec {
    manual_finalize: true,
    manual_dismiss: true,
    hooks: Hooks::ALL,
};
/// No hooks at all.
pub(crate) const BARE: Spec = Spec {
    manual_finalize: false,
    manual_dismiss: false,
    hooks: Hooks::NONE,
};
