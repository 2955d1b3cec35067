//! What a check says: how much was tried, or what was broken and where.

use std::fmt;

use super::live::Live;

/// What a driver may break.
///
/// Example: [the kit](super).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Rule {
    /// A step panicked.
    StepPanics,
    /// A step failed, although nothing was wrong.
    StepFails,
    /// A task panicked.
    TaskPanics,
    /// A call did not return.
    Blocks,
    /// A task did not return: without end, or though the job was paused or stopped.
    TaskBlocks,
    /// It waits, and nothing can wake it.
    WaitsForNothing,
    /// It goes on for ever, perhaps although it was asked to end.
    NeverEnds,
    /// It said done while tasks were in flight, whose result nobody will look at.
    LeavesTasks,
    /// It said it was ready, and then ended before anybody asked it to.
    EndsUnasked,
    /// It said done, and its progress says something else.
    MiscountsProgress,
    /// Prepare failed, although nothing was wrong.
    PrepareFails,
    /// A hook panicked.
    HookPanics,
    /// A hook that was repeated, as after a crash, changed something.
    NotRepeatable,
    /// A driver rebuilt from its record commits something else than the one that ran.
    RecordFallsShort,
    /// It never ran, or was told to discard, and left a trace.
    LeavesTrace,
    /// It was killed before there was a verdict, and something counted at the next start.
    CountsUndecided,
    /// The registry made no driver of its record.
    NotRebuilt,
    /// A driver rebuilt from the record of a group that was aborted did what a commit does.
    VerdictIgnored,
}

/// One rule that was broken, with the shortest run that shows it.
///
/// Example: [the kit](super).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Breach {
    /// Which.
    pub rule: Rule,
    /// What happened, in a sentence.
    pub what: String,
    /// What was done to the driver in that run.
    pub plan: String,
    /// That run: what was asked of the driver and what came of it.
    pub trace: Vec<String>,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:?}: {}", self.rule, self.what)?;
        write!(f, "  {}:", self.plan)?;
        for line in &self.trace {
            write!(f, "\n    {line}")?;
        }
        Ok(())
    }
}

/// What a driver broke.
///
/// Example: [the kit](super).
#[derive(Clone, PartialEq, Eq)]
pub struct Broken {
    breaches: Vec<Breach>,
}

impl Broken {
    pub(crate) fn new(mut breaches: Vec<Breach>) -> Self {
        breaches.sort_by_key(|breach| breach.rule);
        Self { breaches }
    }

    /// Each rule that was broken, once.
    #[must_use]
    pub fn breaches(&self) -> &[Breach] {
        &self.breaches
    }

    /// The rules alone.
    #[must_use]
    pub fn rules(&self) -> Vec<Rule> {
        self.breaches.iter().map(|breach| breach.rule).collect()
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the driver breaks {} of the rules", self.breaches.len())?;
        for breach in &self.breaches {
            write!(f, "\n\n{breach}")?;
        }
        Ok(())
    }
}

/// As it is displayed: this is what `unwrap` prints.
impl fmt::Debug for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl std::error::Error for Broken {}

/// How much was tried without finding anything.
///
/// Example: [the kit](super).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Passed {
    pub(crate) runs: usize,
    pub(crate) kills: usize,
    pub(crate) longest: usize,
    pub(crate) partial: bool,
}

impl Passed {
    /// How many times the driver was run.
    #[must_use]
    pub fn runs(&self) -> usize {
        self.runs
    }

    /// How many times its process was killed.
    #[must_use]
    pub fn kills(&self) -> usize {
        self.kills
    }

    /// Whether every disturbance was tried at every moment and in every order.
    #[must_use]
    pub fn is_exhaustive(&self) -> bool {
        !self.partial
    }
}

impl fmt::Display for Passed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let extent = if self.partial {
            "a part of the moments and orders there are"
        } else {
            "every moment and order"
        };
        let Self {
            runs,
            kills,
            longest,
            ..
        } = self;
        write!(f, "passed {runs} runs, the longest of {longest} events")?;
        if *kills > 0 {
            write!(f, ", killed {kills} times")?;
        }
        write!(f, ": {extent}")
    }
}

/// What a check found so far: of each rule that was broken, the shortest run that shows it.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) passed: Passed,
    breaches: Vec<Breach>,
}

impl Findings {
    /// Notes a run that just ended, and what it broke.
    pub(crate) fn note(&mut self, live: &Live, moments: usize, broken: Vec<(Rule, String)>) {
        self.passed.runs += 1;
        self.passed.longest = self.passed.longest.max(moments);
        for (rule, what) in broken {
            let known = self.breaches.iter_mut().find(|known| known.rule == rule);
            let breach = Breach {
                rule,
                what,
                plan: live.plan(),
                trace: live.trace(),
            };
            match known {
                Some(known) if known.trace.len() <= breach.trace.len() => {}
                Some(known) => *known = breach,
                None => self.breaches.push(breach),
            }
        }
    }

    /// So many of the numbers below `last`, from the first on; notes if that is not all.
    pub(crate) fn spread(&mut self, last: usize, limit: usize) -> Vec<usize> {
        let count = last.min(limit);
        self.passed.partial |= count < last;
        (0..count).map(|number| number * last / count).collect()
    }

    /// How many rules were broken.
    pub(crate) fn count(&self) -> usize {
        self.breaches.len()
    }

    pub(crate) fn never_ends(&self) -> bool {
        let mut breaches = self.breaches.iter();
        breaches.any(|breach| breach.rule == Rule::NeverEnds)
    }

    pub(crate) fn result(self) -> Result<Passed, Broken> {
        match self.breaches.is_empty() {
            true => Ok(self.passed),
            false => Err(Broken::new(self.breaches)),
        }
    }
}
