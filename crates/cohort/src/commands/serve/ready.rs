//! What is said when clients may connect.

use std::path::PathBuf;
use std::sync::Arc;

use cohort_bitmap::store::Mode;
use cohort_block::{Access, Device};
use cohort_nbd::{BitmapName, Name, Uri, UriTls};
use serde::Serialize;

use crate::args;
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::metrics::Address;
use crate::output::{json_line, print_line};
use crate::serve::{Dirt, Disk, Listener, Served, Tracking};

/// Told when clients may connect.
#[derive(Debug, Serialize)]
pub(super) struct JsonReady {
    event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    qmp: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metrics: Option<String>,
    exports: Vec<JsonExport>,
}

#[derive(Debug, Serialize)]
pub(super) struct JsonExport {
    name: String,
    size_bytes: u64,
    read_only: bool,
    bitmaps: Vec<String>,
    tracking: Option<JsonTracking>,
    addresses: Vec<String>,
}

/// Where a disk's writes are recorded.
#[derive(Debug, Serialize)]
struct JsonTracking {
    store: String,
    survives: &'static str,
    #[serde(skip)]
    mode: Mode,
}

impl JsonReady {
    /// What is said of these exports, which every one of these sockets has; of a server that takes commands at `qmp`, too.
    pub(super) fn new(
        mut exports: Vec<JsonExport>,
        listeners: &[Listener],
        args: &args::Serve,
    ) -> Result<JsonReady> {
        // Where a client's certificates are is its own business; these are on this host.
        let required = args
            .tls_certificates
            .as_ref()
            .filter(|_| !args.tls_optional);
        let tls = required.map(|folder| UriTls {
            certificates: folder.clone(),
            hostname: None,
        });
        let failed = |error| Failure::new(Exit::Other, error);
        for export in &mut exports {
            for listener in listeners {
                let uri = Uri {
                    server: listener.server().map_err(failed)?,
                    name: Name::new(&export.name).map_err(|e| Failure::new(Exit::Usage, e))?,
                    tls: tls.clone(),
                };
                export.addresses.push(uri.to_string());
            }
        }
        Ok(JsonReady {
            event: "ready",
            qmp: args.qmp.clone(),
            metrics: None,
            exports,
        })
    }

    /// The same of a server that tells metrics there.
    pub(super) fn with_metrics(self, metrics: Option<&Address>) -> JsonReady {
        JsonReady {
            metrics: metrics.map(Address::to_string),
            ..self
        }
    }
}

impl JsonExport {
    /// Of a disk that was opened.
    pub(super) fn of_disk(disk: &Disk) -> JsonExport {
        JsonExport {
            tracking: disk.tracking.as_ref().map(JsonTracking::of),
            ..JsonExport::new(
                disk.name.as_str(),
                disk.gated.size(),
                disk.access == Access::ReadOnly,
                &disk.bitmaps,
            )
        }
    }

    /// Of what is served already.
    pub(super) fn of_served(served: &Served) -> JsonExport {
        let (name, size) = (served.name.as_str(), served.size);
        JsonExport {
            tracking: served.tracking.as_ref().map(JsonTracking::of),
            ..JsonExport::new(name, size, served.read_only, &served.bitmaps)
        }
    }

    fn new(
        name: &str,
        size_bytes: u64,
        read_only: bool,
        bitmaps: &[(BitmapName, Arc<dyn Dirt>)],
    ) -> JsonExport {
        let bitmaps = bitmaps.iter().map(|(name, _)| name.as_str().to_owned());
        JsonExport {
            name: name.to_owned(),
            size_bytes,
            read_only,
            bitmaps: bitmaps.collect(),
            tracking: None,
            addresses: Vec::new(),
        }
    }
}

impl JsonTracking {
    fn of(tracking: &Tracking) -> JsonTracking {
        JsonTracking {
            store: tracking.path().display().to_string(),
            survives: match tracking.mode() {
                Mode::KilledProcess => "kill",
                Mode::PowerLoss => "power-loss",
            },
            mode: tracking.mode(),
        }
    }
}

pub(super) fn show(ready: &JsonReady, json: bool) {
    if json {
        return json_line(ready);
    }
    for export in &ready.exports {
        let tracking = export.tracking.as_ref();
        let tracking = tracking.map_or(String::new(), |JsonTracking { store, mode, .. }| {
            format!(", tracked in {store} ({mode})")
        });
        let way = if export.read_only {
            "read-only"
        } else {
            "read-write"
        };
        let said = format!("{way}, {} bytes{tracking}", export.size_bytes);
        for address in &export.addresses {
            print_line(&format!("serving {address} {said}"));
        }
        if export.addresses.is_empty() {
            print_line(&format!("holding {} {said}", export.name));
        }
    }
    if let Some(qmp) = &ready.qmp {
        print_line(&format!("commanded over QMP at {}", qmp.display()));
    }
    if let Some(metrics) = &ready.metrics {
        print_line(&format!("metrics at {metrics}"));
    }
    print_line("ready");
}
