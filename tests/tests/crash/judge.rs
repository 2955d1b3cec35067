//! What must be there after a process ended somehow, and after the next run.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use cohort_backup::catalogue::{self, FileRole};
use cohort_backup::{
    Backup, BitmapPolicy, DiskOutcome, DiskSpec, OnUndecided, Options, RestoreOptions, Tracked,
    restore,
};
use cohort_block::{Format, OpenOptions};
use cohort_tests::checker::{self, Anchor, Checked, Store, View};
use cohort_tests::crash::{Ending, GRANULE, NAMES, SIZE, at_fence, disk_path, repository, serve};

use crate::play::Played;

/// What was counted, so that nothing is checked in vain.
#[derive(Debug, Default)]
pub(crate) struct Sum {
    pub(crate) judged: u64,
    pub(crate) points: u64,
    pub(crate) partials: u64,
    /// Instants of which partials show parts.
    pub(crate) instants: u64,
    pub(crate) views: u64,
    pub(crate) unfinished: u64,
    pub(crate) owed: u64,
    /// Disks of next runs that went by their store, and that continued a partial.
    pub(crate) by_store: u64,
    pub(crate) continued: u64,
}

impl Sum {
    pub(crate) fn add(&mut self, other: &Sum) {
        let Sum {
            judged,
            points,
            partials,
            instants,
            views,
            unfinished,
            owed,
            by_store,
            continued,
        } = other;
        self.judged += judged;
        self.points += points;
        self.partials += partials;
        self.instants += instants;
        self.views += views;
        self.unfinished += unfinished;
        self.owed += owed;
        self.by_store += by_store;
        self.continued += continued;
    }
}

/// Checks what is there, and the next run.
pub(crate) fn judge(played: &Played, sum: &mut Sum) -> Result<(), String> {
    sum.judged += 1;
    let world = played.world();
    let checked = checker::check(&repository(&world))?;
    match &checked {
        Some(checked) => {
            truth(played, checked)?;
            views(&world, checked, sum)?;
            maps(checked, sum)?;
            agrees(&world, checked)?;
            sum.points += checked.points.len() as u64;
            sum.partials += checked.partials.len() as u64;
            sum.unfinished += checked.unfinished.len() as u64;
            let owed = checked
                .catalogue
                .verdicts
                .values()
                .filter(|verdict| verdict.owed);
            sum.owed += owed.count() as u64;
        }
        None if played.script.runs.len() == 1 => {}
        None => return Err("the catalogue is gone".to_owned()),
    }
    beside(&world)?;
    next_run(played, checked.as_ref(), sum)
}

/// Points are those of the runs that committed, and are their disks at the fence.
fn truth(played: &Played, checked: &Checked) -> Result<(), String> {
    let script = &played.script;
    let last = script.runs.len() as u64;
    let verdict = checked
        .catalogue
        .verdicts
        .values()
        .find(|verdict| verdict.group == format!("run-{last}"));
    let committed = verdict.is_some_and(|verdict| verdict.commits);
    for (number, name) in NAMES[..script.policies.len()].iter().enumerate() {
        let said = played.said.contains(&format!("{name} {last} committed"));
        if said && !committed {
            return Err(format!(
                "{name}@{last} was reported, and there is no verdict"
            ));
        }
        for (run, ending) in (1..).zip(&script.runs) {
            let point = checked.points.get(&((*name).to_owned(), run));
            let must = *ending == Ending::Success && (run < last || committed);
            if point.is_some() != must {
                return Err(format!(
                    "{name}@{run}: there is {}, there must be {must}",
                    point.is_some()
                ));
            }
            if point.is_some_and(|bytes| *bytes != at_fence(number, run)) {
                return Err(format!("{name}@{run} is not its disk at the fence"));
            }
        }
        let keeps = matches!(
            script.policies[number].0,
            BitmapPolicy::Always | BitmapPolicy::Ask
        );
        // A cancel that was to discard comes too late for a group that stops because a disk failed before.
        let cancelled = script.ending() == Ending::Discarded && !played.said.contains(" failed: ");
        let discarded = verdict.is_some_and(|verdict| verdict.discards || cancelled);
        if checked.partials.contains_key(*name) && (!keeps || discarded || committed) {
            return Err(format!("{name} has a partial"));
        }
    }
    let known = checked
        .points
        .keys()
        .all(|(name, run)| NAMES.contains(&&**name) && *run <= last);
    let nothing_else = checked.strays.is_empty() && checked.others.is_empty();
    match (known, nothing_else) {
        (true, true) => Ok(()),
        (false, _) => Err(format!("nobody made {:?}", checked.points.keys())),
        (_, false) => Err(format!(
            "nobody knows of {:?} {:?}",
            checked.strays, checked.others
        )),
    }
}

/// Whatever of a disk differs from an anchor is dirty in the view against it.
fn views(world: &Path, checked: &Checked, sum: &mut Sum) -> Result<(), String> {
    for (name, views) in &checked.catalogue.views {
        let number = NAMES
            .iter()
            .position(|other| other == name)
            .ok_or("a strange disk")?;
        let path = disk_path(world, number);
        let disk = fs::read(&path).map_err(|error| error.to_string())?;
        let mut store = None;
        for view in views.iter().flatten() {
            let anchor = match &view.anchor {
                Anchor::Point(run) => checked.points.get(&(name.clone(), *run)),
                Anchor::Partial(_) => checked.partials.get(name),
            };
            let anchor = anchor.ok_or_else(|| format!("{name}: no such anchor"))?;
            let found = match &mut store {
                Some(store) => store,
                None => store.insert(Store::read(&path.with_extension("raw.cohort"), SIZE)?),
            };
            if covers(view, found, &disk, anchor).map_err(|why| format!("{name}: {why}"))? {
                sum.views += 1;
            }
        }
    }
    Ok(())
}

/// What a partial says that it shows of an instant is its disk at that fence.
fn maps(checked: &Checked, sum: &mut Sum) -> Result<(), String> {
    for (name, row) in &checked.catalogue.partials {
        let number = NAMES.iter().position(|other| other == name);
        let number = number.ok_or("a strange disk")?;
        let held = checked.partials.get(name).ok_or("an unread partial")?;
        for shown in &row.map {
            let then = at_fence(number, shown.run);
            for offset in (0..SIZE).step_by(512) {
                let range = offset as usize..(offset + 512).min(SIZE) as usize;
                if shown.extents.covers(offset) && held[range.clone()] != then[range] {
                    let run = shown.run;
                    return Err(format!("{name}: byte {offset} is not of run {run}"));
                }
            }
        }
        sum.instants += row.map.len() as u64;
    }
    Ok(())
}

/// False if the view says nothing: then the next run compares.
fn covers(view: &View, store: &Store, disk: &[u8], anchor: &[u8]) -> Result<bool, String> {
    if view.sets.is_empty() || !view.trusted {
        return Ok(false);
    }
    let mut whole: Option<checker::Bits> = None;
    for row in &view.sets {
        // One that is not there counts as everything; so does one that lost writes.
        let set = store.sets.get(&row.number).filter(|_| row.id == store.id);
        let Some(bits) = set.and_then(|set| set.bits.as_ref()) else {
            return Ok(false);
        };
        match &mut whole {
            None => whole = Some(bits.clone()),
            Some(whole) => whole.join(bits),
        }
    }
    let whole = whole.ok_or("a view of nothing")?;
    for offset in (0..SIZE).step_by(512) {
        let range = offset as usize..(offset + 512).min(SIZE) as usize;
        if disk[range.clone()] != anchor[range] && !whole.covers(offset) {
            return Err(format!(
                "byte {offset} differs from {:?}, and is clean",
                view.anchor
            ));
        }
    }
    Ok(true)
}

/// The library says the same of the directory.
pub(crate) fn agrees(world: &Path, checked: &Checked) -> Result<(), String> {
    let directory = repository(world);
    let contents = catalogue::read(&directory).map_err(|error| error.to_string())?;
    let points = contents
        .points
        .iter()
        .map(|((disk, run), point)| ((disk.to_string(), run.0), point.file.to_string()));
    let ours = checked.catalogue.points.iter();
    let ours: BTreeMap<_, _> = ours
        .map(|(key, row)| (key.clone(), row.file.clone()))
        .collect();
    if points.collect::<BTreeMap<_, _>>() != ours {
        return Err("the library sees other points".to_owned());
    }
    let files = catalogue::list_files(&directory).map_err(|error| error.to_string())?;
    let is = |file: &&OsString| matches!(contents.role_of(file), FileRole::Unfinished(_));
    let unfinished = files.iter().filter(is);
    let unfinished = unfinished.map(|file| file.to_string_lossy().into_owned());
    let unfinished: BTreeSet<_> = unfinished.collect();
    if unfinished != checked.unfinished {
        return Err(format!(
            "unfinished: {:?}, the library: {unfinished:?}",
            checked.unfinished
        ));
    }
    let partials = contents.partials.iter();
    let partials: Vec<_> = partials
        .map(|(disk, row)| (disk.to_string(), row.file.to_string()))
        .collect();
    let ours = checked.catalogue.partials.iter();
    let ours: Vec<_> = ours
        .map(|(disk, row)| (disk.clone(), row.image.file.clone()))
        .collect();
    match partials == ours {
        true => Ok(()),
        false => Err(format!("partials: {ours:?}, the library: {partials:?}")),
    }
}

/// Beside the directory there is nothing but disks, stores, and drafts of stores.
fn beside(world: &Path) -> Result<(), String> {
    for entry in fs::read_dir(world).map_err(|error| error.to_string())? {
        let name = entry.map_err(|error| error.to_string())?.file_name();
        let name = name.to_string_lossy();
        let known = *name == *"R"
            || name.ends_with(".raw")
            || name.ends_with(".raw.cohort")
            || name.contains(".raw.cohort.") && name.ends_with(".new");
        if !known {
            return Err(format!("{name} is beside the directory"));
        }
    }
    Ok(())
}

/// The next process backs up all of it, and gets it back.
fn next_run(played: &Played, before: Option<&Checked>, sum: &mut Sum) -> Result<(), String> {
    let world = played.world();
    let disks = 0..played.script.policies.len();
    let disks = disks.map(|disk| serve(&world, disk).map_err(|error| error.to_string()));
    let disks: Vec<Arc<Tracked>> = disks.collect::<Result<_, _>>()?;
    let mut backup = Backup::to(repository(&world)).yields(false);
    for disk in &disks {
        let options = Options::builder()
            .undecided(OnUndecided::Keep)
            .cluster(GRANULE);
        let options = options.build().map_err(|error| error.to_string())?;
        backup = backup.disk(DiskSpec::served(disk.clone()).options(options));
    }
    let report = backup
        .start()
        .map_err(|error| format!("the next run: {error}"))?
        .wait();
    for disk in &report.disks {
        let DiskOutcome::Committed(_) = &disk.outcome else {
            return Err(format!("the next run: {}: {:?}", disk.name, disk.outcome));
        };
        let by_store = |note: &String| note.contains("is known from tracking store");
        sum.by_store += u64::from(disk.notes.iter().any(by_store));
        sum.continued += u64::from(disk.continued.is_some());
    }
    let run = report.run.ok_or("the next run has no number")?.0;
    for disk in &disks {
        disk.close().map_err(|error| format!("closing: {error}"))?;
    }
    let after = checker::check(&repository(&world))?.ok_or("the catalogue is gone")?;
    if let Some(before) = before {
        let kept = before
            .points
            .iter()
            .all(|(key, bytes)| after.points.get(key) == Some(bytes));
        if !kept {
            return Err("the next run changed an older point".to_owned());
        }
    }
    if !after.unfinished.is_empty()
        || after
            .catalogue
            .verdicts
            .values()
            .any(|verdict| verdict.owed)
    {
        return Err(format!(
            "the next run left {:?}, or owes hooks",
            after.unfinished
        ));
    }
    views(&world, &after, &mut Sum::default())?;
    for number in 0..disks.len() {
        restored(&world, &after, number, run)?;
    }
    Ok(())
}

/// The newest point is the disk: read by the checker, and restored.
fn restored(world: &Path, after: &Checked, number: usize, run: u64) -> Result<(), String> {
    let disk = fs::read(disk_path(world, number)).map_err(|error| error.to_string())?;
    let key = (NAMES[number].to_owned(), run);
    if after.points.get(&key) != Some(&disk) {
        return Err(format!(
            "the next point of {} is not the disk",
            NAMES[number]
        ));
    }
    let image = repository(world).join(OsStr::new(&after.catalogue.points[&key].file));
    let out = world.join("restored.raw");
    let device =
        cohort_block::open(&image, OpenOptions::read_only()).map_err(|error| error.to_string())?;
    let options = RestoreOptions::new(Format::Raw)
        .length_bytes(SIZE)
        .threads(1);
    restore(&*device, &out, &options, &|_, _| {}, &false.into())
        .map_err(|error| error.to_string())?;
    let same = fs::read(&out).map_err(|error| error.to_string())? == disk;
    fs::remove_file(&out).map_err(|error| error.to_string())?;
    match same {
        true => Ok(()),
        false => Err(format!("{} restored is not the disk", NAMES[number])),
    }
}
