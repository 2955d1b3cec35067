//! What a run does with its disks, in words: those of the command line, or of a client of the daemon.

use std::fmt::Display;
use std::str::FromStr;

use cohort_backup::catalogue::DiskName;
use cohort_backup::{
    BitmapPolicy, Compression, DiskSpec, ErrorPolicy, OnUndecided, Options, SyncMode,
};
use cohort_qmp::DirectoryBackup;

use crate::args;
use crate::commands::sources::PerDisk;
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::human::Bytes;

/// What the words mean, most of them for all disks or for one.
#[derive(Debug)]
pub(crate) struct Words {
    mode: PerDisk<SyncMode>,
    policy: PerDisk<BitmapPolicy>,
    undecided: OnUndecided,
    on_error: PerDisk<ErrorPolicy>,
    on_source_error: PerDisk<ErrorPolicy>,
    on_target_error: PerDisk<ErrorPolicy>,
    compress: PerDisk<Compression>,
    speed: PerDisk<Bytes>,
    cluster: PerDisk<Bytes>,
    min_cluster: PerDisk<Bytes>,
    strict: bool,
    accept_changes: bool,
    digests: bool,
}

impl Words {
    /// Those of the command line.
    pub(super) fn of(args: &args::Backup) -> Result<Words> {
        Ok(Words {
            accept_changes: args.accept_changed,
            ..Words::asked(&Words::ask(args, String::new()))?
        })
    }

    /// Those of a client.
    pub(crate) fn asked(asked: &DirectoryBackup) -> Result<Words> {
        Ok(Words {
            mode: read("--mode", &asked.mode)?,
            policy: read("--policy", &asked.policy)?,
            undecided: match asked.undecided {
                Some(cohort_qmp::OnUndecided::Refuse) | None => OnUndecided::Refuse,
                Some(cohort_qmp::OnUndecided::Keep) => OnUndecided::Keep,
                Some(cohort_qmp::OnUndecided::Discard) => OnUndecided::Discard,
            },
            on_error: read("--on-error", &asked.on_error)?,
            on_source_error: read("--on-source-error", &asked.on_source_error)?,
            on_target_error: read("--on-target-error", &asked.on_target_error)?,
            compress: read("--compress", &asked.compress)?,
            speed: read("--speed", &asked.speed)?,
            cluster: read("--cluster-size", &asked.cluster_size)?,
            min_cluster: read("--min-cluster-size", &asked.min_cluster_size)?,
            strict: asked.strict.unwrap_or(false),
            accept_changes: false,
            digests: asked.digests.unwrap_or(true),
        })
    }

    /// The same as they were given, for the daemon, which copies these disks, or all that it has, into this directory.
    pub(super) fn ask(args: &args::Backup, directory: String) -> DirectoryBackup {
        DirectoryBackup {
            directory,
            disks: (!args.sources.is_empty()).then(|| args.sources.clone()),
            individual: Some(args.individual),
            mode: Some(args.mode.clone()),
            policy: Some(args.policy.clone()),
            undecided: Some(match args.undecided {
                args::Undecided::Refuse => cohort_qmp::OnUndecided::Refuse,
                args::Undecided::Keep => cohort_qmp::OnUndecided::Keep,
                args::Undecided::Discard => cohort_qmp::OnUndecided::Discard,
            }),
            on_error: Some(args.on_error.clone()),
            on_source_error: Some(args.on_source_error.clone()),
            on_target_error: Some(args.on_target_error.clone()),
            compress: Some(args.compress.clone()),
            speed: Some(args.speed.clone()),
            cluster_size: Some(args.cluster_size.clone()),
            min_cluster_size: Some(args.min_cluster_size.clone()),
            strict: Some(args.strict),
            digests: Some(!args.no_digests),
        }
    }

    /// A disk with the options that the words mean for it.
    pub(crate) fn spec(&self, spec: DiskSpec) -> Result<DiskSpec> {
        let name = spec.disk_name()?;
        let (on_source, on_target) = self.on_errors(&name);
        let mut options = Options::builder()
            .mode(self.mode.of(&name).unwrap_or_default())
            .policy(self.policy.of(&name).unwrap_or_default())
            .undecided(self.undecided)
            .on_source_error(on_source)
            .on_target_error(on_target)
            .compress(self.compress.of(&name).unwrap_or_default())
            .speed(self.speed.of(&name).map_or(0, |speed| speed.0))
            .strict(self.strict)
            .accept_changes(self.accept_changes)
            .digests(self.digests);
        if let Some(Bytes(cluster)) = self.cluster.of(&name) {
            options = options.cluster(cluster);
        }
        if let Some(Bytes(cluster)) = self.min_cluster.of(&name) {
            options = options.min_cluster(cluster);
        }
        let options = options
            .build()
            .map_err(|error| Failure::say(Exit::Usage, format_args!("{name}: {error}")))?;
        Ok(spec.options(options))
    }

    /// What an error means for the source of a disk, and for its target.
    fn on_errors(&self, name: &DiskName) -> (ErrorPolicy, ErrorPolicy) {
        let both = self.on_error.of(name).unwrap_or_default();
        let on_target = match both {
            // What cannot be written cannot be left out.
            ErrorPolicy::Skip { .. } => ErrorPolicy::Report,
            ErrorPolicy::Report
            | ErrorPolicy::Stop(_)
            | ErrorPolicy::Enospc
            | ErrorPolicy::Ignore(_) => both,
        };
        (
            self.on_source_error.of(name).unwrap_or(both),
            self.on_target_error.of(name).unwrap_or(on_target),
        )
    }

    /// Refuses words for disks that do not take part.
    pub(crate) fn all_used(&self, names: &[DiskName]) -> Result<()> {
        self.mode.all_used(names)?;
        self.policy.all_used(names)?;
        self.on_error.all_used(names)?;
        self.on_source_error.all_used(names)?;
        self.on_target_error.all_used(names)?;
        self.compress.all_used(names)?;
        self.speed.all_used(names)?;
        self.cluster.all_used(names)?;
        self.min_cluster.all_used(names)
    }
}

fn read<T>(option: &'static str, texts: &Option<Vec<String>>) -> Result<PerDisk<T>>
where
    T: FromStr<Err: Display> + Clone,
{
    PerDisk::parse(option, texts.as_deref().unwrap_or_default())
}
