//! Cohort's backup room.

pub mod catalogue;
mod fence;
mod options;
mod qcow2_builder;
mod restore;
mod settle;

pub use fence::{Fence, FenceCause, FenceError, Fenced, HookFailure, HookResult};
pub use options::{
    BitmapPolicy, Budget, ErrorPolicy, OnUndecided, Options, OptionsBuilder, OptionsError,
    SyncMode, UnknownWord,
};
pub use qcow2_builder::{Backing, BuildError, CreateOptions, FileOperation, Qcow2Builder, Staged};
pub use restore::{RestoreError, RestoreOptions, Restored, restore};
pub use settle::{Aborted, Ended, Fate, Settled, fate, in_granules, remaining, settle};
