//! The rows of a catalogue, and the rules between them (section 2).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use redb::backends::InMemoryBackend;
use redb::{Builder, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition};
use serde_json::Value;

use super::fields::{Fields, ensure};
use super::names::{FileName, is_disk, is_hex, number_key};
use super::partials::{PartialRow, Shown, partial};

/// Every row.
#[derive(Debug, Default)]
pub struct Catalogue {
    /// The directory id.
    pub directory: String,
    next_run: u64,
    sweep_from: u64,
    next_verdict: u64,
    disks: BTreeSet<String>,
    /// The disks of each run.
    pub runs: BTreeMap<u64, Vec<String>>,
    /// By disk and run.
    pub points: BTreeMap<(String, u64), ImageRow>,
    /// By disk.
    pub partials: BTreeMap<String, PartialRow>,
    /// By disk: against the point, and against the partial.
    pub views: BTreeMap<String, [Option<View>; 2]>,
    /// By their numbers.
    pub verdicts: BTreeMap<u64, Verdict>,
}

/// What a point and a partial have in common.
#[derive(Clone, Debug)]
pub struct ImageRow {
    /// Of which disk.
    pub disk: String,
    /// Its image.
    pub file: String,
    /// The run of the point that it lies on.
    pub parent: Option<u64>,
    /// The disk's size.
    pub size: u64,
    /// The image's.
    pub cluster_size: u64,
    /// Their file, and its digest.
    pub digests: Option<(String, String)>,
    /// Images that are still to be merged with it.
    pub merging: Vec<ImageRow>,
}

/// A view of a disk.
#[derive(Clone, Debug)]
pub struct View {
    /// What it speaks of.
    pub anchor: Anchor,
    /// Whether it can be gone by: its proof is neither lost nor refuted.
    pub trusted: bool,
    /// What it is the union of; if it is of nothing, the next run compares.
    pub sets: Vec<SetRow>,
}

/// What clean bits say the disk is equal to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// The point of a run.
    Point(u64),
    /// A file.
    Partial(String),
}

/// A set of a tracking store.
#[derive(Clone, Debug)]
pub struct SetRow {
    /// The store's id.
    pub id: String,
    /// The set's number.
    pub number: u64,
}

/// What a group came to.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The group.
    pub group: String,
    /// Whether it committed.
    pub commits: bool,
    /// Whether it aborted so that nothing stays.
    pub discards: bool,
    /// Whether hooks may still have to run.
    pub owed: bool,
    /// Names of those that had left a record.
    pub members: Vec<String>,
}

type Rows = BTreeMap<String, Vec<u8>>;

impl Catalogue {
    /// Reads a copy of the file, which nobody writes to.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn read(path: &Path) -> Result<Self, String> {
        let tables = tables(&fs::read(path).map_err(|error| error.to_string())?)?;
        let [meta, disks, runs, points, partials, views, verdicts] = tables;
        let mut catalogue = Self::default();
        catalogue.read_meta(meta)?;
        for (disk, row) in disks {
            ensure(is_disk(&disk), || format!("{disk}: no name of a disk"))?;
            let mut row = Fields::parse(&disk, &row)?;
            row.text("source")?;
            row.end()?;
            catalogue.disks.insert(disk);
        }
        for (key, row) in runs {
            let mut row = Fields::parse(&format!("run {key}"), &row)?;
            row.number("started_unix_ms")?;
            let disks = row.list("disks")?.into_iter().map(text);
            let disks = disks.collect::<Result<_, _>>()?;
            row.end()?;
            catalogue.runs.insert(number_key(&key)?, disks);
        }
        for (key, row) in points {
            let (disk, run) = key
                .split_once('@')
                .ok_or_else(|| format!("{key}: no point"))?;
            let point = point(disk, Fields::parse(&key, &row)?)?;
            let key = (disk.to_owned(), number_key(run)?);
            catalogue.points.insert(key, point);
        }
        for (disk, row) in partials {
            let row = partial(&disk, Fields::parse(&format!("partial of {disk}"), &row)?)?;
            catalogue.partials.insert(disk, row);
        }
        for (disk, row) in views {
            let mut row = Fields::parse(&format!("views of {disk}"), &row)?;
            let mut both = [const { None }; 2];
            for (view, key) in both.iter_mut().zip(["point", "partial"]) {
                *view = row.or_null(key)?.map(view_of).transpose()?;
            }
            row.end()?;
            catalogue.views.insert(disk, both);
        }
        for (key, row) in verdicts {
            let row = Fields::parse(&format!("verdict {key}"), &row)?;
            catalogue.verdicts.insert(number_key(&key)?, verdict(row)?);
        }
        catalogue.check()?;
        Ok(catalogue)
    }

    fn read_meta(&mut self, rows: Rows) -> Result<(), String> {
        let [(key, row)] = rows
            .into_iter()
            .collect::<Vec<_>>()
            .try_into()
            .map_err(|rows: Vec<_>| format!("meta has {} rows", rows.len()))?;
        ensure(key == "catalogue", || format!("meta has a row {key}"))?;
        let mut row = Fields::parse("meta", &row)?;
        ensure(row.number("version")? == 6, || {
            "its version is not 6".to_owned()
        })?;
        self.directory = row.text("directory")?;
        row.number("created_unix_ms")?;
        self.next_run = row.number("next_run")?;
        self.sweep_from = row.number("sweep_from")?;
        self.next_verdict = row.number("next_verdict")?;
        let id = &self.directory;
        ensure(id.len() == 32 && is_hex(id), || {
            format!("{id}: no directory id")
        })?;
        row.end()
    }

    /// Whether a run of this catalogue made a file of that name, and nobody else can have (section 1).
    pub(super) fn made(&self, name: &FileName) -> bool {
        name.mark == self.directory[..8] && (self.sweep_from..self.next_run).contains(&name.run)
    }

    /// Every file that a row names.
    pub(super) fn files(&self) -> Vec<String> {
        let rows = self.points.values();
        let rows = rows.chain(self.partials.values().map(|partial| &partial.image));
        let rows = rows.flat_map(|row| std::iter::once(row).chain(&row.merging));
        let named = |row: &ImageRow| {
            let digests = row.digests.iter().map(|(file, _)| file.clone());
            std::iter::once(row.file.clone())
                .chain(digests)
                .collect::<Vec<_>>()
        };
        rows.flat_map(named).collect()
    }

    /// The rules between rows.
    fn check(&self) -> Result<(), String> {
        ensure(self.sweep_from <= self.next_run, || {
            "sweep_from is past next_run".to_owned()
        })?;
        for (run, disks) in &self.runs {
            let given = *run >= 1 && *run < self.next_run;
            ensure(given, || format!("run {run} was never given out"))?;
            let known = disks.iter().all(|disk| self.disks.contains(disk));
            let once = disks.iter().collect::<BTreeSet<_>>().len() == disks.len();
            ensure(known && once, || {
                format!("run {run} names a disk twice or an unknown one")
            })?;
        }
        for ((disk, run), row) in &self.points {
            self.check_image(row, disk, *run)
                .map_err(|why| format!("{disk}@{run}: {why}"))?;
        }
        for (disk, row) in &self.partials {
            let checked = self.check_image(&row.image, disk, row.run);
            let checked = checked.and_then(|()| self.check_map(row, disk));
            checked.map_err(|why| format!("partial of {disk}: {why}"))?;
        }
        self.check_views()?;
        let files = self.files();
        let once = files.iter().collect::<BTreeSet<_>>().len() == files.len();
        ensure(once, || "a file is in two places".to_owned())?;
        self.check_verdicts()
    }

    fn check_map(&self, row: &PartialRow, disk: &str) -> Result<(), String> {
        let first = FileName::parse(&row.image.file).map_or(0, |name| name.run);
        for Shown { run, .. } in &row.map {
            let wrote = (first..=row.run).contains(run);
            ensure(wrote, || format!("run {run} of its map did not write it"))?;
            self.took_part(*run, disk)?;
        }
        Ok(())
    }

    fn took_part(&self, run: u64, disk: &str) -> Result<(), String> {
        let row = self.runs.get(&run);
        let named = row.is_some_and(|disks| disks.iter().any(|d| d == disk));
        ensure(named, || format!("run {run} does not name the disk"))
    }

    fn check_image(&self, row: &ImageRow, disk: &str, run: u64) -> Result<(), String> {
        ensure(self.disks.contains(disk), || {
            "the disk has no row".to_owned()
        })?;
        self.took_part(run, disk)?;
        if let Some(parent) = row.parent {
            let older = parent < run && self.points.contains_key(&(disk.to_owned(), parent));
            ensure(older, || format!("its parent {parent} is no older point"))?;
        }
        for row in std::iter::once(row).chain(&row.merging) {
            let size = row.cluster_size;
            let allowed = size.is_power_of_two() && (512..=2_097_152).contains(&size);
            ensure(allowed, || format!("its cluster size is {size}"))?;
            let digests = row.digests.iter().map(|(file, _)| (file, false));
            for (file, is_image) in digests.chain([(&row.file, true)]) {
                let name =
                    FileName::parse(file).ok_or_else(|| format!("{file}: no name of ours"))?;
                let fits = name.disk == disk && name.run <= run && name.is_image == is_image;
                ensure(fits, || format!("{file} is not of this disk and run"))?;
                let marked = name.mark == self.directory[..8];
                ensure(marked, || format!("{file} is of another directory"))?;
            }
        }
        Ok(())
    }

    fn check_views(&self) -> Result<(), String> {
        for (disk, [point, partial]) in &self.views {
            ensure(self.disks.contains(disk), || {
                format!("views of {disk}, which has no row")
            })?;
            if let Some(view) = point {
                let Anchor::Point(run) = view.anchor else {
                    return Err(format!("the view of {disk} is anchored at no point"));
                };
                let there = self.points.contains_key(&(disk.clone(), run));
                ensure(there, || format!("the view of {disk} is anchored at {run}"))?;
            }
            let row = self.partials.get(disk);
            let anchored = row.map(|row| Anchor::Partial(row.image.file.clone()));
            let found = partial.as_ref().map(|view| view.anchor.clone());
            ensure(anchored == found, || {
                format!(
                    "the view of {disk} is anchored at {found:?}, and its partial is {anchored:?}"
                )
            })?;
        }
        let all = self
            .partials
            .keys()
            .all(|disk| self.views.contains_key(disk));
        ensure(all, || "a partial without a view".to_owned())
    }

    fn check_verdicts(&self) -> Result<(), String> {
        let mut owed = BTreeSet::new();
        for (number, verdict) in &self.verdicts {
            let given = *number >= 1 && *number < self.next_verdict;
            ensure(given, || format!("verdict {number} was never given out"))?;
            let once = !verdict.owed || owed.insert(&verdict.group);
            ensure(once, || format!("group {} is owed twice", verdict.group))?;
        }
        Ok(())
    }
}

/// The seven tables, from a copy in memory that is checked and repaired there.
fn tables(bytes: &[u8]) -> Result<[Rows; 7], String> {
    let wrong = |error: redb::Error| format!("the database: {error}");
    let backend = InMemoryBackend::new();
    backend
        .set_len(bytes.len() as u64)
        .map_err(|error| error.to_string())?;
    backend.write(0, bytes).map_err(|error| error.to_string())?;
    let mut builder = Builder::new();
    builder.set_check_integrity_on_open(true);
    let database = builder
        .create_with_backend(backend)
        .map_err(|error| wrong(error.into()))?;
    let txn = database.begin_read().map_err(|error| wrong(error.into()))?;
    let names = [
        "meta", "disks", "runs", "points", "partials", "views", "verdicts",
    ];
    let mut tables = [const { Rows::new() }; 7];
    for (rows, name) in tables.iter_mut().zip(names) {
        let table = TableDefinition::<&str, &[u8]>::new(name);
        let table = txn.open_table(table).map_err(|error| wrong(error.into()))?;
        for row in table.iter().map_err(|error| wrong(error.into()))? {
            let (key, value) = row.map_err(|error| wrong(error.into()))?;
            rows.insert(key.value().to_owned(), value.value().to_owned());
        }
    }
    Ok(tables)
}

fn text(value: Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text),
        other => Err(format!("{other} is no text")),
    }
}

/// The fields that all rows of images have.
pub(super) fn image(disk: &str, row: &mut Fields) -> Result<ImageRow, String> {
    Ok(ImageRow {
        disk: disk.to_owned(),
        file: row.text("file")?,
        parent: None,
        size: row.number("size")?,
        cluster_size: row.number("cluster_size")?,
        digests: row.maybe("digests").map(digests).transpose()?,
        merging: Vec::new(),
    })
}

fn digests(value: Value) -> Result<(String, String), String> {
    let mut row = Fields::of("digests", value)?;
    let (file, root) = (row.text("file")?, row.text("root")?);
    ensure(root.len() == 64 && is_hex(&root), || {
        format!("{root}: no digest")
    })?;
    row.end()?;
    Ok((file, root))
}

pub(super) fn parent(row: &mut Fields) -> Result<Option<u64>, String> {
    let parent = row.or_null("parent")?;
    parent
        .map(|run| run.as_u64().ok_or_else(|| format!("{run}: no run")))
        .transpose()
}

fn point(disk: &str, mut row: Fields) -> Result<ImageRow, String> {
    let mut image = image(disk, &mut row)?;
    image.parent = parent(&mut row)?;
    row.number("created_unix_ms")?;
    known_instant(&row.text("instant")?)?;
    let mut end = None;
    for range in row.list("skipped")? {
        let mut range = Fields::of("skipped", range)?;
        let (offset, length) = (range.number("offset")?, range.number("length")?);
        range.end()?;
        let sorted = end.is_none_or(|end| offset > end);
        let fits = length > 0 && offset + length <= image.size && sorted;
        ensure(fits, || format!("skipped: {length} bytes at {offset}"))?;
        end = Some(offset + length);
    }
    row.number("bytes_copied")?;
    if let Some(merging) = row.maybe("merging") {
        let Value::Array(list) = merging else {
            return Err("merging is no list".to_owned());
        };
        for value in list {
            let mut row = Fields::of("merging", value)?;
            image.merging.push(self::image(disk, &mut row)?);
            row.end()?;
        }
    }
    row.end()?;
    Ok(image)
}

pub(super) fn known_instant(instant: &str) -> Result<(), String> {
    let known = ["proven", "no-instant", "no-instant-proven"].contains(&instant);
    ensure(known, || format!("{instant}: no instant"))
}

fn view_of(value: Value) -> Result<View, String> {
    let mut row = Fields::of("a view", value)?;
    let anchor = match row.any("anchor")? {
        Value::Object(anchor) if anchor.len() == 1 => {
            match (anchor.get("point"), anchor.get("partial")) {
                (Some(run), None) => Anchor::Point(run.as_u64().ok_or("an anchor without a run")?),
                (None, Some(Value::String(file))) => Anchor::Partial(file.clone()),
                _ => return Err(format!("{anchor:?}: no anchor")),
            }
        }
        other => return Err(format!("{other}: no anchor")),
    };
    let mut tracking = Fields::of("tracking", row.any("tracking")?)?;
    row.end()?;
    let trusted = match tracking.any("proof")? {
        Value::String(proof) => {
            let known = ["proven", "unproven"].contains(&&*proof);
            ensure(known, || format!("{proof}: no proof"))?;
            true
        }
        Value::Object(proof) => {
            let since = proof.get("lost").or_else(|| proof.get("refuted"));
            ensure(since.is_some(), || format!("{proof:?}: no proof"))?;
            false
        }
        other => return Err(format!("{other}: no proof")),
    };
    let mut sets = Vec::new();
    for value in tracking.list("sets")? {
        let mut set = Fields::of("a set", value)?;
        set.text("store")?;
        sets.push(SetRow {
            id: set.text("id")?,
            number: set.number("number")?,
        });
        set.end()?;
    }
    tracking.maybe("image_bitmap");
    tracking.end()?;
    Ok(View {
        anchor,
        trusted,
        sets,
    })
}

fn verdict(mut row: Fields) -> Result<Verdict, String> {
    let group = row.text("group")?;
    row.number("decided_unix_ms")?;
    let (commits, discards) = match row.any("outcome")? {
        Value::String(word) if word == "commit" => (true, false),
        Value::Object(abort) => {
            let mut abort = Fields::of("outcome", abort.into())?;
            let mut abort_row = Fields::of("abort", abort.any("abort")?)?;
            abort.end()?;
            abort_row.any("cause")?;
            let disposition = abort_row.text("disposition")?;
            let known = ["keep", "discard"].contains(&&*disposition);
            ensure(known, || format!("{disposition}: no disposition"))?;
            abort_row.end()?;
            (false, disposition == "discard")
        }
        other => return Err(format!("{other}: no outcome")),
    };
    let owed = row.truth("owed")?;
    let mut members = Vec::new();
    for value in row.list("members")? {
        let mut member = Fields::of("a member", value)?;
        members.push(member.text("name")?);
        member.text("kind")?;
        let record = member.or_null("record")?;
        // One that is owed has all its records; afterwards they are gone.
        let fits = record.is_some() == owed;
        ensure(fits, || {
            format!("group {group}: a record is {record:?}, owed is {owed}")
        })?;
        member.end()?;
    }
    row.end()?;
    Ok(Verdict {
        group,
        commits,
        discards,
        owed,
        members,
    })
}
