//! `cohort bitmap import`: a bitmap in a qcow2 image, made of dirty ranges as text.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use cohort_bitmap::{DirtyBitmap, Granularity};
use serde::Serialize;

use super::{Changing, ranges, shown};
use crate::args;
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::human;
use crate::output::{json_line, print_line};

/// What was imported, as JSON gives it.
#[derive(Debug, Serialize)]
struct JsonImported<'a> {
    event: &'static str,
    image: String,
    bitmap: &'a str,
    replaced: bool,
    granularity_bytes: u64,
    dirty_bytes: u64,
}

pub(super) fn run(args: &args::BitmapImport) -> Result {
    let granularity = args.granularity.map(Granularity::tracked).transpose();
    let granularity = granularity.map_err(|error| Failure::new(Exit::Usage, error))?;
    let changing = Changing::open(&args.image)?;
    let there = changing.bitmaps.entry(&args.name).ok().cloned();
    if let Some(entry) = there.as_ref().filter(|_| !args.replace) {
        return Err(Failure::say(
            Exit::OutputExists,
            format_args!(
                "{} has a bitmap \"{}\" already: choose another name, or say --replace",
                args.image.display(),
                shown(entry.name())
            ),
        ));
    }
    let granularity = granularity
        .or_else(|| there.as_ref().and_then(|entry| entry.granularity()))
        .unwrap_or(Granularity::DEFAULT);
    let mut bits = DirtyBitmap::new(changing.bitmaps.disk_size(), granularity)
        .map_err(|error| Failure::new(Exit::Usage, error))?;
    read(args.file.as_deref(), &mut bits)?;
    changing.make(|bitmaps| match there {
        Some(_) => bitmaps.replace(&args.name, &bits),
        None => bitmaps.add(&args.name, &bits, !args.disabled),
    })?;
    let image = args.image.display().to_string();
    if args.output.json {
        json_line(&JsonImported {
            event: "imported",
            image,
            bitmap: &args.name,
            replaced: there.is_some(),
            granularity_bytes: granularity.bytes(),
            dirty_bytes: bits.dirty_bytes(),
        });
    } else {
        print_line(&format!(
            "{image}: bitmap \"{}\" {}: {} dirty, in granules of {}",
            shown(&args.name),
            if there.is_some() { "replaced" } else { "added" },
            human::bytes(bits.dirty_bytes()),
            human::bytes(granularity.bytes())
        ));
    }
    Ok(Exit::Done)
}

/// Marks the ranges in a file, or in standard input.
fn read(file: Option<&Path>, bits: &mut DirtyBitmap) -> Result<()> {
    let file = file.filter(|file| *file != Path::new("-"));
    let name = file.map_or_else(
        || "standard input".into(),
        |file| file.display().to_string(),
    );
    let failure = |exit, error: anyhow::Error| Failure {
        exit,
        error: error.context(name.clone()),
    };
    let input: Box<dyn BufRead> = match file {
        None => Box::new(io::stdin().lock()),
        Some(file) => {
            let opened = File::open(file).map_err(|error| {
                let exit = if error.kind() == io::ErrorKind::NotFound {
                    Exit::SourceMissing
                } else {
                    Exit::SourceUnreadable
                };
                failure(exit, error.into())
            })?;
            Box::new(BufReader::new(opened))
        }
    };
    ranges::read(input, bits).map_err(|error| failure(Exit::BadRanges, error.into()))
}
