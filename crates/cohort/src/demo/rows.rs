//! Rows of bits: what a bitmap looks like, one character a granule.

use anstyle::{AnsiColor, Style};
use cohort_bitmap::DirtyBitmap;

/// How wide the words before a row are.
const LABEL: usize = 26;

/// What a row shows; each has its own colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Dirty when the backup began.
    Base,
    /// Written since.
    Since,
    /// Not durably on the target.
    Remaining,
    /// What the disk is left with.
    View,
}

impl Kind {
    fn style(self) -> Style {
        let colour = match self {
            Kind::Base => AnsiColor::Blue,
            Kind::Since => AnsiColor::Yellow,
            Kind::Remaining => AnsiColor::Magenta,
            Kind::View => AnsiColor::Green,
        };
        Style::new().fg_color(Some(colour.into()))
    }
}

/// `label` and then a character for each granule of `bitmap`: `█` dirty, `·` clean.
pub(super) fn row(label: &str, kind: Kind, bitmap: &DirtyBitmap) -> String {
    let style = kind.style();
    let step = bitmap.granularity().bytes();
    let cells: String = (0..bitmap.granules())
        .map(|g| if bitmap.get(g * step) { '█' } else { '·' })
        .collect();
    format!(
        "  {label:<LABEL$} {style}{cells}{style:#}  {}",
        bitmap.dirty_granules()
    )
}

#[cfg(test)]
mod tests {
    use cohort_bitmap::{DirtyBitmap, Granularity};

    use super::{Kind, row};

    #[test]
    fn a_row_shows_each_granule_and_the_count() {
        let mut bitmap =
            DirtyBitmap::new(5 << 16, Granularity::for_cluster(65_536)).expect("a bitmap");
        bitmap.set(65_536, 2 << 16).expect("inside");
        let text = anstream::adapter::strip_str(&row("base", Kind::Base, &bitmap)).to_string();
        assert_eq!(text.trim(), "base                       ·██··  2");
    }
}
