//! What must hold of any bytes. One file for each target, of the target's name; `tests/tests/corpora.rs` holds the committed
//! corpora against the same functions, so that they are checked where no fuzzer is installed.

pub mod nbd;
pub mod qcow2_bitmaps;
pub mod qmp;
pub mod serialised;
pub mod store;
