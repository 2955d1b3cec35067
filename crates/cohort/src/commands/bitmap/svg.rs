//! A picture as SVG.

use std::fmt::Write as _;
use std::io::{self, Write};

use super::picture::{Picture, SHADES};
use crate::human;

/// Cells of a row, and rows: what fits a page.
pub(super) const CELLS: (usize, usize) = (128, 64);
/// Pixels of a cell's side.
const CELL: usize = 7;
/// Pixels around everything; to the left of the cells there are offsets besides.
const MARGIN: usize = 16;
const LABELS: usize = 72;
/// Pixels of a line of text.
const LINE: usize = 18;
/// Grey for what is clean, then ever darker.
const COLOURS: [&str; SHADES] = [
    "#ececec", "#fcd9a0", "#fbb061", "#ee7f5a", "#c8446c", "#8a1f7e", "#3d0a5c",
];
/// Rows with an offset before them.
const LABEL_EVERY: usize = 8;

/// Writes the picture below its headlines.
pub(super) fn write(
    picture: &Picture,
    headlines: &[String],
    out: &mut dyn Write,
) -> io::Result<()> {
    let left = MARGIN + LABELS;
    let top = MARGIN + LINE * headlines.len() + MARGIN / 2;
    let grid = (picture.columns * CELL, picture.rows() * CELL);
    // Room for the headlines and the legend, however few cells there are.
    let longest = headlines.iter().map(|line| line.chars().count()).max();
    let width = (left + grid.0).max(longest.unwrap_or(0) * 8).max(560) + MARGIN;
    let height = top + grid.1 + LINE * 2 + MARGIN;
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"13\" fill=\"#222\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>"
    );
    for (number, line) in (1..).zip(headlines) {
        let weight = if number == 1 {
            " font-weight=\"bold\""
        } else {
            ""
        };
        let y = MARGIN + LINE * number - 5;
        let line = escaped(line);
        let _ = writeln!(text, "<text x=\"{MARGIN}\" y=\"{y}\"{weight}>{line}</text>");
    }
    out.write_all(text.as_bytes())?;
    for row in 0..picture.rows() {
        out.write_all(draw_row(picture, row, left, top).as_bytes())?;
    }
    out.write_all(legend(left, top + grid.1 + LINE).as_bytes())?;
    out.write_all(b"</svg>\n")
}

/// One row: neighbours of one shade are one rectangle, which tells its place when pointed at.
fn draw_row(picture: &Picture, row: usize, left: usize, top: usize) -> String {
    let (mut text, y) = (String::new(), top + row * CELL);
    if row.is_multiple_of(LABEL_EVERY) {
        let (x, y) = (left - 6, y + CELL + 3);
        let offset = human::bytes(row as u64 * picture.row_bytes());
        let _ = writeln!(
            text,
            "<text x=\"{x}\" y=\"{y}\" text-anchor=\"end\" font-size=\"11\">{offset}</text>"
        );
    }
    let first = row * picture.columns;
    let mut from = first;
    while from < first + picture.columns {
        let Some(shade) = picture.shade(from) else {
            break;
        };
        let same = |cell: &usize| picture.shade(*cell) == Some(shade);
        let to = from + (from..first + picture.columns).take_while(same).count();
        let (x, width) = (left + (from - first) * CELL, (to - from) * CELL);
        let start = from as u64 * picture.cell_bytes;
        let end = (to as u64)
            .saturating_mul(picture.cell_bytes)
            .min(picture.size);
        let dirty: u64 = picture.dirty[from..to].iter().sum();
        let _ = writeln!(
            text,
            "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{CELL}\" fill=\"{}\"><title>{} bytes at byte {start}: {} \
             dirty</title></rect>",
            COLOURS[shade],
            end - start,
            human::bytes(dirty),
        );
        from = to;
    }
    text
}

fn legend(left: usize, y: usize) -> String {
    let mut text = String::new();
    for (shade, colour) in COLOURS.iter().enumerate() {
        let (x, y) = (left + shade * 20, y - 10);
        let _ = writeln!(
            text,
            "<rect x=\"{x}\" y=\"{y}\" width=\"20\" height=\"12\" fill=\"{colour}\"/>"
        );
    }
    let (end, below) = (left + SHADES * 20, y + LINE);
    let beside = end + MARGIN;
    let _ = writeln!(
        text,
        "<text x=\"{left}\" y=\"{below}\" font-size=\"11\">clean</text>\
         <text x=\"{end}\" y=\"{below}\" font-size=\"11\" text-anchor=\"end\">all dirty</text>\
         <text x=\"{beside}\" y=\"{y}\" font-size=\"11\">between them under 1/16, 1/8, 1/4, 1/2, or more</text>"
    );
    text
}

/// Text in XML. Control characters cannot be there at all, and names are shown without them.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
