//! What must be there after a command ended somehow, and after it was given again.

use std::fs;
use std::path::Path;

use cohort_backup::{RestoreOptions, restore};
use cohort_block::{Format, OpenOptions};
use cohort_tests::checker::{self, Checked};
use cohort_tests::crash::How;

use super::act::Act;
use super::world::{DISKS, OLD, Played, Template, files, run, write_image};
use crate::judge::agrees;

/// The disks of `Act::Backup`, as they are.
const RENEWED: (&[&str], u64) = (&DISKS, 5);

pub(crate) fn judge(template: &Template, played: &Played) -> Result<(), String> {
    let done = played.ended.code == Some(played.act.code());
    if played.ended.code == Some(101) {
        return Err("it panicked".to_owned());
    }
    let point = |name: &str, run| &template.disks[&(name.to_owned(), run)];
    match played.act {
        // The runs that both disks must have, or may have if it is not done.
        Act::Backup => changed(template, played, done, [&[1, 2, 3, 4, 5], &[1, 2, 3, 4]]),
        Act::Prune => changed(template, played, done, [&[3, 4], &[1, 2, 3, 4]]),
        Act::Audit => distrusted(template, &played.world(), done),
        Act::Clear => cleared(template, &played.world(), done),
        Act::Raw => restored(template, played, point("a", 4), "out.img", done),
        Act::Qcow2 => restored(template, played, point("b", 4), "out.qcow2", done),
        Act::Over => restored(template, played, point("a", 2), "out.img", done),
    }
}

/// After a command that changes the directory, the same again, and a backup.
fn changed(
    template: &Template,
    played: &Played,
    done: bool,
    [after, before]: [&[u64]; 2],
) -> Result<(), String> {
    let (world, act) = (played.world(), played.act);
    let checked = listed(template, &world)?;
    // The disks of a run have one verdict; a prune goes disk by disk.
    let runs = DISKS.map(|name| runs_of(&checked, name));
    let one_verdict = act == Act::Prune || runs[0] == runs[1];
    let known = |runs: &Vec<u64>| runs == after || runs == before && !done;
    if !runs.iter().all(known) || !one_verdict {
        return Err(format!("the points are {runs:?}, done: {done}"));
    }
    if done {
        nothing_left(&checked)?;
    }
    run(&world, act.arguments()).map_err(|why| format!("the same again: {why}"))?;
    let renewed = (act == Act::Backup).then_some(RENEWED);
    let checked = listed_but_the_last(template, &world, renewed)?;
    nothing_left(&checked).map_err(|why| format!("after the same again: {why}"))?;
    if act == Act::Prune {
        let runs = DISKS.map(|name| runs_of(&checked, name));
        if runs != [after, after] {
            return Err(format!("after the same again: the points are {runs:?}"));
        }
        run(&world, Act::Backup.arguments()).map_err(|why| format!("the next run: {why}"))?;
        listed_but_the_last(template, &world, Some(RENEWED))?;
    }
    Ok(())
}

/// After an audit that found a claim wrong: nothing else is, and the next run makes points of what the disks are.
fn distrusted(template: &Template, world: &Path, done: bool) -> Result<(), String> {
    let checked = listed(template, world)?;
    nothing_left(&checked)?;
    let view = checked.catalogue.views.get("a");
    let trusted = view.is_some_and(|[point, _]| point.as_ref().is_some_and(|view| view.trusted));
    if done && trusted {
        return Err("what is known of the disk's changes is trusted as before".to_owned());
    }
    run(world, Act::Backup.arguments()).map_err(|why| format!("the next run: {why}"))?;
    listed_but_the_last(template, world, Some(RENEWED)).map(drop)
}

/// After a backup by an image's own account of its changes: whatever became of that, the next one misses nothing.
fn cleared(template: &Template, world: &Path, done: bool) -> Result<(), String> {
    let checked = listed(template, world)?;
    let runs = runs_of(&checked, "c");
    if runs != [5, 6] && (done || runs != [5]) {
        return Err(format!("the points are {runs:?}, done: {done}"));
    }
    if done {
        nothing_left(&checked)?;
    }
    write_image(world, 6).map_err(|error| format!("the image is of no use: {error}"))?;
    run(world, Act::Clear.arguments()).map_err(|why| format!("the next run: {why}"))?;
    let checked = listed_but_the_last(template, world, Some((&["c"], 7)))?;
    nothing_left(&checked).map_err(|why| format!("after the next run: {why}"))
}

fn runs_of(checked: &Checked, disk: &str) -> Vec<u64> {
    let of = checked.points.keys().filter(|(name, _)| name == disk);
    of.map(|(_, run)| *run).collect()
}

fn check(world: &Path) -> Result<Checked, String> {
    checker::check(&world.join("R"))?.ok_or_else(|| "the catalogue is gone".to_owned())
}

/// Every point that is listed is its disk, and is restored as such.
fn listed(template: &Template, world: &Path) -> Result<Checked, String> {
    listed_but_the_last(template, world, None)
}

/// The same, but the last points of some disks are those disks as of a run, whatever the number of their own.
fn listed_but_the_last(
    template: &Template,
    world: &Path,
    renewed: Option<(&[&str], u64)>,
) -> Result<Checked, String> {
    let checked = check(world)?;
    agrees(world, &checked)?;
    for ((disk, run), bytes) in &checked.points {
        let is_last = runs_of(&checked, disk).last() == Some(run);
        let renewed = renewed.filter(|(disks, _)| is_last && disks.contains(&&**disk));
        let truth_of = renewed.map_or(*run, |(_, run)| run);
        if template.disks.get(&(disk.clone(), truth_of)) != Some(bytes) {
            return Err(format!("{disk}@{run} is not its disk"));
        }
        by_the_library(world, &checked, (disk, *run), bytes)?;
    }
    match checked.strays.is_empty() && checked.others.is_empty() {
        true => Ok(checked),
        false => Err(format!(
            "nobody knows of {:?} {:?}",
            checked.strays, checked.others
        )),
    }
}

/// No file that nobody needs, no merge that is not over.
fn nothing_left(checked: &Checked) -> Result<(), String> {
    let merging = checked.catalogue.points.values();
    let merging = merging.filter(|row| !row.merging.is_empty()).count();
    match (checked.unfinished.is_empty(), merging) {
        (true, 0) => Ok(()),
        _ => Err(format!(
            "left: {:?}, and {merging} to merge",
            checked.unfinished
        )),
    }
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
    let ours = ["a.raw", "b.raw", "c.qcow2"];
    let strange = |name: &&String| !known.contains(&&***name) && !ours.contains(&&***name);
    match files(world).keys().find(strange) {
        None => Ok(()),
        Some(name) => Err(format!("{name} is beside the disks")),
    }
}
