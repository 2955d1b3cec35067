//! Where the bitmaps of a node outlive the process: a tracking store in the state directory for each node that has some.
//!
//! A bitmap is the union of the [sets](Sets) that its row names. A set takes over from another as in a served disk's own
//! store: the new one is durable and named in the row before it records, and the ones before are named until the verdict
//! that clears them, or the command, is durable. So whatever kills the process, the sets that are named have every write.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};

use cohort_bitmap::store::{
    Inspection, Label, Mode, Owner, Prepared, Recording, SetId, StoreError,
};
use cohort_bitmap::{DirtyBitmap, Granularity, Recorder};
use cohort_block::{Device, Gated, ImageFile, TrackingError, TrackingStore};

use crate::daemon::lock;
use crate::daemon::nodes::Node;

/// What a node's store is called in the state directory.
const ENDING: &str = "bitmaps";

/// The store of a node.
#[derive(Debug)]
pub(crate) struct NodeStore {
    path: PathBuf,
    id: [u8; 16],
    /// The node's file, locked as long as the store is open: nobody writes between the end of the disk and its own.
    _file: ImageFile,
    disk: Weak<Gated>,
    store: Mutex<Option<TrackingStore>>,
}

/// The sets that make a bitmap: together they hold no less than it does.
#[derive(Clone, Debug)]
pub(crate) struct Sets {
    store: [u8; 16],
    all: Vec<SetId>,
    /// Empty ones that may record next, named in the row already.
    next: Vec<SetId>,
    /// Where its writes go.
    recording: Recording,
}

/// A new, empty set, into which nobody records yet.
#[derive(Debug)]
pub(crate) struct Fresh {
    store: [u8; 16],
    prepared: Prepared,
}

impl NodeStore {
    /// Makes a store for a node; whatever was at its place is of one that is gone.
    pub(in crate::daemon) fn create(
        folder: &Path,
        node: &Node,
        file: &ImageFile,
        mode: Mode,
    ) -> Result<Arc<Self>, TrackingError> {
        let path = path(folder, &node.name);
        let _ = fs::remove_file(&path);
        let store = TrackingStore::create(&path, file.path(), node.disk.size(), mode)?;
        Ok(Self::with(path, store, node, file))
    }

    /// Opens the one that an earlier daemon left, and tells what it says.
    pub(in crate::daemon) fn open(
        folder: &Path,
        node: &Node,
        file: &ImageFile,
        mode: Mode,
    ) -> Result<(Arc<Self>, Inspection), TrackingError> {
        let path = path(folder, &node.name);
        let (store, found) = TrackingStore::open_for(&path, file, node.disk.size(), mode)?;
        Ok((Self::with(path, store, node, file), found))
    }

    fn with(path: PathBuf, store: TrackingStore, node: &Node, file: &ImageFile) -> Arc<Self> {
        Arc::new(Self {
            path,
            id: store.store().id(),
            _file: file.clone(),
            disk: Arc::downgrade(&node.disk),
            store: Mutex::new(Some(store)),
        })
    }

    /// Its own id.
    pub(crate) fn id(&self) -> [u8; 16] {
        self.id
    }

    /// Whether its sets outlive a loss of power.
    pub(crate) fn outlives_power(&self) -> bool {
        let store = lock(&self.store);
        store
            .as_ref()
            .is_some_and(|store| store.store().mode() == Mode::PowerLoss)
    }

    /// Makes a set durable that is to record.
    pub(crate) fn prepare(&self, bitmap: &str, granularity: Granularity) -> Option<Fresh> {
        let prepared = self.with_store(|store| store.store().prepare(label(bitmap), granularity));
        Some(Fresh {
            store: self.id,
            prepared: prepared?,
        })
    }

    /// Writes bits that change no more.
    pub(crate) fn write(&self, bitmap: &str, bits: &DirtyBitmap) -> Option<SetId> {
        self.with_store(|store| store.store().write_fixed(label(bitmap), bits))
    }

    /// Drops sets that no row names.
    pub(crate) fn drop_sets(&self, sets: &[SetId]) {
        if !sets.is_empty() {
            let _ = self.with_store(|store| store.store().drop_sets(sets));
        }
    }

    /// Drops all sets but these.
    pub(crate) fn keep_only(&self, named: &[SetId]) {
        let all = self.with_store(|store| Ok(store.store().sets()));
        let all = all.unwrap_or_default().into_iter().map(|(set, ..)| set);
        let gone: Vec<_> = all.filter(|set| !named.contains(set)).collect();
        self.drop_sets(&gone);
    }

    /// Whether somebody still has the disk.
    pub(crate) fn waits(&self) -> bool {
        self.disk.strong_count() > 0
    }

    /// The end, when nobody has the disk any more: everything is written exactly. Says why it is left as after a kill, if
    /// it is.
    pub(crate) fn close(&self) -> Result<(), String> {
        if self.waits() {
            return Err(format!("{}: its disk is still in use", self.path.display()));
        }
        let store = lock(&self.store).take();
        store
            .map_or(Ok(()), TrackingStore::close)
            .map_err(|error| error.to_string())
    }

    /// The node is gone, and its bitmaps with it.
    pub(crate) fn remove(&self) {
        drop(lock(&self.store).take());
        let _ = fs::remove_file(&self.path);
    }

    /// A failure leaves bitmaps that no set makes: they come back all dirty.
    fn with_store<T>(
        &self,
        act: impl FnOnce(&TrackingStore) -> Result<T, StoreError>,
    ) -> Option<T> {
        let done = act(lock(&self.store).as_ref()?);
        done.inspect_err(|why| tell(&self.path, why)).ok()
    }
}

impl Fresh {
    /// Its number.
    pub(crate) fn set(&self) -> SetId {
        self.prepared.set()
    }

    /// The id of its store.
    pub(crate) fn store(&self) -> [u8; 16] {
        self.store
    }

    /// Records from now on what is also marked in `recorder`. In memory only.
    pub(crate) fn begin(self, recorder: &Recorder) -> Sets {
        let Fresh { store, prepared } = self;
        Sets {
            store,
            all: vec![prepared.set()],
            next: Vec::new(),
            recording: prepared.begin(recorder),
        }
    }
}

impl Sets {
    /// Where writes are recorded.
    pub(crate) fn recording(&self) -> &Recording {
        &self.recording
    }

    /// The store's id.
    pub(crate) fn store(&self) -> [u8; 16] {
        self.store
    }

    /// Their numbers.
    pub(crate) fn all(&self) -> &[SetId] {
        &self.all
    }

    /// Those that the row names.
    pub(crate) fn named(&self) -> impl Iterator<Item = SetId> {
        self.all.iter().chain(&self.next).copied()
    }

    /// Names one that may record next.
    pub(crate) fn add_next(&mut self, set: SetId) {
        self.next.push(set);
    }

    /// What may have recorded next does not.
    pub(crate) fn forget_next(&mut self) {
        self.next.clear();
    }

    /// They hold what this one has, too.
    pub(crate) fn add(&mut self, set: SetId) {
        self.all.push(set);
    }

    /// They hold no more what these have. Says which of them were among them.
    pub(crate) fn remove(&mut self, gone: &[SetId]) -> Vec<SetId> {
        let (left, kept) = self.all.iter().partition(|set| gone.contains(set));
        self.all = kept;
        left
    }
}

/// The node's file, from whose stamp a store tells whether somebody wrote to it: that of the node, or of what it lies on.
pub(crate) fn file_of(node: &Node) -> Option<ImageFile> {
    let image = node.image.as_ref().map(|image| image.files()[0].clone());
    let own = image.or_else(|| node.beneath.as_ref().map(|top| top.file.clone()));
    own.or_else(|| file_of(node.children.first()?))
}

fn path(folder: &Path, node: &str) -> PathBuf {
    folder.join(format!("{node}.{ENDING}"))
}

fn label(bitmap: &str) -> Label {
    Label {
        owner: Owner::default(),
        name: bitmap.to_owned(),
        note: String::new(),
    }
}

fn tell(path: &Path, why: &StoreError) {
    crate::daemon::complain(&format!(
        "{}: bitmaps in it come back all dirty: {why}",
        path.display()
    ));
}
