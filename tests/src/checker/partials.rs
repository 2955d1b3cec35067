//! The rows of partials, and their maps: which parts show which instant (section 2).

use serde_json::Value;

use super::bits::Bits;
use super::catalogue::{ImageRow, image, known_instant, parent};
use super::fields::{Fields, ensure};
use super::names::is_hex;

/// A partial.
#[derive(Clone, Debug)]
pub struct PartialRow {
    /// Its image.
    pub image: ImageRow,
    /// Whether somebody must answer first.
    pub undecided: bool,
    /// Which run left it.
    pub run: u64,
    /// What it shows of each instant.
    pub map: Vec<Shown>,
}

/// What a partial shows of one instant.
#[derive(Clone, Debug)]
pub struct Shown {
    /// Of which run's.
    pub run: u64,
    /// Where.
    pub extents: Bits,
}

/// Reads a row.
pub(super) fn partial(disk: &str, mut row: Fields) -> Result<PartialRow, String> {
    let mut image = image(disk, &mut row)?;
    image.parent = parent(&mut row)?;
    let decision = row.text("decision")?;
    let known = ["keep", "undecided"].contains(&&*decision);
    ensure(known, || format!("{decision}: no decision"))?;
    let durable = row.number("durable_bytes")?;
    row.number("remaining_bytes")?;
    let run = row.number("run")?;
    row.number("stopped_unix_ms")?;
    row.text("why")?;
    let map = match row.maybe("map") {
        None => Vec::new(),
        Some(map) => read_map(map, &image)?,
    };
    let bytes: u64 = map.iter().map(|shown| shown.extents.bytes()).sum();
    ensure(map.is_empty() || bytes == durable, || {
        format!("its map has {bytes} bytes, and it {durable}")
    })?;
    row.end()?;
    Ok(PartialRow {
        image,
        undecided: decision == "undecided",
        run,
        map,
    })
}

/// Reads a map, and checks what can be seen of it alone.
fn read_map(value: Value, image: &ImageRow) -> Result<Vec<Shown>, String> {
    let Value::Array(list) = value else {
        return Err("map is no list".to_owned());
    };
    ensure(!list.is_empty(), || "map is an empty list".to_owned())?;
    let mut all = Bits::new(image.cluster_size, image.size);
    let mut map: Vec<Shown> = Vec::new();
    for value in list {
        let mut row = Fields::of("map", value)?;
        let run = row.number("run")?;
        row.number("created_unix_ms")?;
        known_instant(&row.text("instant")?)?;
        let extents = Bits::read(&unhex(&row.text("extents")?)?)?;
        row.end()?;
        let fits = (extents.granularity, extents.size) == (image.cluster_size, image.size);
        ensure(fits, || format!("map: run {run} has bits of another disk"))?;
        ensure(extents.bytes() > 0, || {
            format!("map: run {run} has no bits")
        })?;
        ensure(map.last().is_none_or(|last| last.run < run), || {
            format!("map: run {run} is out of order")
        })?;
        all.join(&extents);
        map.push(Shown { run, extents });
    }
    let bytes: u64 = map.iter().map(|shown| shown.extents.bytes()).sum();
    ensure(bytes == all.bytes(), || {
        "map: a byte is there twice".to_owned()
    })?;
    Ok(map)
}

fn unhex(text: &str) -> Result<Vec<u8>, String> {
    ensure(is_hex(text) && text.len().is_multiple_of(2), || {
        format!("{text}: no hex of bytes")
    })?;
    let bytes = (0..text.len()).step_by(2);
    let byte = |at: usize| u8::from_str_radix(&text[at..at + 2], 16);
    let bytes: Result<_, _> = bytes.map(byte).collect();
    bytes.map_err(|error| format!("{text}: {error}"))
}
