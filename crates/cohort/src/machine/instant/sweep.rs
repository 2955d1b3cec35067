//! Leaving a machine tidy: what is removed of ours when a run is over, and of those that were killed.

use std::fs;

use cohort_backup::catalogue::{Contents, RunId};
use serde_json::{Value, json};

use super::{Frozen, GOING, nodes};
use crate::monitor::{Monitor, MonitorError};

impl Frozen {
    /// Removes what lives for one run only: of this run, or of all of this directory.
    pub(super) fn sweep_passing(
        &self,
        monitor: &mut Monitor,
        only: Option<RunId>,
    ) -> Result<(), MonitorError> {
        let ours = |name: &str| {
            let mark = self.marks.read(name);
            mark.is_some_and(|mark| !mark.is_checkpoint && only.is_none_or(|run| run == mark.run))
        };
        let named = |value: &Value, key: &str| -> Vec<String> {
            let names = value.as_array().into_iter().flatten();
            let names = names.filter_map(|one| one[key].as_str());
            names.filter(|name| ours(name)).map(str::to_owned).collect()
        };
        for export in named(&monitor.ask("query-block-exports", json!({}))?, "id") {
            gone(monitor.ask("block-export-del", json!({ "id": export, "mode": "hard" })))?;
        }
        monitor.wait_until(GOING, |monitor| {
            let exports = monitor.ask("query-block-exports", json!({}))?;
            Ok(named(&exports, "id").is_empty())
        })?;
        for job in named(&monitor.ask("query-jobs", json!({}))?, "id") {
            gone(monitor.ask("job-cancel", json!({ "id": job })))?;
        }
        monitor.wait_until(GOING, |monitor| {
            let jobs = monitor.ask("query-jobs", json!({}))?;
            Ok(named(&jobs, "id").is_empty())
        })?;
        for node in nodes(monitor)? {
            if ours(&node.node_name) {
                gone(monitor.ask("blockdev-del", json!({ "node-name": node.node_name })))?;
            }
        }
        self.sweep_server(monitor)?;
        self.sweep_files(ours);
        for node in nodes(monitor)? {
            for bitmap in node
                .dirty_bitmaps
                .iter()
                .filter(|bitmap| ours(&bitmap.name))
            {
                remove_bitmap(monitor, &node.node_name, &bitmap.name)?;
            }
        }
        Ok(())
    }

    /// Stops the server that we, or one who was killed, had the machine start, unless somebody else has come to use it.
    fn sweep_server(&self, monitor: &mut Monitor) -> Result<(), MonitorError> {
        if !self.folder.exists() {
            return Ok(());
        }
        let exports = monitor.ask("query-block-exports", json!({}))?;
        let mut exports = exports.as_array().into_iter().flatten();
        if !exports.any(|export| export["type"] == "nbd") {
            gone(monitor.ask("nbd-server-stop", json!({})))?;
            self.folder.remove();
        }
        Ok(())
    }

    fn sweep_files(&self, ours: impl Fn(&str) -> bool) {
        for file in fs::read_dir(&self.scratch).into_iter().flatten().flatten() {
            let name = file.file_name();
            let stem = name.to_str().and_then(|name| name.strip_suffix(".qcow2"));
            if stem.is_some_and(&ours) {
                let _ = fs::remove_file(file.path());
            }
        }
    }

    /// Removes the checkpoints that no point goes by: of a disk of this run all but that of its anchor, of other nodes those
    /// of runs that are nobody's anchor. Later runs than this one are not our business.
    pub(super) fn sweep_bitmaps(
        &self,
        monitor: &mut Monitor,
        contents: &Contents,
    ) -> Result<(), MonitorError> {
        let known: Vec<_> = contents
            .disks
            .keys()
            .map(|disk| contents.anchor(disk))
            .collect();
        for node in nodes(monitor)? {
            let disk = self
                .disks
                .iter()
                .find(|(_, of_disk)| *of_disk == node.node_name);
            for bitmap in &node.dirty_bitmaps {
                let Some(mark) = self
                    .marks
                    .read(&bitmap.name)
                    .filter(|mark| mark.run <= self.run)
                else {
                    continue;
                };
                let is_used = match disk {
                    Some((name, _)) => {
                        contents.anchor(name) == Some(mark.run) && !bitmap.inconsistent
                    }
                    None => known.contains(&Some(mark.run)),
                };
                if !is_used {
                    remove_bitmap(monitor, &node.node_name, &bitmap.name)?;
                }
            }
        }
        Ok(())
    }
}

fn remove_bitmap(monitor: &mut Monitor, node: &str, name: &str) -> Result<(), MonitorError> {
    gone(monitor.ask(
        "block-dirty-bitmap-remove",
        json!({ "node": node, "name": name }),
    ))
}

/// What somebody else removed first is removed.
fn gone(removed: Result<Value, MonitorError>) -> Result<(), MonitorError> {
    match removed {
        Err(MonitorError::Refused { text, .. })
            if [
                "not found",
                "not running",
                "Failed to find",
                "shutting down",
            ]
            .iter()
            .any(|gone| text.contains(gone)) =>
        {
            Ok(())
        }
        other => other.map(drop),
    }
}
