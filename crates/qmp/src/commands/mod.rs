//! Every command: its name, its arguments, what it returns. The one table that arguments are checked by, and from
//! which `query-commands` and `query-qmp-schema` are made.

mod backup;
mod bitmap;
mod blkdebug;
mod create;
mod directory;
mod export;
mod info;
mod job;
mod node;
mod object;
mod state;
mod stats;
mod transaction;

use serde_json::{Map, Value, json};

use crate::argument::{Argument, Place, choices, record, words};
use crate::shape::{Entry, describe};
use crate::{Error, ErrorClass};

pub use backup::*;
pub use bitmap::*;
pub use blkdebug::*;
pub use create::*;
pub use directory::*;
pub use export::*;
pub use info::*;
pub use job::*;
pub use node::*;
pub use object::*;
pub use state::*;
pub use stats::*;
pub use transaction::*;

record! {
    /// No arguments, or nothing returned.
    Nothing {}
}

words! {
    /// What a client may have enabled at the start.
    Capability { Oob = "oob" }
}

record! {
    /// Arguments of `qmp_capabilities`.
    Capabilities { enable: Option<Vec<Capability>> }
}

/// The table: a command's name, its variant, its arguments, what it returns.
macro_rules! commands {
    ($($name:literal $variant:ident($arguments:ty) -> $returns:ty;)*) => {
        /// A command with its arguments.
        #[derive(Clone, Debug, PartialEq)]
        #[allow(missing_docs, reason = "the variants' names are the commands' own")]
        pub enum Command { $($variant($arguments)),* }

        impl Command {
            /// The name of every command, in the table's order.
            pub const NAMES: &'static [&'static str] = &[$($name),*];

            /// Its name.
            pub const fn name(&self) -> &'static str {
                match self { $(Self::$variant(_) => $name),* }
            }

            /// Reads a command's arguments, strictly.
            ///
            /// # Errors
            /// There is no such command, or the first rule that its arguments break.
            pub fn read(name: &str, arguments: Map<String, Value>) -> Result<Self, Error> {
                let arguments = Value::Object(arguments);
                match name {
                    $($name => Argument::read(arguments, &Place::WHOLE).map(Self::$variant),)*
                    _ => Err(Error::of(
                        ErrorClass::CommandNotFound,
                        format!("The command {name} has not been found"),
                    )),
                }
            }

            /// Its arguments as they go over the wire.
            pub fn arguments(&self) -> Value {
                match self { $(Self::$variant(arguments) => arguments.write()),* }
            }
        }

        const ENTRIES: &[Entry] = &[$(Entry {
            name: $name,
            arguments: Some(<$arguments as Argument>::shape),
            returns: Some(<$returns as Argument>::shape),
            is_event: false,
        }),*];
    };
}

commands! {
    "qmp_capabilities" Capabilities(Capabilities) -> Nothing;
    "query-version" QueryVersion(Nothing) -> VersionInfo;
    "query-commands" QueryCommands(Nothing) -> Vec<NameInfo>;
    "query-qmp-schema" QueryQmpSchema(Nothing) -> Vec<Value>;
    "quit" Quit(Nothing) -> Nothing;

    "blockdev-add" BlockdevAdd(NodeOptions) -> Nothing;
    "blockdev-del" BlockdevDel(NodeName) -> Nothing;
    "blockdev-create" BlockdevCreate(CreateJob) -> Nothing;
    "blockdev-reopen" BlockdevReopen(Reopen) -> Nothing;
    "block_resize" BlockResize(Resize) -> Nothing;
    "query-named-block-nodes" QueryNamedBlockNodes(QueryNodes) -> Vec<NodeInfo>;
    "query-block" QueryBlock(Nothing) -> Vec<Value>;
    "query-blockstats" QueryBlockstats(QueryStats) -> Vec<Value>;

    "block-dirty-bitmap-add" BitmapAdd(BitmapAdd) -> Nothing;
    "block-dirty-bitmap-remove" BitmapRemove(BitmapRef) -> Nothing;
    "block-dirty-bitmap-clear" BitmapClear(BitmapRef) -> Nothing;
    "block-dirty-bitmap-enable" BitmapEnable(BitmapRef) -> Nothing;
    "block-dirty-bitmap-disable" BitmapDisable(BitmapRef) -> Nothing;
    "block-dirty-bitmap-merge" BitmapMerge(BitmapMerge) -> Nothing;
    "x-debug-block-dirty-bitmap-sha256" BitmapSha256(BitmapRef) -> BitmapHash;
    "x-cohort-bitmap-decide" BitmapDecide(BitmapDecide) -> Nothing;

    "blockdev-backup" BlockdevBackup(Backup) -> Nothing;
    "drive-backup" DriveBackup(DriveBackup) -> Nothing;
    "transaction" Transaction(Transaction) -> Nothing;

    "x-cohort-backup" DirectoryBackup(DirectoryBackup) -> BackupRun;
    "x-cohort-backup-stop" BackupStop(BackupStop) -> Nothing;
    "x-cohort-backup-resume" BackupResume(BackupRun) -> Nothing;
    "x-cohort-query-backup" QueryBackup(BackupRun) -> BackupState;

    "job-pause" JobPause(JobId) -> Nothing;
    "job-resume" JobResume(JobId) -> Nothing;
    "job-cancel" JobCancel(JobCancel) -> Nothing;
    "job-complete" JobComplete(JobId) -> Nothing;
    "job-finalize" JobFinalize(JobId) -> Nothing;
    "job-dismiss" JobDismiss(JobId) -> Nothing;
    "query-jobs" QueryJobs(Nothing) -> Vec<JobInfo>;
    "x-cohort-job-why" JobWhy(JobId) -> Why;
    "block-job-set-speed" BlockJobSetSpeed(SetSpeed) -> Nothing;
    "block-job-cancel" BlockJobCancel(BlockJobCancel) -> Nothing;
    "block-job-pause" BlockJobPause(JobDevice) -> Nothing;
    "block-job-resume" BlockJobResume(JobDevice) -> Nothing;
    "block-job-complete" BlockJobComplete(JobDevice) -> Nothing;
    "block-job-finalize" BlockJobFinalize(JobId) -> Nothing;
    "block-job-dismiss" BlockJobDismiss(JobId) -> Nothing;
    "query-block-jobs" QueryBlockJobs(Nothing) -> Vec<BlockJobInfo>;

    "nbd-server-start" NbdServerStart(NbdServerStart) -> Nothing;
    "nbd-server-stop" NbdServerStop(Nothing) -> Nothing;
    "nbd-server-add" NbdServerAdd(NbdServerAdd) -> Nothing;
    "nbd-server-remove" NbdServerRemove(NbdServerRemove) -> Nothing;
    "block-export-add" BlockExportAdd(ExportOptions) -> Nothing;
    "block-export-del" BlockExportDel(ExportDel) -> Nothing;
    "query-block-exports" QueryBlockExports(Nothing) -> Vec<ExportInfo>;

    "x-cohort-query-stats" QueryStatistics(Nothing) -> Statistics;

    "object-add" ObjectAdd(ObjectOptions) -> Nothing;
    "object-del" ObjectDel(ObjectId) -> Nothing;

    "x-cohort-query-state" QueryState(Nothing) -> StateInfo;
}

/// The answer to `query-commands`.
pub fn query_commands() -> Value {
    Command::NAMES
        .iter()
        .map(|name| json!({ "name": name }))
        .collect()
}

/// The answer to `query-qmp-schema`.
pub fn query_qmp_schema() -> Value {
    let entries: Vec<_> = ENTRIES
        .iter()
        .chain(crate::event::ENTRIES)
        .copied()
        .collect();
    describe(&entries)
}

/// Declares an alternate: text, or something else told apart by its JSON type.
macro_rules! text_or {
    ($(#[$doc:meta])* $name:ident $wire:literal { $text:ident, $object:ident($type:ty) $(, $null:ident)? }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        #[allow(missing_docs, reason = "what each is, its type says")]
        pub enum $name { $text(String), $object(Box<$type>) $(, $null)? }

        impl $crate::argument::Argument for $name {
            fn shape() -> $crate::shape::Shape {
                $crate::shape::Shape::Alternate {
                    name: $wire,
                    kinds: || vec![
                        <String as $crate::argument::Argument>::shape(),
                        <$type as $crate::argument::Argument>::shape(),
                        $({
                            let _ = stringify!($null);
                            $crate::shape::Shape::Builtin($crate::shape::Builtin::Null)
                        })?
                    ],
                }
            }

            fn read(
                value: serde_json::Value,
                at: &$crate::argument::Place<'_>,
            ) -> Result<Self, $crate::Error> {
                $(if value.is_null() {
                    return Ok(Self::$null);
                })?
                if let serde_json::Value::String(text) = value {
                    return Ok(Self::$text(text));
                }
                if !value.is_object() {
                    return Err($crate::argument::no_alternate($wire, at));
                }
                let read = <$type as $crate::argument::Argument>::read(value, at)?;
                Ok(Self::$object(Box::new(read)))
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                match self {
                    Self::$text(text) => serializer.serialize_str(text),
                    Self::$object(object) => object.serialize(serializer),
                    $(Self::$null => serializer.serialize_unit(),)?
                }
            }
        }
    };
}

use text_or;

#[cfg(test)]
mod tests;
