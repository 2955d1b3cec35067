//! The bitmaps of a machine's nodes, and which of them are checkpoints of backups.

use std::path::Path;

use super::error::MachineError;
use super::instant::nodes;
use super::marks;
use crate::monitor::Monitor;

/// A bitmap of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    /// The node.
    pub(crate) node: String,
    /// The bitmap.
    pub(crate) name: String,
    /// Bytes per bit.
    pub(crate) granularity: u64,
    /// Dirty bytes; nothing where it does not say the truth.
    pub(crate) dirty_bytes: Option<u64>,
    /// What it is worth, in a word.
    pub(crate) state: &'static str,
    /// Of a checkpoint: the begin of the backup directory's id, and the run.
    pub(crate) of: Option<(String, u64)>,
}

/// All named bitmaps of a machine, node by node.
pub(crate) fn checkpoints(path: &Path) -> Result<Vec<Checkpoint>, MachineError> {
    let failed = MachineError::monitor(path);
    let mut monitor = Monitor::connect(path).map_err(&failed)?;
    let mut found = Vec::new();
    for node in nodes(&mut monitor).map_err(&failed)? {
        // The filters of jobs have bitmaps without a name.
        let named = node
            .dirty_bitmaps
            .iter()
            .filter(|bitmap| !bitmap.name.is_empty());
        found.extend(named.map(|bitmap| {
            let state = match (bitmap.inconsistent, bitmap.busy, bitmap.recording) {
                (true, _, _) => "inconsistent",
                (false, true, _) => "busy",
                (false, false, true) => "recording",
                (false, false, false) => "disabled",
            };
            Checkpoint {
                node: node.node_name.clone(),
                name: bitmap.name.clone(),
                granularity: bitmap.granularity.into(),
                dirty_bytes: (!bitmap.inconsistent).then_some(bitmap.count),
                state,
                of: marks::checkpoint_of_any(&bitmap.name),
            }
        }));
    }
    found.sort_by(|a, b| (&a.node, &a.name).cmp(&(&b.node, &b.name)));
    Ok(found)
}
