//! Commands on bitmaps: each looks first and then changes, so that a refusal has changed nothing; and each says how it
//! is undone.

use std::sync::Arc;

use cohort_bitmap::{DirtyBitmap, Granularity};
use cohort_block::{ClosedGate, Device};
use cohort_qmp::{
    Answer as Word, Argument, BitmapAdd, BitmapDecide, BitmapHash, BitmapMerge, BitmapRef,
    BitmapSource, Error,
};
use sha2::{Digest, Sha256};

use super::bitmaps::{Before, Bitmap, MOST_BITMAPS};
use super::nodes::{Graph, Node};
use super::place::{Place, Purpose};
use super::sharing::refuse_bitmap;
use super::state::Fresh;
use super::{Answer, Daemon, lock, nothing, stored};

/// What undoes a change, inside the same closed gates.
pub(super) enum Undo {
    /// The bitmap was not there before.
    Added(Arc<Node>, Arc<Bitmap>),
    /// It held something else.
    Changed(Arc<Node>, Arc<Bitmap>, Before),
    /// It was enabled, or was not.
    Enabled(Arc<Node>, Arc<Bitmap>, bool),
    /// It is to be removed once all is well.
    Removed(Arc<Node>, Arc<Bitmap>),
}

impl Undo {
    /// Undoes it.
    pub(super) fn undo(self, closed: &mut ClosedGate<'_>) {
        match self {
            Self::Added(node, bitmap) => detach(&node, &bitmap, closed),
            Self::Changed(_, bitmap, before) => bitmap.restore(before, closed),
            Self::Enabled(_, bitmap, enabled) => bitmap.set_enabled(enabled, closed),
            Self::Removed(_, bitmap) => bitmap.set_leaving(false),
        }
    }

    /// All is well: what was put off is done.
    pub(super) fn forget(self, closed: &mut ClosedGate<'_>) {
        match self {
            Self::Removed(node, bitmap) => {
                bitmap.set_leaving(false);
                detach(&node, &bitmap, closed);
            }
            Self::Changed(_, bitmap, before) => bitmap.forget(before),
            Self::Added(..) | Self::Enabled(..) => {}
        }
    }
}

fn detach(node: &Node, bitmap: &Arc<Bitmap>, closed: &mut ClosedGate<'_>) {
    bitmap.retire(closed);
    lock(&node.bitmaps).retain(|other| !Arc::ptr_eq(other, bitmap));
}

/// The node and the bitmap that a command names.
pub(super) fn find(
    graph: &Graph,
    node: &str,
    name: &str,
) -> Result<(Arc<Node>, Arc<Bitmap>), Error> {
    let found = graph.find(node);
    let node = found.ok_or_else(|| Error::generic(format!("Node '{node}' not found")))?;
    let bitmap = node.bitmap(name);
    let bitmap =
        bitmap.ok_or_else(|| Error::generic(format!("Dirty bitmap '{name}' not found")))?;
    Ok((node.clone(), bitmap))
}

/// `block-dirty-bitmap-add`.
pub(super) fn add(
    node: &Arc<Node>,
    add: &BitmapAdd,
    fresh: Option<Fresh>,
    closed: &mut ClosedGate<'_>,
) -> Result<Undo, Error> {
    let granularity = granularity(node, add)?;
    refuse_bitmap(node)?;
    let persistent = add.persistent == Some(true);
    if persistent {
        stored::check_new(node, &add.name, granularity)?;
    }
    let mut bitmaps = lock(&node.bitmaps);
    let name = &add.name;
    if bitmaps.iter().any(|bitmap| bitmap.name == *name) {
        return Err(Error::generic(format!("Bitmap already exists: {name}")));
    }
    if name.len() > 1023 {
        return Err(Error::generic(format!("Bitmap name too long: {name}")));
    }
    if bitmaps.len() >= MOST_BITMAPS {
        let text = format!(
            "node '{}' has {MOST_BITMAPS} bitmaps, which is the most",
            node.name
        );
        return Err(Error::generic(text));
    }
    let empty = DirtyBitmap::new(node.disk.size(), granularity);
    let empty = empty.map_err(|error| Error::generic(error.to_string()))?;
    let enabled = !add.disabled.unwrap_or(false);
    let place = if persistent {
        Place::Image
    } else {
        Place::Nowhere
    };
    let bitmap = Arc::new(Bitmap::new(name, empty, enabled, place, fresh, closed));
    bitmaps.push(bitmap.clone());
    Ok(Undo::Added(node.clone(), bitmap))
}

/// That of a bitmap to be added.
pub(super) fn granularity(node: &Node, add: &BitmapAdd) -> Result<Granularity, Error> {
    match add.granularity {
        Some(bytes) => Granularity::tracked(bytes.into())
            .map_err(|_| Error::generic("Granularity must be power of 2 and at least 512")),
        None => Ok(node
            .cluster
            .map_or(Granularity::DEFAULT, Granularity::for_cluster)),
    }
}

/// The node of an addition, which is told otherwise than elsewhere if it is not there.
pub(super) fn node_to_add_to(graph: &Graph, add: &BitmapAdd) -> Result<Arc<Node>, Error> {
    if add.name.is_empty() {
        return Err(Error::generic("Bitmap name cannot be empty"));
    }
    graph.either(&add.node)
}

/// `block-dirty-bitmap-remove`.
pub(super) fn remove(graph: &Graph, of: &BitmapRef) -> Result<Undo, Error> {
    let (node, bitmap) = find(graph, &of.node, &of.name)?;
    bitmap.check(Purpose::Remove)?;
    bitmap.set_leaving(true);
    Ok(Undo::Removed(node, bitmap))
}

/// `block-dirty-bitmap-clear`.
pub(super) fn clear(
    graph: &Graph,
    of: &BitmapRef,
    fresh: Option<Fresh>,
    closed: &mut ClosedGate<'_>,
) -> Result<Undo, Error> {
    let (node, bitmap) = find(graph, &of.node, &of.name)?;
    bitmap.check(Purpose::Change)?;
    let before = bitmap.clear(fresh, closed);
    Ok(Undo::Changed(node, bitmap, before))
}

/// `block-dirty-bitmap-enable` and `-disable`.
pub(super) fn set_enabled(
    graph: &Graph,
    of: &BitmapRef,
    enabled: bool,
    closed: &mut ClosedGate<'_>,
) -> Result<Undo, Error> {
    let (node, bitmap) = find(graph, &of.node, &of.name)?;
    bitmap.check(Purpose::Use)?;
    let before = bitmap.is_enabled();
    bitmap.set_enabled(enabled, closed);
    Ok(Undo::Enabled(node, bitmap, before))
}

/// `block-dirty-bitmap-merge`: all sources, or none. An empty list, which ends QEMU's process, changes nothing.
pub(super) fn merge(graph: &Graph, merge: &BitmapMerge) -> Result<Undo, Error> {
    let (node, target) = find(graph, &merge.node, &merge.target)?;
    if merge.bitmaps.is_empty() {
        target.check(Purpose::Change)?;
    }
    let mut sources = Vec::new();
    for source in &merge.bitmaps {
        let (of, name) = match source {
            BitmapSource::Local(name) => (&merge.node, name),
            BitmapSource::External(other) => (&other.node, &other.name),
        };
        let (_, source) = find(graph, of, name)?;
        target.check(Purpose::Change)?;
        source.check(Purpose::Use)?;
        let (from, to) = (source.snapshot(), target.snapshot());
        if from.size() != to.size() {
            return Err(Error::generic(format!(
                "Bitmaps are of different sizes (destination size is {}, source size is {}) and can't be merged",
                to.size(),
                from.size()
            )));
        }
        sources.push(from);
    }
    let before = target.merge(&sources);
    Ok(Undo::Changed(node, target, before))
}

impl Daemon {
    pub(super) fn bitmap_sha256(&self, of: &BitmapRef) -> Answer {
        let (_, bitmap) = find(&self.graph(), &of.node, &of.name)?;
        let sha256 = hash(&bitmap.snapshot());
        Ok(BitmapHash { sha256 }.write())
    }

    pub(super) fn bitmap_decide(&self, decide: &BitmapDecide) -> Answer {
        let (_, bitmap) = find(&self.graph(), &decide.node, &decide.name)?;
        bitmap.check(Purpose::Change)?;
        bitmap.decide(decide.answer == Word::Keep)?;
        nothing()
    }
}

/// QEMU's debug hash: over the words of the bits, at least one of them.
fn hash(bitmap: &DirtyBitmap) -> String {
    let mut hash = Sha256::new();
    let (shift, size) = (bitmap.granularity().shift(), bitmap.size());
    let words = bitmap.granules().div_ceil(64).max(1);
    let mut word_at = 0;
    let mut word = 0_u64;
    let finish = |hash: &mut Sha256, word: &mut u64, at: &mut u64, until: u64| {
        while *at < until {
            hash.update(std::mem::take(word).to_le_bytes());
            *at += 1;
        }
    };
    let mut from = 0;
    while let Some(offset) = bitmap.next_dirty(from, u64::MAX) {
        let granule = offset >> shift;
        finish(&mut hash, &mut word, &mut word_at, granule / 64);
        word |= 1 << (granule % 64);
        from = (granule + 1) << shift;
        if from >= size {
            break;
        }
    }
    finish(&mut hash, &mut word, &mut word_at, words);
    hash.finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Digests that qemu-storage-daemon 10 gave for such bitmaps.
    #[test]
    fn hashes_are_those_of_the_reference() {
        let granularity = |bytes| Granularity::new(bytes).unwrap();
        let empty = |bytes| hash(&DirtyBitmap::new(1 << 20, granularity(bytes)).unwrap());
        assert_eq!(
            empty(65536),
            "af5570f5a1810b7af78caf4bc70a660f0df51e42baf91d4de5b2328de0e83dfc"
        );
        assert_eq!(
            empty(512),
            "5341e6b2646979a70e57653007a1f310169421ec9bdd9f1a5648f75ade005af1"
        );
        let mut first = DirtyBitmap::new(1 << 20, granularity(65536)).unwrap();
        first.set(0, 1).unwrap();
        assert_eq!(
            hash(&first),
            "7c9fa136d4413fa6173637e883b6998d32e1d675f88cddff9dcbcf331820f4b8"
        );
    }

    #[test]
    fn hash_reads_every_word_in_order() {
        let mut bitmap = DirtyBitmap::new(200, Granularity::new(1).unwrap()).unwrap();
        for granule in [0, 63, 64, 130, 199] {
            bitmap.set(granule, 1).unwrap();
        }
        let words: [u64; 4] = [1 | 1 << 63, 1, 1 << 2, 1 << 7];
        let mut expected = Sha256::new();
        for word in words {
            expected.update(word.to_le_bytes());
        }
        let expected: String = expected
            .finalize()
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        assert_eq!(hash(&bitmap), expected);
    }
}
