//! What a layer itself holds, run by run.

use std::ops::Range;

use cohort_block::File;

use super::Qcow2Builder;
use super::error::BuildError;
use super::mapping::Entry;

/// What a layer itself says of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// It holds data.
    Data,
    /// It says that there are zeroes.
    Zero,
}

impl<F: File> Qcow2Builder<F> {
    /// The runs of clusters that this layer itself holds, in the order of the disk; a long run may come in pieces.
    ///
    /// # Errors
    /// [`BuildError::Io`] and [`BuildError::Damaged`] while reading a table; the last item then.
    pub fn held(&self) -> impl Iterator<Item = Result<(Range<u64>, Held), BuildError>> {
        let mut from = Some(0);
        std::iter::from_fn(move || {
            let found = self.next_held(from?);
            from = match &found {
                Ok(Some((run, _))) => Some(run.end),
                Ok(None) | Err(_) => None,
            };
            found.transpose()
        })
    }

    /// The first run at or after `from`, cut where its L2 table ends.
    fn next_held(&self, from: u64) -> Result<Option<(Range<u64>, Held)>, BuildError> {
        let mut at = from;
        for piece in self
            .layout
            .pieces(from, self.clusters().saturating_sub(from))
        {
            let state = self.with_table(piece.table)?;
            let end = piece.first_index + piece.count;
            if state.mapping.is_empty(piece.table) {
                at = end;
                continue;
            }
            while at < end {
                let held = kind(state.mapping.entry(at)?);
                let start = at;
                while at < end && kind(state.mapping.entry(at)?) == held {
                    at += 1;
                }
                if let Some(held) = held {
                    return Ok(Some((start..at, held)));
                }
            }
        }
        Ok(None)
    }
}

fn kind(entry: Entry) -> Option<Held> {
    match entry {
        Entry::Unmapped => None,
        Entry::Zero => Some(Held::Zero),
        Entry::Data(_) | Entry::Packed(_) => Some(Held::Data),
    }
}
