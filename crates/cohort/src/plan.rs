//! Plans: the options of `cohort backup` in a TOML file. A plan says nothing that the command line could not: it becomes
//! the arguments that come first, and those given beside it come after and win. So an option of the command line is a key
//! of plans the moment it exists, and is read by the same code.

use std::ffi::OsString;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use clap::builder::Resettable;
use clap::{Arg, ArgAction, Command, CommandFactory, Id, ValueHint};
use cohort_backup::catalogue::DiskName;
use cohort_nbd::Uri;
use toml::de::{DeTable, DeValue};

use crate::args::Cli;

/// What is wrong with a plan, and where.
#[derive(Debug)]
pub(crate) struct BadPlan {
    file: PathBuf,
    /// Counted from 1; none if it is the file as a whole.
    line: Option<usize>,
    what: String,
}

impl fmt::Display for BadPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file.display(), self.what),
            None => write!(f, "{}: {}", self.file.display(), self.what),
        }
    }
}

impl std::error::Error for BadPlan {}

/// The arguments of the process with the plan, if one is named, in place of its name.
///
/// # Errors
/// [`BadPlan`].
pub(crate) fn expanded(arguments: Vec<OsString>) -> Result<Vec<OsString>, BadPlan> {
    if arguments.get(1).is_none_or(|command| command != "backup") {
        return Ok(arguments);
    }
    let Some((at, plan, taken)) = named(&arguments) else {
        return Ok(arguments);
    };
    let mut rest = arguments[..at].to_vec();
    rest.extend_from_slice(&arguments[at + taken..]);
    if let Some((_, another, _)) = named(&rest) {
        return Err(BadPlan {
            file: another,
            line: None,
            what: format!("one plan only: {} was named before", plan.display()),
        });
    }
    let mut all = rest[..2].to_vec();
    all.extend(read(&plan)?);
    all.extend_from_slice(&rest[2..]);
    Ok(all)
}

/// Where a plan is named among the arguments: place, path, and how many arguments that takes.
fn named(arguments: &[OsString]) -> Option<(usize, PathBuf, usize)> {
    let mut options = arguments
        .iter()
        .enumerate()
        .skip(2)
        .take_while(|(_, argument)| *argument != "--");
    options.find_map(|(at, argument)| {
        if argument == "--plan" {
            return Some((at, arguments.get(at + 1)?.into(), 2));
        }
        let path = argument.to_str()?.strip_prefix("--plan=")?;
        Some((at, path.into(), 1))
    })
}

/// A plan that is being read.
struct Reader<'a> {
    file: &'a Path,
    text: &'a str,
    backup: Command,
    arguments: Vec<OsString>,
}

/// Options that would mean nothing in a plan.
const NOT_IN_PLANS: [&str; 2] = ["plan", "help"];

fn read(file: &Path) -> Result<Vec<OsString>, BadPlan> {
    let text = std::fs::read_to_string(file).map_err(|error| BadPlan {
        file: file.to_owned(),
        line: None,
        what: error.to_string(),
    })?;
    let backup = Cli::command().find_subcommand("backup").cloned();
    let mut reader = Reader {
        file,
        text: &text,
        backup: backup.unwrap_or_default(),
        arguments: Vec::new(),
    };
    let table = DeTable::parse(&text).map_err(|error| {
        let span = error.span().unwrap_or(0..0);
        reader.bad(&span, error.message().to_owned())
    })?;
    for (key, value) in table.get_ref() {
        match key.get_ref().as_ref() {
            "disks" => reader.disks(value)?,
            name => reader.option(name, &key.span(), value.get_ref(), None)?,
        }
    }
    Ok(reader.arguments)
}

impl Reader<'_> {
    /// The disks, each a table of its own.
    fn disks(&mut self, disks: &toml::Spanned<DeValue<'_>>) -> Result<(), BadPlan> {
        let DeValue::Table(disks) = disks.get_ref() else {
            let rule = "disks are tables: [disks.NAME] with source = \"PATH\"";
            return Err(self.bad(&disks.span(), rule.to_owned()));
        };
        for (name, disk) in disks {
            let DeValue::Table(options) = disk.get_ref() else {
                let what = format!("disk {} is no table: write [disks.{0}]", name.get_ref());
                return Err(self.bad(&name.span(), what));
            };
            if let Err(error) = DiskName::new(name.get_ref().as_ref()) {
                return Err(self.bad(&name.span(), error.to_string()));
            }
            let mut source = None;
            for (key, value) in options {
                if key.get_ref() == "source" {
                    let text = self.text_of("source", &key.span(), value.get_ref())?;
                    source = Some(self.source(name.get_ref(), &text));
                } else {
                    self.option(
                        key.get_ref(),
                        &key.span(),
                        value.get_ref(),
                        Some(name.get_ref()),
                    )?;
                }
            }
            let Some(source) = source else {
                let what = format!("disk {} has no source", name.get_ref());
                return Err(self.bad(&name.span(), what));
            };
            self.arguments.push(source);
        }
        Ok(())
    }

    /// A source as an argument: a path begins where the plan is, an address of an NBD server stands as it is. Disks of a
    /// machine have the names that stand there, unless it is one without a name.
    fn source(&self, name: &str, text: &str) -> OsString {
        let (mut source, rest) = match text.strip_prefix("qmp:") {
            Some(machine) => {
                let (monitor, disks) = machine.split_at(machine.find(',').unwrap_or(machine.len()));
                let mut source = OsString::from("qmp:");
                source.push(self.beside(monitor));
                let one = disks.strip_prefix(',');
                let one = one.filter(|disk| !disk.contains([',', '=']));
                let disks = one.map_or(disks.to_owned(), |disk| format!(",{name}={disk}"));
                (source, OsString::from(disks))
            }
            None if Uri::is_meant_by(text) => (format!("{name}=").into(), text.into()),
            None => (format!("{name}=").into(), self.beside(text).into()),
        };
        source.push(rest);
        source
    }

    /// One option, of all disks or of one.
    fn option(
        &mut self,
        key: &str,
        span: &Range<usize>,
        value: &DeValue<'_>,
        disk: Option<&str>,
    ) -> Result<(), BadPlan> {
        let Some(arg) = self
            .known(disk)
            .find(|arg| arg.get_long() == Some(key))
            .cloned()
        else {
            return Err(self.unknown(key, span, disk));
        };
        let option = format!("--{key}");
        if matches!(arg.get_action(), ArgAction::SetTrue) {
            let DeValue::Boolean(set) = value else {
                return Err(self.bad(span, format!("{key} is true or false")));
            };
            if *set {
                self.arguments.push(option.into());
            }
            return Ok(());
        }
        let values: Vec<&DeValue<'_>> = if let DeValue::Array(values) = value
            && matches!(arg.get_action(), ArgAction::Append)
        {
            values.iter().map(toml::Spanned::get_ref).collect()
        } else {
            vec![value]
        };
        for value in values {
            let mut text = OsString::from(self.text_of(key, span, value)?);
            if matches!(
                arg.get_value_hint(),
                ValueHint::AnyPath | ValueHint::DirPath | ValueHint::FilePath
            ) {
                text = self.beside(&text.to_string_lossy()).into();
            }
            if let Some(disk) = disk {
                text = format!("{disk}={}", text.to_string_lossy()).into();
            }
            self.judge(&arg, span, &text)?;
            self.arguments.extend([option.clone().into(), text]);
        }
        Ok(())
    }

    /// Options that may stand at a place: all, or those that the command line takes as `[NAME=]…`.
    fn known(&self, disk: Option<&str>) -> impl Iterator<Item = &Arg> {
        let of_one = disk.is_some();
        self.backup.get_arguments().filter(move |arg| {
            let named = arg.get_value_names().and_then(|names| names.first());
            let plans = arg
                .get_long()
                .is_some_and(|long| !NOT_IN_PLANS.contains(&long));
            plans && (!of_one || named.is_some_and(|name| name.starts_with("[NAME=]")))
        })
    }

    fn unknown(&self, key: &str, span: &Range<usize>, disk: Option<&str>) -> BadPlan {
        let own = if disk.is_some() { "source" } else { "disks" };
        let known = self.known(disk).filter_map(Arg::get_long).chain([own]);
        let nearest = known.min_by_key(|known| strsim::osa_distance(known, key));
        if disk.is_some() && self.known(None).any(|arg| arg.get_long() == Some(key)) {
            let what = format!("there is no option {key} for one disk: say it above all [disks.…]");
            return self.bad(span, what);
        }
        let nearest = nearest.map_or_else(String::new, |name| format!("; did you mean {name}?"));
        self.bad(span, format!("there is no option {key}{nearest}"))
    }

    /// Has the command line's own parser look at a value, so that what is wrong is told with its line.
    fn judge(&self, arg: &Arg, span: &Range<usize>, value: &OsString) -> Result<(), BadPlan> {
        // What it does not go with is looked at when all of them are together.
        let alone = arg.clone().conflicts_with(Resettable::<Id>::Reset);
        let alone = Command::new("plan").no_binary_name(true).arg(alone);
        let option = format!("--{}", arg.get_long().unwrap_or_default());
        match alone.try_get_matches_from([OsString::from(option), value.clone()]) {
            Ok(_) => Ok(()),
            Err(error) => {
                let text = error.to_string();
                let first = text.lines().next().unwrap_or_default();
                Err(self.bad(span, first.trim_start_matches("error: ").to_owned()))
            }
        }
    }

    fn text_of(
        &self,
        key: &str,
        span: &Range<usize>,
        value: &DeValue<'_>,
    ) -> Result<String, BadPlan> {
        match value {
            DeValue::String(text) => Ok(text.to_string()),
            DeValue::Integer(number) => Ok(number.to_string()),
            DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_)
            | DeValue::Array(_)
            | DeValue::Table(_) => {
                Err(self.bad(span, format!("{key} is a text or a whole number")))
            }
        }
    }

    /// Paths in a plan begin where the plan is.
    fn beside(&self, path: &str) -> PathBuf {
        self.file.parent().unwrap_or(Path::new("")).join(path)
    }

    fn bad(&self, span: &Range<usize>, what: String) -> BadPlan {
        let before = self.text.get(..span.start).unwrap_or_default();
        BadPlan {
            file: self.file.to_owned(),
            line: Some(before.matches('\n').count() + 1),
            what,
        }
    }
}
