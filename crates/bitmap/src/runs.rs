//! Going through a bitmap by run (offset and length), not by bit.

use std::{iter::FusedIterator, ops::Range};

use crate::{DirtyBitmap, levels::BitRuns};

/// Neighbouring dirty bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Run {
    /// First byte.
    pub offset: u64,
    /// Bytes, at least 1.
    pub length: u64,
}

impl Run {
    /// The byte after the last.
    pub fn end(&self) -> u64 {
        self.offset + self.length
    }

    /// The bytes as a range.
    pub fn range(&self) -> Range<u64> {
        self.offset..self.end()
    }
}

impl DirtyBitmap {
    /// The dirty runs in ascending order; the last one is cut at the end of the disk.
    pub fn runs(&self) -> Runs<'_> {
        self.runs_in(0, self.size(), u64::MAX)
    }

    /// The dirty runs inside `start..end`, each cut to at most `max_length` bytes (at least 1):
    /// a longer run comes in several pieces, the next starting where the last ended.
    pub fn runs_in(&self, start: u64, end: u64, max_length: u64) -> Runs<'_> {
        let end = end.min(self.size());
        Runs {
            granules: self.levels.runs_from(self.granule(start.min(end))),
            shift: self.granularity().shift(),
            start,
            end,
            max_length: max_length.max(1),
            rest: Run {
                offset: start,
                length: 0,
            },
        }
    }

    /// The first byte of every dirty granule, ascending.
    pub fn dirty_offsets(&self) -> impl Iterator<Item = u64> {
        let granularity = self.granularity().bytes();
        self.runs().flat_map(move |run| {
            run.range()
                .step_by(usize::try_from(granularity).unwrap_or(usize::MAX))
        })
    }
}

/// Iterator over dirty runs, from [`DirtyBitmap::runs`] and [`DirtyBitmap::runs_in`].
#[derive(Clone, Debug)]
#[must_use = "iterators do nothing unless asked"]
pub struct Runs<'a> {
    granules: BitRuns<'a>,
    shift: u32,
    start: u64,
    end: u64,
    max_length: u64,
    /// What is left of the run found last, once it was cut.
    rest: Run,
}

impl Iterator for Runs<'_> {
    type Item = Run;

    #[inline]
    fn next(&mut self) -> Option<Run> {
        if self.rest.length == 0 {
            let (from, to) = self.granules.next_run()?;
            let offset = (from << self.shift).max(self.start);
            let end = (to << self.shift).min(self.end);
            let length = end.checked_sub(offset).filter(|&length| length > 0)?;
            let run = Run { offset, length };
            if length <= self.max_length {
                return Some(run);
            }
            self.rest = run;
        }
        let run = Run {
            offset: self.rest.offset,
            length: self.rest.length.min(self.max_length),
        };
        self.rest = Run {
            offset: run.end(),
            length: self.rest.length - run.length,
        };
        Some(run)
    }
}

impl FusedIterator for Runs<'_> {}
