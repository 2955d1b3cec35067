//! qemu-storage-daemon as a peer for live disks: a raw image exported over NBD, and backup jobs started over QMP.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cohort_block::{Access, NbdDevice};
use serde_json::json;

use crate::peers::StorageDaemon;

/// The daemon with one disk.
#[derive(Debug)]
pub struct LiveDaemon {
    daemon: StorageDaemon,
    /// The disk, through the daemon's own NBD server.
    pub disk: Arc<NbdDevice>,
}

impl LiveDaemon {
    /// Serves the raw image at `source`; its socket lies in `lab`. None if the daemon is not installed.
    ///
    /// # Errors
    /// If it does not answer.
    ///
    /// # Panics
    /// If it answers and does not serve.
    pub fn serve(lab: &Path, source: &Path) -> io::Result<Option<Self>> {
        let socket = lab.join("nbd.sock");
        let (source, socket) = (source.display(), socket.display());
        let options = [
            "--blockdev",
            &format!("driver=raw,node-name=d,file.driver=file,file.filename={source}"),
            "--nbd-server",
            &format!("addr.type=unix,addr.path={socket}"),
            "--export",
            "type=nbd,id=e,node-name=d,name=d,writable=on",
        ];
        let Some(daemon) = StorageDaemon::spawn(&options.map(str::to_owned))? else {
            return Ok(None);
        };
        let uri = format!("nbd+unix:///d?socket={socket}");
        let uri = uri.parse().expect("an address");
        let disk = NbdDevice::connect(&uri, Access::ReadWrite, Duration::from_secs(60));
        let disk = Arc::new(disk.expect("its export"));
        Ok(Some(LiveDaemon { daemon, disk }))
    }

    /// A full backup at defaults to the raw file `target`, from its start to its end.
    ///
    /// # Errors
    /// If the daemon refuses it.
    pub fn backup(&mut self, target: &Path, size: u64) -> io::Result<Duration> {
        std::fs::File::create(target)?.set_len(size)?;
        let node = json!({ "execute": "blockdev-add", "arguments": {
            "driver": "raw", "node-name": "t", "file": { "driver": "file", "filename": target } } });
        let backup = json!({ "execute": "blockdev-backup", "arguments": {
            "job-id": "j", "device": "d", "target": "t", "sync": "full" } });
        let forget = json!({ "execute": "blockdev-del", "arguments": { "node-name": "t" } });
        self.daemon.call(&node.to_string())?;
        let began = Instant::now();
        self.daemon.call(&backup.to_string())?;
        while !self.daemon.line()?.contains(r#""status": "null""#) {}
        let time = began.elapsed();
        self.daemon.call(&forget.to_string())?;
        Ok(time)
    }
}
