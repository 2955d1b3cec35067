//! What a backup directory must hold, recomputed from its files alone.
//!
//! Written from `docs/format.md` and nothing else: it uses none of the crates that write these files, so that one mistake
//! cannot hide the other. Section numbers are those of that page.
#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "a JSON value is of the kind that is expected, or wrong"
)]

mod bits;
mod catalogue;
mod digests;
mod fields;
mod image;
mod merging;
mod names;
mod partials;
mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

pub use bits::Bits;
pub use catalogue::{Anchor, Catalogue, ImageRow, SetRow, View};
pub use partials::{PartialRow, Shown};
pub use store::Store;

use image::Layer;
use merging::{Chain, Link};
use names::FileName;

/// Everything that a directory says.
#[derive(Debug)]
pub struct Checked {
    /// The rows.
    pub catalogue: Catalogue,
    /// Every point's disk, by its name and run.
    pub points: BTreeMap<(String, u64), Vec<u8>>,
    /// What each partial reads as, with what lies under it.
    pub partials: BTreeMap<String, Vec<u8>>,
    /// Files that the next run removes.
    pub unfinished: BTreeSet<String>,
    /// Files with names of ours that nobody may remove.
    pub strays: BTreeSet<String>,
    /// Files that are not ours.
    pub others: BTreeSet<String>,
}

/// What belongs to every directory (section 1).
const OWN: [&str; 4] = [
    "catalogue.redb",
    "catalogue.redb.new",
    "catalogue.lock",
    "catalogue.gate",
];

/// Reads a directory in which nobody writes. `None` if it has no catalogue yet.
///
/// # Errors
/// The first rule that is broken.
pub fn check(directory: &Path) -> Result<Option<Checked>, String> {
    let Some(files) = list(directory)? else {
        return Ok(None);
    };
    if !files.contains("catalogue.redb") {
        let ours = files.iter().find(|file| !OWN.contains(&file.as_str()));
        return match ours {
            None => Ok(None),
            Some(file) => Err(format!("{file} is there before the catalogue")),
        };
    }
    let catalogue = Catalogue::read(&directory.join("catalogue.redb"))?;
    let mut checked = Checked {
        points: BTreeMap::new(),
        partials: BTreeMap::new(),
        unfinished: BTreeSet::new(),
        strays: BTreeSet::new(),
        others: BTreeSet::new(),
        catalogue,
    };
    checked.sort_files(directory, &files)?;
    let mut layers = BTreeMap::new();
    for (key, row) in &checked.catalogue.points {
        let name = format!("{}@{}", key.0, key.1);
        let bytes = content(directory, &checked.catalogue, row, &mut layers, true);
        let bytes = bytes.map_err(|why| format!("point {name}: {why}"))?;
        checked.points.insert(key.clone(), bytes);
    }
    for (disk, row) in &checked.catalogue.partials {
        let bytes = content(
            directory,
            &checked.catalogue,
            &row.image,
            &mut layers,
            false,
        );
        let bytes = bytes.map_err(|why| format!("partial of {disk}: {why}"))?;
        checked.partials.insert(disk.clone(), bytes);
    }
    Ok(Some(checked))
}

fn list(directory: &Path) -> Result<Option<BTreeSet<String>>, String> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let name = |entry: std::io::Result<fs::DirEntry>| {
        let name = entry.map_err(|error| error.to_string())?.file_name();
        name.into_string()
            .map_err(|name| format!("{name:?}: not text"))
    };
    entries.map(name).collect::<Result<_, _>>().map(Some)
}

impl Checked {
    /// What each file is (section 1).
    fn sort_files(&mut self, directory: &Path, files: &BTreeSet<String>) -> Result<(), String> {
        let named: BTreeSet<_> = self.catalogue.files().into_iter().collect();
        let renamed = merging::renamed(directory, &self.catalogue)?;
        let gone = |name: &&String| !files.contains(*name) && !renamed.contains(*name);
        if let Some(gone) = named.iter().find(gone) {
            return Err(format!("{gone} is named and not there"));
        }
        let rest = files
            .iter()
            .filter(|file| !named.contains(*file) && !OWN.contains(&file.as_str()));
        for file in rest {
            let set = match FileName::parse(file) {
                None => &mut self.others,
                Some(name) if self.catalogue.made(&name) => &mut self.unfinished,
                Some(_) => &mut self.strays,
            };
            set.insert(file.clone());
        }
        // A left-over of a catalogue in the making has no meaning beside the catalogue.
        let gate = fs::metadata(directory.join("catalogue.gate"));
        match gate {
            Ok(found) if found.len() > 0 => Err("catalogue.gate is not empty".to_owned()),
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

/// What an image that stands alone reads as (section 3), such as one that was restored: whole sectors.
///
/// # Errors
/// The first rule that is broken.
pub fn image(path: &Path) -> Result<Vec<u8>, String> {
    let layer = Layer::read(path)?;
    let mut bytes = Vec::new();
    layer.put_over(&mut bytes);
    match layer.backing {
        None => Ok(bytes),
        Some(file) => Err(format!("it lies on {file}")),
    }
}

/// What a row's image reads as (section 5), having checked it and all below it.
fn content(
    directory: &Path,
    catalogue: &Catalogue,
    row: &ImageRow,
    layers: &mut BTreeMap<String, Layer>,
    is_point: bool,
) -> Result<Vec<u8>, String> {
    let chain = Chain::of(directory, catalogue, row)?;
    let mut bytes = Vec::new();
    for (at, link) in chain.links.iter().enumerate().rev() {
        let row = link.row;
        if !layers.contains_key(&row.file) {
            let path = directory.join(&row.file);
            let layer = Layer::read(&path).map_err(|why| format!("{}: {why}", row.file))?;
            layer.check(row, link.is_merged())?;
            layers.insert(row.file.clone(), layer);
        }
        let layer = &layers[&row.file];
        let below = chain.links.get(at + 1).map(|link| link.row.file.clone());
        if layer.backing != below {
            return Err(format!(
                "{}: it lies on {:?}, not on {below:?}",
                row.file, layer.backing
            ));
        }
        layer.put_over(&mut bytes);
    }
    for (at, link) in chain.links.iter().enumerate() {
        // Only the image itself may be one whose digests lack something, if it is a partial's.
        let whole = is_point || at > 0;
        told(directory, link, whole, layers)?;
    }
    bytes.truncate(row.size as usize);
    Ok(bytes)
}

/// Whether the digests of an image say what it holds.
fn told(
    directory: &Path,
    link: &Link<'_>,
    whole: bool,
    layers: &BTreeMap<String, Layer>,
) -> Result<(), String> {
    let (row, layer) = (link.row, &layers[&link.row.file]);
    let Some((file, root)) = &row.digests else {
        return Ok(());
    };
    let above = link.appended_from();
    let above: BTreeSet<u64> = above
        .iter()
        .flat_map(|row| layers.get(&row.file))
        .flat_map(|layer| layer.held.keys().copied())
        .collect();
    let tells = digests::Tells {
        whole: whole && !link.is_merged() && above.is_empty(),
        other: &above,
        cluster: row.cluster_size,
    };
    digests::check(&directory.join(file), root, layer, row, &tells)
        .map_err(|why| format!("{file}: {why}"))
}
