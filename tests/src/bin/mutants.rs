//! Breaks one rule at a time in a scratch copy of the tree, and sees whether the named check notices.
//!
//! `mutants [PART ..]` runs those whose names, or whose checks' names, contain one of the parts; all of them
//! without any. Those of one check follow one another, so that a mutant builds its own crate and one test target
//! again and nothing else. The copy and its build are kept under `target/mutants`, so another run builds little.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};
use std::time::{Duration, Instant};

use cohort_tests::mutants::{self, Check, Mutant, Unfit};

/// Checks take seconds; a broken rule may make them wait for ever.
const LIMIT: &str = "120";
/// What `timeout` says when it had to end a check.
const TIMED_OUT: i32 = 124;
/// Builds are many and short, and so are most runs: what makes a build slow is left out. Loom needs some
/// speed, and gets that of the other checks.
const PROFILE: [(&str, &str); 4] = [
    ("CARGO_PROFILE_DEV_DEBUG", "0"),
    ("CARGO_PROFILE_RELEASE_DEBUG", "0"),
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1"),
    ("CARGO_PROFILE_RELEASE_INCREMENTAL", "true"),
];

/// What became of a mutant.
#[derive(Debug)]
enum Fate {
    Caught,
    /// The check did not end.
    Hung,
    Survived,
    DoesNotApply(Unfit),
    DoesNotBuild(String),
}

/// A copy of the tree, and where it is built.
struct Scratch {
    tree: PathBuf,
    build: PathBuf,
}

fn main() -> io::Result<ExitCode> {
    let parts: Vec<String> = std::env::args().skip(1).collect();
    let begun = Instant::now();
    let root = mutants::root();
    let wanted = |name: &str, check: &str| {
        parts.is_empty()
            || parts
                .iter()
                .any(|part| name.contains(part) || check.contains(part))
    };
    let mut chosen = Vec::new();
    for (name, mutant) in mutants::all(&root.join("tests/mutants"))? {
        let check = mutant
            .as_ref()
            .map_or(String::new(), |mutant| mutant.check.to_string());
        if wanted(&name, &check) {
            chosen.push((check, name, mutant));
        }
    }
    chosen.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
    let scratch = Scratch::of(&root)?;
    let checks: BTreeSet<&Check> = chosen
        .iter()
        .filter_map(|(.., mutant)| Some(&mutant.as_ref().ok()?.check))
        .collect();
    if !scratch.checks_pass(&checks)? {
        return Ok(ExitCode::from(2));
    }
    let mut score = Score::default();
    for (at, (_, name, mutant)) in chosen.iter().enumerate() {
        print!("{:>3} of {}  {name:<34}", at + 1, chosen.len());
        show();
        let begun = Instant::now();
        let (fate, rule, check) = match mutant {
            Ok(mutant) => (
                scratch.try_out(mutant)?,
                mutant.rule.as_str(),
                Some(&mutant.check),
            ),
            Err(unfit) => (Fate::DoesNotApply(unfit.clone()), "", None),
        };
        print_row(rule, check, &fate, begun.elapsed());
        score.count(name, check, &fate);
    }
    score.print(begun.elapsed());
    Ok(ExitCode::from(u8::from(!score.missed.is_empty())))
}

fn print_row(rule: &str, check: Option<&Check>, fate: &Fate, took: Duration) {
    let by = check.map_or(String::new(), Check::to_string);
    let (word, why) = match fate {
        Fate::Caught => (format!("caught by {by}"), String::new()),
        Fate::Hung => (format!("caught by {by}, which did not end"), String::new()),
        Fate::Survived => (format!("SURVIVED {by}"), String::new()),
        Fate::DoesNotApply(unfit) => ("DOES NOT APPLY".to_owned(), unfit.to_string()),
        Fate::DoesNotBuild(errors) => ("DOES NOT BUILD".to_owned(), errors.clone()),
    };
    println!(" {:>4.0} s  {word}\n            {rule}", took.as_secs_f64());
    if !why.is_empty() {
        println!("{why}");
    }
    show();
}

/// A table is read while it grows, also through a pipe.
fn show() {
    let _ = io::stdout().flush();
}

/// How many were caught, by which test target.
#[derive(Debug, Default)]
struct Score {
    targets: BTreeMap<String, u32>,
    missed: Vec<String>,
}

impl Score {
    fn count(&mut self, name: &str, check: Option<&Check>, fate: &Fate) {
        match (fate, check) {
            (Fate::Caught | Fate::Hung, Some(check)) => {
                let target = format!("{} {}", check.package, check.target);
                *self.targets.entry(target).or_default() += 1;
            }
            (
                Fate::Caught
                | Fate::Hung
                | Fate::Survived
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
        let all = caught as usize + self.missed.len();
        println!("{caught} of {all} caught, in {:.0} s", took.as_secs_f64());
        if !self.missed.is_empty() {
            println!("not: {}", self.missed.join(", "));
        }
    }
}

impl Scratch {
    /// Brings the copy up to date. Files that did not change keep their times, so that little is built.
    fn of(root: &Path) -> io::Result<Self> {
        let home = root.join("target/mutants");
        let (tree, build) = (home.join("tree"), home.join("build"));
        let listed = Command::new("git")
            .args([
                "ls-files",
                "-z",
                "--cached",
                "--others",
                "--exclude-standard",
            ])
            .current_dir(root)
            .output()?;
        let names = String::from_utf8(listed.stdout).map_err(io::Error::other)?;
        let names: BTreeSet<&Path> = names.split_terminator('\0').map(Path::new).collect();
        fs::create_dir_all(&tree)?;
        remove_others(&tree, &tree, &names)?;
        for name in names {
            // A file may be listed and deleted.
            if let Ok(bytes) = fs::read(root.join(name)) {
                write_if_other(&tree.join(name), &bytes)?;
            }
        }
        Ok(Self { tree, build })
    }

    /// A check that fails on the sound tree proves nothing.
    fn checks_pass(&self, checks: &BTreeSet<&Check>) -> io::Result<bool> {
        let mut targets: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
        for check in checks {
            let key = (check.package.as_str(), check.target.as_str());
            targets.entry(key).or_default().push(&check.test);
        }
        for ((package, target), tests) in targets {
            let built = self.cargo(package, target, &["--no-run"], &[]).output()?;
            let run = self.cargo(package, target, &[], &tests).output()?;
            if !built.status.success() || !run.status.success() {
                println!(
                    "on the sound tree: {package} {target} {tests:?} fails\n{}",
                    said(&run)
                );
                return Ok(false);
            }
        }
        println!("{} checks pass on the sound tree\n", checks.len());
        Ok(true)
    }

    /// Breaks the copy, not the tree: that may be worked on meanwhile.
    fn try_out(&self, mutant: &Mutant) -> io::Result<Fate> {
        let broken = match mutant.applied_to(&self.tree) {
            Ok(broken) => broken,
            Err(unfit) => return Ok(Fate::DoesNotApply(unfit)),
        };
        let mut sound = Vec::new();
        for (name, text) in &broken {
            let path = self.tree.join(name);
            sound.push((path.clone(), fs::read(&path)?));
            fs::write(path, text)?;
        }
        let fate = self.check(&mutant.check);
        for (path, bytes) in sound {
            fs::write(path, bytes)?;
        }
        fate
    }

    fn check(&self, check: &Check) -> io::Result<Fate> {
        let Check {
            package,
            target,
            test,
        } = check;
        let built = self.cargo(package, target, &["--no-run"], &[]).output()?;
        if !built.status.success() {
            return Ok(Fate::DoesNotBuild(said(&built)));
        }
        let run = self.cargo(package, target, &[], &[test]).output()?;
        Ok(match run.status.code() {
            Some(0) => Fate::Survived,
            Some(TIMED_OUT) => Fate::Hung,
            Some(_) | None => Fate::Caught,
        })
    }

    /// `cargo test` of one target in the copy. Only a run has a time limit: a build ends by itself.
    fn cargo(&self, package: &str, target: &str, options: &[&str], tests: &[&str]) -> Command {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
        let mut command = if options.is_empty() {
            let mut command = Command::new("timeout");
            command.arg(LIMIT).arg(cargo);
            command
        } else {
            Command::new(cargo)
        };
        command
            .current_dir(&self.tree)
            .args(["test", "--quiet", "--package", package])
            .args(options);
        // The program that runs this set its own.
        command.env_remove("RUSTFLAGS").envs(PROFILE);
        match target {
            "lib" => command.arg("--lib"),
            "loom" => command
                .args(["--lib", "--release"])
                .env("RUSTFLAGS", "--cfg loom"),
            target => command.args(["--test", target]),
        };
        let build = if target == "loom" {
            self.build.join("loom")
        } else {
            self.build.clone()
        };
        command.env("CARGO_TARGET_DIR", build).arg("--").args(tests);
        command
    }
}

fn said(output: &Output) -> String {
    let bytes = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn write_if_other(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, bytes)
}

/// Removes files of an earlier copy that the tree no longer has.
fn remove_others(folder: &Path, tree: &Path, names: &BTreeSet<&Path>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            remove_others(&path, tree, names)?;
        } else if path
            .strip_prefix(tree)
            .is_ok_and(|name| !names.contains(name))
        {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}
