//! The command line: every command and option, as clap reads them. No rules: values are only given their shape here.

mod bitmap;
mod doctor;
mod job;
mod serve;
#[cfg(feature = "top")]
mod top;

use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use cohort_backup::{BitmapPolicy, Compression, ErrorPolicy, SyncMode};

use crate::human::Bytes;

pub(crate) use bitmap::*;
pub(crate) use doctor::*;
pub(crate) use job::*;
pub(crate) use serve::*;
#[cfg(feature = "top")]
pub(crate) use top::*;

/// Grouped, incremental, crash-safe backups of raw and qcow2 disks.
///
/// Several disks are backed up together: either all of them get a new point, or none does, and what a disk is left with
/// when its group fails is decided by that disk's own policy.
#[derive(Debug, Parser)]
#[command(name = "cohort", version, about, long_about, after_long_help = AFTER_HELP)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Said at the end of `cohort --help`.
const AFTER_HELP: &str = "\
Try `cohort demo` first: it shows the whole idea on real disks in a temporary directory.
Exit codes are listed by `cohort exit-codes`.";

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Back up disks together into a backup directory.
    ///
    /// The first backup of a disk is full, each later one holds what changed since the disk's last point. Sources must not
    /// be written to meanwhile: one that changes while it is read fails.
    Backup(Box<Backup>),
    /// Copy a disk whole into one file or pipe, outside of any backup directory.
    ///
    /// Raw and sparse, or a qcow2 image; where nothing else is asked for, the kernel copies from file to file. OUT may be `-`
    /// for standard output, or a pipe: then it is the raw disk from its first byte to its last. Sources must not be written
    /// to meanwhile. The copy is no point: no later backup builds on it.
    Copy(Copy),
    /// Write a point of a disk to a new file.
    Restore(Restore),
    /// Read everything back and compare it with the digests that were stored when it was backed up.
    ///
    /// Damage is told by file, disk and byte range, with the points that die of it; the exit code is then 49. Nothing is
    /// changed.
    Verify(Verify),
    /// Compare a random sample of disks with their last points, where nothing is said to have changed.
    ///
    /// What a bitmap says has changed is left out; without one everything is claimed to be as it was. A claim that is
    /// wrong is told with its place, the exit code is 50, and the next run of that disk compares everything.
    Audit(Audit),
    /// Remove points that are not wanted any more, and merge their images into those of the points that stay.
    ///
    /// A point stays if one of the two rules keeps it. The newest point of a disk always stays, and so does what the next
    /// run needs. Killed at any moment, every point that stays can be restored; the next prune finishes the rest.
    Prune(Prune),
    /// Show what a backup directory holds, and what every file in it is.
    List(List),
    /// Show what kills and failures left in a directory, and what every answer to it would lead to.
    ///
    /// Groups of which it is not known whether all hooks ran, rows that cannot be read, partial copies that wait for an
    /// answer, files that nothing names, scratch files. Nothing is changed without --resolve; what is left alone harms
    /// nothing, and most of it the next run sees to.
    Doctor(Doctor),
    /// Serve disks to NBD clients, or points of a backup directory for reading.
    ///
    /// Disks are raw or qcow2, each as PATH or NAME=PATH, and served under NAME or the file's name. With --read-only and
    /// a backup directory first, what follows are its points, each as DISK or DISK@POINT, and served under that name: a file
    /// is restored by mounting it. SIGTERM and Ctrl-C end it well: what was asked is answered, and disks are flushed.
    Serve(Serve),
    /// Look at the jobs of a running `cohort serve --qmp`, or of a QEMU, and tell them what to do.
    #[command(subcommand)]
    Job(Job),
    /// Watch the jobs, groups and disks of a running `cohort serve --qmp` live on the terminal; of a QEMU its jobs.
    ///
    /// Keys: arrows choose a job, p pauses it or has it go on, c cancels it, ? helps, q ends. Where the output is no terminal,
    /// one snapshot is printed.
    #[cfg(feature = "top")]
    Top(Top),
    /// Look at what is known of the changes of a disk, bring it in and out, and answer for partial copies left undecided.
    #[command(subcommand)]
    Bitmap(Bitmap),
    /// Show what each disk would be left with after every possible end of a run.
    Explain(Explain),
    /// Write a backup directory's catalogue as text, or make a catalogue from such a text.
    #[command(subcommand)]
    Catalogue(Catalogue),
    /// Show the whole idea on three disks that are being written to all the while, and check every byte.
    Demo(Demo),
    /// List the exit codes and what each of them means.
    ExitCodes(ExitCodes),
    /// Print a script that completes commands and options in a shell.
    ///
    /// For bash: `cohort completions bash > ~/.local/share/bash-completion/completions/cohort`.
    Completions(Completions),
    /// Write manual pages, one for each command, into a directory.
    ///
    /// `man -l DIR/cohort.1` shows the first; `man cohort-backup` finds the others once DIR is a folder `man1` where man
    /// looks, such as /usr/local/share/man/man1.
    Man(Man),
}

/// `cohort backup`.
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub(crate) struct Backup {
    /// Take disks and options from this TOML file; what is given beside it comes after, and wins.
    #[arg(long, value_name = "FILE")]
    #[allow(
        dead_code,
        reason = "a plan is put in its place before arguments are read; this is for the help"
    )]
    pub(crate) plan: Option<PathBuf>,
    /// Disks to back up: files or block devices, raw or qcow2, or exports of NBD servers (nbd://HOST/EXPORT,
    /// nbd+unix:///EXPORT?socket=PATH; nbds with ?tls-certificates=DIR); each as PATH or NAME=PATH. Or a running machine:
    /// qmp:SOCKET[,[NAME=]DISK…], some or all disks of a QEMU or a qemu-storage-daemon, at one instant. With --socket, names
    /// of disks that the daemon serves; without any, all of them.
    #[arg(required_unless_present = "socket", value_name = "[NAME=]SOURCE")]
    pub(crate) sources: Vec<String>,
    /// Let the `cohort serve DISK… --qmp SOCKET` that serves the disks back them up, at one instant and while they are
    /// written to: it copies what its tracking stores say.
    #[arg(long, value_name = "SOCKET", conflicts_with_all = ["scratch", "hook", "bitmap", "accept_changed"])]
    pub(crate) socket: Option<PathBuf>,
    /// The backup directory; made if it does not exist.
    #[arg(long, value_name = "DIR")]
    pub(crate) to: PathBuf,
    /// While a machine is backed up it saves here what is overwritten: a folder in which it may write. By default the backup
    /// directory.
    #[arg(long, value_name = "DIR")]
    pub(crate) scratch: Option<PathBuf>,
    /// Before a machine's instant run `COMMAND freeze`, and after it `COMMAND thaw`: for what its guest must do meanwhile.
    /// Each has ten seconds. May be repeated.
    #[arg(long, value_name = "COMMAND")]
    pub(crate) hook: Vec<String>,
    /// Let each disk commit or abort alone, instead of all together.
    #[arg(long)]
    pub(crate) individual: bool,
    /// What to copy: bitmap (what changed since the last point; the default), incremental (the same, with policy on-success),
    /// top (all that the top layer allocates besides), full (everything, into an image that stands alone), or none (nothing
    /// but what writers overwrite: only with --socket); for all disks or for NAME. May be repeated, as all
    /// options that take NAME=.
    #[arg(long, value_name = "[NAME=]MODE", value_parser = crate::commands::per_disk::<SyncMode>)]
    pub(crate) mode: Vec<String>,
    /// What a disk keeps of a failed run: on-success (nothing; the default), always, ask or never.
    #[arg(long, value_name = "[NAME=]POLICY", value_parser = crate::commands::per_disk::<BitmapPolicy>)]
    pub(crate) policy: Vec<String>,
    /// Go by the dirty bitmap NAME that QEMU keeps in the qcow2 image of DISK, instead of comparing the whole disk, and
    /// clear it of what the new point holds. To name it is to say that nobody else clears it. A NAME that ends in .cohort
    /// is the disk's tracking store, a path or a file beside the disk; to name that is to say that nobody wrote to the disk
    /// past it. May be repeated.
    #[arg(long, value_name = "DISK=NAME")]
    pub(crate) bitmap: Vec<String>,
    /// What to do with a disk whose last run still waits for an answer.
    #[arg(long, value_enum, default_value = "refuse")]
    pub(crate) undecided: Undecided,
    /// What to do when a cluster cannot be read or written: report (fail the disk; the default), stop (wait for the operator:
    /// SIGCONT has it try again), enospc (stop if the target is full, else report), ignore (try again) or skip:N (leave out
    /// at most N clusters that cannot be read, which makes the point incomplete). A budget may follow:
    /// ignore,attempts=5,back-off=100ms,total=30s.
    #[arg(long, value_name = "[NAME=]ACTION", value_parser = crate::commands::per_disk::<ErrorPolicy>)]
    pub(crate) on_error: Vec<String>,
    /// The same, for reading the source only.
    #[arg(long, value_name = "[NAME=]ACTION", value_parser = crate::commands::per_disk::<ErrorPolicy>)]
    pub(crate) on_source_error: Vec<String>,
    /// The same, for writing the target only; skip is none here.
    #[arg(long, value_name = "[NAME=]ACTION", value_parser = crate::commands::per_disk::<ErrorPolicy>)]
    pub(crate) on_target_error: Vec<String>,
    /// Compress the clusters of new images: zlib, or none.
    #[arg(long, value_name = "[NAME=]HOW", value_parser = crate::commands::per_disk::<Compression>)]
    pub(crate) compress: Vec<String>,
    /// Copy at most this many bytes a second; K, M, G and T are powers of 1024, 0 is no limit.
    #[arg(long, value_name = "[NAME=]BYTES", value_parser = crate::commands::per_disk::<Bytes>)]
    pub(crate) speed: Vec<String>,
    /// Clusters of new images: a power of two from 4K to 2M.
    #[arg(long, value_name = "[NAME=]BYTES", value_parser = crate::commands::per_disk::<Bytes>)]
    pub(crate) cluster_size: Vec<String>,
    /// Copy at least so much at once, whole and aligned, where any of it changed: a power of two up to 16M.
    #[arg(long, value_name = "[NAME=]BYTES", value_parser = crate::commands::per_disk::<Bytes>)]
    pub(crate) min_cluster_size: Vec<String>,
    /// Accept a source that changed while it was read; its point then has no single instant.
    #[arg(long)]
    pub(crate) accept_changed: bool,
    /// Fail a disk that would have to copy more than what changed.
    #[arg(long)]
    pub(crate) strict: bool,
    /// Store no digests of what is copied: `verify` and `audit` then have nothing to compare with.
    #[arg(long)]
    pub(crate) no_digests: bool,
    /// On Ctrl-C leave no trace of the run, whatever the policies say.
    #[arg(long)]
    pub(crate) discard_on_interrupt: bool,
    /// How to print.
    #[command(flatten)]
    pub(crate) output: Output,
}

/// What to do with a disk that waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Undecided {
    /// Refuse to back up that disk until it is answered.
    Refuse,
    /// Keep what was copied and continue it.
    Keep,
    /// Drop what was copied and start again from the last point.
    Discard,
}

/// `cohort copy`.
#[derive(Debug, Args)]
pub(crate) struct Copy {
    /// The disk: a file or block device, raw or qcow2, or an export of an NBD server; as PATH or NAME=PATH.
    #[arg(value_name = "[NAME=]SOURCE")]
    pub(crate) source: String,
    /// Where the copy goes: a file that must not exist, a pipe, or `-`.
    #[arg(value_name = "OUT")]
    pub(crate) out: PathBuf,
    /// The format of OUT; by default what its name ends in says: `.qcow2`, or else raw.
    #[arg(long, value_enum)]
    pub(crate) format: Option<Format>,
    /// Replace OUT if it exists.
    #[arg(long)]
    pub(crate) force: bool,
    /// Compress the clusters of a qcow2 image: zlib, or none.
    #[arg(long, value_name = "HOW")]
    pub(crate) compress: Option<Compression>,
    /// Clusters of a qcow2 image: a power of two from 4K to 2M.
    #[arg(long, value_name = "BYTES", value_parser = crate::human::parse_bytes)]
    pub(crate) cluster_size: Option<u64>,
    /// What to do when the source cannot be read: report, stop, ignore or skip:N, with a budget as for `backup`. What is left
    /// out is zero in the copy, and named.
    #[arg(long, value_name = "ACTION")]
    pub(crate) on_error: Option<ErrorPolicy>,
    /// Copy at most this many bytes a second; K, M, G and T are powers of 1024.
    #[arg(long, value_name = "BYTES", value_parser = crate::human::parse_bytes)]
    pub(crate) speed: Option<u64>,
    /// Accept a source that changed while it was read.
    #[arg(long)]
    pub(crate) accept_changed: bool,
    /// How to print.
    #[command(flatten)]
    pub(crate) output: Output,
}

/// `cohort restore`.
#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// The backup directory.
    #[arg(long, value_name = "DIR")]
    pub(crate) from: PathBuf,
    /// The disk, and which of its points: a number, or `latest` (the default).
    #[arg(value_name = "DISK[@POINT]")]
    pub(crate) point: String,
    /// The file to write; it must not exist.
    #[arg(value_name = "OUT")]
    pub(crate) out: PathBuf,
    /// Only LENGTH bytes of the disk from byte OFFSET on; K, M, G and T are powers of 1024.
    #[arg(long, value_name = "OFFSET:LENGTH", value_parser = crate::human::parse_range)]
    pub(crate) range: Option<Range<u64>>,
    /// The format of OUT; by default what its name ends in says: `.qcow2`, or else raw.
    #[arg(long, value_enum)]
    pub(crate) format: Option<Format>,
    /// Replace OUT if it exists.
    #[arg(long)]
    pub(crate) force: bool,
    /// How to print.
    #[command(flatten)]
    pub(crate) output: Output,
}

/// The format of a restored disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// The bytes of the disk and nothing else; holes stay holes.
    Raw,
    /// A qcow2 image that stands alone.
    Qcow2,
}

/// `cohort verify`.
#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// The backup directory.
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// One point, or the number of a run for all its points; without it everything, partial copies too.
    #[arg(value_name = "DISK@POINT|POINT")]
    pub(crate) point: Option<String>,
    /// Restore every point besides, one after the other, and compare what was restored.
    #[arg(long)]
    pub(crate) restore_test: bool,
    /// Where points are restored to for that; by default the system's directory for temporary files.
    #[arg(long, value_name = "DIR", requires = "restore_test")]
    pub(crate) scratch: Option<PathBuf>,
    /// How to print.
    #[command(flatten)]
    pub(crate) output: Output,
}

/// `cohort audit`.
#[derive(Debug, Args)]
pub(crate) struct Audit {
    /// Disks to audit, as they are backed up; each as PATH or NAME=PATH.
    #[arg(required = true, value_name = "[NAME=]SOURCE")]
    pub(crate) sources: Vec<String>,
    /// The backup directory.
    #[arg(long, value_name = "DIR")]
    pub(crate) against: PathBuf,
    /// The bitmap in the qcow2 sources that says what has changed since their last points.
    #[arg(long, value_name = "BITMAP")]
    pub(crate) bitmap: Option<String>,
    /// Read at most this much of each disk; K, M, G and T are powers of 1024.
    #[arg(long, value_name = "BYTES", default_value = "256M", value_parser = crate::human::parse_bytes)]
    pub(crate) budget: u64,
    /// Choose the sample that this number stands for: `--json` tells the number of each.
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// How to print.
    #[command(flatten)]
    pub(crate) output: Output,
}

/// `cohort prune`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("keep").required(true).multiple(true))]
pub(crate) struct Prune {
    /// The backup directory.
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// Keep the N newest points of each disk.
    #[arg(long, value_name = "N", group = "keep", value_parser = crate::human::parse_count)]
    pub(crate) keep_last: Option<usize>,
    /// Keep the newest point of a day, for the N newest days that have one; days are local.
    #[arg(long, value_name = "N", group = "keep", value_parser = crate::human::parse_count)]
    pub(crate) keep_daily: Option<usize>,
    /// Only say what would be removed.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// How to print.
    #[command(flatten)]
    pub(crate) output: Output,
}

/// `cohort list`.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// The backup directory.
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// Only what that file is, and which points could not be restored without it.
    #[arg(long, value_name = "NAME")]
    pub(crate) file: Option<PathBuf>,
    /// Only which extents of that disk's partial come from which instant: lines of offset, length, and the run that
    /// copied them.
    #[arg(long, value_name = "DISK", conflicts_with = "file")]
    pub(crate) map: Option<String>,
    /// How to print.
    #[command(flatten)]
    pub(crate) output: Output,
}

/// `cohort explain`.
#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// Disks as they would be given to `backup`; each as PATH or NAME=PATH. Without any, the rules themselves.
    #[arg(value_name = "[NAME=]SOURCE")]
    pub(crate) sources: Vec<String>,
    /// The policies, as for `backup`.
    #[arg(long, value_name = "[NAME=]POLICY", value_parser = crate::commands::per_disk::<BitmapPolicy>)]
    pub(crate) policy: Vec<String>,
    /// A backup directory: say also what the next run would do for each disk.
    #[arg(long, value_name = "DIR")]
    pub(crate) to: Option<PathBuf>,
    /// How to print.
    #[command(flatten)]
    pub(crate) output: Output,
}

/// `cohort catalogue …`.
#[derive(Debug, Subcommand)]
pub(crate) enum Catalogue {
    /// Print the whole catalogue as JSON.
    Dump {
        /// The backup directory.
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
    /// Make the catalogue of a backup directory that has none from a dump on standard input.
    Load {
        /// The backup directory.
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
}

/// `cohort demo`.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Keep the directory of the demonstration and print its path.
    #[arg(long)]
    pub(crate) keep: bool,
    /// Call this command with `freeze` before and `thaw` after each common instant, to try a hook out.
    #[arg(long, value_name = "CMD")]
    pub(crate) hook: Option<String>,
    /// Kill a call of the hook after so many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, requires = "hook",
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) hook_wait: u64,
    /// Hold no write up for longer than this, fences included: then the backup breaks. As 500ms, 2s or 1m.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = crate::human::parse_duration)]
    pub(crate) writer_wait: Duration,
    /// How to print.
    #[command(flatten)]
    pub(crate) output: Output,
}

/// `cohort exit-codes`.
#[derive(Debug, Args)]
pub(crate) struct ExitCodes {
    /// How to print.
    #[command(flatten)]
    pub(crate) output: Output,
}

/// `cohort completions`.
#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell.
    #[arg(value_enum, value_name = "SHELL")]
    pub(crate) shell: clap_complete::Shell,
}

/// `cohort man`.
#[derive(Debug, Args)]
pub(crate) struct Man {
    /// The directory; made if it does not exist. Pages that are there are replaced.
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
}

/// Options of every command that prints.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Output {
    /// Print JSON: one object a line, the last one is the result.
    #[arg(long)]
    pub(crate) json: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Cli;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
