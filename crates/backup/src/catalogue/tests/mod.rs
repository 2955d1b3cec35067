//! Tests of the catalogue as a whole; what concerns one file is tested there.

mod damage;
mod dump;
mod journal;
mod power_loss;
pub(super) mod samples;
mod writer;
