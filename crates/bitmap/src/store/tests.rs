//! What a store says after it was left in every way: closed, killed, failed, damaged, moved.

mod damage;
mod failing;
mod lives;
mod memory;

use std::sync::Arc;

use memory::Memory;

use super::*;
use crate::Granularity;

const SIZE: u64 = 300 << 20;
const GRANULE: u64 = 65536;

fn disk() -> DiskState {
    DiskState {
        identity: [4; 24],
        session: [5; 16],
        size: SIZE,
        stamp: Some(Stamp {
            size: SIZE,
            modified: (1, 2),
            changed: (3, 4),
        }),
    }
}

fn label(name: &str) -> Label {
    Label {
        owner: Owner {
            id: [9; 16],
            path: "/backup".into(),
        },
        name: name.into(),
        note: String::new(),
    }
}

fn created(file: &Arc<Memory>) -> Store {
    Store::create(file.clone(), [7; 16], disk(), Mode::PowerLoss).unwrap()
}

fn opened(file: &Arc<Memory>) -> (Store, Inspection) {
    Store::open(file.clone(), disk(), Mode::PowerLoss).unwrap()
}

fn begun(store: &Store) -> Recording {
    store.begin(label("since"), Granularity::DEFAULT).unwrap()
}

/// The granules that a report says are dirty.
fn granules(report: &SetReport) -> Vec<u64> {
    report
        .dirty
        .dirty_offsets()
        .map(|at| at / GRANULE)
        .collect()
}
