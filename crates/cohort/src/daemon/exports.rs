//! The NBD server that clients start, and what it exports of the graph.
//!
//! An export is gone when its last client is: then whoever holds it lets it go, and that is told (`Farewell`).

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use cohort_bitmap::Stretch;
use cohort_block::{Device, Gated};
use cohort_nbd::{BitmapName, Name};
use cohort_qmp::{
    Argument, BitmapSource, Error, Event, ExportDel, ExportDeleted, ExportInfo, ExportKind,
    ExportOptions, LegacyAddress, NbdServerAdd, NbdServerRemove, NbdServerStart, RemoveMode,
    Statistics,
};
use serde_json::Value;

use super::bitmap_commands::find;
use super::bitmaps::Bitmap;
use super::events::Events;
use super::nodes::{Graph, Node, Use, UseKind, is_identifier};
use super::place::Purpose;
use super::sharing::refuse_guest;
use super::{Answer, Daemon, complain, generic, lock, nothing};
use crate::serve::{Dirt, Limits, Listener, Served, Server, Stopped};

/// Most exports at once.
const MOST_EXPORTS: usize = 1024;

/// Clients at once, if nobody says.
const CLIENTS: u32 = 100;

/// What large requests of all clients hold together.
const MEMORY_BYTES: u64 = 64 << 20;

/// The server, if it runs, and what is exported.
#[derive(Debug, Default)]
pub(super) struct Exports {
    server: Mutex<Option<Server>>,
    /// Newest first.
    list: Mutex<Vec<Listed>>,
}

/// An export that is to be.
pub(super) struct Wish {
    pub(super) id: String,
    /// What NBD clients call it.
    pub(super) name: String,
    pub(super) writable: bool,
    /// Bitmaps of nodes that it shows.
    pub(super) bitmaps: Vec<BitmapSource>,
    /// Bitmaps that it shows and does not keep from anybody.
    pub(super) shown: Vec<(BitmapName, Arc<dyn Dirt>)>,
}

#[derive(Debug)]
struct Listed {
    id: String,
    node: String,
    name: Name,
    shutting_down: bool,
}

impl Exports {
    fn list(&self) -> MutexGuard<'_, Vec<Listed>> {
        lock(&self.list)
    }

    /// Has a server that runs already.
    pub(super) fn begin(&self, server: Server) {
        *lock(&self.server) = Some(server);
    }

    /// Whether a server runs.
    pub(super) fn is_served(&self) -> bool {
        lock(&self.server).is_some()
    }

    /// What the server has counted, if it runs.
    pub(super) fn statistics(&self) -> Option<Statistics> {
        lock(&self.server).as_ref().map(Server::statistics)
    }

    /// Ends everything: what was asked for is answered, but clients are cut off after `patience`.
    pub(super) fn end(&self, patience: Duration) -> Stopped {
        let server = lock(&self.server).take();
        server.map_or_else(Stopped::default, |server| server.stop(patience))
    }

    /// Takes everything away, and cuts clients off.
    fn stop(&self, patience: Duration) {
        let server = lock(&self.server).take();
        let Some(server) = server else { return };
        let names: Vec<_> = self
            .list()
            .iter()
            .map(|export| export.name.clone())
            .collect();
        for name in names {
            // One that is on its way out already is no matter.
            let _ = server.remove(&name, true);
        }
        let stopped = server.stop(patience);
        for failure in stopped.failures {
            complain(&format!("what was written may be lost: {failure}"));
        }
    }
}

impl Daemon {
    pub(super) fn nbd_server_start(&self, start: &NbdServerStart) -> Answer {
        let mut server = lock(&self.exports.server);
        if server.is_some() {
            return generic("NBD server already running");
        }
        if start.tls_creds.is_some() || start.tls_authz.is_some() {
            return generic(
                "tls-creds is not supported: clients are known by who may open the socket",
            );
        }
        let listener = match &start.addr.address {
            LegacyAddress::Unix(unix) => {
                let path = self.restrict.check(&unix.path)?;
                Listener::unix(Path::new(&path))
                    .map_err(|error| format!("Failed to bind socket to {}: {error}", unix.path))
            }
            LegacyAddress::Inet(inet) => {
                let address = format!("{}:{}", inet.host, inet.port);
                let mut found = std::net::ToSocketAddrs::to_socket_addrs(&address)
                    .map_err(|error| Error::generic(format!("{address}: {error}")))?;
                let first = found
                    .next()
                    .ok_or_else(|| Error::generic(format!("{address}: no address")))?;
                complain(&format!(
                    "whoever reaches {first} may use what is exported there, without password"
                ));
                Listener::tcp(first)
                    .map_err(|error| format!("Failed to bind socket to {address}: {error}"))
            }
        };
        let listener = listener.map_err(Error::generic)?;
        let connections = match start.max_connections.unwrap_or(CLIENTS) {
            0 => usize::MAX,
            most => most as usize,
        };
        let limits = Limits {
            connections,
            memory_bytes: MEMORY_BYTES,
        };
        let started = Server::start(Default::default(), vec![listener], None, limits);
        *server = Some(started.map_err(|error| Error::generic(error.to_string()))?);
        nothing()
    }

    pub(super) fn nbd_server_stop(&self) -> Answer {
        if lock(&self.exports.server).is_none() {
            return generic("NBD server not running");
        }
        self.exports.stop(self.drain);
        nothing()
    }

    pub(super) fn block_export_add(&self, options: ExportOptions) -> Answer {
        let ExportOptions {
            id,
            node_name,
            writable,
            export: ExportKind::Nbd(nbd),
            ..
        } = options;
        if !is_identifier(&id) {
            return generic("Invalid block export id");
        }
        if self.exports.list().iter().any(|export| export.id == id) {
            return generic(format!("Block export id '{id}' is already in use"));
        }
        let graph = self.graph();
        let node = graph.device_or_node("", &node_name)?;
        let writable = writable.unwrap_or(false);
        if writable && node.traits.read_only {
            return generic("Cannot export read-only node as writable");
        }
        let wish = Wish {
            id,
            name: nbd.name.unwrap_or(node_name),
            writable,
            bitmaps: nbd.bitmaps.unwrap_or_default(),
            shown: Vec::new(),
        };
        self.export(&graph, &node, wish)
    }

    /// Exports a node.
    pub(super) fn export(&self, graph: &Graph, node: &Arc<Node>, wish: Wish) -> Answer {
        let Wish {
            id,
            name,
            writable,
            bitmaps: sources,
            shown: mut told,
        } = wish;
        let server = lock(&self.exports.server);
        let Some(server) = &*server else {
            return generic("NBD server not running");
        };
        if self.exports.list().len() >= MOST_EXPORTS {
            return generic(format!(
                "there are {MOST_EXPORTS} exports, which is the most"
            ));
        }
        let long = || Error::generic(format!("export name '{name}' too long"));
        let name = Name::new(&name).map_err(|_| long())?;
        if server
            .catalogue()
            .all()
            .iter()
            .any(|served| served.name == name)
        {
            let name = name.as_str();
            return generic(format!("NBD server already has export named '{name}'"));
        }
        if writable {
            refuse_guest(node)?;
        }
        let bitmaps = bitmaps(graph, node, writable, &sources)?;
        for bitmap in &bitmaps {
            let Some(name) = BitmapName::new(&bitmap.name) else {
                return generic(format!("export bitmap name '{}' too long", bitmap.name));
            };
            told.push((name, Arc::new(Live(bitmap.clone()))));
        }
        bitmaps.iter().for_each(|bitmap| bitmap.set_exported(true));
        let guest = writable.then(|| node.claim(UseKind::Guest));
        let uses = guest.into_iter().chain([node.claim(UseKind::Export)]);
        let uses = uses.collect();
        let farewell = Farewell {
            id: id.clone(),
            exports: self.exports.clone(),
            events: self.events.clone(),
            bitmaps,
            uses,
        };
        self.exports.list().insert(
            0,
            Listed {
                id,
                node: node.name.clone(),
                name: name.clone(),
                shutting_down: false,
            },
        );
        let served = Served {
            name,
            // The node's own is told with the node.
            meter: None,
            traffic: Default::default(),
            tracking: None,
            size: node.disk.size(),
            read_only: !writable,
            device: Arc::new(Exported {
                disk: node.disk.clone(),
                _farewell: farewell,
            }),
            bitmaps: told,
        };
        let added = server.catalogue().add(served);
        added.map_err(|error| Error::generic(error.to_string()))?;
        nothing()
    }

    pub(super) fn block_export_del(&self, delete: &ExportDel) -> Answer {
        let id = &delete.id;
        let name = {
            let list = self.exports.list();
            let Some(export) = list.iter().find(|export| export.id == *id) else {
                return generic(format!("Export '{id}' is not found"));
            };
            if export.shutting_down {
                return generic(format!("Export '{id}' is already shutting down"));
            }
            export.name.clone()
        };
        let server = lock(&self.exports.server);
        let Some(server) = &*server else {
            return generic(format!("Export '{id}' is already shutting down"));
        };
        let force = delete.mode == Some(RemoveMode::Hard);
        if server.remove(&name, force).is_err() {
            return generic(format!("export '{id}' still in use"));
        }
        // Still there if a client has to be sent away first.
        for export in self
            .exports
            .list()
            .iter_mut()
            .filter(|export| export.id == *id)
        {
            export.shutting_down = true;
        }
        nothing()
    }

    pub(super) fn query_block_exports(&self) -> Value {
        let list = self.exports.list();
        let told = list.iter().map(|export| {
            let info = ExportInfo {
                id: export.id.clone(),
                r#type: "nbd".to_owned(),
                node_name: export.node.clone(),
                shutting_down: export.shutting_down,
            };
            info.write()
        });
        told.collect()
    }

    pub(super) fn nbd_server_add(&self, add: NbdServerAdd) -> Answer {
        let graph = self.graph();
        let node = graph.either(&add.device)?;
        let name = add.name.unwrap_or(add.device);
        let writable = add.writable.unwrap_or(false) && !node.traits.read_only;
        if !is_identifier(&name) {
            return generic("Invalid block export id");
        }
        if self.exports.list().iter().any(|export| export.id == name) {
            return generic(format!("Block export id '{name}' is already in use"));
        }
        let bitmap = add.bitmap.map(BitmapSource::Local);
        let wish = Wish {
            id: name.clone(),
            name,
            writable,
            bitmaps: bitmap.into_iter().collect(),
            shown: Vec::new(),
        };
        self.export(&graph, &node, wish)
    }

    pub(super) fn nbd_server_remove(&self, remove: NbdServerRemove) -> Answer {
        let NbdServerRemove { name: id, mode } = remove;
        self.block_export_del(&ExportDel { id, mode })
    }
}

/// The bitmaps that an export shows, each free for it.
fn bitmaps(
    graph: &Graph,
    node: &Arc<Node>,
    writable: bool,
    sources: &[BitmapSource],
) -> Result<Vec<Arc<Bitmap>>, Error> {
    let mut bitmaps: Vec<Arc<Bitmap>> = Vec::new();
    for source in sources {
        let bitmap = match source {
            BitmapSource::External(of) => find(graph, &of.node, &of.name)?.1,
            BitmapSource::Local(name) => {
                let below = std::iter::successors(Some(node), |node| node.children.first());
                let found = below.into_iter().find_map(|node| node.bitmap(name));
                let missing = || Error::generic(format!("Bitmap '{name}' is not found"));
                let bitmap = found.ok_or_else(missing)?;
                if !writable && !node.traits.read_only && bitmap.is_enabled() {
                    return Err(Error::generic(format!(
                        "Enabled bitmap '{name}' incompatible with readonly export"
                    )));
                }
                bitmap
            }
        };
        bitmap.check(Purpose::Use)?;
        bitmaps.push(bitmap);
    }
    Ok(bitmaps)
}

/// A bitmap as it is while the node is written to.
#[derive(Debug)]
struct Live(Arc<Bitmap>);

impl Dirt for Live {
    fn status(&self, start: u64, length: u64) -> Option<Stretch> {
        self.0.status(start, length)
    }

    fn dirty_bytes(&self) -> u64 {
        self.0.dirty_bytes()
    }
}

/// Says that an export is gone, and lets go of what it had.
#[derive(Debug)]
struct Farewell {
    id: String,
    exports: Arc<Exports>,
    events: Arc<Events>,
    bitmaps: Vec<Arc<Bitmap>>,
    uses: Vec<Arc<Use>>,
}

impl Drop for Farewell {
    fn drop(&mut self) {
        self.bitmaps
            .iter()
            .for_each(|bitmap| bitmap.set_exported(false));
        self.uses.clear();
        self.exports.list().retain(|export| export.id != self.id);
        let id = self.id.clone();
        self.events
            .tell(Event::BlockExportDeleted(ExportDeleted { id }));
    }
}

/// A node's disk as long as it is exported.
#[derive(Debug)]
struct Exported {
    disk: Arc<Gated>,
    _farewell: Farewell,
}

impl Device for Exported {
    cohort_block::forward!(disk: name, size, read_at, write_at, write_zeroes, discard, flush, extent);
}
