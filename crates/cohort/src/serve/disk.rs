//! A disk that was opened to be served.

use std::sync::Arc;

use cohort_backup::catalogue::DiskName;
use cohort_block::{Access, Device, Gated, Image};
use cohort_nbd::{BitmapName, Name, NameError};

use super::{Dirt, Served, Tracking};

/// A disk with all that its users share.
#[derive(Debug)]
pub(crate) struct Disk {
    /// What it is called.
    pub(crate) name: DiskName,
    /// Its open image.
    pub(crate) image: Image,
    /// Its bytes. Every write passes this gate.
    pub(crate) gated: Arc<Gated>,
    /// What may be done to it.
    pub(crate) access: Access,
    /// Where its writes are recorded, if they are.
    pub(crate) tracking: Option<Tracking>,
    /// The bitmaps of its image that clients may ask for.
    pub(crate) bitmaps: Vec<(BitmapName, Arc<dyn Dirt>)>,
}

impl Disk {
    /// As it is served when nobody else has it.
    ///
    /// # Errors
    /// Its name is none that clients can say.
    pub(crate) fn served(self) -> Result<Served, NameError> {
        Ok(Served {
            name: Name::new(self.name.as_str())?,
            size: self.gated.size(),
            meter: self.gated.meter().cloned(),
            traffic: Default::default(),
            device: self.gated,
            tracking: self.tracking,
            read_only: self.access == Access::ReadOnly,
            bitmaps: self.bitmaps,
        })
    }
}
