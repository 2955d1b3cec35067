//! The disks that the command line names: nodes as long as the daemon lives, each with what is known of its changes.
//!
//! Such a node lies on no other, so nobody gets at its file past the gate that records.

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use cohort_backup::{Tracked, UntrackError};
use cohort_bitmap::Stretch;
use cohort_block::{Access, Format};
use cohort_nbd::BitmapName;
use cohort_qmp::{DetectZeroes, Error};

use super::bitmaps::Bitmap;
use super::exports::Wish;
use super::nodes::{Node, Owner, Traits};
use super::{Daemon, lock, stored};
use crate::serve::{
    Dirt, Disk, Encryption, Ending, LETTING_GO, Limits, Listener, Server, Stopped, Tracking,
};

/// All of them, in the order of the command line.
#[derive(Debug, Default)]
pub(super) struct Disks(Mutex<Vec<Own>>);

/// One of them.
#[derive(Debug)]
struct Own {
    /// What is known of its changes: without a store, as long as the daemon lives.
    tracked: Arc<Tracked>,
    tracking: Option<Tracking>,
}

/// A bitmap of such a disk, as clients of its own export see it: it may be changed, lent and removed all the same.
#[derive(Debug)]
struct Shown {
    bitmaps: Arc<Mutex<Vec<Arc<Bitmap>>>>,
    name: String,
}

impl Shown {
    fn bitmap(&self) -> Option<Arc<Bitmap>> {
        let bitmaps = lock(&self.bitmaps);
        bitmaps
            .iter()
            .find(|bitmap| bitmap.name == self.name)
            .cloned()
    }
}

impl Dirt for Shown {
    /// What was removed says nothing any more, so all counts as dirty.
    fn status(&self, start: u64, length: u64) -> Option<Stretch> {
        match self.bitmap() {
            Some(bitmap) => bitmap.status(start, length),
            None => Some(Stretch {
                dirty: true,
                length,
            }),
        }
    }

    fn dirty_bytes(&self) -> u64 {
        self.bitmap().map_or(0, |bitmap| bitmap.dirty_bytes())
    }
}

impl Daemon {
    /// Adds a disk that the command line names, under its name, with the bitmaps of its image.
    ///
    /// # Errors
    /// The name is none for a node, the disk is too large to be tracked, or its image's bitmaps cannot be had.
    pub(crate) fn add_disk(&self, disk: Disk) -> Result<(), Error> {
        let tracked = match &disk.tracking {
            Some(tracking) => tracking.tracked().clone(),
            None => Tracked::new(disk.name.clone(), disk.gated.clone())
                .map_err(|error| Error::generic(error.to_string()))?,
        };
        let mut graph = self.graph();
        let name = graph.name_for(Some(disk.name.as_str()))?;
        let files = disk.image.files();
        let mut node = Node::new(
            name,
            match disk.image.format() {
                Format::Raw => "raw",
                Format::Qcow2 => "qcow2",
            },
            Owner::CommandLine,
            Traits {
                read_only: disk.access == Access::ReadOnly,
                direct: false,
                no_flush: false,
                detect_zeroes: DetectZeroes::Off,
            },
            disk.gated,
            Vec::new(),
            files[0].path().display().to_string(),
        );
        node.cluster = disk.image.cluster_bytes();
        node.depth = i64::try_from(files.len()).unwrap_or(i64::MAX) - 1;
        let has_bitmaps = disk.image.format() == Format::Qcow2;
        node.image = Some(disk.image);
        if has_bitmaps {
            stored::load(&node)?;
        }
        graph.add(&Arc::new(node))?;
        lock(&self.disks.0).push(Own {
            tracked,
            tracking: disk.tracking,
        });
        Ok(())
    }

    /// Serves the disks of the command line to NBD clients, as exports under their names. Clients that command may add
    /// others, and take these away.
    ///
    /// # Errors
    /// The system has no thread, or a name is none that NBD clients can say.
    pub(crate) fn serve(
        &self,
        listeners: Vec<Listener>,
        tls: Option<Encryption>,
        limits: Limits,
    ) -> Result<(), Error> {
        let server = Server::start(Default::default(), listeners, tls, limits);
        self.exports
            .begin(server.map_err(|error| Error::generic(error.to_string()))?);
        let graph = self.graph();
        for own in &*lock(&self.disks.0) {
            let name = own.tracked.name().as_str();
            let node = graph.either(name)?;
            let wish = Wish {
                id: name.to_owned(),
                name: name.to_owned(),
                writable: !node.traits.read_only,
                bitmaps: Vec::new(),
                shown: shown(&node),
            };
            self.export(&graph, &node, wish)?;
        }
        Ok(())
    }
}

impl Disks {
    /// What is known of each disk's changes.
    pub(super) fn tracked(&self) -> Vec<Arc<Tracked>> {
        let disks = lock(&self.0);
        disks.iter().map(|own| own.tracked.clone()).collect()
    }

    /// Makes all of them durable, and lets them go. What recorded the writes to them is to be closed once nobody has them
    /// any more, and their images are.
    pub(super) fn let_go(&self, stopped: &mut Stopped) -> Vec<Ending> {
        let mut endings = Vec::new();
        for own in std::mem::take(&mut *lock(&self.0)) {
            let ended = match &own.tracking {
                Some(tracking) => tracking.end(),
                None => own.tracked.close().map(|()| None),
            };
            match ended {
                Ok(ending) => endings.extend(ending),
                Err(UntrackError::Flush(error)) => stopped.failures.push(error.to_string()),
                Err(error) => stopped.unproven.push(error.to_string()),
            }
        }
        endings
    }
}

/// Closes what recorded the writes to disks that were let go.
pub(super) fn close(endings: Vec<Ending>, stopped: &mut Stopped) {
    let deadline = Instant::now() + LETTING_GO;
    while endings.iter().any(Ending::waits) && Instant::now() < deadline {
        thread::yield_now();
    }
    let closed = endings.into_iter().map(Ending::close);
    stopped.unproven.extend(closed.filter_map(Result::err));
}

/// The bitmaps of a disk that say something, for its own export.
fn shown(node: &Node) -> Vec<(BitmapName, Arc<dyn Dirt>)> {
    let bitmaps = lock(&node.bitmaps);
    let told = bitmaps
        .iter()
        .filter(|bitmap| !bitmap.place.is_inconsistent());
    let shown = told.filter_map(|bitmap| {
        let shown = Shown {
            bitmaps: node.bitmaps.clone(),
            name: bitmap.name.clone(),
        };
        Some((BitmapName::new(&bitmap.name)?, Arc::new(shown) as _))
    });
    shown.collect()
}
