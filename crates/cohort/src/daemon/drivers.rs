//! Nodes from their options: one function for each kind.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cohort_block::{
    Access, Beneath, Device, File as _, Format, Gated, Image, ImageFile, NbdDevice, NullDevice,
    OpenError, OpenOptions, RawDevice, Throttle, Throttled,
};
use cohort_nbd::{Name, Server, Uri};
use cohort_qmp::{
    Address, Blkdebug as BlkdebugOptions, DetectZeroes, Driver, Error, FileOptions, NbdOptions,
    NodeOptions, NodeRef, NodeRefOrNull, NullOptions, OnOffAuto, Qcow2Options, RawOptions,
    ThrottleOptions,
};
use serde_json::json;

use super::blkdebug::{Announcing, Blkdebug, BlkdebugFile, Rules};
use super::generic;
use super::nodes::{Graph, Node, Owner, TopFile, Traits};
use super::objects::Object;
use super::part::Part;
use super::restrict::Restrict;
use super::sharing::refuse_image;
use super::stored;

/// How long a server may take for one request, the first included, if the client does not say.
const NBD_PATIENCE: Duration = Duration::from_secs(60);

/// The size of a null node that is given none.
const NULL_BYTES: i64 = 1 << 30;

/// Disks are whole sectors.
const SECTOR: u64 = 512;

/// Where nodes are made.
pub(super) struct Builder<'a> {
    pub(super) graph: &'a mut Graph,
    pub(super) restrict: &'a Restrict,
}

/// What a driver makes, for the node around it.
struct Made {
    disk: Arc<dyn Device>,
    children: Vec<Arc<Node>>,
    filename: String,
    cluster: Option<u64>,
    beneath: Option<TopFile>,
    image: Option<Image>,
    depth: i64,
    rules: Option<Arc<Rules>>,
    throttle: Option<Arc<Throttle>>,
}

impl Made {
    fn new(disk: Arc<dyn Device>, filename: impl Into<String>) -> Self {
        Self {
            disk,
            children: Vec::new(),
            filename: filename.into(),
            cluster: None,
            beneath: None,
            image: None,
            depth: 0,
            rules: None,
            throttle: None,
        }
    }

    fn over(disk: Arc<dyn Device>, child: Arc<Node>) -> Self {
        let filename = child.filename.clone();
        Self {
            children: vec![child],
            ..Self::new(disk, filename)
        }
    }
}

impl Builder<'_> {
    /// Makes a node; it is not in the graph yet. `owner` says who may take it away.
    pub(super) fn node(&mut self, options: NodeOptions, owner: Owner) -> Result<Arc<Node>, Error> {
        if let Some(name) = &options.node_name {
            self.graph.check_new_name(name)?;
        }
        let traits = Traits {
            read_only: options.read_only.unwrap_or(false),
            direct: options
                .cache
                .as_ref()
                .and_then(|c| c.direct)
                .unwrap_or(false),
            no_flush: options
                .cache
                .as_ref()
                .and_then(|c| c.no_flush)
                .unwrap_or(false),
            detect_zeroes: options.detect_zeroes.unwrap_or(DetectZeroes::Off),
        };
        let driver = options.driver.word();
        let auto = options.auto_read_only.unwrap_or(false);
        let (made, read_only) = match options.driver {
            Driver::File(file) | Driver::HostDevice(file) => {
                self.file(&file, traits.read_only, auto)?
            }
            Driver::Raw(raw) => (self.raw(raw, traits.read_only)?, traits.read_only),
            Driver::Qcow2(image) => {
                let name = options.node_name.as_deref().unwrap_or_default();
                (self.qcow2(name, image, traits.read_only)?, traits.read_only)
            }
            Driver::NullCo(null) => (self.null(&null)?, traits.read_only),
            Driver::Nbd(nbd) => (self.nbd(&nbd, traits.read_only)?, traits.read_only),
            Driver::Blkdebug(rules) => (self.blkdebug(rules, traits.read_only)?, traits.read_only),
            Driver::Throttle(throttle) => {
                (self.throttle(throttle, traits.read_only)?, traits.read_only)
            }
        };
        let name = self.graph.name_for(options.node_name.as_deref())?;
        let traits = Traits {
            read_only: read_only || made.children.first().is_some_and(|c| c.traits.read_only),
            ..traits
        };
        let mut node = Node::new(
            name,
            driver,
            owner,
            traits,
            Arc::new(Gated::metered(made.disk)),
            made.children,
            made.filename,
        );
        node.cluster = made.cluster;
        node.beneath = made.beneath;
        node.image = made.image;
        node.depth = made.depth;
        node.rules = made.rules;
        node.throttle = made.throttle;
        stored::load(&node)?;
        Ok(Arc::new(node))
    }

    /// The node that a format or filter lies on: there already, or made on the spot, and then as read-only as that.
    fn child(&mut self, of: NodeRef, read_only: bool) -> Result<Arc<Node>, Error> {
        match of {
            NodeRef::Name(name) => {
                let node = self.graph.either(&name)?;
                node.refuse_if_target()?;
                Ok(node)
            }
            NodeRef::Options(mut options) => {
                options.read_only = options.read_only.or(Some(read_only));
                self.node(*options, Owner::Parent)
            }
        }
    }

    fn file(
        &self,
        options: &FileOptions,
        read_only: bool,
        auto: bool,
    ) -> Result<(Made, bool), Error> {
        let path = self.restrict.check(&options.filename)?;
        let open = |read_only: bool| {
            let mode = if read_only {
                OpenOptions::read_only()
            } else {
                OpenOptions::read_write()
            };
            let mode = match options.locking {
                Some(OnOffAuto::Off) => mode.without_lock(),
                Some(OnOffAuto::On | OnOffAuto::Auto) | None => mode,
            };
            ImageFile::open(&path, mode).map(|file| (file, read_only))
        };
        let mut opened = open(read_only);
        if auto && !read_only && matches!(opened, Err(OpenError::Permission { .. })) {
            opened = open(true);
        }
        let (file, read_only) =
            opened.map_err(|error| opening(&options.filename, &path, &error))?;
        let name = options.filename.clone();
        let disk = RawDevice::new(&name, file.file().clone(), !read_only);
        let disk = disk.map_err(|error| Error::generic(errno(&error)))?;
        let mut made = Made::new(Arc::new(disk), name);
        made.beneath = Some(TopFile {
            file,
            wrap: Arc::new(|file| file),
        });
        Ok((made, read_only))
    }

    fn raw(&mut self, options: RawOptions, read_only: bool) -> Result<Made, Error> {
        let child = self.child(options.file, read_only)?;
        if options.offset.is_none() && options.size.is_none() {
            let mut made = Made::over(child.disk.clone(), child.clone());
            made.beneath = child.beneath.clone();
            made.disk = announced(&child, made.disk);
            return Ok(made);
        }
        let whole = child.disk.size();
        let positive = |name: &str, value: Option<i64>| match value.map(u64::try_from) {
            None => Ok(None),
            Some(Ok(value)) => Ok(Some(value)),
            Some(Err(_)) => generic(format!(
                "Value '{}' is out of range for parameter '{name}'",
                value.unwrap_or_default()
            )),
        };
        let offset = positive("offset", options.offset)?.unwrap_or(0);
        let size = positive("size", options.size)?;
        if offset > whole {
            return generic(format!(
                "Offset ({offset}) cannot be greater than size of the containing file ({whole})"
            ));
        }
        let length = size.unwrap_or(whole - offset);
        if length > whole - offset {
            return generic(format!(
                "The sum of offset ({offset}) and size ({length}) has to be smaller or equal to the  actual size \
                 of the containing file ({whole})"
            ));
        }
        let part = Part {
            inner: child.disk.clone(),
            offset,
            size: length / SECTOR * SECTOR,
        };
        let disk = announced(&child, Arc::new(part));
        Ok(Made::over(disk, child))
    }

    fn qcow2(&mut self, name: &str, options: Qcow2Options, read_only: bool) -> Result<Made, Error> {
        let child = self.child(options.file, read_only)?;
        refuse_image(name, &child, read_only || child.traits.read_only)?;
        let mut magic = [0; 4];
        // An image that was just made in the file is longer than the file was when the node was added.
        let read = match &child.beneath {
            Some(top) => top.file.file().read_at(&mut magic, 0).is_ok(),
            None => child.disk.read_at(&mut magic, 0).is_ok(),
        };
        if !read || magic != *b"QFI\xfb" {
            return generic("Image is not in qcow2 format");
        }
        let Some(top) = child.beneath.clone() else {
            return generic(format!(
                "a qcow2 image lies on a file, or on blkdebug or raw over a file; node '{}' is '{}'",
                child.name, child.driver
            ));
        };
        let mode = if read_only || child.traits.read_only {
            OpenOptions::read_only()
        } else {
            OpenOptions::read_write()
        };
        let mut backing = None;
        let beneath = match options.backing {
            None => Beneath::AsNamed,
            Some(NodeRefOrNull::Null) => Beneath::Nothing,
            Some(NodeRefOrNull::Name(name)) => Beneath::Device(
                backing
                    .insert(self.child(NodeRef::Name(name), true)?)
                    .disk
                    .clone(),
            ),
            Some(NodeRefOrNull::Options(options)) => Beneath::Device(
                backing
                    .insert(self.child(NodeRef::Options(options), true)?)
                    .disk
                    .clone(),
            ),
        };
        let image = Image::over(top.file, mode.format(Format::Qcow2), beneath, &*top.wrap);
        let image = image.map_err(|error| Error::generic(error.to_string()))?;
        // Whoever may write to an image may have it name any file.
        for file in &image.files()[1..] {
            self.restrict.check(file.path())?;
        }
        let disk = announced(&child, image.device().clone());
        let mut made = Made::over(disk, child);
        made.cluster = image.cluster_bytes();
        made.depth = match &backing {
            Some(below) => below.depth + 1,
            None => image.files().len() as i64 - 1,
        };
        made.children.extend(backing);
        made.image = Some(image);
        Ok(made)
    }

    fn null(&self, options: &NullOptions) -> Result<Made, Error> {
        let asked = options.size.unwrap_or(NULL_BYTES);
        // A negative size ends QEMU's process.
        let Ok(size) = u64::try_from(asked) else {
            return generic(format!(
                "Value '{asked}' is out of range for parameter 'size'"
            ));
        };
        let latency = Duration::from_nanos(options.latency_ns.unwrap_or(0));
        let size = size.next_multiple_of(SECTOR);
        let name = format!("json:{}", json!({ "driver": "null-co", "size": asked }));
        Ok(Made::new(
            Arc::new(NullDevice::new("null-co", size, latency)),
            name,
        ))
    }

    fn nbd(&self, options: &NbdOptions, read_only: bool) -> Result<Made, Error> {
        let (server, shown) = match &options.server.address {
            Address::Unix(unix) => {
                let path = self.restrict.check(&unix.path)?;
                (Server::Unix(path), unix.path.clone())
            }
            Address::Inet(inet) => {
                let port = inet.port.parse();
                let Ok(port) = port else {
                    return generic(format!("'{}' is no port", inet.port));
                };
                let host = inet.host.clone();
                (Server::Tcp { host, port }, format!("{}:{port}", inet.host))
            }
        };
        if options.x_dirty_bitmap.is_some() {
            return generic(
                "an nbd node shows its disk and not a bitmap of it: leave x-dirty-bitmap out",
            );
        }
        let name = Name::new(options.export.as_deref().unwrap_or_default());
        let name = name.map_err(|error| Error::generic(error.to_string()))?;
        let tls = None;
        let uri = Uri { server, name, tls };
        let access = if read_only {
            Access::ReadOnly
        } else {
            Access::ReadWrite
        };
        let patience = match options
            .open_timeout
            .into_iter()
            .chain(options.reconnect_delay)
            .max()
        {
            Some(seconds) if seconds > 0 => Duration::from_secs(seconds.into()),
            Some(_) | None => NBD_PATIENCE,
        };
        let device = NbdDevice::connect(&uri, access, patience);
        let device = device.map_err(|error| {
            if let OpenError::Io { cause, .. } = &error
                && cause.raw_os_error().is_some()
            {
                return Error::generic(format!("Failed to connect to '{shown}': {}", errno(cause)));
            }
            Error::generic(error.to_string())
        })?;
        Ok(Made::new(Arc::new(device), uri.to_string()))
    }

    fn blkdebug(&mut self, options: BlkdebugOptions, read_only: bool) -> Result<Made, Error> {
        let child = self.child(options.image, read_only)?;
        for (name, empty) in [
            (
                "inject-error",
                options.inject_error.as_ref().is_some_and(Vec::is_empty),
            ),
            (
                "set-state",
                options.set_state.as_ref().is_some_and(Vec::is_empty),
            ),
        ] {
            if empty {
                return generic(format!(
                    "Block protocol 'blkdebug' doesn't support the option '{name}'"
                ));
            }
        }
        let rules = Arc::new(Rules::new(
            options.inject_error.unwrap_or_default(),
            options.set_state.unwrap_or_default(),
        ));
        let disk = Arc::new(Blkdebug::new(child.disk.clone(), rules.clone()));
        let mut made = Made::over(disk, child.clone());
        made.rules = Some(rules.clone());
        made.beneath = child.beneath.clone().map(|top| TopFile {
            file: top.file,
            wrap: Arc::new(move |inner| {
                let inner = (top.wrap)(inner);
                let rules = rules.clone();
                Arc::new(BlkdebugFile { inner, rules })
            }),
        });
        Ok(made)
    }

    fn throttle(&mut self, options: ThrottleOptions, read_only: bool) -> Result<Made, Error> {
        let group = options.throttle_group;
        let Some(Object::ThrottleGroup(throttle)) = self.graph.objects.get(&group).cloned() else {
            return generic(format!("Throttle group '{group}' does not exist"));
        };
        let child = self.child(options.file, read_only)?;
        let disk = Throttled::new(child.disk.clone(), throttle.clone());
        let mut made = Made::over(Arc::new(disk), child);
        made.throttle = Some(throttle);
        Ok(made)
    }
}

/// The disk of a node above `child`, which tells a child with rules what comes.
fn announced(child: &Arc<Node>, disk: Arc<dyn Device>) -> Arc<dyn Device> {
    match &child.rules {
        Some(rules) => Arc::new(Announcing::new(disk, rules.clone())),
        None => disk,
    }
}

/// What a client is told when a file cannot be opened.
fn opening(named: &str, path: &Path, error: &OpenError) -> Error {
    if matches!(error, OpenError::Locked { .. }) {
        return Error::generic("Failed to get \"write\" lock");
    }
    if matches!(error, OpenError::NotAFile { .. }) {
        let text = format!("'file' driver requires '{named}' to be a regular file");
        return Error::generic(text);
    }
    // The operating system's own word, which our error has put into a sentence.
    match std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
    {
        Err(cause) => Error::generic(format!("Could not open '{named}': {}", errno(&cause))),
        Ok(_) => Error::generic(error.to_string()),
    }
}

/// What the operating system says, without its number.
pub(super) fn errno(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error ")
        .next()
        .unwrap_or_default()
        .to_owned()
}
