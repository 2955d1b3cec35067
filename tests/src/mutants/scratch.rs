//! A copy of the tree in which rules are broken, and what its checks say.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::time::{Duration, Instant};

use super::{Check, Mutant, Unfit};

/// A broken rule may make a check wait for ever: it may take this long, and so many times what it took unbroken.
const LIMIT: Duration = Duration::from_secs(30);
const LIMIT_TIMES: u32 = 10;
/// What `timeout` says when it had to end a check.
const TIMED_OUT: i32 = 124;
/// Builds are many and short, and so are most runs: what makes a build slow is left out.
const PROFILE: [(&str, &str); 5] = [
    ("CARGO_PROFILE_DEV_DEBUG", "0"),
    ("CARGO_PROFILE_DEV_OPT_LEVEL", "0"),
    ("CARGO_PROFILE_RELEASE_DEBUG", "0"),
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1"),
    ("CARGO_PROFILE_RELEASE_INCREMENTAL", "true"),
];
/// Walks of large state spaces are worth optimising even so.
const WALKS: [&str; 2] = ["explorer", "oracle"];

/// What became of a mutant.
#[derive(Debug)]
pub enum Fate {
    /// The check failed.
    Caught,
    /// The check did not end.
    Hung,
    /// The check passed.
    Survived,
    /// The check fails on the sound tree too.
    ProvesNothing(String),
    /// Its lines are not in the tree.
    DoesNotApply(Unfit),
    /// With what the compiler said.
    DoesNotBuild(String),
}

/// A copy of the tree, where it is built, and how long its checks take unbroken.
#[derive(Debug)]
pub struct Scratch {
    tree: PathBuf,
    build: PathBuf,
    limits: BTreeMap<Check, Duration>,
}

impl Scratch {
    /// Brings the copy under `home` up to date. Files that did not change keep their times, so that little is built.
    ///
    /// # Errors
    /// If `git` does not list the files, or they cannot be copied.
    pub fn of(root: &Path, home: &Path) -> io::Result<Self> {
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
        let limits = BTreeMap::new();
        Ok(Self {
            tree,
            build,
            limits,
        })
    }

    /// Runs a check unbroken, for one that fails then proves nothing; what is wrong, if anything.
    ///
    /// # Errors
    /// If cargo cannot be started.
    pub fn complaint(&mut self, check: &Check) -> io::Result<Option<String>> {
        let program = match self.build(check)? {
            Ok(program) => program,
            Err(errors) => return Ok(Some(format!("it does not build\n{errors}"))),
        };
        let begun = Instant::now();
        let status = self.run(check, &program, None)?;
        let limit = LIMIT + begun.elapsed() * LIMIT_TIMES;
        self.limits.insert(check.clone(), limit);
        Ok((!status.success()).then(|| format!("it fails: {status}")))
    }

    /// Breaks the copy, not the tree: that may be worked on meanwhile.
    ///
    /// # Errors
    /// If the copy cannot be changed, or cargo cannot be started.
    pub fn try_out(&self, mutant: &Mutant) -> io::Result<Fate> {
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
        let program = match self.build(check)? {
            Ok(program) => program,
            Err(errors) => return Ok(Fate::DoesNotBuild(errors)),
        };
        let limit = self.limits.get(check).copied().unwrap_or(LIMIT);
        let status = self.run(check, &program, Some(limit))?;
        Ok(match status.code() {
            Some(0) => Fate::Survived,
            Some(TIMED_OUT) => Fate::Hung,
            Some(_) | None => Fate::Caught,
        })
    }

    /// Builds the one program that a check is in; or what the compiler said.
    fn build(&self, check: &Check) -> io::Result<Result<PathBuf, String>> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
        let mut command = Command::new(cargo);
        command
            .current_dir(&self.tree)
            .args(["test", "--no-run", "--package", &check.package])
            // The program that runs this set its own.
            .env_remove("RUSTFLAGS")
            .envs(PROFILE);
        let mut build = self.build.clone();
        match check.target.as_str() {
            "lib" => command.arg("--lib"),
            "loom" => {
                build.push("loom");
                command
                    .args(["--lib", "--release"])
                    .env("RUSTFLAGS", "--cfg loom")
            }
            target => command.args(["--test", target]),
        };
        if WALKS.contains(&check.target.as_str()) {
            command.env("CARGO_PROFILE_DEV_OPT_LEVEL", "1");
        }
        let built = command.env("CARGO_TARGET_DIR", build).output()?;
        let said = said(&built);
        let program = executable(&said).filter(|_| built.status.success());
        Ok(program
            .map(|program| self.tree.join(program))
            .ok_or_else(|| said.clone()))
    }

    /// Runs one test as cargo would.
    fn run(
        &self,
        check: &Check,
        program: &Path,
        limit: Option<Duration>,
    ) -> io::Result<ExitStatus> {
        let seconds = limit.map_or(0, |limit| limit.as_secs());
        let output = Command::new("timeout")
            .arg("--kill-after=5")
            .arg(seconds.to_string())
            .arg(program)
            .arg(&check.test)
            .current_dir(self.tree.join(check.folder()))
            .output()?;
        Ok(output.status)
    }
}

/// The program that cargo says it built.
fn executable(said: &str) -> Option<&str> {
    let line = said
        .lines()
        .find(|line| line.trim_start().starts_with("Executable "))?;
    line.trim_end()
        .strip_suffix(')')?
        .rsplit_once('(')
        .map(|(_, path)| path)
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
