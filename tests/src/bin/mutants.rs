//! Breaks one rule at a time in a scratch copy of the tree, and sees whether the named check notices.
//!
//! `mutants [PART ..]` runs those whose names, or whose checks' names, contain one of the parts; all of them
//! without any. The copy and its build are kept under `target/mutants`, so another run builds little.

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
            chosen.push((name, mutant));
        }
    }
    let scratch = Scratch::of(&root)?;
    let checks: BTreeSet<&Check> = chosen
        .iter()
        .filter_map(|(_, mutant)| Some(&mutant.as_ref().ok()?.check))
        .collect();
    if !scratch.checks_pass(&checks)? {
        return Ok(ExitCode::from(2));
    }
    let mut failures = 0;
    for (name, mutant) in &chosen {
        let begun = Instant::now();
        let (fate, rule, check) = match mutant {
            Ok(mutant) => (
                scratch.try_out(&root, mutant)?,
                mutant.rule.as_str(),
                Some(&mutant.check),
            ),
            Err(unfit) => (Fate::DoesNotApply(unfit.clone()), "", None),
        };
        failures += u32::from(!matches!(fate, Fate::Caught | Fate::Hung));
        print_row(name, rule, check, &fate, begun.elapsed());
    }
    println!(
        "\n{} mutants, {} caught, {failures} not; {:.0} s",
        chosen.len(),
        chosen.len() - failures as usize,
        begun.elapsed().as_secs_f64()
    );
    Ok(ExitCode::from(u8::from(failures > 0)))
}

fn print_row(name: &str, rule: &str, check: Option<&Check>, fate: &Fate, took: Duration) {
    let by = check.map_or(String::new(), Check::to_string);
    let (word, why) = match fate {
        Fate::Caught => (format!("caught by {by}"), String::new()),
        Fate::Hung => (format!("caught by {by}, which did not end"), String::new()),
        Fate::Survived => (format!("SURVIVED {by}"), String::new()),
        Fate::DoesNotApply(unfit) => ("DOES NOT APPLY".to_owned(), unfit.to_string()),
        Fate::DoesNotBuild(errors) => ("DOES NOT BUILD".to_owned(), errors.clone()),
    };
    println!(
        "{name:<34} {:>4.0} s  {word}\n    {rule}",
        took.as_secs_f64()
    );
    if !why.is_empty() {
        println!("{why}");
    }
    // A table is read while it grows, also through a pipe.
    let _ = io::stdout().flush();
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

    fn try_out(&self, root: &Path, mutant: &Mutant) -> io::Result<Fate> {
        let broken = match mutant.applied_to(root) {
            Ok(broken) => broken,
            Err(unfit) => return Ok(Fate::DoesNotApply(unfit)),
        };
        for (name, text) in &broken {
            fs::write(self.tree.join(name), text)?;
        }
        let fate = self.check(&mutant.check);
        for name in broken.keys() {
            fs::copy(root.join(name), self.tree.join(name))?;
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
        command
            .env_remove("RUSTFLAGS")
            .env("CARGO_PROFILE_DEV_DEBUG", "0");
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
