//! `cohort bitmap merge`: bitmaps added to one in a qcow2 image.

use cohort_bitmap::DirtyBitmap;
use serde::Serialize;

use super::found::Found;
use super::{Changing, shown, wrong};
use crate::args;
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::human;
use crate::output::{eprint_line, json_line, print_line};

/// What was merged, as JSON gives it.
#[derive(Debug, Serialize)]
struct JsonMerged<'a> {
    event: &'static str,
    image: String,
    bitmap: &'a str,
    sources: &'a [String],
    before_bytes: u64,
    dirty_bytes: u64,
}

pub(super) fn run(args: &args::BitmapMerge) -> Result {
    let changing = Changing::open(&args.image)?;
    let read = changing.bitmaps.read(&args.name);
    let mut bits = read.map_err(|error| wrong(&args.image, error))?;
    let before = bits.dirty_bytes();
    // The image itself is locked by us already.
    let found = match &args.from {
        Some(from) if !is_image(args) => Found::at(from)?,
        _ => Found::in_file(&changing.image, false)?,
    };
    for source in &args.sources {
        add(&found, source, args, &mut bits)?;
    }
    changing.make(|bitmaps| bitmaps.replace(&args.name, &bits))?;
    let (image, dirty) = (args.image.display().to_string(), bits.dirty_bytes());
    if args.output.json {
        json_line(&JsonMerged {
            event: "merged",
            image,
            bitmap: &args.name,
            sources: &args.sources,
            before_bytes: before,
            dirty_bytes: dirty,
        });
    } else {
        print_line(&format!(
            "{image}: bitmap \"{}\": {} dirty before, {} now",
            shown(&args.name),
            human::bytes(before),
            human::bytes(dirty)
        ));
    }
    Ok(Exit::Done)
}

/// Whether the sources are to be taken from the image itself.
fn is_image(args: &args::BitmapMerge) -> bool {
    let from = args.from.as_ref().and_then(|from| from.canonicalize().ok());
    from.is_some() && from == args.image.canonicalize().ok()
}

/// Adds one source.
fn add(
    found: &Found,
    source: &str,
    args: &args::BitmapMerge,
    bits: &mut DirtyBitmap,
) -> Result<()> {
    let tracked = found.choose(Some(source))?;
    let more = found.read(tracked)?;
    if more.size() != bits.size() {
        return Err(Failure::say(
            Exit::Usage,
            format_args!(
                "\"{}\" speaks of a disk of {} bytes, and the one in {} has {}: only bitmaps of disks of one size are merged",
                shown(source),
                more.size(),
                args.image.display(),
                bits.size()
            ),
        ));
    }
    bits.merge(&more)
        .map_err(|error| Failure::new(Exit::Usage, error))?;
    if let Some(caveat) = found.state(tracked).caveat() {
        eprint_line(&format!("cohort: {}: {caveat}", tracked.name()));
    }
    Ok(())
}
