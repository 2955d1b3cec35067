//! A directory of two disks with four points each, and a disk that has none yet, copied for every try.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cohort_bitmap::store::qcow2::Bitmaps;
use cohort_bitmap::{DirtyBitmap, Granularity};
use cohort_block::{OpenOptions, OsFile};
use cohort_tests::crash::{GRANULE, How, Point, at_fence};
use tempfile::TempDir;

use super::act::Act;
use crate::play::{Ended, ended, folder, watched};

/// The disks. Of the first all images have clusters alike, so that they are merged in place.
pub(crate) const DISKS: [&str; 2] = ["a", "b"];

/// One whose image keeps account of its changes, by the name of the bitmap.
pub(crate) const KEPT: (&str, &str) = ("c.qcow2", "changes");

/// The clusters of the other one's images, by run: a new image is made of them.
const CLUSTERS: [&str; 4] = ["64k", "64k", "16k", "16k"];

/// What lies where a restore is told to replace a file.
pub(crate) const OLD: &[u8] = b"somebody's own";

/// The directory, and what must be in it.
#[derive(Debug)]
pub(crate) struct Template {
    folder: TempDir,
    /// The disks by name and run.
    pub(crate) disks: BTreeMap<(String, u64), Vec<u8>>,
}

/// What a command left.
#[derive(Debug)]
pub(crate) struct Played {
    folder: TempDir,
    pub(crate) act: Act,
    /// What happened at a point, if anything did.
    pub(crate) how: Option<How>,
    pub(crate) ended: Ended,
}

/// The program, with its files watched if the environment says so, in a folder.
fn program(world: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_crash-run"));
    command.env("COHORT_CRASH_PROGRAM", "1").current_dir(world);
    command
}

/// Runs a command of the program that must go well, undisturbed.
pub(crate) fn run(world: &Path, arguments: &[&str]) -> Result<(), String> {
    let mut command = program(world);
    command.args(arguments);
    let output = ended(command);
    match output.status.success() {
        true => Ok(()),
        false => Err(format!(
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        )),
    }
}

impl Template {
    pub(crate) fn make() -> Self {
        let folder = folder();
        let world = folder.path();
        let mut disks = BTreeMap::new();
        for number in 1..=5 {
            for (disk, name) in DISKS.iter().enumerate() {
                let bytes = at_fence(disk, number);
                fs::write(world.join(format!("{name}.raw")), &bytes).expect("a disk");
                disks.insert(((*name).to_owned(), number), bytes);
            }
            // The last one is to be backed up by whoever is tried.
            if let Some(cluster) = CLUSTERS.get(number as usize - 1) {
                let cluster = format!("b={cluster}");
                let more = ["--cluster-size", &cluster];
                run(world, &[Act::Backup.arguments(), &more].concat()).expect("a backup");
            }
        }
        // What the image holds at the runs of `Act::Clear`: before it, in it, and after it.
        for (run, number) in [(5, 4), (6, 5), (7, 6)] {
            disks.insert(("c".to_owned(), run), in_image(number));
        }
        make_image(world);
        Self { folder, disks }
    }

    /// A command on a copy, to its end or to a point.
    pub(crate) fn play(&self, act: Act, at: Option<(&Point, How)>) -> Played {
        let folder = folder();
        let world = folder.path().join("world");
        copy(self.folder.path(), &world);
        if act == Act::Over {
            fs::write(world.join("out.img"), OLD).expect("a file");
        }
        if act == Act::Clear {
            run(&world, act.arguments()).expect("a point");
            write_image(&world, 5).expect("it is written to");
        }
        let mut command = program(&world);
        command.args(act.arguments());
        let ended = watched(command, &world, folder.path(), at);
        let hit = ended.log.iter().any(|reached| reached.hit);
        Played {
            folder,
            act,
            how: at.map(|(_, how)| how).filter(|_| hit),
            ended,
        }
    }

    /// The files of the backup directory, as it was made.
    pub(crate) fn files(&self) -> BTreeMap<String, Vec<u8>> {
        files(&self.folder.path().join("R"))
    }
}

impl Played {
    pub(crate) fn world(&self) -> PathBuf {
        self.folder.path().join("world")
    }
}

/// What the disk in the image is, as of a number: in whole sectors. The last number differs from the one before where no
/// other does, so that what it lacks of those is seen.
fn in_image(number: u64) -> Vec<u8> {
    let mut bytes = at_fence(2, number.min(5));
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    if number > 5 {
        bytes[..GRANULE as usize].fill(255);
    }
    bytes
}

/// Makes the image as of number 4, with a bitmap that is clean.
fn make_image(world: &Path) {
    let (image, bitmap) = KEPT;
    fs::write(world.join("c.raw"), in_image(4)).expect("a disk");
    run(world, &["copy", "c.raw", image]).expect("an image");
    fs::remove_file(world.join("c.raw")).expect("it was there");
    let file = OsFile::open(world.join(image), true).expect("the image");
    let mut bitmaps = Bitmaps::open(file).expect("no bitmaps");
    let bits = DirtyBitmap::new(bitmaps.disk_size(), Granularity::default()).expect("a bitmap");
    bitmaps.add(bitmap, &bits, true).expect("there is room");
}

/// A guest writes to the image what is other as of a number, and the bitmap notes it.
pub(crate) fn write_image(world: &Path, number: u64) -> Result<(), Box<dyn Error>> {
    let image = cohort_block::open(world.join(KEPT.0), OpenOptions::read_write())?;
    let mut offset = 0;
    for granule in in_image(number).chunks(GRANULE as usize) {
        let mut before = vec![0; granule.len()];
        image.read_at(&mut before, offset)?;
        if before != granule {
            image.write_at(granule, offset)?;
        }
        offset += GRANULE;
    }
    Ok(image.flush()?)
}

/// The files in a folder.
pub(crate) fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).expect("a folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let file = |path: PathBuf| {
        let name = path.file_name()?.to_string_lossy().into_owned();
        Some((name, fs::read(&path).ok()?))
    };
    paths.filter_map(file).collect()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        let to = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(&path, &to).expect("a copy");
        }
    }
}
