//! The block graph: nodes by name, what each lies on, and who uses it.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, Weak};

use cohort_block::{ClosedGate, Device, File, Gated, Image, ImageFile, Throttle};
use cohort_qmp::{DetectZeroes, Error};

use super::bitmaps::Bitmap;
use super::blkdebug::Rules;
use super::jobs::MOST_JOBS;
use super::objects::Object;
use super::stored::Closed;
use super::{complain, lock};

/// Most nodes at once: a source and a target for as many jobs as there may be.
const MOST_NODES: usize = 2 * MOST_JOBS;

/// What a format or a filter lies on, or a client writes to: a disk under a name.
pub(super) struct Node {
    /// As clients call it; one that nobody named begins with `#`.
    pub(super) name: String,
    /// The word of its kind.
    pub(super) driver: &'static str,
    pub(super) owner: Owner,
    pub(super) traits: Traits,
    /// The disk. Every write to it, by whomever, passes this gate.
    pub(super) disk: Arc<Gated>,
    /// What it lies on.
    pub(super) children: Vec<Arc<Node>>,
    /// How many images lie beneath it.
    pub(super) depth: i64,
    /// What to call the bytes in messages and queries.
    pub(super) filename: String,
    /// The unit in which it allocates, if it has one.
    pub(super) cluster: Option<u64>,
    /// The file that holds the bytes one to one, for a format on top.
    pub(super) beneath: Option<TopFile>,
    /// The open image, if there is a format.
    pub(super) image: Option<Image>,
    /// When it fails, if that is what it is for.
    pub(super) rules: Option<Arc<Rules>>,
    /// The limits that it goes by, which are in use as long as it is there.
    pub(super) throttle: Option<Arc<Throttle>>,
    /// Oldest first. Its image has them too, and knows no node.
    pub(super) bitmaps: Arc<Mutex<Vec<Arc<Bitmap>>>>,
    /// When its image is closed, if that leaves its bitmaps to the node.
    pub(super) closed: Mutex<Option<Closed>>,
    users: Mutex<Vec<Weak<Use>>>,
    /// The nodes whose file it is: every command asks for them, and looks through no graph of thousands.
    above: Mutex<Vec<Weak<Node>>>,
}

/// For whose sake a node is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// `blockdev-add` made it, so `blockdev-del` may take it away.
    Client,
    /// It goes with what lies on it.
    Parent,
    /// The command line names it: it stays.
    CommandLine,
}

/// What was asked for besides the driver's own options.
#[derive(Clone, Copy, Debug)]
pub(super) struct Traits {
    pub(super) read_only: bool,
    pub(super) direct: bool,
    pub(super) no_flush: bool,
    pub(super) detect_zeroes: DetectZeroes,
}

/// A file and what every access to it passes.
#[derive(Clone)]
pub(super) struct TopFile {
    pub(super) file: ImageFile,
    pub(super) wrap: Wrap,
}

/// Puts a filter over a file.
pub(super) type Wrap = Arc<dyn Fn(Arc<dyn File>) -> Arc<dyn File> + Send + Sync>;

/// Somebody who uses a node, until this is dropped.
#[derive(Debug)]
pub(super) struct Use(pub(super) UseKind);

/// What somebody uses a node for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UseKind {
    /// A job reads it, and saves what is overwritten.
    Source,
    /// A job writes to it.
    Target,
    /// It is exported.
    Export,
    /// It is exported, and clients may write to it.
    Guest,
}

impl Node {
    /// A node that nobody uses yet.
    #[allow(clippy::too_many_arguments, reason = "a node has so many sides")]
    pub(super) fn new(
        name: String,
        driver: &'static str,
        owner: Owner,
        traits: Traits,
        disk: Arc<Gated>,
        children: Vec<Arc<Node>>,
        filename: String,
    ) -> Self {
        Self {
            name,
            driver,
            owner,
            traits,
            disk,
            depth: 0,
            children,
            filename,
            cluster: None,
            beneath: None,
            image: None,
            rules: None,
            throttle: None,
            bitmaps: Arc::default(),
            closed: Mutex::default(),
            users: Mutex::default(),
            above: Mutex::default(),
        }
    }

    /// Whether somebody gave it its name, so that it is called so again.
    pub(super) fn has_name(&self) -> bool {
        !self.name.starts_with('#')
    }

    /// Uses it until the answer is dropped.
    pub(super) fn claim(&self, kind: UseKind) -> Arc<Use> {
        let claim = Arc::new(Use(kind));
        let mut users = lock(&self.users);
        users.retain(|user| user.strong_count() > 0);
        users.push(Arc::downgrade(&claim));
        claim
    }

    /// Whether anybody uses it for this.
    pub(super) fn is_used_as(&self, kind: UseKind) -> bool {
        let users = lock(&self.users);
        let mut living = users.iter().filter_map(Weak::upgrade);
        living.any(|user| user.0 == kind)
    }

    /// The nodes whose file it is, of those in the graph.
    pub(super) fn above(&self) -> Vec<Arc<Node>> {
        lock(&self.above).iter().filter_map(Weak::upgrade).collect()
    }

    /// When its image will be closed, if it leaves its bitmaps to the node: for whoever lets the node go.
    pub(super) fn closing(&self) -> Option<(String, Closed)> {
        let closed = lock(&self.closed).take()?;
        Some((self.name.clone(), closed))
    }

    /// The bitmap of this name.
    pub(super) fn bitmap(&self, name: &str) -> Option<Arc<Bitmap>> {
        let bitmaps = lock(&self.bitmaps);
        bitmaps.iter().find(|bitmap| bitmap.name == name).cloned()
    }

    /// Adds a bitmap, in the place of the one of its name if there is one.
    pub(super) fn put_bitmap(&self, bitmap: Bitmap, closed: &mut ClosedGate<'_>) {
        let mut bitmaps = lock(&self.bitmaps);
        let bitmap = Arc::new(bitmap);
        match bitmaps.iter_mut().find(|known| known.name == bitmap.name) {
            Some(known) => std::mem::replace(known, bitmap).retire(closed),
            None => bitmaps.push(bitmap),
        }
    }

    /// Refuses while a job writes to it.
    pub(super) fn refuse_if_target(&self) -> Result<(), Error> {
        if !self.is_used_as(UseKind::Target) {
            return Ok(());
        }
        let name = &self.name;
        Err(Error::generic(format!(
            "Node '{name}' is busy: block device is in use by block job: backup"
        )))
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("name", &self.name)
            .field("driver", &self.driver)
            .finish_non_exhaustive()
    }
}

/// All nodes, in the order in which they were added, and the objects beside them.
#[derive(Debug, Default)]
pub(super) struct Graph {
    nodes: Vec<Arc<Node>>,
    by_name: HashMap<String, Arc<Node>>,
    anonymous: u64,
    pub(super) objects: BTreeMap<String, Object>,
}

impl Graph {
    /// The node of this name.
    pub(super) fn find(&self, name: &str) -> Option<&Arc<Node>> {
        self.by_name.get(name)
    }

    /// A node that an argument calls `device` or `node-name`.
    pub(super) fn device_or_node(&self, device: &str, node: &str) -> Result<Arc<Node>, Error> {
        let found = self.find(node).or_else(|| self.find(device));
        found.cloned().ok_or_else(|| no_such(device, node))
    }

    /// A node where the argument may be either.
    pub(super) fn either(&self, name: &str) -> Result<Arc<Node>, Error> {
        self.device_or_node(name, name)
    }

    /// Every node, newest first.
    pub(super) fn newest_first(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes.iter().rev()
    }

    /// Adds a node; those that it lies on are there already, or come with it.
    ///
    /// # Errors
    /// Two of those that come have one name; nothing is added.
    pub(super) fn add(&mut self, node: &Arc<Node>) -> Result<(), Error> {
        let mut fresh = Vec::new();
        self.collect(node, &mut fresh);
        for (index, one) in fresh.iter().enumerate() {
            if fresh[..index].iter().any(|other| other.name == one.name) {
                let text = format!("Duplicate nodes with node-name='{}'", one.name);
                return Err(Error::generic(text));
            }
        }
        for above in &fresh {
            if let Some(node) = above.children.first() {
                let mut all = lock(&node.above);
                all.retain(|other| other.strong_count() > 0);
                all.push(Arc::downgrade(above));
            }
        }
        let named = fresh.iter().map(|node| (node.name.clone(), node.clone()));
        self.by_name.extend(named);
        self.nodes.extend(fresh);
        Ok(())
    }

    /// A node and those beneath it that are not here yet, the lowest first.
    fn collect(&self, node: &Arc<Node>, fresh: &mut Vec<Arc<Node>>) {
        for child in &node.children {
            let is_it = |other: &Arc<Node>| Arc::ptr_eq(other, child);
            let known = self.find(&child.name).is_some_and(is_it);
            if !known && !fresh.iter().any(is_it) {
                self.collect(child, fresh);
            }
        }
        fresh.push(node.clone());
    }

    /// Whether a node lies on this one.
    pub(super) fn has_parent(&self, node: &Arc<Node>) -> bool {
        let lies_on = |parent: &Arc<Node>| parent.children.iter().any(|c| Arc::ptr_eq(c, node));
        self.nodes.iter().any(lies_on)
    }

    /// Takes a node away, and those beneath it that were there for its sake alone. Gives all of them.
    pub(super) fn remove(&mut self, node: &Arc<Node>) -> Vec<Arc<Node>> {
        self.nodes.retain(|known| !Arc::ptr_eq(known, node));
        self.by_name.remove(&node.name);
        let mut gone = vec![node.clone()];
        for child in &node.children {
            if child.owner == Owner::Parent && !self.has_parent(child) {
                gone.extend(self.remove(child));
            }
        }
        gone
    }

    /// Forgets everything. Tells whose images are closed by that, unless somebody still has them, and when.
    pub(super) fn clear(&mut self) -> Vec<(String, Closed)> {
        self.by_name.clear();
        let mut closing = Vec::new();
        while let Some(node) = self.nodes.pop() {
            if let Err(error) = node.disk.flush() {
                complain(&format!(
                    "node {}: what was written may be lost: {error}",
                    node.name
                ));
            }
            closing.extend(node.closing());
        }
        closing
    }

    /// A name for a node that is to be added.
    pub(super) fn name_for(&mut self, asked: Option<&str>) -> Result<String, Error> {
        if self.nodes.len() >= MOST_NODES {
            let text = format!("there are {MOST_NODES} nodes, which is the most; delete one first");
            return Err(Error::generic(text));
        }
        match asked {
            Some(name) => {
                self.check_new_name(name)?;
                Ok(name.to_owned())
            }
            None => {
                self.anonymous += 1;
                Ok(format!("#block{:03}", self.anonymous))
            }
        }
    }

    /// Refuses a name that is none, or is taken.
    pub(super) fn check_new_name(&self, name: &str) -> Result<(), Error> {
        check_name(name)?;
        if self.find(name).is_some() {
            let text = format!("Duplicate nodes with node-name='{name}'");
            return Err(Error::generic(text));
        }
        Ok(())
    }
}

/// Refuses a name that is none for a node.
pub(crate) fn check_name(name: &str) -> Result<(), Error> {
    if !is_identifier(name) {
        return Err(Error::generic(format!("Invalid node-name: '{name}'")));
    }
    if name.len() > 31 {
        return Err(Error::generic("Node name too long"));
    }
    Ok(())
}

/// A letter, then letters, digits, `-`, `.` or `_`.
pub(super) fn is_identifier(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
}

/// The refusal of a name that nothing has.
pub(super) fn no_such(device: &str, node: &str) -> Error {
    let text = format!("Cannot find device='{device}' nor node-name='{node}'");
    Error::generic(text)
}
