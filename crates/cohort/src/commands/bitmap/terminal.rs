//! A picture in the terminal: two rows of cells a line with colours, and one without.

use std::io::{IsTerminal, stdout};

use anstyle::{Ansi256Color, Color, Style};

use super::picture::{Picture, SHADES};
use crate::human;

/// Without colours: from nothing dirty to all.
const LETTERS: [char; SHADES] = ['·', '░', '░', '▒', '▒', '▓', '█'];
/// With 256 colours: grey for what is clean, then ever brighter, so that the order shows without telling hues apart.
const COLOURS: [u8; SHADES] = [236, 53, 90, 162, 203, 215, 229];
/// Lines of a picture.
const LINES: usize = 16;
/// What a pipe, and a terminal that does not tell, is taken to be wide.
const WIDTH: usize = 80;
/// Columns for the offset before each line, and a space.
const LABEL: usize = 10;

/// How pictures are drawn.
#[derive(Debug, Clone, Copy)]
pub(super) struct Screen {
    columns: usize,
    coloured: bool,
}

impl Screen {
    /// Standard output, as wide and as colourful as it is.
    pub(super) fn stdout() -> Screen {
        let width = match stdout().is_terminal() {
            true => rustix::termios::tcgetwinsize(stdout()).map_or(0, |size| size.ws_col.into()),
            false => 0,
        };
        let width = if width == 0 { WIDTH } else { width };
        Screen {
            // Multiples of 16 make the offsets round numbers.
            columns: (width.saturating_sub(LABEL + 1) / 16 * 16).max(16),
            coloured: anstream::AutoStream::choice(&stdout()) != anstream::ColorChoice::Never,
        }
    }

    /// How many cells a line and how many rows of them there is place for.
    pub(super) fn cells(&self) -> (usize, usize) {
        (self.columns, LINES * self.rows_a_line())
    }

    /// The picture, line by line, and what its shades mean.
    pub(super) fn draw(&self, picture: &Picture) -> Vec<String> {
        let step = self.rows_a_line();
        let mut lines: Vec<_> = (0..picture.rows())
            .step_by(step)
            .map(|row| {
                let offset = human::bytes(row as u64 * picture.row_bytes());
                let cells = (0..picture.columns).map(|column| self.cell(picture, row, column));
                format!("{offset:>9} {}", cells.collect::<String>())
            })
            .collect();
        lines.push(self.legend());
        lines
    }

    fn rows_a_line(self) -> usize {
        if self.coloured { 2 } else { 1 }
    }

    /// One letter: a cell, or with colours one above another.
    fn cell(self, picture: &Picture, row: usize, column: usize) -> String {
        let shade = |row| picture.shade(row * picture.columns + column);
        let (upper, lower) = (shade(row), shade(row + 1));
        match (self.coloured, upper) {
            (_, None) => " ".into(),
            (false, Some(shade)) => LETTERS[shade].into(),
            (true, Some(shade)) => {
                let style = Style::new().fg_color(Some(colour(shade)));
                let style = style.bg_color(lower.map(colour));
                format!("{style}▀{style:#}")
            }
        }
    }

    fn legend(self) -> String {
        let mark = |shade: usize| {
            if self.coloured {
                let style = Style::new().fg_color(Some(colour(shade)));
                format!("{style}█{style:#}")
            } else {
                LETTERS[shade].into()
            }
        };
        let mut parts: Vec<_> = (1..SHADES - 1).map(mark).collect();
        parts.dedup();
        let bounds = if self.coloured {
            "1/16, 1/8, 1/4, 1/2"
        } else {
            "1/8, 1/2"
        };
        format!(
            "{:>9} {} clean  {} dirty under {bounds}, or more  {} all dirty",
            "",
            mark(0),
            parts.concat(),
            mark(SHADES - 1)
        )
    }
}

fn colour(shade: usize) -> Color {
    Color::Ansi256(Ansi256Color(COLOURS[shade]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cohort_bitmap::{DirtyBitmap, Granularity};

    fn drawn(coloured: bool) -> Vec<String> {
        let mut bits = DirtyBitmap::new(37 << 16, Granularity::DEFAULT).expect("granules");
        bits.set(1 << 16, 3 << 16).expect("on the disk");
        bits.set(36 << 16, 1).expect("on the disk");
        let screen = Screen {
            columns: 16,
            coloured,
        };
        let (columns, rows) = screen.cells();
        screen.draw(&Picture::of(&bits, columns, rows))
    }

    #[test]
    fn without_colours_a_letter_is_a_cell() {
        assert_eq!(
            drawn(false)[..3],
            [
                "      0 B ·███············",
                " 1.00 MiB ················",
                " 2.00 MiB ····█           ",
            ]
        );
    }

    #[test]
    fn with_colours_two_rows_share_a_line_and_nothing_is_drawn_past_the_end() {
        let lines = drawn(true);
        assert_eq!(lines.len(), 3);
        let plain = |line: &str| anstream::adapter::strip_str(line).to_string();
        assert_eq!(plain(&lines[0]), "      0 B ▀▀▀▀▀▀▀▀▀▀▀▀▀▀▀▀");
        assert_eq!(plain(&lines[1]), " 2.00 MiB ▀▀▀▀▀           ");
        assert!(lines[0].contains("38;5;229"), "{:?}", lines[0]);
        assert!(
            !lines[1].contains("48;5"),
            "nothing lies below the last row"
        );
    }
}
