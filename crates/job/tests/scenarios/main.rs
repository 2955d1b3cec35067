//! The cases of QEMU's `test-blockjob` and `test-blockjob-txn`, and some that they leave out, told of the
//! core alone with a scripted worker. Cases in which threads matter are told elsewhere.

mod aborting;
mod cancel;
mod groups;
mod holds;
mod rig;
