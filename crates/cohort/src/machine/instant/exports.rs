//! After the instant: each disk as it was then is served by the machine, and reached from here.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cohort_backup::DiskSpec;
use cohort_block::{Access, NbdDevice};
use cohort_nbd::{BitmapName, Name, Uri};
use serde_json::json;

use super::Frozen;
use crate::machine::error::MachineError;
use crate::machine::keeper::{Base, MachineKeeper};
use crate::machine::server::NbdServer;
use crate::monitor::Monitor;

/// How long a request for data may take, connecting again included.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long an NBD server that was found may take to show that it is the right one.
const TRIAL: Duration = Duration::from_secs(3);

impl Frozen {
    /// Serves a disk's instant, and connects to it.
    pub(super) fn export(
        &self,
        monitor: &mut Monitor,
        at: usize,
        server: &NbdServer,
        base: Option<Result<Base, String>>,
        path: &Path,
    ) -> Result<DiskSpec, MachineError> {
        let (name, node) = &self.disks[at];
        let passing = |part: &str| self.marks.passing(self.run, &format!("{part}{at}"));
        let copy = self.marks.passing(self.run, "t");
        let base = base.unwrap_or_else(|| Err("it has no point yet".to_owned()));
        let bitmaps: Vec<_> = base.iter().map(|_| &copy).collect();
        let export = passing("e");
        let added = monitor.ask(
            "block-export-add",
            json!({
                "type": "nbd", "id": export, "node-name": passing("s"), "name": export,
                "writable": false, "bitmaps": bitmaps,
            }),
        );
        added.map_err(MachineError::monitor(path))?;
        let export = Name::new(export).unwrap_or_default();
        let wrong = MachineError::disks(path);
        let device = reach(server, &export, &format!("qmp:{},{node}", path.display()));
        let device = device.map_err(&wrong)?;
        let copy =
            BitmapName::new(&copy).ok_or_else(|| wrong(format!("{copy} is no bitmap's name")))?;
        let device = Arc::new(device);
        let keeper = MachineKeeper::new(
            self.monitor.clone(),
            passing("j"),
            base,
            device.clone(),
            copy,
        );
        Ok(DiskSpec::instant(device, Arc::new(keeper)).name(name.as_str()))
    }
}

/// Connects to an export at one of the places where its server may be.
fn reach(server: &NbdServer, export: &Name, name: &str) -> Result<NbdDevice, String> {
    let mut failures = Vec::new();
    for address in server.addresses() {
        let uri = Uri {
            server: address,
            name: export.clone(),
            tls: None,
        };
        match NbdDevice::connect(&uri, Access::ReadOnly, TRIAL) {
            Ok(device) => return Ok(device.patience(PATIENCE).named(name)),
            Err(error) => failures.push(error.to_string()),
        }
    }
    let tried = if failures.is_empty() {
        "none of its sockets was found".to_owned()
    } else {
        failures.join("; ")
    };
    Err(format!(
        "its NBD server, which somebody started, cannot be reached: {tried}; stop that server, or let it listen at a unix socket that we may use"
    ))
}
