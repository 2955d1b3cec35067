//! Actions that are launched together, and jobs that finish together.

use super::{
    Backup, BitmapAdd, BitmapMerge, BitmapRef, DriveBackup, Nothing, choices, record, words,
};

record! {
    /// Arguments of `transaction`.
    Transaction { actions: Vec<Action>, properties: Option<TransactionProperties> }
}

record! {
    /// An action, as an object of its own.
    Action {} by action: ActionKind
}

choices! {
    /// What is to be done.
    ActionKind by "type" in "data" {
        Abort(Nothing) = "abort",
        BitmapAdd(BitmapAdd) = "block-dirty-bitmap-add",
        BitmapRemove(BitmapRef) = "block-dirty-bitmap-remove",
        BitmapClear(BitmapRef) = "block-dirty-bitmap-clear",
        BitmapEnable(BitmapRef) = "block-dirty-bitmap-enable",
        BitmapDisable(BitmapRef) = "block-dirty-bitmap-disable",
        BitmapMerge(BitmapMerge) = "block-dirty-bitmap-merge",
        BlockdevBackup(Backup) = "blockdev-backup",
        DriveBackup(DriveBackup) = "drive-backup",
    }
}

record! {
    /// How the jobs belong together.
    TransactionProperties { completion_mode: Option<CompletionMode> }
}

words! {
    /// Whether each job ends for itself, or all alike.
    CompletionMode { Individual = "individual", Grouped = "grouped" }
}
