//! A core with a scripted worker: nothing happens but what a test says, and all that happened is told in
//! short words.

use cohort_job::core::{Action, Core, Event, Notice, Order, Report, Request};
use cohort_job::{
    Cause, Disposition, Error, Hooks, Outcome, Phase, Refused, Spec, Status, Verdict,
};

pub(crate) const KEEP: Disposition = Disposition::Keep;
pub(crate) const DISCARD: Disposition = Disposition::Discard;

/// All hooks, everything automatic.
pub(crate) const AUTO: Spec = Spec {
    manual_finalize: false,
    manual_dismiss: false,
    hooks: Hooks::ALL,
};
/// All hooks; to be finalized and dismissed by hand.
pub(crate) const MANUAL: Spec = Spec {
    manual_finalize: true,
    manual_dismiss: true,
    hooks: Hooks::ALL,
};
/// All hooks; to be dismissed by hand, so that the outcome can be read.
pub(crate) const KEPT: Spec = Spec {
    manual_finalize: false,
    manual_dismiss: true,
    hooks: Hooks::ALL,
};

/// A group under test.
pub(crate) struct Rig {
    pub(crate) core: Core,
    /// What happened, oldest first: "0:running", "commit 1", "0 failed", …
    pub(crate) log: Vec<String>,
    /// Members whose step is ordered.
    pub(crate) stepping: Vec<u32>,
    /// The hook span that is ordered.
    pub(crate) hook: Option<(Order, std::ops::Range<u32>)>,
    /// The verdict that waits to be written.
    pub(crate) deciding: Option<Verdict>,
    pub(crate) ended: Option<bool>,
}

impl Rig {
    /// A group of these members, not launched.
    pub(crate) fn open(specs: &[Spec]) -> Self {
        let mut rig = Self {
            core: Core::new(),
            log: Vec::new(),
            stepping: Vec::new(),
            hook: None,
            deciding: None,
            ended: None,
        };
        for &spec in specs {
            rig.ask(Request::Add { count: 1, spec })
                .expect("an open group takes members");
        }
        rig
    }

    /// A launched group of these members, each in its first step.
    pub(crate) fn launched(specs: &[Spec]) -> Self {
        let mut rig = Self::open(specs);
        rig.ask(Request::Launch).expect("it is launched once");
        rig
    }

    pub(crate) fn ask(&mut self, request: Request) -> Result<(), Refused> {
        let mut out = Vec::new();
        let before = self.core.clone();
        let result = self.core.apply(request, &mut out);
        assert!(
            result.is_ok() || (before == self.core && out.is_empty()),
            "{result:?} changed"
        );
        self.carry_out(out);
        result
    }

    pub(crate) fn tell(&mut self, event: Event) {
        let mut out = Vec::new();
        self.core.handle(event, &mut out);
        self.carry_out(out);
    }

    /// The step of `member` reports.
    pub(crate) fn step(&mut self, member: u32, report: Report) {
        let at = self.stepping.iter().position(|&other| other == member);
        self.stepping.remove(at.expect("a step was ordered"));
        self.tell(Event::Ran {
            order: Order::Step,
            members: member..member + 1,
            report,
        });
    }

    pub(crate) fn done(&mut self, member: u32) {
        self.step(member, Report::Done);
    }

    pub(crate) fn fails(&mut self, member: u32, why: &str) {
        self.step(member, Report::Failed(Error::new(why)));
    }

    /// The member converges and goes on.
    pub(crate) fn ready(&mut self, member: u32) {
        self.tell(Event::Ready(member));
        self.step(member, Report::Wait);
    }

    /// The first member of the ordered hook span reports; on a failed prepare the tail is given back.
    pub(crate) fn hook(&mut self, report: Report) {
        let (order, mut span) = self.hook.take().expect("a hook was ordered");
        let member = span.start;
        span.start += 1;
        let stop = report != Report::Done && order == Order::Prepare;
        if !span.is_empty() && !stop {
            self.hook = Some((order, span.clone()));
        }
        self.tell(Event::Ran {
            order,
            members: member..member + 1,
            report,
        });
        if !span.is_empty() && stop {
            self.tell(Event::Ran {
                order,
                members: span,
                report: Report::Left,
            });
        }
    }

    /// Hooks return well and verdicts are written, until nothing of the kind is ordered.
    pub(crate) fn settle(&mut self) {
        loop {
            if self.hook.is_some() {
                self.hook(Report::Done);
            } else if self.deciding.is_some() {
                self.write();
            } else {
                return;
            }
        }
    }

    /// The journal wrote the verdict.
    pub(crate) fn write(&mut self) {
        self.deciding.take().expect("a verdict waits");
        self.tell(Event::Decided(Ok(())));
    }

    pub(crate) fn status(&self, member: u32) -> Option<Status> {
        self.core.status(member)
    }

    /// Statuses of every member; the dismissed are `null`.
    pub(crate) fn statuses(&self) -> String {
        let word = |member| self.status(member).unwrap_or(Status::Null).as_str();
        (0..self.core.len()).map(word).collect::<Vec<_>>().join(" ")
    }

    /// How every member ended: "committed", "short", "cancelled", or its error.
    pub(crate) fn outcomes(&self) -> String {
        let word = |member| match self.core.outcome(member) {
            None => "-".to_owned(),
            Some(Outcome::Committed { short: false }) => "committed".to_owned(),
            Some(Outcome::Committed { short: true }) => "short".to_owned(),
            Some(Outcome::Failed { error, .. }) => error.to_string(),
            Some(Outcome::Cancelled { .. }) => "cancelled".to_owned(),
        };
        (0..self.core.len())
            .map(word)
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// Everything that was logged of one member's statuses, in order.
    pub(crate) fn path(&self, member: u32) -> String {
        let prefix = format!("{member}:");
        let words = self
            .log
            .iter()
            .filter_map(|line| line.strip_prefix(&prefix));
        words.collect::<Vec<_>>().join(" ")
    }

    /// Hooks that were ordered, in order: "prepare 0", "commit 0", …
    pub(crate) fn hooks(&self) -> Vec<&str> {
        let is_hook = |line: &&str| {
            ["prepare", "commit", "abort", "clean"]
                .iter()
                .any(|hook| line.starts_with(hook))
        };
        self.log
            .iter()
            .map(String::as_str)
            .filter(is_hook)
            .collect()
    }

    /// Cause and disposition of an abort.
    pub(crate) fn aborted(&self) -> Option<(Cause, Disposition)> {
        match self.core.verdict()? {
            Verdict::Abort { cause, disposition } => Some((cause, disposition)),
            Verdict::Commit => None,
        }
    }

    fn carry_out(&mut self, actions: Vec<Action>) {
        let mut again = false;
        for action in actions {
            match action {
                Action::Run {
                    order: Order::Step,
                    members,
                } => self.stepping.extend(members),
                Action::Run { order, members } => {
                    let word = format!("{order:?}").to_lowercase();
                    self.log
                        .extend(members.clone().map(|member| format!("{word} {member}")));
                    self.hook = Some((order, members));
                }
                Action::Decide(verdict) => {
                    assert_eq!(self.core.phase(), Phase::Deciding);
                    self.log.push(match verdict {
                        Verdict::Commit => "decide commit".to_owned(),
                        Verdict::Abort { .. } => "decide abort".to_owned(),
                    });
                    self.deciding = Some(verdict);
                }
                Action::Continue => again = true,
                Action::Ended { owed } => {
                    assert_eq!(self.ended, None, "a group ends once");
                    self.ended = Some(owed);
                }
                Action::Notify(notice) => self.note(notice),
                Action::Hold(_)
                | Action::Release(_)
                | Action::Stop(_)
                | Action::Ask(..)
                | Action::WakeAt(..) => self.log.push(format!("{action:?}")),
            }
        }
        if again {
            self.tell(Event::Continue);
        }
    }

    fn note(&mut self, notice: Notice) {
        match &notice {
            Notice::Status(members, status) => {
                self.log
                    .extend(members.clone().map(|member| format!("{member}:{status}")));
            }
            Notice::Failed(member, error) => self.log.push(format!("{member} failed: {error}")),
            Notice::Ended(members, outcome) => {
                let word = match outcome {
                    Outcome::Committed { .. } => "COMPLETED".to_owned(),
                    Outcome::Failed { error, .. } => format!("COMPLETED({error})"),
                    Outcome::Cancelled { .. } => "CANCELLED".to_owned(),
                };
                self.log
                    .extend(members.clone().map(|member| format!("{member}:{word}")));
            }
            Notice::Stuck(_)
            | Notice::GivenUp(_)
            | Notice::Decided(_)
            | Notice::InDoubt(_)
            | Notice::Owed(..) => self.log.push(format!("{notice:?}")),
        }
    }
}
