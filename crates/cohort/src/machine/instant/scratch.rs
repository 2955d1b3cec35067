//! Before the instant: a place for each disk where what is overwritten will be saved.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, fchown};
use std::path::Path;

use cohort_backup::{CreateOptions, Qcow2Builder};
use cohort_block::OsFile;
use serde_json::json;

use super::Frozen;
use crate::machine::disks::Node;
use crate::machine::error::MachineError;
use crate::monitor::Monitor;

impl Frozen {
    /// A node over a disk that shows the disk, and in which what is overwritten will be saved. Its file has no name any
    /// more once the machine has it open.
    pub(super) fn add_scratch(
        &self,
        monitor: &mut Monitor,
        overlay: &str,
        disk: &Node,
        owner: (u32, u32),
        path: &Path,
    ) -> Result<(), MachineError> {
        let file = self.scratch.join(format!("{overlay}.qcow2"));
        make_scratch(&file, disk.size(), owner).map_err(MachineError::io(&file))?;
        let added = monitor.ask(
            "blockdev-add",
            json!({
                "driver": "qcow2", "node-name": overlay, "backing": disk.node_name,
                "file": { "driver": "file", "filename": file.to_string_lossy() },
            }),
        );
        let _ = fs::remove_file(&file);
        added.map(drop).map_err(|error| {
            MachineError::disks(path)(format!(
                "{error}; name a folder in which the machine may write with --scratch"
            ))
        })
    }
}

fn make_scratch(path: &Path, size: u64, (uid, gid): (u32, u32)) -> io::Result<()> {
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    if rustix::process::geteuid().as_raw() != uid {
        fchown(&file, Some(uid), Some(gid))?;
    }
    let builder = Qcow2Builder::create(OsFile::new(file)?, &CreateOptions::new(size));
    let builder = builder.map_err(io::Error::other)?;
    builder.finish().map_err(io::Error::other)
}
