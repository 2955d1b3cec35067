//! What a process does before it dies: some runs, one after the other, over a group of disks with a policy each.

use std::fmt;
use std::str::FromStr;

use cohort_backup::BitmapPolicy;

use super::point::words;

/// What the disks are called, in the order of a group.
pub const NAMES: [&str; 16] = [
    "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p",
];

/// How a run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ending {
    /// Every disk has a new point.
    Success,
    /// The last disk cannot be read.
    Failing,
    /// It is cancelled, and each disk settles by its policy.
    Kept,
    /// It is cancelled, and leaves no trace.
    Discarded,
}

words!(Ending, Ending::Success => "success", Ending::Failing => "failing", Ending::Kept => "kept",
    Ending::Discarded => "discarded");

impl Ending {
    /// Every ending.
    pub const ALL: [Self; 4] = [Self::Success, Self::Failing, Self::Kept, Self::Discarded];
}

/// Policies and endings, as `always,ask/success,failing`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Script {
    /// Of each disk.
    pub policies: Vec<Word>,
    /// Of each run; what happens at a point happens in the last one.
    pub runs: Vec<Ending>,
}

/// A policy, in the order of its words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Word(pub BitmapPolicy);

impl PartialOrd for Word {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Word {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.to_string().cmp(&other.0.to_string())
    }
}

impl Script {
    /// How the run ends in which something happens.
    #[must_use]
    pub fn ending(&self) -> Ending {
        *self.runs.last().expect("a script has runs")
    }

    /// The policies of the disks that something belongs to: of one, or of all.
    #[must_use]
    pub fn policies_of(&self, disk: &str) -> Vec<BitmapPolicy> {
        let of = NAMES.iter().zip(&self.policies);
        let of = of.filter(|(name, _)| disk.is_empty() || **name == disk);
        of.map(|(_, policy)| policy.0).collect()
    }
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let policies = self.policies.iter().map(|policy| policy.0.to_string());
        let runs = self.runs.iter().map(Ending::to_string);
        let [policies, runs] = [policies.collect::<Vec<_>>(), runs.collect()];
        write!(f, "{}/{}", policies.join(","), runs.join(","))
    }
}

impl FromStr for Script {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (policies, runs) = text.split_once('/').ok_or("POLICIES/ENDINGS is expected")?;
        let policies = policies.split(',').map(|word| match word.parse() {
            Ok(policy) => Ok(Word(policy)),
            Err(error) => Err(format!("{error}")),
        });
        Ok(Script {
            policies: policies.collect::<Result<_, _>>()?,
            runs: runs.split(',').map(str::parse).collect::<Result<_, _>>()?,
        })
    }
}
