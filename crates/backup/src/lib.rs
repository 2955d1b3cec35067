//! Cohort's backup room.

mod options;

pub use options::{
    BitmapPolicy, Budget, ErrorPolicy, OnUndecided, Options, OptionsBuilder, OptionsError,
    SyncMode, UnknownWord,
};
