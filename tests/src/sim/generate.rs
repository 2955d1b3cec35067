//! A script out of a seed.

use cohort_job::core::{Order, Request};
use cohort_job::{Cause, Disposition, Hooks, Phase, Spec, Status};

use super::random::Random;
use super::script::{
    Act, Decision, End, HookAct, HookEnd, MemberSpec, Micros, NEVER, Script, ShellSpec, What, When,
};

const HOOK_ORDERS: [Order; 4] = [Order::Prepare, Order::Commit, Order::Abort, Order::Clean];
const PHASES: [Phase; 8] = [
    Phase::Open,
    Phase::Preparing,
    // Twice, since much is seldom seen there.
    Phase::Preparing,
    Phase::Stopping,
    Phase::Deciding,
    Phase::Committing,
    Phase::Aborting,
    Phase::Done,
];
/// Most that matters happens before this.
const HORIZON: u32 = 60_000;

/// How rough a group's life is: one in so many steps, hooks and words is a bad one.
#[derive(Debug, Clone, Copy)]
struct Temper {
    failures: u32,
    panics: u32,
    stuck: u32,
    cancels: u32,
}

const TEMPERS: [Temper; 5] = [
    // Almost nothing goes wrong; then failures, panics, users who change their minds, and all at once.
    Temper {
        failures: 500,
        panics: 900,
        stuck: 900,
        cancels: 40,
    },
    Temper {
        failures: 12,
        panics: 200,
        stuck: 300,
        cancels: 20,
    },
    Temper {
        failures: 40,
        panics: 12,
        stuck: 60,
        cancels: 20,
    },
    Temper {
        failures: 200,
        panics: 400,
        stuck: 400,
        cancels: 3,
    },
    Temper {
        failures: 20,
        panics: 20,
        stuck: 12,
        cancels: 5,
    },
];

/// The run of this seed.
#[must_use]
pub fn generate(seed: u64) -> Script {
    let mut random = Random::new(seed);
    let mut decisions = Vec::new();
    everybody(&mut random, &mut decisions);
    // One run in sixteen is a crowd: hundreds of groups, thousands of jobs.
    let groups = if random.one_in(16) {
        200 + random.below(400)
    } else {
        1 + random.spread(24)
    };
    for group in 0..groups {
        // A group's decisions do not depend on how many it took to make those of the groups before.
        let mut own = Random::new(random.next());
        Group {
            group,
            random: &mut own,
            out: &mut decisions,
        }
        .generate();
    }
    Script { decisions }
}

fn everybody(random: &mut Random, out: &mut Vec<Decision>) {
    let mut moment = |one_in: u32| {
        let comes = random.one_in(one_in);
        let at = Micros::from(random.spread(HORIZON));
        let written = random.one_in(2);
        comes.then_some((at, written))
    };
    if let Some((at, written)) = moment(6) {
        out.push(Decision::JournalFails { at, written });
    }
    if let Some((at, written)) = moment(6) {
        out.push(Decision::Kill { at, written });
    }
    if let Some((at, _)) = moment(6) {
        out.push(Decision::Shutdown { at });
    }
}

/// So many microseconds later.
fn later(when: When, by: u32) -> When {
    match when {
        When::At(at) => When::At(at + Micros::from(by)),
        When::Phase(phase, delay) => When::Phase(phase, delay + by),
        When::Status(member, status, delay) => When::Status(member, status, delay + by),
        When::Again(delay) => When::Again(delay + by),
    }
}

struct Group<'a> {
    group: u32,
    random: &'a mut Random,
    out: &'a mut Vec<Decision>,
}

impl Group<'_> {
    fn generate(mut self) {
        let temper = self.random.pick(&TEMPERS);
        let count = match self.random.below(32) {
            0 => 0,
            1..=18 => 1 + self.random.below(3),
            19..=29 => 4 + self.random.below(8),
            30 => 20 + self.random.below(40),
            _ => 70 + self.random.below(130),
        };
        self.shell();
        let manual = self.random.one_in(3);
        let converging = self.random.pick(&[0, 0, 2, 100]);
        // Hooks are mostly quick; in some groups they are what takes long.
        let slow_hooks = self.random.one_in(4);
        for member in 0..count {
            self.member(member, manual, converging, temper);
            self.hooks(member, slow_hooks, temper);
        }
        let launch = if self.random.one_in(16) {
            Request::Rollback
        } else {
            Request::Launch
        };
        let at = if self.random.one_in(3) {
            self.random.spread(HORIZON / 4)
        } else {
            0
        };
        self.say(When::At(Micros::from(at)), What::Ask(launch));
        // One group in twelve has users who do not stop.
        let busy = if self.random.one_in(12) { 150 } else { 0 };
        let words = self.random.spread(12) + count / 8 + busy;
        if temper.stuck < 100 {
            for _ in 0..1 + count / 2 {
                let at = 50_000 + Micros::from(self.random.below(150_000));
                let member = self.random.below(count.max(1));
                self.say(When::At(at), What::Ask(Request::GiveUp(member)));
            }
        }
        if manual && count > 0 {
            // Two users finalize, while others are only becoming pending.
            let member = self.random.below(count);
            for _ in 0..2 {
                let when = When::Status(member, Status::Pending, self.random.below(200));
                self.say(when, What::Ask(Request::Finalize(member)));
            }
        }
        let mut said = 0;
        while said < words {
            // Words come in bursts, so that one meets what another has begun.
            let mut when = self.when(count);
            for _ in 0..self.random.spread(8) {
                let what = self.what(count, temper);
                self.say(when, what);
                when = later(when, self.random.below(3) * self.random.spread(300));
                said += 1;
            }
        }
    }

    fn say(&mut self, when: When, what: What) {
        let group = self.group;
        self.out.push(Decision::Say { group, when, what });
    }

    fn shell(&mut self) {
        let random = &mut *self.random;
        let shell = ShellSpec {
            turn: random.pick(&[1, 1, 2, 3, 7, 1024, 1024, 1024]),
            slice: random.pick(&[1, 2, 5, u32::MAX]),
            lag: random.spread(400),
            journal: random.spread(8_000),
        };
        let group = self.group;
        self.out.push(Decision::Shell { group, shell });
    }

    fn member(&mut self, member: u32, manual: bool, converging: u32, temper: Temper) {
        let (group, random) = (self.group, &mut *self.random);
        let hooks = match random.below(8) {
            0 => Hooks::NONE,
            1 => HOOK_ORDERS
                .iter()
                .zip([Hooks::PREPARE, Hooks::COMMIT, Hooks::ABORT, Hooks::CLEAN])
                .fold(Hooks::NONE, |all, (_, one)| {
                    if random.one_in(2) { all.and(one) } else { all }
                }),
            _ => Hooks::ALL,
        };
        let spec = MemberSpec {
            spec: Spec {
                manual_finalize: manual && random.one_in(2),
                manual_dismiss: random.one_in(3),
                hooks,
            },
            converges: random.below(100) < converging || (converging == 2 && random.one_in(2)),
            record: !random.one_in(4),
        };
        // A few come after the launch, and are refused.
        let at = if random.one_in(12) {
            Micros::from(random.spread(HORIZON / 8))
        } else {
            0
        };
        self.out.push(Decision::Member {
            group,
            member,
            at,
            spec,
        });
        for _ in 0..self.random.below(5) {
            let act = self.act(spec.converges, temper);
            self.out.push(Decision::Act { group, member, act });
        }
    }

    fn hooks(&mut self, member: u32, slow: bool, temper: Temper) {
        let group = self.group;
        for order in HOOK_ORDERS {
            if slow || self.random.one_in(6) {
                let act = self.hook(temper);
                self.out.push(Decision::Hook {
                    group,
                    member,
                    order,
                    act,
                });
            }
        }
    }

    /// Microseconds; now and then so long that it is reported as stuck and yet returns, or never does.
    fn takes(&mut self, max: u32, temper: Temper) -> u32 {
        match self.random.below(temper.stuck * 2) {
            0 => NEVER,
            1 => 50_000 + self.random.below(100_000),
            _ => self.random.spread(max),
        }
    }

    fn act(&mut self, converges: bool, temper: Temper) -> Act {
        let takes = self.takes(30_000, temper);
        let task_takes = self.takes(60_000, temper);
        let random = &mut *self.random;
        let end = if random.one_in(temper.failures) {
            End::Fails
        } else if random.one_in(temper.panics) {
            End::Panics
        } else {
            match random.below(10) {
                0 | 1 => End::Again,
                2 => End::Yields,
                3 | 4 => End::Sleeps(random.spread(40_000)),
                5 | 6 => End::Waits,
                _ => End::Done,
            }
        };
        Act {
            takes,
            tasks: if random.one_in(3) {
                1 + random.below(3)
            } else {
                0
            },
            task_takes,
            task_panics: random.one_in(temper.panics),
            ready: converges && random.one_in(2),
            woken: random.one_in(8),
            end,
        }
    }

    fn hook(&mut self, temper: Temper) -> HookAct {
        let takes = self.takes(20_000, temper);
        let random = &mut *self.random;
        let end = match random.below(8) {
            0 if random.one_in(temper.failures / 4 + 1) => HookEnd::Fails,
            1 if random.one_in(temper.panics / 4 + 1) => HookEnd::Panics,
            _ => HookEnd::Well,
        };
        let tasks = if random.one_in(4) {
            1 + random.below(2)
        } else {
            0
        };
        HookAct { takes, tasks, end }
    }

    fn when(&mut self, count: u32) -> When {
        let random = &mut *self.random;
        match random.below(8) {
            0 | 1 => When::At(Micros::from(random.spread(HORIZON))),
            2 if count > 0 => {
                let status = random.pick(&Status::ALL);
                let delay = random.below(3) * random.spread(500);
                When::Status(random.below(count), status, delay)
            }
            3 => When::Again(random.below(3) * random.spread(2_000)),
            _ => When::Phase(random.pick(&PHASES), random.below(3) * random.spread(4_000)),
        }
    }

    fn what(&mut self, count: u32, temper: Temper) -> What {
        let random = &mut *self.random;
        // Now and then an id that never was.
        let member = if random.one_in(40) {
            count
        } else {
            random.below(count.max(1))
        };
        if random.one_in(temper.cancels) {
            let how = random.pick(&[Disposition::Keep, Disposition::Keep, Disposition::Discard]);
            return What::Ask(match random.below(8) {
                0 => Request::CancelAll(Cause::User, how),
                1 => Request::CancelAll(Cause::Shutdown, how),
                2 => Request::Rollback,
                _ => Request::Cancel(member, how),
            });
        }
        What::Ask(match random.below(20) {
            0 | 1 => return What::Wake(member),
            2..=4 => Request::Pause(member),
            5 | 6 => Request::Resume(member),
            7 | 8 => Request::Hold(member),
            9 => Request::Release(member),
            10 | 11 => Request::SetSpeed {
                member,
                raises: random.one_in(2),
            },
            12 | 13 => Request::Complete(member),
            14 | 15 => Request::Finalize(member),
            16 | 17 => Request::Dismiss(member),
            18 => Request::GiveUp(member),
            _ => Request::Launch,
        })
    }
}
