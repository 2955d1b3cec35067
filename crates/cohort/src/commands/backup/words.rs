//! What a run does with its disks, in words: those of the command line, or of a client of the daemon.

use cohort_backup::catalogue::DiskName;
use cohort_backup::{Budget, DiskSpec, ErrorPolicy, OnUndecided, Options};
use cohort_qmp::DirectoryBackup;

use crate::args;
use crate::commands::sources::Policies;
use crate::exit::Exit;
use crate::failure::{Failure, Result};

/// The words, most of them as they were given.
#[derive(Clone, Debug)]
pub(crate) struct Words {
    policy: Vec<String>,
    undecided: OnUndecided,
    on_error: String,
    speed: u64,
    strict: bool,
    accept_changes: bool,
    digests: bool,
}

impl Words {
    /// Those of the command line.
    pub(super) fn of(args: &args::Backup) -> Words {
        Words {
            policy: args.policy.clone(),
            undecided: match args.undecided {
                args::Undecided::Refuse => OnUndecided::Refuse,
                args::Undecided::Keep => OnUndecided::Keep,
                args::Undecided::Discard => OnUndecided::Discard,
            },
            on_error: args.on_error.clone(),
            speed: args.speed.unwrap_or(0),
            strict: args.strict,
            accept_changes: args.accept_changed,
            digests: !args.no_digests,
        }
    }

    /// Those of a client.
    pub(crate) fn asked(asked: &DirectoryBackup) -> Words {
        Words {
            policy: asked.policy.clone().unwrap_or_default(),
            undecided: match asked.undecided {
                Some(cohort_qmp::OnUndecided::Refuse) | None => OnUndecided::Refuse,
                Some(cohort_qmp::OnUndecided::Keep) => OnUndecided::Keep,
                Some(cohort_qmp::OnUndecided::Discard) => OnUndecided::Discard,
            },
            on_error: asked
                .on_error
                .clone()
                .unwrap_or_else(|| "report".to_owned()),
            speed: asked.speed.unwrap_or(0),
            strict: asked.strict.unwrap_or(false),
            accept_changes: false,
            digests: asked.digests.unwrap_or(true),
        }
    }

    /// The same for the daemon, which copies these disks, or all that it has, into this directory.
    pub(super) fn ask(args: &args::Backup, directory: String) -> DirectoryBackup {
        DirectoryBackup {
            directory,
            disks: (!args.sources.is_empty()).then(|| args.sources.clone()),
            individual: Some(args.individual),
            policy: Some(args.policy.clone()),
            undecided: Some(match args.undecided {
                args::Undecided::Refuse => cohort_qmp::OnUndecided::Refuse,
                args::Undecided::Keep => cohort_qmp::OnUndecided::Keep,
                args::Undecided::Discard => cohort_qmp::OnUndecided::Discard,
            }),
            on_error: Some(args.on_error.clone()),
            speed: args.speed,
            strict: Some(args.strict),
            digests: Some(!args.no_digests),
        }
    }

    /// A disk with the options that the words mean for it.
    pub(crate) fn spec(&self, spec: DiskSpec) -> Result<DiskSpec> {
        let name = spec.disk_name()?;
        let options = Options::builder()
            .policy(Policies::parse(&self.policy)?.of(&name))
            .undecided(self.undecided)
            .on_source_error(error_policy(&self.on_error)?)
            .speed(self.speed)
            .strict(self.strict)
            .accept_changes(self.accept_changes)
            .digests(self.digests)
            .build()
            .map_err(|error| Failure::new(Exit::Usage, error))?;
        Ok(spec.options(options))
    }

    /// Refuses words for disks that do not take part.
    pub(crate) fn all_used(&self, names: &[DiskName]) -> Result<()> {
        Policies::parse(&self.policy)?.all_used(names)
    }
}

/// Looks whether a text is an action on errors, so that what is wrong is told where it stands.
///
/// # Errors
/// As [`error_policy`].
pub(crate) fn error_policy_text(text: &str) -> std::result::Result<String, String> {
    match error_policy(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(failure) => Err(failure.error.to_string()),
    }
}

/// Reads `report`, `ignore` or `skip:N`.
fn error_policy(text: &str) -> Result<ErrorPolicy> {
    let budget = Budget::default();
    match text.split_once(':') {
        None if text == "report" => Ok(ErrorPolicy::Report),
        None if text == "ignore" => Ok(ErrorPolicy::Ignore(budget)),
        Some(("skip", limit)) if limit.parse::<u64>().is_ok_and(|limit| limit > 0) => {
            Ok(ErrorPolicy::Skip {
                budget,
                limit: limit.parse().unwrap_or(1),
            })
        }
        _ => Err(Failure::say(
            Exit::Usage,
            format_args!(
                "--on-error {text}: say report, ignore, or skip:N with the number of granules that may be left out"
            ),
        )),
    }
}
