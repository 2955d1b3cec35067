//! Breaks one rule at a time in a scratch copy of the tree, and sees whether the named check notices.
//!
//! `mutants [PART ..]` runs those whose names, or whose checks' names, contain one of the parts; all of them
//! without any. Each package has a copy of its own, kept with its build under `target/mutants`, and as many packages as
//! there are cores are worked on side by side. Mutants of one check follow one another, so that each builds its own
//! crate and one test target again, and nothing else.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use cohort_tests::mutants::scratch::{Fate, Scratch};
use cohort_tests::mutants::{self, Check, Mutant};

fn main() -> io::Result<ExitCode> {
    let parts: Vec<String> = std::env::args().skip(1).collect();
    let begun = Instant::now();
    let mut board = Board::default();
    let mut packages: BTreeMap<String, Vec<Mutant>> = BTreeMap::new();
    for (name, mutant) in mutants::all(&mutants::root().join("tests/mutants"))? {
        let check = mutant.as_ref().map(|mutant| mutant.check.to_string());
        if !is_wanted(&parts, &name, &check.unwrap_or_default()) {
            continue;
        }
        board.all += 1;
        match mutant {
            Ok(mutant) => packages
                .entry(mutant.check.package.clone())
                .or_default()
                .push(mutant),
            Err(unfit) => board.show(&name, "", None, &Fate::DoesNotApply(unfit), Duration::ZERO),
        }
    }
    let mut packages: Vec<_> = packages.into_iter().collect();
    // What takes longest first, so that all end together.
    packages.sort_by_key(|(_, mutants)| std::cmp::Reverse(mutants.len()));
    let packages = Mutex::new(VecDeque::from(packages));
    let board = Mutex::new(board);
    let lanes = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let lanes: Vec<_> = (0..lanes)
            .map(|_| scope.spawn(|| work(&packages, &board)))
            .collect();
        lanes
            .into_iter()
            .try_for_each(|lane| lane.join().expect("a lane does not panic"))
    })?;
    let board = board.into_inner().expect("a lane does not panic");
    board.print(begun.elapsed());
    Ok(ExitCode::from(u8::from(!board.missed.is_empty())))
}

fn is_wanted(parts: &[String], name: &str, check: &str) -> bool {
    let mut parts = parts.iter().map(String::as_str).peekable();
    parts.peek().is_none() || parts.any(|part| name.contains(part) || check.contains(part))
}

/// Takes one package after the other.
fn work(packages: &Mutex<VecDeque<(String, Vec<Mutant>)>>, board: &Mutex<Board>) -> io::Result<()> {
    let board = || board.lock().expect("a lane does not panic");
    loop {
        let next = packages.lock().expect("a lane does not panic").pop_front();
        let Some((package, mut mutants)) = next else {
            return Ok(());
        };
        mutants.sort_by(|a, b| (&a.check, &a.name).cmp(&(&b.check, &b.name)));
        let root = mutants::root();
        let home = root.join("target/mutants").join(&package);
        let mut scratch = Scratch::of(&root, &home)?;
        let checks: BTreeSet<&Check> = mutants.iter().map(|mutant| &mutant.check).collect();
        let mut complaints = BTreeMap::new();
        for check in checks {
            let complaint = scratch.complaint(check)?;
            complaints.insert(check, complaint);
        }
        for mutant in &mutants {
            let begun = Instant::now();
            let fate = match &complaints[&mutant.check] {
                Some(complaint) => Fate::ProvesNothing(complaint.clone()),
                None => scratch.try_out(mutant)?,
            };
            let Mutant {
                name, rule, check, ..
            } = mutant;
            board().show(name, rule, Some(check), &fate, begun.elapsed());
        }
    }
}

/// What is shown, and counted.
#[derive(Debug, Default)]
struct Board {
    all: usize,
    shown: usize,
    /// How many were caught, by which test target.
    targets: BTreeMap<String, u32>,
    missed: Vec<String>,
}

impl Board {
    fn show(&mut self, name: &str, rule: &str, check: Option<&Check>, fate: &Fate, took: Duration) {
        self.shown += 1;
        let by = check.map_or(String::new(), Check::to_string);
        let (word, why) = match fate {
            Fate::Caught => (format!("caught by {by}"), String::new()),
            Fate::Hung => (format!("caught by {by}, which did not end"), String::new()),
            Fate::Survived => (format!("SURVIVED {by}"), String::new()),
            Fate::ProvesNothing(why) => (format!("UNSOUND {by}"), why.clone()),
            Fate::DoesNotApply(unfit) => ("DOES NOT APPLY".to_owned(), unfit.to_string()),
            Fate::DoesNotBuild(errors) => ("DOES NOT BUILD".to_owned(), errors.clone()),
        };
        println!(
            "{:>3} of {}  {name:<34} {:>4.0} s  {word}\n            {rule}",
            self.shown,
            self.all,
            took.as_secs_f64()
        );
        if !why.is_empty() {
            println!("{why}");
        }
        // A table is read while it grows, also through a pipe.
        let _ = io::stdout().flush();
        match (fate, check) {
            (Fate::Caught | Fate::Hung, Some(check)) => {
                let target = format!("{} {}", check.package, check.target);
                *self.targets.entry(target).or_default() += 1;
            }
            (
                Fate::Caught
                | Fate::Hung
                | Fate::Survived
                | Fate::ProvesNothing(_)
                | Fate::DoesNotApply(_)
                | Fate::DoesNotBuild(_),
                _,
            ) => self.missed.push(name.to_owned()),
        }
    }

    fn print(&self, took: Duration) {
        println!();
        for (target, caught) in &self.targets {
            println!("{target:<32} {caught:>4} caught");
        }
        let caught: u32 = self.targets.values().sum();
        println!(
            "{caught} of {} caught, in {:.0} s",
            self.all,
            took.as_secs_f64()
        );
        if !self.missed.is_empty() {
            println!("not: {}", self.missed.join(", "));
        }
    }
}
