//! Why a command did not do what was asked: an error for people, and the exit code that scripts see. Every error of the
//! rooms below becomes an exit code here and nowhere else.

use cohort_backup::catalogue::{self, ChangeError, NoSuchPoint};
use cohort_backup::{DiskError, StartError};
use cohort_bitmap::store::qcow2::Qcow2Error;
use cohort_block::OpenError;
use serde::Serialize;

use crate::exit::Exit;
use crate::machine::MachineError;
use crate::output;

/// A command that failed.
#[derive(Debug)]
pub(crate) struct Failure {
    /// How the process exits.
    pub(crate) exit: Exit,
    /// What went wrong, with its causes.
    pub(crate) error: anyhow::Error,
}

/// The result of a command: how the process exits if it did its work, or why it did not.
pub(crate) type Result<T = Exit> = std::result::Result<T, Failure>;

/// A failure as JSON gives it.
#[derive(Debug, Serialize)]
struct JsonFailure<'a> {
    event: &'static str,
    exit: &'static str,
    code: u8,
    message: &'a str,
}

impl Failure {
    /// A failure with its exit code.
    pub(crate) fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Failure {
        Failure {
            exit,
            error: error.into(),
        }
    }

    /// A failure of which there is no more to say than `message`.
    pub(crate) fn say(exit: Exit, message: impl std::fmt::Display) -> Failure {
        Failure {
            exit,
            error: anyhow::anyhow!("{message}"),
        }
    }

    /// Arguments that cannot be read. What people are told has lines of usage and hints besides, which say nothing more.
    pub(crate) fn of_arguments(error: &clap::Error) -> Failure {
        let text = error.to_string();
        let said = text.split("\n\n").next().unwrap_or_default();
        let words: Vec<_> = said.split_whitespace().collect();
        let said = words.join(" ");
        Failure::say(Exit::Usage, said.trim_start_matches("error: "))
    }

    /// Prints the failure: a line on standard error, and with `json` an object on standard output too.
    pub(crate) fn print(&self, json: bool) {
        let (line, result) = self.told();
        eprintln!("{line}");
        if json {
            output::print_line(&result);
        }
    }

    /// The line for people, and the object as a line of JSON.
    pub(crate) fn told(&self) -> (String, String) {
        let message = message(&self.error);
        let (exit, code) = (self.exit.word(), self.exit.code());
        let result = output::json_text(&JsonFailure {
            event: "error",
            exit,
            code,
            message: &message,
        });
        (format!("cohort: {message}"), result)
    }
}

/// The error and its causes in one line; a cause that the error tells already is not told again.
fn message(error: &anyhow::Error) -> String {
    let mut message = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if message.is_empty() {
            message = cause;
        } else if !message.contains(&cause) {
            message = format!("{message}: {cause}");
        }
    }
    message
}

/// The exit code for a source that could not be opened.
pub(crate) fn exit_of_open(error: &OpenError) -> Exit {
    match error {
        OpenError::Missing { .. } => Exit::SourceMissing,
        OpenError::Empty { .. } => Exit::SourceEmpty,
        OpenError::Locked { .. } => Exit::SourceLocked,
        OpenError::WrongFormat { .. }
        | OpenError::Truncated { .. }
        | OpenError::Damaged { .. }
        | OpenError::Uncounted { .. }
        | OpenError::BackingLoop { .. } => Exit::SourceDamaged,
        OpenError::Unsupported { .. } | OpenError::Bitmaps { .. } => Exit::SourceUnsupported,
        OpenError::MissingBacking { .. } => Exit::BackingMissing,
        OpenError::Permission { .. } | OpenError::NotAFile { .. } | OpenError::Io { .. } | _ => {
            Exit::SourceUnreadable
        }
    }
}

/// The exit code for a bitmap of QEMU's, or an image with such, that could not be used.
pub(crate) fn exit_of_bitmap(error: &Qcow2Error) -> Exit {
    use Qcow2Error as E;
    match error {
        E::Unknown { .. } => Exit::NoSuchBitmap,
        E::Exists { .. } => Exit::OutputExists,
        E::Inconsistent { .. } | E::Stale | E::Unusable { .. } => Exit::BitmapUntrue,
        E::NotQcow2 | E::Version { .. } | E::Unsupported { .. } | E::DiskSize { .. } => {
            Exit::SourceUnsupported
        }
        E::Damaged { .. } => Exit::SourceDamaged,
        E::Io { cause, .. } if cause.kind() == std::io::ErrorKind::StorageFull => Exit::TargetFull,
        E::BadName { .. }
        | E::Granularity { .. }
        | E::TooLarge { .. }
        | E::TooManyGranules(_)
        | E::Size(_) => Exit::Usage,
        E::TooMany | E::NoRoom => Exit::TargetFailed,
        E::Io { .. } | _ => Exit::SourceUnreadable,
    }
}

/// The exit code for a backup directory that could not be used.
fn exit_of_directory(error: &catalogue::OpenError) -> Exit {
    use catalogue::OpenError as E;
    match error {
        E::Io { .. } if error.no_room() => Exit::TargetFull,
        E::Busy { .. } => Exit::DirectoryBusy,
        E::Foreign { .. } | E::NewerVersion { .. } => Exit::CatalogueForeign,
        E::Damaged { .. } | E::Broken { .. } | E::TooLarge { .. } => Exit::CatalogueDamaged,
        E::NoDirectory(_)
        | E::NotADirectory(_)
        | E::NoCatalogue(_)
        | E::HasCatalogue(_)
        | E::Clash(_)
        | E::Restless(_)
        | E::Io { .. }
        | _ => Exit::DirectoryUnusable,
    }
}

impl From<catalogue::OpenError> for Failure {
    fn from(error: catalogue::OpenError) -> Failure {
        Failure::new(exit_of_directory(&error), error)
    }
}

impl From<MachineError> for Failure {
    fn from(error: MachineError) -> Failure {
        let exit = match error {
            MachineError::Monitor { .. } => Exit::SourceUnreadable,
            MachineError::Disks { .. } => Exit::SourceMissing,
            MachineError::Io { .. } | MachineError::Fence(_) => Exit::Other,
        };
        Failure::new(exit, error)
    }
}

impl From<ChangeError> for Failure {
    fn from(error: ChangeError) -> Failure {
        let exit = match error {
            ChangeError::InDoubt(_) => Exit::InDoubt,
            ChangeError::Refused(_) | _ => Exit::Other,
        };
        Failure::new(exit, error)
    }
}

impl From<NoSuchPoint> for Failure {
    fn from(error: NoSuchPoint) -> Failure {
        Failure::new(Exit::NoSuchPoint, error)
    }
}

/// The exit code for a disk that was not backed up.
pub(crate) fn exit_of_disk(error: &DiskError) -> Exit {
    match error {
        DiskError::Open(error) => exit_of_open(error),
        DiskError::SameDisk { .. } => Exit::SourceTwice,
        DiskError::InsideTarget { .. } => Exit::SourceIsTarget,
        DiskError::Bitmap { error, .. } => exit_of_bitmap(error),
        DiskError::NobodyWrites(_)
        | DiskError::TooLarge { .. }
        | DiskError::BitmapUnfit { .. }
        | DiskError::TrackingStore { .. }
        | DiskError::NoTrackingStore { .. } => Exit::SourceUnsupported,
        DiskError::Write { .. } | DiskError::Flush { .. } | DiskError::TargetFile { .. } => {
            Exit::TargetFailed
        }
        DiskError::TargetFull { .. } => Exit::TargetFull,
        DiskError::ChangedWhileRead { .. } | DiskError::InstantLost { .. } => Exit::Changed,
        DiskError::Incomplete { .. } => Exit::Incomplete,
        DiskError::TooStrict { .. } => Exit::SteppedDown,
        DiskError::Catalogue(ChangeError::InDoubt(_)) => Exit::InDoubt,
        DiskError::Directory(error) => exit_of_directory(error),
        DiskError::Busy(_)
        | DiskError::Read(_)
        | DiskError::Broken(_)
        | DiskError::Catalogue(_)
        | DiskError::System { .. }
        | DiskError::Job(_)
        | _ => Exit::DiskFailed,
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Failure {
        let exit = match &error {
            StartError::NoDisks | StartError::BadName { .. } => Exit::Usage,
            StartError::NameTaken { .. } => Exit::SourceTwice,
            StartError::Directory(error) => exit_of_directory(error),
            StartError::Catalogue(ChangeError::InDoubt(_)) => Exit::InDoubt,
            StartError::Disk { error, .. } => exit_of_disk(error),
            StartError::Catalogue(_) | StartError::Fence(_) | StartError::Engine(_) | _ => {
                Exit::Other
            }
        };
        Failure::new(exit, error)
    }
}
