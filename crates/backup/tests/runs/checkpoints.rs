//! Checkpoints: what the backup directory holds at every flush of a target is what a kill there leaves; each is continued.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use cohort_backup::catalogue::{self, Answer, Catalogue, Decision, Partial};
use cohort_backup::{Backup, BitmapPolicy, DiskOutcome};
use cohort_block::{File, OpenOptions, open};

use crate::world::*;

const CLUSTERS: u64 = 64;

/// Keeps what the backup directory is at every flush of a target: before it, and after it.
struct Moments {
    directory: PathBuf,
    into: PathBuf,
    taken: Mutex<usize>,
}

impl Moments {
    fn of(world: &World, into: &str) -> Arc<Self> {
        fs::create_dir(world.path(into)).unwrap();
        Arc::new(Self {
            directory: world.repository(),
            into: world.path(into),
            taken: Mutex::new(0),
        })
    }

    /// Takes a copy of the directory. With `durable` given, one file of it is as it was at its last flush: power was
    /// lost.
    fn take(&self, durable: Option<(&Path, &[u8])>) {
        let mut taken = self.taken.lock().unwrap();
        let into = self.into.join(taken.to_string());
        fs::create_dir(&into).unwrap();
        for entry in fs::read_dir(&self.directory).unwrap() {
            let entry = entry.unwrap();
            // A file of digests may be removed meanwhile.
            let _ = fs::copy(entry.path(), into.join(entry.file_name()));
        }
        if let Some((file, bytes)) = durable {
            fs::write(into.join(file.file_name().unwrap()), bytes).unwrap();
        }
        *taken += 1;
    }

    /// Moments over the whole run, the first and the last among them; all of them, if `COHORT_ALL_MOMENTS` is set.
    fn some(&self) -> Vec<PathBuf> {
        let taken = *self.taken.lock().unwrap();
        let most = match std::env::var_os("COHORT_ALL_MOMENTS") {
            Some(_) => taken,
            None => taken.min(13),
        };
        // The first ones too: what was there before is replaced then.
        let spread = (0..most).map(|index| index * (taken - 1) / (most - 1));
        let moments: BTreeSet<usize> = spread.chain(0..taken.min(9)).collect();
        moments
            .into_iter()
            .map(|moment| self.into.join(moment.to_string()))
            .collect()
    }
}

/// A target of which every flush is a moment.
struct Watched {
    inner: Arc<dyn File>,
    path: PathBuf,
    durable: Mutex<Vec<u8>>,
    moments: Arc<Moments>,
}

impl std::fmt::Debug for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watched").field("path", &self.path).finish()
    }
}

impl File for Watched {
    cohort_block::forward_file!(inner: read_at, write_at, len, set_len);

    fn sync_data(&self) -> io::Result<()> {
        let mut durable = self.durable.lock().unwrap();
        self.moments.take(None);
        self.moments.take(Some((&self.path, &durable)));
        self.inner.sync_data()?;
        *durable = fs::read(&self.path)?;
        self.moments.take(None);
        Ok(())
    }
}

/// A run over one disk whose every flush is a moment to be killed in.
fn watched(world: &World, disk: &Path, policy_: BitmapPolicy, moments: &Arc<Moments>) {
    let moments = Arc::clone(moments);
    let directory = world.repository();
    // Slow enough that checkpoints are made in between.
    let workers = options(|o| o.policy(policy_).speed(8 << 20));
    let running = world
        .backup()
        .disk(cohort_backup::DiskSpec::file(disk))
        .options(workers)
        .target_files(move |name, inner| {
            Arc::new(Watched {
                path: directory.join(name.to_string()),
                durable: Mutex::new(fs::read(directory.join(name.to_string())).unwrap_or_default()),
                moments: Arc::clone(&moments),
                inner,
            })
        })
        .start()
        .unwrap();
    committed(running.wait());
}

/// Continues what a moment left, and compares everything; `instants` is what the disk was in the runs until then. Gives
/// how much of the partial was kept, in bytes.
fn continued(world: &World, moment: &Path, disk: &Path, instants: &[&[u8]]) -> u64 {
    let place = world.repository();
    let aside = world.path("aside");
    fs::rename(&place, &aside).unwrap();
    fs::rename(moment, &place).unwrap();
    let row = catalogue::read(&place)
        .unwrap()
        .partials
        .get(&name("vda"))
        .cloned();
    if let Some(row) = &row {
        is_its_map(&place, row, instants);
    }
    if row
        .as_ref()
        .is_some_and(|row| row.decision == Decision::Undecided)
    {
        let refused = Backup::to(&place)
            .disk(cohort_backup::DiskSpec::file(disk))
            .start()
            .unwrap()
            .wait();
        assert!(matches!(refused.disks[0].outcome, DiskOutcome::Refused(_)));
        let catalogue = Catalogue::open(&place).unwrap();
        catalogue.answer(&name("vda"), Answer::Keep).unwrap();
    }
    let report = Backup::to(&place)
        .disk(cohort_backup::DiskSpec::file(disk))
        .start()
        .unwrap()
        .wait();
    let report = committed(report);
    let continued = report.disks[0].continued;
    assert_eq!(continued.is_some(), row.is_some());
    if let (Some(row), Some(continued)) = (&row, continued) {
        assert!(row.durable_bytes > 0, "{row:?}");
        let (kept, whole) = (continued.kept_bytes, continued.whole_bytes);
        assert_eq!(kept + report.disks[0].copied_bytes, whole, "{row:?}");
        // Not left by a run before, since when the disk changed.
        if row.run.0 == instants.len() as u64 {
            assert!(kept >= row.durable_bytes, "{kept} of {}", row.durable_bytes);
            assert_eq!(row.durable_bytes + row.remaining_bytes, whole, "{row:?}");
        }
    }
    let run = report.run.unwrap().0;
    assert!(world.restored("vda", run) == fs::read(disk).unwrap());
    world.check();
    fs::remove_dir_all(&place).unwrap();
    fs::rename(&aside, &place).unwrap();
    continued.map_or(0, |continued| continued.kept_bytes)
}

/// What the partial says that it shows of each instant is what the disk was then, and is all that it counts.
fn is_its_map(place: &Path, row: &Partial, instants: &[&[u8]]) {
    let file = place.join(row.file.to_string());
    let device = open(&file, OpenOptions::read_only()).unwrap();
    let mut bytes = 0;
    for (offset, length, shown) in row.extents() {
        let mut held = vec![0; length as usize];
        device.read_at(&mut held, offset).unwrap();
        let then = instants[shown.run.0 as usize - 1];
        let same = held == then[offset as usize..][..length as usize];
        assert!(same, "{length} bytes at {offset} are not of {shown:?}");
        assert_eq!(shown.instant, catalogue::Instant::Proven);
        bytes += length;
    }
    assert_eq!(bytes, row.durable_bytes, "{row:?}");
}

#[test]
fn a_kill_at_any_flush_of_a_target_is_continued() {
    for policy_ in [BitmapPolicy::Always, BitmapPolicy::Ask] {
        let world = World::new();
        let disk = world.raw("vda.raw", CLUSTERS);
        let then = fs::read(&disk).unwrap();
        let moments = Moments::of(&world, "first");
        watched(&world, &disk, policy_, &moments);
        let mut kept: Vec<u64> = Vec::new();
        for moment in moments.some() {
            kept.push(continued(&world, &moment, &disk, &[&then]));
        }
        let whole = (CLUSTERS - CLUSTERS / 4) * CLUSTER;
        assert_eq!(kept.first(), Some(&0), "nothing is named before a seal");
        assert_eq!(
            kept.last(),
            Some(&whole),
            "all before the verdict: {kept:?}"
        );
        let between = kept.iter().filter(|kept| (1..whole).contains(kept));
        assert!(between.count() > 0, "{kept:?}");
    }
}

/// The second run changes clusters of which the partial of the first one holds older bytes, their digests, and their
/// instant.
#[test]
fn digests_and_map_of_a_continued_partial_are_true_at_any_flush() {
    let world = World::new();
    let disk = world.raw("vda.raw", CLUSTERS);
    let first = fs::read(&disk).unwrap();
    let moments = Moments::of(&world, "first");
    watched(&world, &disk, BitmapPolicy::Always, &moments);
    let last = moments.some().pop().unwrap();
    fs::remove_dir_all(world.repository()).unwrap();
    copy_all(&last, &world.repository());
    for cluster in (0..CLUSTERS).step_by(3) {
        write(&disk, cluster * CLUSTER + 7, 0xee, 512);
    }
    let moments = Moments::of(&world, "second");
    watched(&world, &disk, BitmapPolicy::Always, &moments);
    let second = fs::read(&disk).unwrap();
    let mut of_both = 0;
    for moment in moments.some() {
        let row = catalogue::read(&moment).unwrap().partials[&name("vda")].clone();
        of_both += u64::from(row.map.len() == 2);
        assert!(continued(&world, &moment, &disk, &[&first, &second]) > 0);
    }
    assert!(of_both > 0, "no partial was of both instants");
}

/// An increment lies on its point, before and after a kill.
#[test]
fn a_killed_increment_goes_on_from_its_point() {
    let world = World::new();
    let disk = world.raw("vda.raw", CLUSTERS);
    world.commit([cohort_backup::DiskSpec::file(&disk)]);
    let first = fs::read(&disk).unwrap();
    for cluster in (0..CLUSTERS).step_by(2) {
        write(&disk, cluster * CLUSTER, 0xdd, 70_000);
    }
    let second = fs::read(&disk).unwrap();
    let moments = Moments::of(&world, "second");
    watched(&world, &disk, BitmapPolicy::Always, &moments);
    for moment in moments.some() {
        continued(&world, &moment, &disk, &[&first, &second]);
    }
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}
