//! What a server tells of itself: its exports, their clients, and the disks that nobody else tells of.

use std::sync::Arc;
use std::time::Duration;

use cohort_block::WriteMeter;
use cohort_qmp::{
    BitmapStatistics, ClientStatistics, Decided, DelayedWrites, DiskStatistics, ExportStatistics,
    FenceStatistics, JobInfo, MemoryStatistics, Statistics, WriteStatistics,
};

use super::connection::lock;
use super::export::Served;
use super::{House, Server};
use crate::metrics::Source;
use crate::process::resident_bytes;

impl Server {
    /// What it has counted until now.
    pub(crate) fn statistics(&self) -> Statistics {
        self.house.statistics()
    }

    /// The same, for whoever does not keep it from stopping.
    pub(crate) fn source(&self) -> std::sync::Weak<dyn Source> {
        let house: Arc<dyn Source> = self.house.clone();
        Arc::downgrade(&house)
    }
}

impl Source for House {
    fn statistics(&self) -> Statistics {
        let served = self.catalogue.all();
        let (clients, inside) = {
            let guests = lock(&self.guests);
            let clients = ClientStatistics {
                nbd: guests.count as u64,
                nbd_limit: self.limits.connections as u64,
                nbd_accepted: guests.accepted,
                nbd_turned_away: guests.turned_away,
                qmp: 0,
            };
            let inside = |disk: &Arc<Served>| {
                let guests = guests.inside.iter();
                guests
                    .filter(|guest| Arc::ptr_eq(&guest.disk, disk))
                    .count()
            };
            (clients, served.iter().map(inside).collect::<Vec<_>>())
        };
        let (requests_bytes, requests_limit_bytes) = self.budget.bytes();
        Statistics {
            exports: served.iter().zip(inside).map(export).collect(),
            disks: served.iter().filter_map(|served| disk(served)).collect(),
            clients,
            memory: MemoryStatistics {
                requests_bytes,
                requests_limit_bytes,
                ..memory()
            },
            ..nothing()
        }
    }

    fn jobs(&self) -> Vec<JobInfo> {
        Vec::new()
    }
}

/// What is told of a server where nobody is and nothing happened.
pub(crate) fn nothing() -> Statistics {
    Statistics {
        exports: Vec::new(),
        disks: Vec::new(),
        groups: Vec::new(),
        decided: Decided {
            committed: 0,
            aborted: 0,
        },
        fences: FenceStatistics {
            fences: 0,
            last_ns: 0,
            worst_ns: 0,
        },
        clients: ClientStatistics {
            nbd: 0,
            nbd_limit: 0,
            nbd_accepted: 0,
            nbd_turned_away: 0,
            qmp: 0,
        },
        memory: memory(),
    }
}

/// What a meter has counted.
pub(crate) fn writes(meter: &WriteMeter) -> WriteStatistics {
    let (delays, fence, device) = (meter.delays(), meter.fence_delays(), meter.device());
    let spread = meter.spread();
    let delayed = spread.up_to.into_iter();
    WriteStatistics {
        // The same sum that the times are parts of: other counters may have moved on.
        writes: spread.writes,
        delayed: delayed
            .map(|(up_to, writes)| DelayedWrites {
                up_to_ns: nanos(up_to),
                writes,
            })
            .collect(),
        delay_ns: nanos(spread.total),
        delay_p99_ns: nanos(delays.p99),
        delay_worst_ns: nanos(delays.worst),
        fence_waits: fence.writes,
        fence_wait_worst_ns: nanos(fence.worst),
        device_writes: device.writes,
        device_ns: nanos(device.total),
    }
}

/// A time as it goes over the wire.
pub(crate) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn memory() -> MemoryStatistics {
    MemoryStatistics {
        requests_bytes: 0,
        requests_limit_bytes: 0,
        resident_bytes: resident_bytes().unwrap_or(0),
    }
}

fn export((served, clients): (&Arc<Served>, usize)) -> ExportStatistics {
    ExportStatistics {
        name: served.name.as_str().to_owned(),
        clients: clients as u64,
        operations: served.traffic.operations(),
        refused: served.traffic.refused(),
    }
}

/// The disk behind an export; nothing of one that is told as a node.
fn disk(served: &Served) -> Option<DiskStatistics> {
    let meter = served.meter.as_ref()?;
    let bitmaps = served.bitmaps.iter();
    Some(DiskStatistics {
        name: served.name.as_str().to_owned(),
        size: served.size,
        writes: Some(writes(meter)),
        bitmaps: bitmaps
            .map(|(name, bitmap)| BitmapStatistics {
                name: name.as_str().to_owned(),
                dirty_bytes: bitmap.dirty_bytes(),
            })
            .collect(),
        tracked_dirty_bytes: None,
    })
}
