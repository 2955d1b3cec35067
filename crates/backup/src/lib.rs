//! Cohort's backup room.

mod options;
mod settle;

pub use options::{
    BitmapPolicy, Budget, ErrorPolicy, OnUndecided, Options, OptionsBuilder, OptionsError,
    SyncMode, UnknownWord,
};
pub use settle::{Aborted, Ended, Fate, Settled, fate, remaining, settle};
