//! The bitmaps that QEMU put into an image: found when it is opened, kept while it is open, listed and given away.
//!
//! What becomes of them while the image is written to is [`Kept`]'s.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cohort_bitmap::Granularity;
use cohort_bitmap::store::qcow2::{Bitmaps, Condition, Qcow2Error};

use super::{Format, Image};
use crate::file::File;
use crate::kept::{BitmapOwner, FoundBitmap, Kept, LiveBitmap, Veiled};
use crate::open_error::OpenError;
use crate::qcow2::{Layer, LayerKind};

/// QEMU's dirty bitmaps of one layer of an image: see [`Image::bitmaps`].
#[derive(Debug)]
pub struct LayerBitmaps {
    /// The layer's file.
    pub path: PathBuf,
    /// Its bitmaps, or why it has none that could be listed.
    pub bitmaps: Result<Bitmaps<Arc<dyn File>>, Qcow2Error>,
}

impl Image {
    /// QEMU's dirty bitmaps as they are in the files now, one item for each qcow2 layer, top layer first.
    /// Those that this image keeps while it is open to be written to show as in use. The answer holds the
    /// files, and so their locks, as the image does.
    pub fn bitmaps(&self) -> Vec<LayerBitmaps> {
        let layers = self
            .files
            .iter()
            .filter(|file| file.format == Format::Qcow2);
        layers
            .map(|layer| LayerBitmaps {
                path: layer.path.clone(),
                bitmaps: Bitmaps::open(layer.file.clone()),
            })
            .collect()
    }

    /// The enabled ones among the top layer's bitmaps, of an image that is open to be written to: as they are while the
    /// device is written to.
    pub fn live_bitmaps(&self) -> &[LiveBitmap] {
        self.kept.as_ref().map_or(&[], |kept| kept.live())
    }

    /// Gives the top layer's bitmaps to `owner`, in the order of the image. To be called once, before anything is written.
    ///
    /// Of an image that is open to be written to, all that are true are in use from here on. The owner marks what is
    /// written, may change them, and is asked in the end what the image is to hold. Of one that is open to be read they are
    /// told, and nothing is asked; those that cannot be read are left out.
    ///
    /// # Errors
    /// As [`Bitmaps::hold`]; the bitmaps are as they were.
    pub fn hand_over_bitmaps(
        &self,
        owner: Arc<dyn BitmapOwner>,
    ) -> Result<Vec<FoundBitmap>, Qcow2Error> {
        match &self.kept {
            Some(kept) => kept.hand_over(owner),
            None => Ok(self.found_bitmaps()),
        }
    }

    /// The top layer's bitmaps of an image that is not written to.
    fn found_bitmaps(&self) -> Vec<FoundBitmap> {
        let Some(Ok(bitmaps)) = self.bitmaps().into_iter().next().map(|top| top.bitmaps) else {
            return Vec::new();
        };
        let entries = bitmaps.list().iter().filter(|_| !bitmaps.is_stale());
        let found = entries.filter_map(|entry| match entry.condition() {
            Condition::Consistent => FoundBitmap::of(entry, Some(bitmaps.read(entry.name()).ok()?)),
            Condition::InUse => FoundBitmap::of(entry, None),
            Condition::Unusable(_) => None,
        });
        found.collect()
    }

    /// Whether the image could be given another bitmap in the end, beside `others`. Touches nothing but memory where it can.
    ///
    /// # Errors
    /// As [`Bitmaps::open`] and [`Bitmaps::check_new`].
    pub fn check_new_bitmap<'a>(
        &self,
        name: &str,
        granularity: Granularity,
        others: impl Iterator<Item = &'a str>,
    ) -> Result<(), Qcow2Error> {
        match &self.kept {
            Some(kept) => kept.check_new(name, granularity, others),
            None => Bitmaps::open(self.files[0].file.clone())?.check_new(name, granularity, others),
        }
    }
}

/// Takes QEMU's bitmaps of the top layer into our keeping, and out of imago's sight. Those that nobody
/// promises to be true stay as they are: nobody believes them. Nothing for an image that has none and can be given none.
pub(super) fn keep_bitmaps(
    path: &Path,
    layers: &mut [Layer],
) -> Result<Option<Arc<Kept>>, OpenError> {
    let Some(top) = layers.first_mut() else {
        return Ok(None);
    };
    let LayerKind::Qcow2 {
        version,
        promises_bitmaps,
        ..
    } = top.kind
    else {
        return Ok(None);
    };
    let kept = match Kept::begin(path, top.file.clone()) {
        Ok(kept) => kept,
        Err(_) if version < 3 || !promises_bitmaps => return Ok(None),
        Err(cause) => {
            return Err(OpenError::Bitmaps {
                path: path.into(),
                cause,
            });
        }
    };
    if kept.has_bitmaps() {
        top.file = Arc::new(Veiled::new(top.file.clone()));
    }
    Ok(Some(Arc::new(kept)))
}
