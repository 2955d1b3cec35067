//! `x-cohort-query-stats`: what the daemon has counted, to be told over QMP and as metrics.

use std::collections::HashMap;
use std::sync::Arc;

use cohort_block::Device;
use cohort_job::TxnHandle;
use cohort_qmp::{BitmapStatistics, DiskStatistics, GroupState, JobInfo, Statistics};

use super::nodes::{Graph, Node, Owner, UseKind};
use super::{Daemon, lock};
use crate::metrics::Source;
use crate::serve::{nothing_counted, writes_through};

impl Source for Daemon {
    fn statistics(&self) -> Statistics {
        let (decided, fences) = self.tally.tell();
        let mut told = self.exports.statistics().unwrap_or_else(nothing_counted);
        told.clients.qmp = self.events.clients() as u64;
        Statistics {
            disks: self.disks_now(),
            groups: self.groups_now(),
            decided,
            fences,
            ..told
        }
    }

    fn jobs(&self) -> Vec<JobInfo> {
        self.job_infos()
    }
}

impl Daemon {
    /// The nodes that clients may write to or ask about: those of the command line, and others as long as they are exported
    /// or have a bitmap.
    fn disks_now(&self) -> Vec<DiskStatistics> {
        let tracked = self.disks.tracked();
        let nodes: Vec<_> = nodes_to_tell(&self.graph());
        let told = nodes.iter().map(|node| {
            let own = tracked.iter().find(|own| own.name().as_str() == node.name);
            let bitmaps = lock(&node.bitmaps)
                .iter()
                .map(|bitmap| BitmapStatistics {
                    name: bitmap.name.clone(),
                    dirty_bytes: bitmap.dirty_bytes(),
                })
                .collect();
            DiskStatistics {
                name: node.name.clone(),
                size: node.disk.size(),
                writes: node.disk.meter().map(|meter| writes_through(meter)),
                bitmaps,
                tracked_dirty_bytes: own
                    .and_then(|own| own.dirty())
                    .map(|dirty| dirty.dirty_bytes()),
            }
        });
        told.collect()
    }

    /// The groups that have jobs which are not dismissed, and these, oldest first.
    #[allow(
        clippy::mutable_key_type,
        reason = "which group a handle is of never changes"
    )]
    fn groups_now(&self) -> Vec<GroupState> {
        let mut groups: Vec<(TxnHandle, Vec<String>)> = Vec::new();
        let mut places = HashMap::new();
        for entry in self.jobs.newest_first().into_iter().rev() {
            let group = entry.handle.txn();
            let place = *places.entry(group.clone()).or_insert(groups.len());
            match groups.get_mut(place) {
                Some((_, jobs)) => jobs.push(entry.id),
                None => groups.push((group, vec![entry.id])),
            }
        }
        let told = groups.into_iter().map(|(group, jobs)| GroupState {
            name: group.name().as_str().to_owned(),
            phase: group.phase().to_string(),
            jobs,
        });
        told.collect()
    }
}

fn nodes_to_tell(graph: &Graph) -> Vec<Arc<Node>> {
    let is_told = |node: &Node| {
        node.owner == Owner::CommandLine
            || node.is_used_as(UseKind::Export)
            || !lock(&node.bitmaps).is_empty()
    };
    let mut told: Vec<_> = graph.newest_first().filter(|node| is_told(node)).collect();
    told.reverse();
    told.into_iter().cloned().collect()
}
