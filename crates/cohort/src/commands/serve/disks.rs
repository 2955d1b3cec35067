//! What is served: disks, and points of backup directories, opened.

use std::path::Path;
use std::sync::Arc;

use cohort_backup::catalogue::DiskName;
use cohort_bitmap::store::Mode;
use cohort_block::{Access, Format, Gated, Image, OpenOptions};
use cohort_nbd::{BitmapName, Name};

use crate::args;
use crate::commands::restore;
use crate::commands::sources::Source;
use crate::exit::Exit;
use crate::failure::{Failure, Result, exit_of_open};
use crate::output::eprint_line;
use crate::serve::{Catalogue, Dirt, Disk, Served, Tracking};

/// The disks named by path, with what is made of them before they are served. If anything fails they are closed: nobody
/// wrote to them, and their tracking stores know it.
pub(super) fn open_disks<T>(
    args: &args::Serve,
    then: impl FnOnce(&[Disk]) -> Result<T>,
) -> Result<(Vec<Disk>, T)> {
    let mut disks = Vec::new();
    match open_each(args, &mut disks).and_then(|()| then(&disks)) {
        Ok(made) => Ok((disks, made)),
        Err(failure) => {
            disks.into_iter().for_each(close);
            Err(failure)
        }
    }
}

fn open_each(args: &args::Serve, disks: &mut Vec<Disk>) -> Result<()> {
    for text in &args.disks {
        let source = Source::parse(text);
        let name = source.disk_name()?;
        if disks.iter().any(|disk| disk.name == name) {
            return Err(taken(text, &name));
        }
        disks.push(open_disk(&source.path, name, args)?);
    }
    Ok(())
}

/// A store that cannot be closed is as after a kill, which the next backup says.
fn close(disk: Disk) {
    let store = disk.tracking.as_ref().map(Tracking::end);
    drop(disk);
    if let Some(Ok(Some(store))) = store {
        let _ = store.close();
    }
}

fn open_disk(path: &Path, name: DiskName, args: &args::Serve) -> Result<Disk> {
    let (access, options) = match args.read_only {
        true => (Access::ReadOnly, OpenOptions::read_only()),
        false => (Access::ReadWrite, OpenOptions::read_write()),
    };
    let options = match args.format {
        Some(args::Format::Raw) => options.format(Format::Raw),
        Some(args::Format::Qcow2) => options.format(Format::Qcow2),
        None => options,
    };
    let image =
        Image::open(path, options).map_err(|error| Failure::new(exit_of_open(&error), error))?;
    let gated = Arc::new(Gated::metered(image.device().clone()));
    let tracking = match access {
        Access::ReadOnly => None,
        Access::ReadWrite => track(&name, &gated, &image, args.track)?,
    };
    Ok(Disk {
        bitmaps: bitmaps_of(&image),
        name,
        image,
        gated,
        access,
        tracking,
    })
}

/// Disks as they are served when clients command nothing.
pub(super) fn served(disks: Vec<Disk>) -> Result<Catalogue> {
    let catalogue = Catalogue::default();
    for disk in disks {
        let name = disk.name.clone();
        let served = disk
            .served()
            .map_err(|error| Failure::new(Exit::Usage, error))?;
        let added = catalogue.add(served);
        added.map_err(|_| taken(name.as_str(), &name))?;
    }
    Ok(catalogue)
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
        let name = Name::new(&opened.name).map_err(|error| Failure::new(Exit::Usage, error))?;
        let added = disks.add(Served {
            name,
            device: Arc::new(Gated::new(opened.device)),
            meter: None,
            traffic: Default::default(),
            tracking: None,
            size: opened.row.size,
            read_only: true,
            bitmaps: Vec::new(),
        });
        added.map_err(|_| taken(point, &opened.name))?;
    }
    Ok(disks)
}

fn taken(text: &str, name: &impl std::fmt::Display) -> Failure {
    Failure::say(
        Exit::SourceTwice,
        format_args!("{text}: another disk is served as {name}; say NAME=PATH"),
    )
}
