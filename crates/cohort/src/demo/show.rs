//! What the audience sees: titles, a line or two that teach, rows of bits, checks. As text, or as JSON lines.

use anyhow::Result;
use cohort_bitmap::DirtyBitmap;
use serde::Serialize;

use super::rows::{Kind, row};
use crate::output::{json_line, print_line};

/// Where the demonstration is told.
#[derive(Debug)]
pub(super) struct Show {
    json: bool,
    act: usize,
}

#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum Event<'a> {
    Act {
        number: usize,
        title: &'a str,
    },
    Text {
        text: &'a str,
    },
    Row {
        label: &'a str,
        dirty_granules: u64,
        dirty_offsets: Vec<u64>,
    },
    Check {
        what: &'a str,
        holds: bool,
    },
    Verdict {
        checks: usize,
        failed: &'a [String],
    },
}

/// Colours of the text.
const TITLE: anstyle::Style = anstyle::Style::new().bold();
const GOOD: anstyle::Style = anstyle::AnsiColor::Green.on_default();
const BAD: anstyle::Style = anstyle::AnsiColor::Red.on_default().bold();

impl Show {
    pub(super) fn new(json: bool) -> Show {
        Show { json, act: 0 }
    }

    /// Begins an act.
    pub(super) fn title(&mut self, title: &str) {
        self.act += 1;
        if self.json {
            json_line(&Event::Act {
                number: self.act,
                title,
            });
        } else {
            print_line(&format!("\n{TITLE}{}. {title}{TITLE:#}", self.act));
        }
    }

    /// Says something that teaches.
    pub(super) fn say(&self, text: &str) {
        if self.json {
            json_line(&Event::Text { text });
        } else {
            print_line(text);
        }
    }

    /// Shows a bitmap.
    pub(super) fn bits(&self, label: &str, kind: Kind, bitmap: &DirtyBitmap) {
        if self.json {
            let (dirty_granules, dirty_offsets) =
                (bitmap.dirty_granules(), bitmap.dirty_offsets().collect());
            json_line(&Event::Row {
                label,
                dirty_granules,
                dirty_offsets,
            });
        } else {
            print_line(&row(label, kind, bitmap));
        }
    }

    /// Shows how a check went.
    pub(super) fn check(&self, what: &str, holds: bool) {
        if self.json {
            json_line(&Event::Check { what, holds });
        } else if holds {
            print_line(&format!("  {GOOD}✓{GOOD:#} {what}"));
        } else {
            print_line(&format!("  {BAD}✗ {what}{BAD:#}"));
        }
    }

    /// The last line.
    pub(super) fn verdict(&self, checks: usize, failed: &[String]) {
        if self.json {
            json_line(&Event::Verdict { checks, failed });
        } else if failed.is_empty() {
            print_line(&format!("\n{GOOD}All {checks} checks held.{GOOD:#}"));
        } else {
            print_line(&format!(
                "\n{BAD}{} of {checks} checks failed: {}{BAD:#}",
                failed.len(),
                failed.join("; ")
            ));
        }
    }
}

/// An error of the demonstration itself, with what was being done.
pub(super) fn during<T, E: Into<anyhow::Error>>(
    what: &str,
    result: std::result::Result<T, E>,
) -> Result<T> {
    result.map_err(|error| error.into().context(what.to_owned()))
}
