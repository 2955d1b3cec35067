//! `cohort bitmap show`: a bitmap drawn in the terminal or as SVG, or its dirty ranges.

use std::path::Path;

use cohort_bitmap::DirtyBitmap;
use serde::Serialize;

use super::found::{Found, Tracked};
use super::list::{JsonBitmap, Row};
use super::picture::Picture;
use super::state::State;
use super::terminal::Screen;
use super::{file, shown, svg};
use crate::args;
use crate::exit::Exit;
use crate::failure::Result;
use crate::human;
use crate::output::{self, json_line, print_line};

/// A bitmap and what it says, as JSON gives it.
#[derive(Debug, Serialize)]
struct JsonShown {
    event: &'static str,
    path: String,
    size_bytes: u64,
    bitmap: JsonBitmap,
    /// The disk in pieces of so many bytes each, and the dirty bytes of each piece.
    cell_bytes: u64,
    cells: Vec<u64>,
    /// With `--rows`, the dirty ranges.
    #[serde(skip_serializing_if = "Option::is_none")]
    rows: Option<Vec<JsonRun>>,
    /// The file that was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    out: Option<String>,
}

/// One dirty range, as JSON gives it.
#[derive(Debug, Serialize)]
struct JsonRun {
    offset: u64,
    length: u64,
}

pub(super) fn run(args: &args::BitmapShow) -> Result {
    let path = &args.bitmap.path;
    let found = Found::at(path)?;
    let tracked = found.choose(args.bitmap.name.as_deref())?;
    let bits = found.read(tracked)?;
    let state = found.state(tracked);
    let (columns, rows) = match args.out {
        Some(_) => svg::CELLS,
        None => Screen::stdout().cells(),
    };
    let picture = Picture::of(&bits, columns, rows);
    let headlines = headlines(path, tracked, &state, &picture);
    if let Some(out) = &args.out {
        file::whole(out, args.force, path, |file| {
            svg::write(&picture, &headlines, file)
        })?;
    }
    if args.output.json {
        let row = Row::with(tracked, state, Some(bits.dirty_bytes()));
        json_line(&json(args, &row, &bits, picture));
        return Ok(Exit::Done);
    }
    headlines.iter().for_each(|line| print_line(line));
    match &args.out {
        Some(out) => print_line(&format!("drawn in {}", out.display())),
        None if args.rows => print_rows(&bits),
        None => Screen::stdout()
            .draw(&picture)
            .iter()
            .for_each(|line| print_line(line)),
    }
    Ok(Exit::Done)
}

/// What is shown, and how much of it is dirty.
fn headlines(path: &Path, tracked: Tracked<'_>, state: &State, picture: &Picture) -> Vec<String> {
    let granules = tracked.granularity().map_or(String::new(), |granularity| {
        format!(", {} granules", human::bytes(granularity.bytes()))
    });
    let dirty = picture.dirty_bytes();
    let share = match (dirty, picture.size) {
        (0, _) | (_, 0) => String::new(),
        (dirty, size) => format!(" ({})", human::percent(dirty as f64 / size as f64)),
    };
    vec![
        format!(
            "{} of {}: {}{granules}",
            tracked.name(),
            shown(&path.display().to_string()),
            tracked.kind(),
        ),
        state.sentence(),
        format!(
            "{} of {} dirty{share}; a cell is {}",
            human::bytes(dirty),
            human::bytes(picture.size),
            human::bytes(picture.cell_bytes)
        ),
    ]
}

fn print_rows(bits: &DirtyBitmap) {
    let mut table = output::table(&["OFFSET", "LENGTH"]);
    for column in table.column_iter_mut() {
        column.set_cell_alignment(comfy_table::CellAlignment::Right);
    }
    for run in bits.runs() {
        table.add_row([run.offset, run.length]);
    }
    print_line(&table.trim_fmt());
}

fn json(args: &args::BitmapShow, row: &Row<'_>, bits: &DirtyBitmap, picture: Picture) -> JsonShown {
    let runs = || {
        bits.runs()
            .map(|run| JsonRun {
                offset: run.offset,
                length: run.length,
            })
            .collect()
    };
    JsonShown {
        event: "bitmap",
        path: args.bitmap.path.display().to_string(),
        size_bytes: bits.size(),
        bitmap: row.json(),
        cell_bytes: picture.cell_bytes,
        cells: picture.dirty,
        rows: args.rows.then(runs),
        out: args.out.as_ref().map(|out| out.display().to_string()),
    }
}
