//! Going by a bitmap that QEMU keeps in a qcow2 image nobody has open, and taking from it what a point holds.
//!
//! That nobody else cleared such a bitmap cannot be proved, so it is used only for a user who names it; and only
//! if the last verdict on the disk speaks of it: the catalogue has its name, its image and its granularity. Bits
//! are lost only after a verdict, and only if image and bitmap are as that run saw them: a lost clear costs
//! copying, a repeated one costs data.

use std::path::Path;

use cohort_bitmap::store::qcow2::{Bitmaps, Qcow2Error};
use cohort_bitmap::{DirtyBitmap, Granularity};
use cohort_block::{FileId, Image, ImageFile, OpenOptions, Stamp, Vouched};

use crate::catalogue::{
    Anchor, ByteRange, Catalogue, Clearing, Contents, DiskName, FileStamp, ImageBitmap, Point,
    Root, RunId, Tracking,
};
use crate::error::DiskError;

/// A bitmap that the user named, as it is when the run begins.
#[derive(Clone, Debug)]
pub(crate) struct NamedBitmap {
    pub(crate) bits: DirtyBitmap,
    /// What the catalogue will say of it if the run commits.
    row: ImageBitmap,
    /// What the catalogue says of it now, if its clean bits speak of the disk's anchor.
    known: Option<ImageBitmap>,
}

impl NamedBitmap {
    /// Reads the bitmap of this name from an image's top layer.
    pub(crate) fn read(
        source_name: &str,
        name: &str,
        image: &Image,
        stamps: &[Option<Stamp>],
    ) -> Result<Self, DiskError> {
        let failed = |error| DiskError::Bitmap {
            source_name: source_name.to_owned(),
            error: std::sync::Arc::new(error),
        };
        let unfit = |reason| DiskError::BitmapUnfit {
            source_name: source_name.to_owned(),
            name: name.to_owned(),
            reason,
        };
        let top = &image.files()[0];
        if image.format() != cohort_block::Format::Qcow2 {
            return Err(unfit("only qcow2 images hold bitmaps"));
        }
        let bitmaps = Bitmaps::open(top.file().clone()).map_err(failed)?;
        let bits = bitmaps.read(name).map_err(failed)?;
        if !bitmaps.entry(name).map_err(failed)?.is_enabled() {
            return Err(unfit(
                "it is disabled, so it does not know what was written since",
            ));
        }
        let stamps: Option<Vec<_>> = stamps.iter().map(|stamp| stamp.and_then(row_of)).collect();
        let files = stamps.ok_or_else(|| {
            unfit("the image or a file beneath is a block device, of which nobody can say whether it changed")
        })?;
        let path = std::path::absolute(top.path()).ok();
        let path = path.as_deref().and_then(Path::to_str);
        let path = path.ok_or_else(|| unfit("the path of its image is not UTF-8"))?;
        let row = ImageBitmap {
            name: name.to_owned(),
            granularity: bits.granularity().bytes(),
            path: path.to_owned(),
            files,
            bits: digest(&bits),
            clearing: Clearing::Owed,
        };
        Ok(NamedBitmap {
            bits,
            row,
            known: None,
        })
    }

    /// Looks whether the last verdict on the disk speaks of this bitmap, so that its clean bits say what is in the
    /// point `anchor`. If not, says why.
    pub(crate) fn recognise(
        &mut self,
        contents: &Contents,
        disk: &DiskName,
        anchor: Option<RunId>,
    ) -> Result<(), String> {
        let anchor = anchor.ok_or("the disk has no point yet")?;
        let known = known(contents, disk, anchor)
            .ok_or("the last backup of this disk took nothing from a bitmap")?;
        if known.name != self.row.name {
            return Err(format!(
                "the last backup of this disk took what it holds from \"{}\"",
                known.name
            ));
        }
        if known.clearing != Clearing::Done {
            return Err("it was not cleared after the last backup".to_owned());
        }
        if known.granularity != self.row.granularity {
            return Err("it has another granularity since the last backup".to_owned());
        }
        let same =
            |a: &FileStamp, b: &FileStamp| (a.filesystem, a.inode) == (b.filesystem, b.inode);
        let (then, now) = (&known.files, &self.row.files);
        let same_image = then
            .first()
            .zip(now.first())
            .is_some_and(|(a, b)| same(a, b));
        if !same_image {
            return Err("the image is another file since the last backup".to_owned());
        }
        if then[1..] != now[1..] {
            return Err("a file beneath the image changed since the last backup".to_owned());
        }
        self.known = Some(known.clone());
        Ok(())
    }

    /// What is to be copied over that point, in clusters, if the bitmap is known to say it. What the point lacks is
    /// copied too: the bitmap may never have had it.
    ///
    /// # Errors
    /// Too many clusters.
    pub(crate) fn dirty(
        &self,
        cluster: Granularity,
        point: &Point,
    ) -> Result<DirtyBitmap, cohort_bitmap::SizeError> {
        let mut dirty = self.bits.at_granularity(cluster)?;
        let size = dirty.size();
        // QEMU leaves what a disk grew by clean.
        let grown = point.size..size.max(point.size);
        let lacking = point.skipped.iter();
        for range in lacking
            .map(|range| range.offset..(range.offset + range.length))
            .chain([grown])
        {
            let (start, end) = (range.start.min(size), range.end.min(size));
            dirty
                .set(start, end - start)
                .expect("the range was cut to the disk");
        }
        Ok(dirty)
    }

    /// What the view says of it once the point is there.
    pub(crate) fn after_commit(&self) -> Tracking {
        Tracking {
            image_bitmap: Some(self.row.clone()),
            ..Tracking::none()
        }
    }

    /// What the view against the old point goes on to say of it.
    pub(crate) fn as_before(&self) -> Tracking {
        Tracking {
            image_bitmap: self.known.clone(),
            ..Tracking::none()
        }
    }
}

/// The name of the bitmap that the last verdict on a disk speaks of.
pub(crate) fn known_name<'a>(
    contents: &'a Contents,
    disk: &DiskName,
    anchor: Option<RunId>,
) -> Option<&'a str> {
    known(contents, disk, anchor?).map(|bitmap| bitmap.name.as_str())
}

fn known<'a>(contents: &'a Contents, disk: &DiskName, anchor: RunId) -> Option<&'a ImageBitmap> {
    let view = contents.views.get(disk)?.point.as_ref()?;
    let of_anchor = view.anchor == Anchor::Point(anchor);
    view.tracking.image_bitmap.as_ref().filter(|_| of_anchor)
}

/// Takes what a disk's last point holds from the bitmap it was made with, if that is still to be done; says what
/// came of it. No image of the disk may be open in this process.
pub(crate) fn clear_owed(catalogue: &Catalogue, disk: &DiskName) -> Option<String> {
    let contents = catalogue.snapshot().ok()?;
    let view = contents.views.get(disk)?.point.as_ref()?;
    let Anchor::Point(run) = view.anchor else {
        return None;
    };
    let bitmap = view.tracking.image_bitmap.as_ref()?;
    if bitmap.clearing != Clearing::Owed {
        return None;
    }
    let skipped = &contents.point(disk, run)?.skipped;
    let cleared = clear(bitmap, skipped);
    let said = match &cleared {
        Ok(()) => format!(
            "bitmap \"{}\" was cleared of what run {run} holds",
            bitmap.name
        ),
        Err(why) => format!(
            "bitmap \"{}\" is left as it is: {why}; the next run compares the disk with its last point",
            bitmap.name
        ),
    };
    match catalogue.settle_image_bitmap(disk, cleared.is_ok()) {
        Ok(()) => Some(said),
        Err(error) => Some(format!(
            "{said}; and the catalogue does not say so: {error}"
        )),
    }
}

/// As [`clear_owed`], for all disks: what an earlier process did not come to.
pub(crate) fn clear_all_owed(catalogue: &Catalogue) {
    let Ok(contents) = catalogue.snapshot() else {
        return;
    };
    for disk in contents.views.keys() {
        if let Some(said) = clear_owed(catalogue, disk) {
            tracing::info!(%disk, "{said}");
        }
    }
}

fn clear(bitmap: &ImageBitmap, skipped: &[ByteRange]) -> Result<(), String> {
    let file = ImageFile::open(&bitmap.path, OpenOptions::read_write());
    let file = file.map_err(|error| error.to_string())?;
    let stamp = file.stamp().map_err(|error| error.to_string())?;
    if stamp.and_then(row_of).as_ref() != bitmap.files.first() {
        return Err("the image changed since the backup read it".to_owned());
    }
    let text = |error: Qcow2Error| error.to_string();
    let mut bitmaps = Bitmaps::open(file.file().clone()).map_err(text)?;
    let bits = bitmaps.read(&bitmap.name).map_err(text)?;
    if bits.granularity().bytes() != bitmap.granularity || digest(&bits) != bitmap.bits {
        return Err("it changed since the backup read it".to_owned());
    }
    let mut held = bits.clone();
    held.set_all();
    let mut lacking = bits;
    lacking.clear();
    for range in skipped {
        // A point never lacks bytes that its disk does not have.
        let _ = lacking.set(range.offset, range.length);
    }
    held.subtract(&lacking).map_err(|error| error.to_string())?;
    let vouched = Vouched::before(Path::new(&bitmap.path), bitmaps.disk_size());
    let vouched = vouched.map_err(|error| error.to_string())?;
    let cleared = bitmaps.subtract(&bitmap.name, &held);
    vouched.after().map_err(|error| error.to_string())?;
    cleared.map(drop).map_err(text)
}

/// A digest of a bitmap's bits, size and granularity, whatever form it has in memory or on disk.
fn digest(bits: &DirtyBitmap) -> Root {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&bits.size().to_le_bytes());
    hasher.update(&bits.granularity().bytes().to_le_bytes());
    for run in bits.runs() {
        hasher.update(&run.offset.to_le_bytes());
        hasher.update(&run.length.to_le_bytes());
    }
    Root(*hasher.finalize().as_bytes())
}

/// A stamp as the catalogue has it; nothing for a block device.
fn row_of(stamp: Stamp) -> Option<FileStamp> {
    let FileId::File { filesystem, inode } = stamp.file else {
        return None;
    };
    Some(FileStamp {
        filesystem,
        inode,
        size: stamp.size,
        modified: stamp.modified,
        changed: stamp.changed,
    })
}
