//! What must hold after a round, and at the end.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use cohort_backup::catalogue::{self, Anchor, Contents, FileRole, Partial, Point};
use cohort_backup::{
    BitmapPolicy, DiskOutcome, DiskReport, RestoreOptions, Rows, RunReport, Selection, StartError,
    Verify, restore, verify,
};
use cohort_block::{ExtentKind, Format, OpenOptions, open};
use cohort_job::Disposition;

use super::book::{Pages, Set, set_of};
use super::script::{Fault, Kind, Member, Round};
use super::world::{LiveDisk, World, bytes_of};

type Check = Result<(), String>;

/// After a round that was not killed.
pub(super) fn round(world: &World, script: &Round, ended: &Result<RunReport, StartError>) -> Check {
    let report = match ended {
        Ok(report) => report,
        Err(error) => return not_started(world, script, error),
    };
    let contents = directory(world)?;
    maps(world, &contents)?;
    all_or_none(script, report)?;
    quiet_rounds_commit(script, report)?;
    for (member, of_disk) in script.members.iter().zip(&report.disks) {
        let disk = &world.disks[member.disk];
        let checked = outcome(world, disk, member, script, of_disk, report, &contents)
            .and_then(|()| partial_is_its_map(world, disk, of_disk, report, &contents));
        checked.map_err(|wrong| format!("{}, {:?}: {wrong}", disk.name, of_disk.outcome))?;
    }
    views(world, &contents)
}

/// A run that did not start touched nothing.
fn not_started(world: &World, script: &Round, error: &StartError) -> Check {
    let impatient = script
        .members
        .iter()
        .any(|member| member.impatient.is_some());
    let missed = impatient && matches!(error, StartError::Fence(_));
    if !missed && !matches!(error, StartError::Disk { .. }) {
        return Err(format!("it did not start: {error}"));
    }
    if world.directory().join("catalogue.redb").exists() {
        views(world, &directory(world)?)?;
    }
    Ok(())
}

/// What the directory says of itself: nothing contradicts, nothing is missing, nothing is unexplained.
pub(super) fn directory(world: &World) -> Result<Contents, String> {
    let contents = catalogue::read(world.directory()).map_err(|error| error.to_string())?;
    contents.check().map_err(|broken| format!("{broken:?}"))?;
    let listing = catalogue::list_files(&world.directory()).map_err(|error| error.to_string())?;
    let missing = contents.missing(listing.iter().map(AsRef::as_ref));
    if !missing.is_empty() {
        return Err(format!(
            "files that the catalogue names are gone: {missing:?}"
        ));
    }
    Ok(contents)
}

/// Nothing is there that no row explains. Not after a kill: the next run sweeps.
pub(super) fn swept(world: &World, contents: &Contents) -> Check {
    let listing = catalogue::list_files(&world.directory()).map_err(|error| error.to_string())?;
    for file in &listing {
        let role = contents.role_of(file);
        if matches!(role, FileRole::Unfinished(_) | FileRole::Stray(_)) {
            return Err(format!("{} is {role}", file.display()));
        }
    }
    Ok(())
}

fn all_or_none(script: &Round, report: &RunReport) -> Check {
    let took_part = report.disks.iter().filter(|disk| {
        !matches!(
            disk.outcome,
            DiskOutcome::Refused(_) | DiskOutcome::NotStarted(_)
        )
    });
    let committed = |disk: &&DiskReport| matches!(disk.outcome, DiskOutcome::Committed(_));
    let (all, some) = (
        took_part.clone().count(),
        took_part.filter(committed).count(),
    );
    if !script.individual && some != 0 && some != all {
        return Err(format!("{some} of {all} disks of one group committed"));
    }
    Ok(())
}

fn quiet_rounds_commit(script: &Round, report: &RunReport) -> Check {
    let harmless = |fault: &Fault| matches!(fault, Fault::Stall(..) | Fault::Write(..));
    let quiet = script.deeds.is_empty()
        && script.faults.iter().all(harmless)
        && script
            .members
            .iter()
            .all(|member| member.impatient.is_none());
    let refused = |disk: &DiskReport| matches!(disk.outcome, DiskOutcome::Refused(_));
    let failed = report
        .disks
        .iter()
        .find(|disk| !refused(disk) && !matches!(disk.outcome, DiskOutcome::Committed(_)));
    match failed {
        Some(disk) if quiet => Err(format!(
            "nothing went wrong, and {} ended as {:?}",
            disk.name, disk.outcome
        )),
        _ => Ok(()),
    }
}

fn outcome(
    world: &World,
    disk: &LiveDisk,
    member: &Member,
    script: &Round,
    of_disk: &DiskReport,
    report: &RunReport,
    contents: &Contents,
) -> Check {
    let run = report.run.map_or(0, |run| run.0);
    let partial = contents.partials.get(&disk.name);
    match &of_disk.outcome {
        DiskOutcome::Committed(point) => {
            if partial.is_some() {
                return Err("it has a point and a partial".to_owned());
            }
            let bad = script
                .faults
                .iter()
                .any(|fault| matches!(fault, Fault::Bad(d, _) if *d == disk.number));
            if !point.skipped.is_empty() && (!bad || member.skips.is_none()) {
                return Err("holes that nobody allowed".to_owned());
            }
            take_point(world, disk, run, point)?;
        }
        DiskOutcome::Aborted {
            disposition: Disposition::Discard,
            ..
        } => {
            if let Some(partial) = partial.filter(|partial| partial.run.0 == run) {
                return Err(format!("no trace was to be left, and there is {partial:?}"));
            }
        }
        DiskOutcome::Failed(_) | DiskOutcome::Aborted { .. } => {
            let keeps = matches!(member.policy, BitmapPolicy::Always | BitmapPolicy::Ask);
            let left = partial.is_some_and(|partial| partial.run.0 == run);
            // One that was there before stays, and its row says what was done to it last.
            if left && !keeps && of_disk.continued.is_none() {
                return Err(format!("policy {} left a partial", member.policy));
            }
            if let Some(partial) = partial.filter(|partial| partial.run.0 == run) {
                ended(partial)?;
            }
            let of_rows = of_disk.rows.as_ref().filter(|_| left && keeps);
            if of_rows.is_some_and(|rows| rows.partial_view.is_none()) {
                return Err("it left a partial, and no view of it".to_owned());
            }
        }
        DiskOutcome::Refused(_) | DiskOutcome::NotStarted(_) => {}
        DiskOutcome::InDoubt(why) => return Err(format!("in doubt: {why}")),
    }
    match &of_disk.rows {
        Some(rows) => settled(disk, member, of_disk, rows, partial, run),
        None => Ok(()),
    }
}

/// Who ends in order says so.
fn ended(partial: &Partial) -> Check {
    if partial.why.contains("no end is written down") {
        return Err(format!("as if it had been killed: {partial:?}"));
    }
    Ok(())
}

/// A point is what the disk was, but for its holes.
fn take_point(world: &World, disk: &LiveDisk, run: u64, point: &Point) -> Check {
    let restored = image(world, &point.file.to_string(), disk.script.size)?;
    let mut truth = match disk.script.kind {
        Kind::File => disk.bytes(),
        Kind::Served | Kind::Stored => {
            let fence = disk.book.pages().fence.clone();
            fence.ok_or("it has a point and no fence")?
        }
    };
    for hole in &point.skipped {
        let hole = hole.offset as usize..(hole.offset + hole.length) as usize;
        truth[hole.clone()].copy_from_slice(&restored[hole]);
    }
    same(&restored, &truth, "the point", "the disk at its fence")?;
    disk.book.pages().points.insert(run, truth);
    Ok(())
}

/// The table of fates, told by sets.
fn settled(
    disk: &LiveDisk,
    member: &Member,
    of_disk: &DiskReport,
    rows: &Rows,
    partial: Option<&Partial>,
    run: u64,
) -> Check {
    let base = set_of(&rows.base);
    let mut pages = disk.book.pages();
    if let Some(known) = &pages.point
        && *known != base
    {
        let down = &of_disk.stepped_down;
        return Err(format!(
            "base is {base:?} and was to be {known:?}; stepped down: {down:?}"
        ));
    }
    let moved = match &of_disk.outcome {
        // The first point is where an anchor that never moves begins.
        DiskOutcome::Committed(point) => {
            member.policy != BitmapPolicy::Never || point.parent.is_none()
        }
        DiskOutcome::Failed(_)
        | DiskOutcome::Aborted { .. }
        | DiskOutcome::Refused(_)
        | DiskOutcome::NotStarted(_)
        | DiskOutcome::InDoubt(_) => false,
    };
    let keeps = matches!(member.policy, BitmapPolicy::Always | BitmapPolicy::Ask);
    pages.point = Some(if moved { set_of(&rows.skipped) } else { base });
    pages.partial = match partial {
        None => None,
        Some(partial) if partial.run.0 == run && keeps => Some(set_of(&rows.remaining)),
        Some(_) => pages.partial.take(),
    };
    Ok(())
}

/// A kept partial holds the instant of its run wherever it does not remain to be copied.
fn partial_is_its_map(
    world: &World,
    disk: &LiveDisk,
    of_disk: &DiskReport,
    report: &RunReport,
    contents: &Contents,
) -> Check {
    let Some(partial) = contents.partials.get(&disk.name) else {
        return Ok(());
    };
    if Some(partial.run) != report.run {
        return Ok(());
    }
    let held = image(world, &partial.file.to_string(), disk.script.size)?;
    match (&of_disk.rows, disk.script.kind) {
        // Of one that was only continued, and is not kept for that, the view is the old one.
        (Some(rows), Kind::Served | Kind::Stored) if rows.partial_view.is_some() => {
            let pages = disk.book.pages();
            let fence = pages.fence.as_ref().ok_or("a partial, and no fence")?;
            let remaining = set_of(&rows.remaining);
            clean_is_same(
                disk,
                &remaining,
                &held,
                fence,
                "the partial, and the disk at its fence",
            )
        }
        (None, Kind::File) if of_disk.continued.is_none() => {
            allocated_is_same(world, disk, partial)
        }
        _ => Ok(()),
    }
}

/// Each extent of a partial is what the disk was at the fence of the run that the map names.
pub(super) fn maps(world: &World, contents: &Contents) -> Check {
    let last = contents.meta.next_run.0 - 1;
    let served = |disk: &&LiveDisk| disk.script.kind != Kind::File;
    for disk in world.disks.iter().filter(served) {
        let mut pages = disk.book.pages();
        if let Some(fence) = pages.fence.clone() {
            pages.fences.insert(last, fence);
        }
        let Some(partial) = contents.partials.get(&disk.name) else {
            continue;
        };
        let held = image(world, &partial.file.to_string(), disk.script.size)?;
        for (offset, length, shown) in partial.extents() {
            let run = shown.run.0;
            let then = pages.fences.get(&run);
            let then = then.ok_or_else(|| format!("{}: run {run} had no fence", disk.name))?;
            let range = offset as usize..(offset + length) as usize;
            if held[range.clone()] != then[range] {
                let name = &disk.name;
                return Err(format!(
                    "{name}: {length} bytes at {offset} are not of run {run}"
                ));
            }
        }
    }
    Ok(())
}

/// Of a file nobody serves: what the partial itself holds is what the file is.
fn allocated_is_same(world: &World, disk: &LiveDisk, partial: &Partial) -> Check {
    let path = world.directory().join(partial.file.to_string());
    let device = open(&path, OpenOptions::read_only()).map_err(|error| error.to_string())?;
    let (held, now) = (bytes_of(&*device), disk.bytes());
    let mut at = 0;
    while at < now.len() as u64 {
        let extent = device
            .extent(at, device.size() - at)
            .map_err(|error| error.to_string())?;
        let range = at as usize..((at + extent.length) as usize).min(now.len());
        if extent.allocated && held[range.clone()] != now[range] {
            let what = match extent.kind {
                ExtentKind::Data => "data",
                ExtentKind::Zero => "zeroes",
            };
            return Err(format!("the partial holds other {what} at {at}"));
        }
        at += extent.length;
    }
    Ok(())
}

/// What no view calls dirty is the same; and no view calls dirty what it need not.
fn views(world: &World, contents: &Contents) -> Check {
    for disk in &world.disks {
        let checked = views_of(world, disk, contents);
        checked.map_err(|wrong| format!("{}: {wrong}", disk.name))?;
    }
    Ok(())
}

fn views_of(world: &World, disk: &LiveDisk, contents: &Contents) -> Check {
    let Some(tracked) = &disk.tracked else {
        return Ok(());
    };
    let now = disk.bytes();
    let pages: Pages = disk.book.pages().clone();
    let rows = contents.views.get(&disk.name);
    if let Some(dirty) = tracked.dirty() {
        let dirty = set_of(&dirty);
        exactly(&dirty, pages.point.as_ref(), &pages.since, "the view")?;
        let anchor = rows.and_then(|rows| rows.point.as_ref());
        let anchor = anchor.and_then(|view| match &view.anchor {
            Anchor::Point(run) => Some(*run),
            Anchor::Partial(_) => None,
        });
        if let Some(point) = anchor.and_then(|run| contents.point(&disk.name, run)) {
            let held = image(world, &point.file.to_string(), disk.script.size)?;
            clean_is_same(disk, &dirty, &held, &now, "the view's point, and the disk")?;
        }
    }
    let partial = contents.partials.get(&disk.name);
    match (tracked.dirty_against_partial(), partial) {
        (Some(dirty), Some(partial)) => {
            let dirty = set_of(&dirty);
            exactly(
                &dirty,
                pages.partial.as_ref(),
                &pages.since,
                "the second view",
            )?;
            let held = image(world, &partial.file.to_string(), disk.script.size)?;
            clean_is_same(disk, &dirty, &held, &now, "the partial, and the disk")
        }
        (Some(_), None) => Err("a view of a partial that is not there".to_owned()),
        // After a comparison that ended early nothing is known; the partial is compared again.
        (None, _) => Ok(()),
    }
}

fn exactly(dirty: &Set, base: Option<&Set>, since: &Set, what: &str) -> Check {
    let Some(base) = base else {
        return Ok(());
    };
    let expected: Set = base.union(since).copied().collect();
    if *dirty == expected {
        return Ok(());
    }
    Err(format!("{what} is {dirty:?} and was to be {expected:?}"))
}

fn clean_is_same(disk: &LiveDisk, dirty: &Set, one: &[u8], other: &[u8], what: &str) -> Check {
    let granule = disk.book.granule() as usize;
    for (number, (one, other)) in one.chunks(granule).zip(other.chunks(granule)).enumerate() {
        if !dirty.contains(&(number as u64)) && one != other {
            return Err(format!("{what} differ in granule {number}, which is clean"));
        }
    }
    Ok(())
}

/// At the end: every point is still what it was, by two ways of reading it, and none is damaged.
pub(super) fn end(world: &World) -> Check {
    let contents = directory(world)?;
    swept(world, &contents)?;
    for disk in &world.disks {
        for (run, truth) in &disk.book.pages().points {
            let run = catalogue::RunId(*run);
            let point = contents.point(&disk.name, run);
            let point = point.ok_or_else(|| format!("point {}@{run} is gone", disk.name))?;
            let held = image(world, &point.file.to_string(), disk.script.size)?;
            same(
                &held,
                truth,
                &format!("{}@{run}", disk.name),
                "the disk at its fence",
            )?;
        }
        restored(world, disk, &contents)?;
    }
    let what = Verify::new(Selection::All);
    let report = verify(
        &world.directory(),
        &what,
        &|_, _| {},
        &AtomicBool::new(false),
    )
    .map_err(|error| error.to_string())?;
    if report.damage.is_empty() {
        return Ok(());
    }
    Err(format!("damage: {:?}", report.damage))
}

/// The newest point, restored into a file.
fn restored(world: &World, disk: &LiveDisk, contents: &Contents) -> Check {
    let Some((run, point)) = contents.latest(&disk.name) else {
        return Ok(());
    };
    let path = world.directory().join(point.file.to_string());
    let device = open(&path, OpenOptions::read_only()).map_err(|error| error.to_string())?;
    let out = world
        .directory()
        .with_file_name(format!("{}.restored", disk.name));
    let options = RestoreOptions::new(Format::Raw).length_bytes(point.size);
    restore(
        &*device,
        &out,
        &options,
        &|_, _| {},
        &AtomicBool::new(false),
    )
    .map_err(|error| error.to_string())?;
    let held = std::fs::read(&out).map_err(|error| error.to_string())?;
    std::fs::remove_file(&out).map_err(|error| error.to_string())?;
    match disk.book.pages().points.get(&run.0) {
        Some(truth) => same(&held, truth, "what was restored", "the disk at its fence"),
        None => Ok(()),
    }
}

fn image(world: &World, file: &str, size: u64) -> Result<Vec<u8>, String> {
    let path: &Path = &world.directory().join(file);
    let device = open(path, OpenOptions::read_only());
    let device = device.map_err(|error| format!("{file}: {error}"))?;
    let mut bytes = bytes_of(&*device);
    if !(size..size + 512).contains(&(bytes.len() as u64)) {
        return Err(format!("{file} has {} bytes of {size}", bytes.len()));
    }
    bytes.truncate(size as usize);
    Ok(bytes)
}

fn same(one: &[u8], other: &[u8], what: &str, than: &str) -> Check {
    if one == other {
        return Ok(());
    }
    let at = one.iter().zip(other).position(|(a, b)| a != b);
    Err(format!("{what} is not {than}, from byte {at:?} on"))
}
