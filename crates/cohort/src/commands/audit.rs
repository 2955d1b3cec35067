//! `cohort audit`: a random sample of what is claimed not to have changed since the last point, read and compared.

use cohort_backup::catalogue::{ByteRange, Catalogue, DiskName};
use cohort_backup::{Audit, AuditError, Audited, audit};
use cohort_bitmap::store::qcow2::Bitmaps;
use cohort_bitmap::{DirtyBitmap, Granularity};
use cohort_block::{Device, OpenOptions, OsFile};
use serde::Serialize;

use super::close;
use super::sources::Source;
use super::watched::{Shown, watched};
use crate::args;
use crate::exit::Exit;
use crate::failure::{Failure, Result, exit_of_bitmap, exit_of_open};
use crate::human;
use crate::output::{eprint_line, json_line, print_line};

/// What was found, as JSON gives it.
#[derive(Debug, Serialize)]
struct JsonAudited<'a> {
    event: &'static str,
    exit: &'static str,
    disk: &'a str,
    point: u64,
    granule_bytes: u64,
    claimed: u64,
    sampled: u64,
    /// With 95 % confidence no larger share of the claims is wrong.
    wrong_at_most: Option<f64>,
    differing: &'a [ByteRange],
    seed: u64,
}

/// A message names this many places, and counts the rest; JSON has all.
const NAMED: usize = 8;

pub(super) fn run(args: &args::Audit) -> Result {
    let mut exit = Exit::Done;
    for text in &args.sources {
        let source = Source::parse(text);
        let name = source.disk_name()?;
        let device = cohort_block::open(&source.path, OpenOptions::read_only())
            .map_err(|error| Failure::new(exit_of_open(&error), error))?;
        let changed = changed(args, &source, &*device)?;
        let how = Audit::new(args.budget);
        let how = args.seed.map_or(how, |seed| how.seed(seed));
        let shown = Shown {
            name: name.as_str(),
            phase: "auditing",
            stopping: "Stopping.",
            json: args.output.json,
        };
        let found = watched(shown, |tell, cancel| {
            audit(&args.against, &name, &*device, &changed, &how, tell, cancel)
        })?
        .map_err(failure)?;
        if !found.differing.is_empty() {
            exit = Exit::ClaimWrong;
        }
        show(&name, &found, args.output.json);
        if !found.differing.is_empty() {
            let catalogue = Catalogue::open(&args.against)?;
            catalogue.distrust(&name)?;
            close(catalogue);
            eprint_line(&format!(
                "cohort: {name}: what is known of its changes is not to be trusted; the next run compares everything"
            ));
        }
    }
    Ok(exit)
}

/// What is known to have changed: what a bitmap says, or nothing.
fn changed(args: &args::Audit, source: &Source, device: &dyn Device) -> Result<DirtyBitmap> {
    let failed = |exit, error: anyhow::Error| Failure {
        exit,
        error: error.context(source.path.display().to_string()),
    };
    let Some(bitmap) = &args.bitmap else {
        return DirtyBitmap::new(device.size(), Granularity::default())
            .map_err(|error| Failure::new(Exit::SourceUnsupported, error));
    };
    let file = OsFile::open(&source.path, false)
        .map_err(|error| failed(Exit::SourceUnreadable, error.into()))?;
    let read = Bitmaps::open(file).and_then(|bitmaps| bitmaps.read(bitmap));
    read.map_err(|error| failed(exit_of_bitmap(&error), error.into()))
}

fn show(name: &DiskName, found: &Audited, json: bool) {
    let (sampled, claimed) = (human::count(found.sampled), human::count(found.claimed));
    let wrong = found.differing.len();
    let of = format!(
        "{name}@{}: {wrong} of {sampled} sampled granules differ",
        found.point
    );
    match found.bound() {
        Some(_) if json => {}
        Some(0.0) => print_line(&format!(
            "{of}: that is all {claimed} that are claimed not to have changed"
        )),
        Some(bound) => print_line(&format!(
            "{of}: with 95 % confidence fewer than {} of the {claimed} claimed not to have changed are wrong",
            human::percent(bound)
        )),
        None => {
            let named = found.differing.iter().take(NAMED);
            let named =
                named.map(|range| format!("{} bytes at byte {}", range.length, range.offset));
            let mut places = named.collect::<Vec<_>>().join(", ");
            if wrong > NAMED {
                places = format!("{places} and {} more", wrong - NAMED);
            }
            eprint_line(&format!(
                "cohort: {of}, and were claimed not to have changed: {places}"
            ));
        }
    }
    if json {
        let exit = if wrong == 0 {
            Exit::Done
        } else {
            Exit::ClaimWrong
        };
        json_line(&JsonAudited {
            event: "audited",
            exit: exit.word(),
            disk: name.as_str(),
            point: found.point.0,
            granule_bytes: found.granule,
            claimed: found.claimed,
            sampled: found.sampled,
            wrong_at_most: found.bound(),
            differing: &found.differing,
            seed: found.seed,
        });
    }
}

fn failure(error: AuditError) -> Failure {
    match error {
        AuditError::Directory(error) => error.into(),
        AuditError::NoSuchPoint(error) => error.into(),
        error @ AuditError::Point { .. } => Failure::new(Exit::PointDamaged, error),
        error @ AuditError::Cancelled => Failure::new(Exit::Cancelled, error),
        error @ (AuditError::Source(_) | _) => Failure::new(Exit::SourceUnreadable, error),
    }
}
