//! What is said when clients may connect.

use cohort_bitmap::store::Mode;
use cohort_nbd::{Uri, UriTls};
use serde::Serialize;

use crate::args;
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::output::{json_line, print_line};
use crate::serve::{Catalogue, Listener};

/// Told when clients may connect.
#[derive(Debug, Serialize)]
pub(super) struct JsonReady {
    event: &'static str,
    exports: Vec<JsonExport>,
}

#[derive(Debug, Serialize)]
struct JsonExport {
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

pub(super) fn describe(
    catalogue: &Catalogue,
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
    let mut exports = Vec::new();
    for disk in catalogue.all() {
        let mut addresses = Vec::new();
        for listener in listeners {
            let server = listener
                .server()
                .map_err(|error| Failure::new(Exit::Other, error))?;
            let name = disk.name.clone();
            let tls = tls.clone();
            addresses.push(Uri { server, name, tls }.to_string());
        }
        exports.push(JsonExport {
            name: disk.name.as_str().to_owned(),
            size_bytes: disk.size,
            read_only: disk.read_only,
            bitmaps: disk
                .bitmaps
                .iter()
                .map(|(name, _)| name.as_str().to_owned())
                .collect(),
            tracking: disk.tracking.as_ref().map(|tracking| JsonTracking {
                store: tracking.path().display().to_string(),
                survives: match tracking.mode() {
                    Mode::KilledProcess => "kill",
                    Mode::PowerLoss => "power-loss",
                },
                mode: tracking.mode(),
            }),
            addresses,
        });
    }
    Ok(JsonReady {
        event: "ready",
        exports,
    })
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
        for address in &export.addresses {
            print_line(&format!(
                "serving {address} {way}, {} bytes{tracking}",
                export.size_bytes
            ));
        }
    }
    print_line("ready");
}
