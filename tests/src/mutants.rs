//! Mutants: patches that each break one rule, and the check that must notice.
//!
//! A patch is a unified diff over one or more files, headed by comment lines:
//!
//! ```text
//! # rule: A failing member takes its peers along.
//! # caught-by: cohort-job explorer two_members_whole
//! --- a/crates/job/src/txn.rs
//! +++ b/crates/job/src/txn.rs
//! @@ -1,3 +1,3 @@
//! ```
//!
//! The check is told by package, target (`lib`, `loom`, or the name of a test target) and test. Line
//! numbers are ignored: a hunk belongs where its old lines are, and must be found in one place only.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub mod scratch;

/// One broken rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mutant {
    /// The patch's file name without `.patch`.
    pub name: String,
    /// The rule that it breaks, in one sentence.
    pub rule: String,
    /// The check that must catch it.
    pub check: Check,
    hunks: Vec<Hunk>,
}

/// A check that must fail on a broken rule. Ordered, so that those of one target can be run together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Check {
    /// The package whose test it is.
    pub package: String,
    /// `lib` for its unit tests, `loom` for those that loom runs, or the name of a test target.
    pub target: String,
    /// The name of the test.
    pub test: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Hunk {
    file: PathBuf,
    old: Vec<String>,
    new: Vec<String>,
}

/// What is wrong with a patch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfit(String);

impl Mutant {
    /// Reads a patch; `name` is for messages and the table.
    ///
    /// # Errors
    /// If its head is incomplete, or it is no unified diff.
    pub fn parse(name: &str, text: &str) -> Result<Self, Unfit> {
        let (mut rule, mut check) = (String::new(), None);
        let mut hunks: Vec<Hunk> = Vec::new();
        let mut file = None;
        for line in text.lines() {
            if let Some(path) = line.strip_prefix("+++ b/") {
                file = Some(PathBuf::from(path));
            } else if line.starts_with("--- a/") {
                file = None;
            } else if line.starts_with("@@") {
                let file = file
                    .clone()
                    .ok_or_else(|| Unfit::new("a hunk of no file"))?;
                let (old, new) = (Vec::new(), Vec::new());
                hunks.push(Hunk { file, old, new });
            } else if file.is_none() {
                if let Some(words) = line.strip_prefix("# caught-by:") {
                    check = Some(Check::parse(words)?);
                } else if let Some(words) = line.strip_prefix("# rule:").or(line.strip_prefix("#"))
                {
                    rule.push(' ');
                    rule.push_str(words.trim());
                } else {
                    return Err(Unfit::new(format!("neither a comment nor a diff: {line}")));
                }
            } else {
                let hunk = hunks
                    .last_mut()
                    .ok_or_else(|| Unfit::new("lines of no hunk"))?;
                hunk.push(line)?;
            }
        }
        let rule = rule.trim().to_owned();
        if rule.is_empty() || hunks.is_empty() {
            return Err(Unfit::new("it names no rule, or changes nothing"));
        }
        let check = check.ok_or_else(|| Unfit::new("no line `# caught-by:`"))?;
        let name = name.to_owned();
        Ok(Self {
            name,
            rule,
            check,
            hunks,
        })
    }

    /// The files it changes under `root`, as they are with the rule broken.
    ///
    /// # Errors
    /// If a file cannot be read, or old lines of a hunk are not there or are there more than once.
    pub fn applied_to(&self, root: &Path) -> Result<BTreeMap<PathBuf, String>, Unfit> {
        let mut files = BTreeMap::new();
        for hunk in &self.hunks {
            let text = match files.remove(&hunk.file) {
                Some(text) => text,
                None => fs::read_to_string(root.join(&hunk.file))
                    .map_err(|error| Unfit::new(format!("{}: {error}", hunk.file.display())))?,
            };
            files.insert(hunk.file.clone(), hunk.applied_to(&text)?);
        }
        Ok(files)
    }
}

impl Hunk {
    fn push(&mut self, line: &str) -> Result<(), Unfit> {
        // Editors take the blank of an empty line of context away.
        let (mark, rest) = line.split_at(line.len().min(1));
        match mark {
            "" | " " => {
                self.old.push(rest.to_owned());
                self.new.push(rest.to_owned());
            }
            "-" => self.old.push(rest.to_owned()),
            "+" => self.new.push(rest.to_owned()),
            _ => return Err(Unfit::new(format!("no line of a diff: {line}"))),
        }
        Ok(())
    }

    fn applied_to(&self, text: &str) -> Result<String, Unfit> {
        let lines: Vec<&str> = text.lines().collect();
        let mut places = lines
            .windows(self.old.len().max(1))
            .enumerate()
            .filter(|(_, lines)| lines.iter().eq(&self.old))
            .map(|(at, _)| at);
        let first = self.old.first().map_or("", |line| line.trim());
        let complaint = |what| Unfit::new(format!("{}: {what}: {first} ...", self.file.display()));
        let at = places
            .next()
            .ok_or_else(|| complaint("these lines are not there"))?;
        if places.next().is_some() {
            return Err(complaint("these lines are there more than once"));
        }
        let mut changed = lines[..at].to_vec();
        changed.extend(self.new.iter().map(String::as_str));
        changed.extend(&lines[at + self.old.len()..]);
        Ok(changed.join("\n") + "\n")
    }
}

impl Check {
    fn parse(words: &str) -> Result<Self, Unfit> {
        let words: Vec<_> = words.split_whitespace().map(str::to_owned).collect();
        match <[String; 3]>::try_from(words) {
            Ok([package, target, test]) => Ok(Self {
                package,
                target,
                test,
            }),
            Err(words) => Err(Unfit::new(format!(
                "caught-by: package, target and test, not {words:?}"
            ))),
        }
    }

    /// The folder of its package.
    pub fn folder(&self) -> PathBuf {
        let room = self.package.trim_start_matches("cohort-");
        let folder = Path::new("crates").join(room);
        if room == "tests" {
            PathBuf::from("tests")
        } else {
            folder
        }
    }

    /// Whether a function of its name is among the sources of its target.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn exists(&self, root: &Path) -> io::Result<bool> {
        let folder = root.join(self.folder());
        let sources = match self.target.as_str() {
            "lib" | "loom" => folder.join("src"),
            target => folder.join("tests").join(target),
        };
        let name = self.test.rsplit("::").next().unwrap_or(&self.test);
        let wanted = format!("fn {name}(");
        let mut open = vec![sources.clone(), sources.with_extension("rs")];
        while let Some(path) = open.pop() {
            if path.is_dir() {
                for entry in fs::read_dir(&path)? {
                    open.push(entry?.path());
                }
            } else if path.is_file() && fs::read_to_string(&path)?.contains(&wanted) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Every patch of `folder`, in order of names.
///
/// # Errors
/// If the folder cannot be read. A patch that is none is given as what is wrong with it.
pub fn all(folder: &Path) -> io::Result<BTreeMap<String, Result<Mutant, Unfit>>> {
    let mut mutants = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if let (Some(name), Some("patch")) = (
            path.file_stem().and_then(|name| name.to_str()),
            path.extension().and_then(|end| end.to_str()),
        ) {
            let text = fs::read_to_string(&path)?;
            mutants.insert(name.to_owned(), Mutant::parse(name, &text));
        }
    }
    Ok(mutants)
}

/// The root of the workspace.
pub fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).to_owned()
}

impl Unfit {
    fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            package,
            target,
            test,
        } = self;
        f.pad(&format!("{package} {target} {test}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "# rule: One is\n# not two.\n# caught-by: cohort-job lib one\n";

    fn applied(diff: &str, text: &str) -> Result<String, Unfit> {
        let diff = format!("{HEAD}--- a/x.rs\n+++ b/x.rs\n@@ -9,1 +9,1 @@\n{diff}");
        let mutant = Mutant::parse("one", &diff)?;
        assert_eq!(mutant.rule, "One is not two.");
        mutant.hunks[0].applied_to(text)
    }

    #[test]
    fn a_hunk_belongs_where_its_old_lines_are() {
        let text = "zero\none\n\ntwo\n";
        assert_eq!(
            applied(" one\n\n-two\n+three\n", text).unwrap(),
            "zero\none\n\nthree\n"
        );
        let missing = applied(" one\n-two\n", text).unwrap_err().to_string();
        assert!(missing.contains("not there"), "{missing}");
        let twice = applied("-one\n", "one\none\n").unwrap_err().to_string();
        assert!(twice.contains("more than once"), "{twice}");
    }

    #[test]
    fn an_incomplete_head_is_refused() {
        let diff = "--- a/x.rs\n+++ b/x.rs\n@@ -1,1 +1,1 @@\n-one\n+two\n";
        for head in [
            "# rule: R.\n",
            "# caught-by: a b c\n",
            "# rule: R.\n# caught-by: a b\n",
        ] {
            assert!(
                Mutant::parse("m", &format!("{head}{diff}")).is_err(),
                "{head}"
            );
        }
        assert!(Mutant::parse("m", HEAD).is_err(), "no hunk");
    }
}
