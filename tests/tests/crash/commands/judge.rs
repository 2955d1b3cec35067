//! What must be there after a command ended somehow, and after it was given again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use cohort_backup::{RestoreOptions, restore};
use cohort_block::{Format, OpenOptions};
use cohort_tests::checker::{self, Checked};
use cohort_tests::crash::How;

use super::act::Act;
use super::world::{OLD, Played, Template, back_up, files, run};
use crate::judge::agrees;

/// The points that a prune keeps.
const KEPT: [u64; 2] = [3, 4];

pub(crate) fn judge(template: &Template, played: &Played) -> Result<(), String> {
    let done = played.ended.code == Some(0);
    if played.ended.code == Some(101) {
        return Err("it panicked".to_owned());
    }
    match played.act.restores() {
        None => pruned(template, played, done),
        Some((disk, point, out)) => {
            let disk = &template.disks[&(disk.to_owned(), point)];
            restored(template, played, disk, out, done)
        }
    }
}

fn pruned(template: &Template, played: &Played, done: bool) -> Result<(), String> {
    let world = played.world();
    listed(template, &world, done)?;
    run(&world, Act::Prune.arguments()).map_err(|why| format!("the next prune: {why}"))?;
    listed(template, &world, true).map_err(|why| format!("after the next prune: {why}"))?;
    back_up(&world, 4).map_err(|why| format!("the next backup: {why}"))?;
    let checked = check(&world)?;
    for (name, number) in [("a", 5), ("b", 5)] {
        let disk =
            fs::read(world.join(format!("{name}.raw"))).map_err(|error| error.to_string())?;
        if checked.points.get(&(name.to_owned(), number)) != Some(&disk) {
            return Err(format!("the next point of {name} is not the disk"));
        }
    }
    Ok(())
}

fn check(world: &Path) -> Result<Checked, String> {
    checker::check(&world.join("R"))?.ok_or_else(|| "the catalogue is gone".to_owned())
}

/// Every point that is to be kept is listed, every one that is listed can be restored; if the prune is done, no other.
fn listed(template: &Template, world: &Path, done: bool) -> Result<(), String> {
    let checked = check(world)?;
    agrees(world, &checked)?;
    let mut runs: BTreeMap<&str, BTreeSet<u64>> = BTreeMap::new();
    for ((disk, run), bytes) in &checked.points {
        runs.entry(disk).or_default().insert(*run);
        let truth = template.disks.get(&(disk.clone(), *run));
        if truth != Some(bytes) {
            return Err(format!("{disk}@{run} is not its disk"));
        }
        by_the_library(world, &checked, (disk, *run), bytes)?;
    }
    let (kept, all) = (BTreeSet::from(KEPT), BTreeSet::from([1, 2, 3, 4]));
    for disk in ["a", "b"] {
        match runs.get(disk) {
            Some(runs) if *runs == kept || *runs == all && !done => {}
            other => return Err(format!("{disk} has the points {other:?}, done: {done}")),
        }
    }
    if !checked.strays.is_empty() || !checked.others.is_empty() {
        let (strays, others) = (&checked.strays, &checked.others);
        return Err(format!("nobody knows of {strays:?} {others:?}"));
    }
    let merging = checked.catalogue.points.values();
    let merging = merging.filter(|row| !row.merging.is_empty()).count();
    if done && (merging > 0 || !checked.unfinished.is_empty()) {
        let left = &checked.unfinished;
        return Err(format!("it is done, and left {left:?}, {merging} to merge"));
    }
    Ok(())
}

/// The library restores the same.
fn by_the_library(
    world: &Path,
    checked: &Checked,
    (disk, run): (&str, u64),
    bytes: &[u8],
) -> Result<(), String> {
    let wrong = |why: String| format!("{disk}@{run}: {why}");
    let row = &checked.catalogue.points[&(disk.to_owned(), run)];
    let image = cohort_block::open(world.join("R").join(&row.file), OpenOptions::read_only());
    let image = image.map_err(|error| wrong(error.to_string()))?;
    let out = world.join("again.img");
    let options = RestoreOptions::new(Format::Raw);
    let options = options.length_bytes(row.size).threads(1);
    restore(&*image, &out, &options, &|_, _| {}, &false.into())
        .map_err(|error| wrong(error.to_string()))?;
    let same = fs::read(&out).is_ok_and(|restored| restored == bytes);
    fs::remove_file(&out).map_err(|error| wrong(error.to_string()))?;
    match same {
        true => Ok(()),
        false => Err(wrong("restored it is another".to_owned())),
    }
}

fn restored(
    template: &Template,
    played: &Played,
    disk: &[u8],
    out: &str,
    done: bool,
) -> Result<(), String> {
    let (world, act) = (played.world(), played.act);
    let there = whole(&world, disk, out)?;
    let is_old = act == Act::Over && fs::read(world.join(out)).is_ok_and(|bytes| bytes == OLD);
    match (there, done) {
        (true, _) => {}
        (false, true) => return Err("it is done, and the disk is not there".to_owned()),
        (false, false) if is_old || act != Act::Over && !world.join(out).exists() => {}
        (false, false) => return Err(format!("something else is at {out}")),
    }
    let hidden = format!(".{out}.cohort-partial");
    nothing_else(&world, &[out, &hidden])?;
    // Nothing can be removed from a file system that takes nothing.
    let may_stay = matches!(played.how, Some(How::Kill | How::ReadOnly));
    if !may_stay && world.join(&hidden).exists() {
        return Err(format!("{hidden} was left"));
    }
    if there && act != Act::Over {
        fs::remove_file(world.join(out)).map_err(|error| error.to_string())?;
    }
    run(&world, act.arguments()).map_err(|why| format!("the next restore: {why}"))?;
    if !whole(&world, disk, out)? {
        return Err("the next restore gave another disk".to_owned());
    }
    nothing_else(&world, &[out])?;
    match files(&world.join("R")) == template.files() {
        true => Ok(()),
        false => Err("the directory changed".to_owned()),
    }
}

/// Whether the restored disk is there.
fn whole(world: &Path, disk: &[u8], out: &str) -> Result<bool, String> {
    let path = world.join(out);
    if !path.exists() {
        return Ok(false);
    }
    if out.ends_with(".qcow2") {
        // Whatever has the name must be a whole image.
        let image = checker::image(&path)?;
        return Ok(image[..disk.len()] == *disk);
    }
    Ok(fs::read(&path).map_err(|error| error.to_string())? == disk)
}

fn nothing_else(world: &Path, known: &[&str]) -> Result<(), String> {
    let ours = ["a.raw", "b.raw"];
    let strange = |name: &&String| !known.contains(&&***name) && !ours.contains(&&***name);
    match files(world).keys().find(strange) {
        None => Ok(()),
        Some(name) => Err(format!("{name} is beside the disks")),
    }
}
