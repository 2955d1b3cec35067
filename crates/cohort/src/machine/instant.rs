//! One instant of all disks of a machine, and the way back.
//!
//! ```text
//!   sweep ─► scratch nodes over the disks ─► freeze ─► one transaction ─► thaw ─► exports ─► pulled over NBD
//!                                                      for each disk:
//!                                                      a backup job with sync=none, which saves to the scratch what
//!                                                        is overwritten: the scratch shows the instant
//!                                                      a new bitmap from this instant on: the checkpoint
//!                                                      a copy of the last checkpoint's bitmap: what changed
//!   after the verdict: exports, jobs and scratch nodes go; of the checkpoints those stay that the catalogue goes by
//! ```
//!
//! All names say the directory and the run, and which bitmaps are good is said by the catalogue alone. So a run that was
//! killed leaves nothing that the next one would have to ask about: it removes what is ours and of no use.

mod exports;
mod scratch;
mod sweep;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cohort_backup::catalogue::{Contents, DiskName, RunId};
use cohort_backup::{DiskSpec, Fence, Hook};
use cohort_qmp::ErrorClass;
use serde_json::{Value, json};

use super::disks::{self, Chosen, Device, Node};
use super::error::MachineError;
use super::keeper::Base;
use super::marks::Marks;
use super::server::{Folder, NbdServer};
use crate::monitor::{Monitor, MonitorError};

/// How long a job or an export may take to go.
const GOING: Duration = Duration::from_secs(60);

/// Bytes per bit of our bitmaps: as many as those of a target's cluster.
const GRANULARITY: u32 = 64 << 10;

/// A running machine whose disks are to be backed up.
#[derive(Debug)]
pub(crate) struct Machine {
    monitor: Arc<Mutex<Monitor>>,
    path: PathBuf,
    asked: Vec<(Option<DiskName>, String)>,
    disks: Vec<(DiskName, Chosen)>,
}

/// A machine with an instant that is kept until [`Frozen::release`].
#[derive(Debug)]
pub(crate) struct Frozen {
    monitor: Arc<Mutex<Monitor>>,
    marks: Marks,
    run: RunId,
    disks: Vec<(DiskName, String)>,
    folder: Folder,
    scratch: PathBuf,
    specs: Vec<DiskSpec>,
    notes: Vec<String>,
}

impl Machine {
    /// Connects to a machine, and finds the disks that are asked for: names to give and words for nodes or devices; all of
    /// its disks if none is.
    pub(crate) fn connect(
        path: &Path,
        asked: Vec<(Option<DiskName>, String)>,
    ) -> Result<Self, MachineError> {
        let mut monitor = Monitor::connect(path).map_err(MachineError::monitor(path))?;
        let disks = find(&mut monitor, path, &asked)?;
        Ok(Machine {
            monitor: Arc::new(Mutex::new(monitor)),
            path: path.to_owned(),
            asked,
            disks,
        })
    }

    /// What its disks are called.
    pub(crate) fn disks(&self) -> impl Iterator<Item = &DiskName> {
        self.disks.iter().map(|(name, _)| name)
    }

    /// Takes one instant of all disks, for the next run into the directory with these contents. What is overwritten from
    /// then on is saved in `scratch`, a folder in which the machine may write.
    pub(crate) fn freeze(
        self,
        contents: &Contents,
        scratch: &Path,
        hooks: Vec<Hook>,
    ) -> Result<Frozen, MachineError> {
        let failed = MachineError::monitor(&self.path);
        let marks = Marks::of(contents.meta.directory);
        let run = contents.meta.next_run;
        let folder = Folder::of(&self.path, marks.prefix().trim_end_matches('-'));
        let folder = folder.map_err(MachineError::io(&self.path))?;
        let scratch = std::path::absolute(scratch).map_err(MachineError::io(scratch))?;
        let mut frozen = Frozen {
            monitor: self.monitor,
            marks,
            run,
            disks: Vec::new(),
            folder,
            scratch,
            specs: Vec::new(),
            notes: Vec::new(),
        };
        let bases = {
            let monitor = frozen.monitor.clone();
            let mut monitor = lock(&monitor);
            // Nodes have their own names again once the filters of leftover jobs are gone.
            frozen.sweep_passing(&mut monitor, None).map_err(&failed)?;
            let disks = find(&mut monitor, &self.path, &self.asked)?;
            let named = disks.into_iter().map(|(name, disk)| (name, disk.node));
            frozen.disks = named.collect();
            let bases = frozen.bases(&mut monitor, contents).map_err(&failed)?;
            frozen
                .sweep_bitmaps(&mut monitor, contents)
                .map_err(&failed)?;
            bases
        };
        match frozen.take_instant(bases, &self.path, hooks) {
            Ok(()) => Ok(frozen),
            Err(error) => {
                frozen.release(contents);
                Err(error)
            }
        }
    }
}

impl Frozen {
    /// The disks as they were at the instant.
    pub(crate) fn specs(&mut self) -> Vec<DiskSpec> {
        std::mem::take(&mut self.specs)
    }

    /// Gives the machine back as it is to be left when the directory has these contents: with a checkpoint for each disk
    /// whose last point goes by it, and nothing else of ours. Says what could not be removed; the next run does that.
    pub(crate) fn release(mut self, contents: &Contents) -> Vec<String> {
        self.specs.clear();
        let monitor = self.monitor.clone();
        let mut monitor = lock(&monitor);
        let mut notes = std::mem::take(&mut self.notes);
        let swept = self.sweep_passing(&mut monitor, Some(self.run));
        let swept = swept.and_then(|()| self.sweep_bitmaps(&mut monitor, contents));
        if let Err(error) = swept {
            let path = monitor.path().display();
            notes.push(format!(
                "qmp:{path} is not left tidy, the next run sees to that: {error}"
            ));
        }
        notes
    }

    /// What the disks' last checkpoints say, or why they say nothing.
    fn bases(
        &self,
        monitor: &mut Monitor,
        contents: &Contents,
    ) -> Result<HashMap<String, Result<Base, String>>, MonitorError> {
        let nodes = nodes(monitor)?;
        let each = self.disks.iter().map(|(name, node)| {
            let anchor = contents.anchor(name);
            let found = nodes.iter().find(|found| found.node_name == *node);
            let base = match (anchor, found) {
                (Some(anchor), Some(found)) => {
                    base_of(found, &self.marks.checkpoint(anchor), anchor)
                }
                (None, _) | (_, None) => Err("it has no point yet".to_owned()),
            };
            (node.clone(), base)
        });
        Ok(each.collect())
    }

    fn take_instant(
        &mut self,
        bases: HashMap<String, Result<Base, String>>,
        path: &Path,
        hooks: Vec<Hook>,
    ) -> Result<(), MachineError> {
        let shared = self.monitor.clone();
        let mut monitor = lock(&shared);
        let failed = MachineError::monitor(path);
        let nodes = nodes(&mut monitor).map_err(&failed)?;
        let (_, uid, gid) = monitor.peer().map_err(&failed)?;
        let mut actions = Vec::new();
        for (at, (name, node)) in self.disks.iter().enumerate() {
            let found = nodes.iter().find(|found| found.node_name == *node);
            let gone = || MachineError::disks(path)(format!("node {node} of disk {name} is gone"));
            let found = found.ok_or_else(gone)?;
            let overlay = self.marks.passing(self.run, &format!("s{at}"));
            self.add_scratch(&mut monitor, &overlay, found, (uid, gid), path)?;
            actions.push((
                found,
                overlay,
                self.marks.passing(self.run, &format!("j{at}")),
            ));
        }
        let actions = self.actions(&actions, &bases);
        let mut fence = Fence::new(format!("run {}", self.run), Duration::from_secs(1));
        for hook in hooks {
            let failed = MachineError::io(Path::new("a thread for a hook"));
            fence = hook.join(fence).map_err(failed)?;
        }
        let fenced = fence.raise(|_| transact(&mut monitor, actions))?;
        for failure in fenced.thaw_failures {
            self.notes.push(format!("not thawed: {failure}"));
        }
        fenced.value.map_err(&failed)?;
        let started = NbdServer::start(&mut monitor, self.folder.again());
        let server = started.map_err(&failed)?;
        for at in 0..self.disks.len() {
            let base = bases.get(&self.disks[at].1).cloned();
            let spec = self.export(&mut monitor, at, &server, base, path)?;
            self.specs.push(spec);
        }
        Ok(())
    }

    /// All that happens at once. The jobs come first: each stops its disk's writes until the transaction has ended, so what
    /// the bitmaps after them say is of the same instant.
    fn actions(
        &self,
        disks: &[(&Node, String, String)],
        bases: &HashMap<String, Result<Base, String>>,
    ) -> Vec<Value> {
        let mut actions = Vec::new();
        for (node, overlay, job) in disks {
            actions.push(json!({ "type": "blockdev-backup", "data": {
                "job-id": job, "device": node.node_name, "target": overlay, "sync": "none",
            }}));
        }
        for (node, _, _) in disks {
            actions.push(json!({ "type": "block-dirty-bitmap-add", "data": {
                "node": node.node_name, "name": self.marks.checkpoint(self.run),
                "granularity": GRANULARITY, "persistent": node.keeps_bitmaps(),
            }}));
            let Some(Ok(base)) = bases.get(&node.node_name) else {
                continue;
            };
            let copy = self.marks.passing(self.run, "t");
            actions.push(json!({ "type": "block-dirty-bitmap-add", "data": {
                "node": node.node_name, "name": copy, "granularity": base.granularity, "disabled": true,
            }}));
            actions.push(json!({ "type": "block-dirty-bitmap-merge", "data": {
                "node": node.node_name, "target": copy, "bitmaps": [base.bitmap],
            }}));
        }
        actions
    }
}

/// Finds the disks that were asked for, and gives them their names.
fn find(
    monitor: &mut Monitor,
    path: &Path,
    asked: &[(Option<DiskName>, String)],
) -> Result<Vec<(DiskName, Chosen)>, MachineError> {
    let (failed, wrong) = (MachineError::monitor(path), MachineError::disks(path));
    let nodes = nodes(monitor).map_err(&failed)?;
    let devices: Vec<Device> = match monitor.ask("query-block", json!({})) {
        Ok(devices) => serde_json::from_value(devices).map_err(|error| wrong(error.to_string()))?,
        Err(MonitorError::Refused { .. }) => Vec::new(),
        Err(error) => return Err(failed(error)),
    };
    let words: Vec<_> = asked
        .iter()
        .map(|(name, word)| (name.as_ref().map(DiskName::as_str), word.as_str()))
        .collect();
    let chosen = disks::choose(&nodes, &devices, &words).map_err(&wrong)?;
    let named = chosen.into_iter().map(|disk| {
        let name = DiskName::new(disk.name.as_str())
            .map_err(|error| wrong(format!("{error}; say NAME={} after the comma", disk.name)))?;
        Ok((name, disk))
    });
    named.collect()
}

pub(super) fn nodes(monitor: &mut Monitor) -> Result<Vec<Node>, MonitorError> {
    let nodes = monitor.ask("query-named-block-nodes", json!({ "flat": true }))?;
    serde_json::from_value(nodes).map_err(|error| MonitorError::Refused {
        command: "query-named-block-nodes".to_owned(),
        class: ErrorClass::Generic,
        text: format!("what it says of its nodes is not understood: {error}"),
    })
}

/// Whether a node's checkpoint says what changed since the run `anchor`.
fn base_of(node: &Node, bitmap: &str, anchor: RunId) -> Result<Base, String> {
    let found = node.bitmap(bitmap).ok_or_else(|| {
        format!(
            "the machine has no bitmap {bitmap}: it was started anew since, or somebody removed it"
        )
    })?;
    if found.inconsistent {
        return Err(format!(
            "the machine did not end cleanly, so its bitmap {bitmap} is inconsistent"
        ));
    }
    if !found.recording {
        return Err(format!(
            "the machine's bitmap {bitmap} was disabled, so it misses writes"
        ));
    }
    if found.busy {
        return Err(format!("the machine's bitmap {bitmap} is in use"));
    }
    Ok(Base {
        anchor,
        bitmap: bitmap.to_owned(),
        granularity: found.granularity,
    })
}

/// Carries a transaction out.
///
/// A machine may know `on-cbw-error` (QEMU 10.1), by which a full scratch would break the snapshot rather than the guest's
/// write. It is not asked for: the job goes on as if nothing had happened, nothing more is saved, and the scratch shows new
/// data where old was to be. So nobody would learn that the instant is gone.
fn transact(monitor: &mut Monitor, actions: Vec<Value>) -> Result<(), MonitorError> {
    let properties = json!({ "completion-mode": "individual" });
    let ask = json!({ "actions": actions, "properties": properties });
    monitor.ask("transaction", ask).map(drop)
}

/// A lock whose value is sound after every statement.
pub(super) fn lock(monitor: &Mutex<Monitor>) -> std::sync::MutexGuard<'_, Monitor> {
    monitor
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
