//! Bitmaps that lie in a node's image: found there when the node is made, and saved there when it is gone.

use std::convert::Infallible;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use cohort_bitmap::store::qcow2::{Qcow2Error, Saved};
use cohort_bitmap::{DirtyBitmap, Granularity};
use cohort_block::{BitmapOwner, Device, FoundBitmap};
use cohort_qmp::Error;

use super::bitmaps::Bitmap;
use super::nodes::Node;
use super::place::Place;
use super::{GATE_WAIT, complain, lock};
use crate::serve::LETTING_GO;

/// A node's bitmaps, as its image knows them.
#[derive(Debug)]
struct OfNode {
    bitmaps: Arc<Mutex<Vec<Arc<Bitmap>>>>,
    /// Gone with this, which is when all is saved.
    _open: Sender<Infallible>,
}

/// Tells when an image is closed, its bitmaps saved.
#[derive(Debug)]
pub(super) struct Closed(Receiver<Infallible>);

impl BitmapOwner for OfNode {
    /// Of those that are new, the newest first, as QEMU has them.
    fn to_save(&self) -> Vec<Saved> {
        let bitmaps = lock(&self.bitmaps);
        bitmaps
            .iter()
            .rev()
            .filter_map(|bitmap| bitmap.to_save())
            .collect()
    }

    fn not_saved(&self, why: &str) {
        complain(why);
    }
}

/// Waits until the images of nodes that are gone are closed. A job that is just over may still let its disk go.
pub(super) fn wait_for(closing: Vec<(String, Closed)>) {
    let deadline = Instant::now() + LETTING_GO;
    for (node, Closed(closed)) in closing {
        let patience = deadline.saturating_duration_since(Instant::now());
        if closed.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
            complain(&format!(
                "node {node}: its disk is still in use; until that ends, its image has bitmaps that are inconsistent"
            ));
        }
    }
}

/// Has a new node have the bitmaps of its image, before anybody writes to it.
///
/// # Errors
/// The image's bitmaps are damaged, or cannot be marked as in use.
pub(super) fn load(node: &Node) -> Result<(), Error> {
    let Some(image) = &node.image else {
        return Ok(());
    };
    let (open, closed) = channel();
    let owner = OfNode {
        bitmaps: node.bitmaps.clone(),
        _open: open,
    };
    let found = image.hand_over_bitmaps(Arc::new(owner));
    let found = found.map_err(|error| Error::generic(error.to_string()))?;
    *lock(&node.closed) = Some(Closed(closed));
    let gate = node.disk.close("bitmaps", Instant::now() + GATE_WAIT);
    let mut gate = gate.map_err(|error| Error::generic(error.to_string()))?;
    for one in found {
        let place = place_of(&one, node.traits.read_only);
        let FoundBitmap {
            name,
            granularity,
            enabled,
            bits,
        } = one;
        let enabled = enabled && !place.is_inconsistent();
        let bits = match bits {
            Some(bits) => bits,
            None => DirtyBitmap::new(node.disk.size(), granularity)
                .map_err(|error| Error::generic(error.to_string()))?,
        };
        let bitmap = Bitmap::new(&name, bits, enabled, place, None, &mut gate);
        lock(&node.bitmaps).push(Arc::new(bitmap));
    }
    Ok(())
}

fn place_of(found: &FoundBitmap, read_only: bool) -> Place {
    match (&found.bits, read_only) {
        (None, read_only) => Place::Inconsistent { read_only },
        (Some(_), true) => Place::ReadOnlyImage,
        (Some(_), false) => Place::Image,
    }
}

/// Whether a node can have another bitmap in its image, told as QEMU does.
///
/// # Errors
/// Why it cannot.
pub(super) fn check_new(node: &Node, name: &str, granularity: Granularity) -> Result<(), Error> {
    let of = &node.name;
    // Those of images alone were loaded.
    let Some(image) = node.image.as_ref().filter(|_| lock(&node.closed).is_some()) else {
        let text = format!("Can't store persistent bitmaps to {of}: Operation not supported");
        return Err(Error::generic(text));
    };
    let refused = |why: &str| {
        let text = format!("Can't make bitmap '{name}' persistent in '{of}': {why}");
        Err(Error::generic(text))
    };
    let bitmaps = lock(&node.bitmaps);
    if bitmaps.iter().any(|bitmap| bitmap.name == name) {
        return Err(Error::generic(format!("Bitmap already exists: {name}")));
    }
    let stored = bitmaps
        .iter()
        .filter(|bitmap| bitmap.place != Place::Nowhere);
    let stored = stored.map(|bitmap| &*bitmap.name);
    match image.check_new_bitmap(name, granularity, stored) {
        Ok(()) if node.traits.read_only => refused("the node is read-only"),
        Ok(()) => Ok(()),
        Err(Qcow2Error::Version { .. }) => refused("Cannot store dirty bitmaps in qcow2 v2 files"),
        Err(Qcow2Error::TooLarge { .. }) => {
            refused("Too much space will be occupied by the bitmap. Use larger granularity")
        }
        Err(Qcow2Error::BadName { .. }) => refused("Name length exceeds maximum (1023 characters)"),
        Err(Qcow2Error::TooMany) => {
            refused("Maximum number of persistent bitmaps is already reached")
        }
        Err(other) => refused(&other.to_string()),
    }
}
