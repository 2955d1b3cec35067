//! Where jobs are found: ids to groups, and names to ids. Sharded, so that groups share nothing else.

use std::collections::HashMap;
use std::collections::hash_map::{DefaultHasher, Entry};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use slotmap::SlotMap;

use crate::MemberName;
use crate::group::Group;
use crate::sync::{AtomicU64, Mutex, Ordering};

slotmap::new_key_type! {
    struct Key;
}

/// A transaction under its engine. A stale one is never another transaction.
///
/// Example: [`Engine`](crate::Engine).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TxnId {
    /// In order of creation.
    serial: u64,
    key: Key,
}

/// A job under its engine: its transaction and its place there, in creation order.
/// A stale one is never another job.
///
/// Example: [`Engine`](crate::Engine).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId {
    /// Its transaction.
    pub txn: TxnId,
    /// Its position among the members.
    pub member: u32,
}

impl fmt::Display for TxnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.serial)
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.txn, self.member)
    }
}

/// More than the cores of most machines, so that two seldom meet.
const SHARDS: u64 = 32;

#[derive(Debug)]
pub(crate) struct Directory {
    next: AtomicU64,
    groups: Vec<Mutex<SlotMap<Key, Arc<Group>>>>,
    names: Vec<Mutex<HashMap<MemberName, JobId>>>,
}

impl Directory {
    pub(crate) fn new() -> Self {
        Self {
            next: AtomicU64::new(1),
            groups: (0..SHARDS)
                .map(|_| Mutex::new(SlotMap::with_key()))
                .collect(),
            names: (0..SHARDS).map(|_| Mutex::new(HashMap::new())).collect(),
        }
    }

    /// Adds the group that `make` makes for its id.
    pub(crate) fn add(&self, make: impl FnOnce(TxnId) -> Group) -> Arc<Group> {
        let serial = self.next.fetch_add(1, Ordering::Relaxed);
        let mut shard = self.shard(serial).lock();
        let key = shard.insert_with_key(|key| Arc::new(make(TxnId { serial, key })));
        Arc::clone(&shard[key])
    }

    pub(crate) fn find(&self, id: TxnId) -> Option<Arc<Group>> {
        self.shard(id.serial).lock().get(id.key).cloned()
    }

    /// Forgets a group; the caller drops it outside of all locks.
    pub(crate) fn remove(&self, id: TxnId) -> Option<Arc<Group>> {
        self.shard(id.serial).lock().remove(id.key)
    }

    /// Every group, in order of creation.
    pub(crate) fn all(&self) -> Vec<Arc<Group>> {
        let mut all = Vec::new();
        for shard in &self.groups {
            all.extend(shard.lock().values().cloned());
        }
        all.sort_by_key(|group| group.id);
        all
    }

    /// Takes a name for a job; false if it is taken.
    pub(crate) fn claim(&self, name: &MemberName, job: JobId) -> bool {
        match self.names(name.as_str()).lock().entry(name.clone()) {
            Entry::Occupied(_) => false,
            Entry::Vacant(entry) => {
                entry.insert(job);
                true
            }
        }
    }

    /// Gives a job's name back. A replayed job never had its own: somebody else's stays.
    pub(crate) fn free(&self, name: &MemberName, job: JobId) {
        let mut names = self.names(name.as_str()).lock();
        if names.get(name.as_str()) == Some(&job) {
            names.remove(name.as_str());
        }
    }

    /// The job of this name that is not dismissed.
    pub(crate) fn named(&self, name: &str) -> Option<JobId> {
        self.names(name).lock().get(name).copied()
    }

    fn shard(&self, serial: u64) -> &Mutex<SlotMap<Key, Arc<Group>>> {
        &self.groups[(serial % SHARDS) as usize]
    }

    fn names(&self, name: &str) -> &Mutex<HashMap<MemberName, JobId>> {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        &self.names[(hasher.finish() % SHARDS) as usize]
    }
}
