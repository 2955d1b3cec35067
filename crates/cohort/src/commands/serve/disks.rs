//! What is served: disks, and points of backup directories, opened.

use std::path::Path;
use std::sync::Arc;

use cohort_backup::catalogue::DiskName;
use cohort_bitmap::store::Mode;
use cohort_block::{Access, Device, Format, Gated, Image, OpenOptions};
use cohort_nbd::{BitmapName, Name};

use crate::args;
use crate::commands::restore;
use crate::commands::sources::Source;
use crate::exit::Exit;
use crate::failure::{Failure, Result, exit_of_open};
use crate::output::eprint_line;
use crate::serve::{Catalogue, Dirt, Served, Tracking};

/// The disks named by path.
pub(super) fn open_disks(args: &args::Serve) -> Result<Catalogue> {
    let disks = Catalogue::default();
    for text in &args.disks {
        let source = Source::parse(text);
        let name = source.disk_name()?;
        let access = if args.read_only {
            Access::ReadOnly
        } else {
            Access::ReadWrite
        };
        let disk = open_disk(&source.path, &name, access, args)?;
        add(&disks, disk, text)?;
    }
    Ok(disks)
}

pub(super) fn open_disk(
    path: &Path,
    name: &DiskName,
    access: Access,
    args: &args::Serve,
) -> Result<Served> {
    let options = match access {
        Access::ReadOnly => OpenOptions::read_only(),
        Access::ReadWrite => OpenOptions::read_write(),
    };
    let options = match args.format {
        Some(args::Format::Raw) => options.format(Format::Raw),
        Some(args::Format::Qcow2) => options.format(Format::Qcow2),
        None => options,
    };
    let image =
        Image::open(path, options).map_err(|error| Failure::new(exit_of_open(&error), error))?;
    let bitmaps = bitmaps_of(&image);
    let device = image.device().clone();
    let read_only = access == Access::ReadOnly;
    let gated = Arc::new(Gated::new(device));
    let tracking = match access {
        Access::ReadOnly => None,
        Access::ReadWrite => track(name, &gated, &image, args.track)?,
    };
    let disk = served(name.as_str(), gated.size(), gated, read_only, bitmaps)?;
    Ok(Served { tracking, ..disk })
}

/// Has a disk's writes recorded beside it. Where that cannot be, and nobody asked for it, the disk is served without.
fn track(
    name: &DiskName,
    disk: &Arc<Gated>,
    image: &Image,
    asked: Option<args::Track>,
) -> Result<Option<Tracking>> {
    let mode = match asked {
        Some(args::Track::Kill) | None => Mode::KilledProcess,
        Some(args::Track::Power) => Mode::PowerLoss,
        Some(args::Track::Off) => return Ok(None),
    };
    match Tracking::begin(name.clone(), disk, image, mode) {
        Ok(tracking) => Ok(Some(tracking)),
        Err(error) if asked.is_none() => {
            eprint_line(&format!(
                "cohort: warning: what is written to {name} is recorded nowhere, so the next backup compares all of it: {error}"
            ));
            Ok(None)
        }
        Err(error) => Err(Failure {
            exit: Exit::TargetFailed,
            error: anyhow::Error::new(error).context(format!(
                "{name} cannot be tracked; say --track off to serve it all the same"
            )),
        }),
    }
}

/// The bitmaps that QEMU keeps in the top layer: the enabled ones of an image that is written to as they are meanwhile, the
/// others as they are in the file. Those that nobody promises to be true are left out.
fn bitmaps_of(image: &Image) -> Vec<(BitmapName, Arc<dyn Dirt>)> {
    let mut told: Vec<(BitmapName, Arc<dyn Dirt>)> = Vec::new();
    for live in image.live_bitmaps() {
        if let Some(name) = BitmapName::new(live.name()) {
            told.push((name, Arc::new(live.clone())));
        }
    }
    let top = image.bitmaps().into_iter().next();
    let Some(Ok(bitmaps)) = top.map(|layer| layer.bitmaps) else {
        return told;
    };
    for entry in bitmaps.list() {
        // What is in use says nothing in the file.
        if let (Some(name), Ok(bits)) = (BitmapName::new(entry.name()), bitmaps.read(entry.name()))
        {
            told.push((name, Arc::new(bits)));
        }
    }
    told
}

/// The points of a backup directory, to be read only.
pub(super) fn open_points(
    directory: &str,
    points: &[String],
    args: &args::Serve,
) -> Result<Catalogue> {
    if !args.read_only {
        let message =
            format!("{directory} is a backup directory: its points never change; say --read-only");
        return Err(Failure::say(Exit::Usage, message));
    }
    if points.is_empty() {
        let message =
            format!("{directory} is a directory: name points in it, each as DISK or DISK@POINT");
        return Err(Failure::say(Exit::Usage, message));
    }
    let disks = Catalogue::default();
    for point in points {
        let opened = restore::open(Path::new(directory), point)?;
        for hole in &opened.row.skipped {
            let (name, length, offset) = (&opened.name, hole.length, hole.offset);
            eprint_line(&format!(
                "cohort: {name} is incomplete: {length} bytes at byte {offset} could not be read when it was taken"
            ));
        }
        let disk = served(
            &opened.name,
            opened.row.size,
            Arc::new(Gated::new(opened.device)),
            true,
            Vec::new(),
        )?;
        add(&disks, disk, point)?;
    }
    Ok(disks)
}

fn served(
    name: &str,
    size: u64,
    disk: Arc<Gated>,
    read_only: bool,
    bitmaps: Vec<(BitmapName, Arc<dyn Dirt>)>,
) -> Result<Served> {
    let name = Name::new(name).map_err(|error| Failure::new(Exit::Usage, error))?;
    Ok(Served {
        name,
        disk,
        tracking: None,
        size,
        read_only,
        bitmaps,
    })
}

fn add(disks: &Catalogue, disk: Served, text: &str) -> Result<()> {
    disks.add(disk).map_err(|error| {
        Failure::say(
            Exit::SourceTwice,
            format_args!("{text}: {error}; say NAME=PATH"),
        )
    })
}
