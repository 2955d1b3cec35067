//! Metrics of a running server for Prometheus, and whoever else reads its text format.
//!
//! What there is says one table, [`Family`]. What is measured comes from a [`Source`], is laid out by `collect.rs` and
//! written by `page.rs`; both are pure. `http.rs` says what a client asked for, and `server.rs` has the sockets.

mod collect;
mod family;
mod http;
mod page;
mod server;

use cohort_qmp::{JobInfo, Statistics};

#[cfg(test)]
pub(crate) use family::Family;
pub(crate) use server::{Address, Metrics};

/// Whoever has something to tell.
pub(crate) trait Source: Send + Sync {
    /// What it has counted.
    fn statistics(&self) -> Statistics;

    /// Its jobs.
    fn jobs(&self) -> Vec<JobInfo>;
}
