//! Cohort's backup room.

mod fence;
mod options;
mod settle;

pub use fence::{Fence, FenceCause, FenceError, Fenced, HookFailure, HookResult};
pub use options::{
    BitmapPolicy, Budget, ErrorPolicy, OnUndecided, Options, OptionsBuilder, OptionsError,
    SyncMode, UnknownWord,
};
pub use settle::{Aborted, Ended, Fate, Settled, fate, remaining, settle};
