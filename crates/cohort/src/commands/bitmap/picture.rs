//! A bitmap as a grid of cells, each with the share of its bytes that is dirty.

use cohort_bitmap::DirtyBitmap;

/// Shades of cells: none dirty; under 1/16, 1/8, 1/4 and 1/2, and more; all dirty. Each part is twice the one before,
/// because most cells of a large disk have little that is dirty, and it should show where that is.
pub(super) const SHADES: usize = 7;

/// A grid of cells, in rows from left to right; the last row may be short.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Picture {
    /// Bytes of the disk.
    pub(super) size: u64,
    /// Bytes of each cell but the last, which ends with the disk.
    pub(super) cell_bytes: u64,
    /// Cells of a row.
    pub(super) columns: usize,
    /// Dirty bytes of each.
    pub(super) dirty: Vec<u64>,
}

impl Picture {
    /// The finest picture of at most `columns` times `rows` cells (at least one). A cell is a power of two of bytes, at
    /// least a granule.
    pub(super) fn of(bits: &DirtyBitmap, columns: usize, rows: usize) -> Picture {
        let most = (columns * rows).max(1) as u64;
        let mut cell_bytes = bits.granularity().bytes();
        while bits.size().div_ceil(cell_bytes) > most {
            cell_bytes *= 2;
        }
        let cells = bits.size().div_ceil(cell_bytes) as usize;
        let mut dirty = vec![0; cells];
        for run in bits.runs() {
            let mut at = run.offset;
            while at < run.end() {
                let cell = at / cell_bytes;
                // Not a product of the next cell, which may lie past all numbers.
                let end = run
                    .end()
                    .min(at + (cell_bytes - at % cell_bytes).min(run.end() - at));
                dirty[cell as usize] += end - at;
                at = end;
            }
        }
        Picture {
            size: bits.size(),
            cell_bytes,
            columns: columns.clamp(1, cells.max(1)),
            dirty,
        }
    }

    /// The shade of a cell: 0 only if nothing is dirty in it, the last only if everything is. Nothing past the last cell.
    pub(super) fn shade(&self, cell: usize) -> Option<usize> {
        let dirty = *self.dirty.get(cell)?;
        let bytes = self
            .cell_bytes
            .min(self.size - cell as u64 * self.cell_bytes);
        if dirty == 0 || dirty == bytes {
            return Some(if dirty == 0 { 0 } else { SHADES - 1 });
        }
        let reached = |parts: &u128| u128::from(dirty) * parts >= u128::from(bytes);
        Some(1 + [16, 8, 4, 2].iter().filter(|parts| reached(parts)).count())
    }

    /// Rows of cells.
    pub(super) fn rows(&self) -> usize {
        self.dirty.len().div_ceil(self.columns)
    }

    /// Bytes of a row.
    pub(super) fn row_bytes(&self) -> u64 {
        self.cell_bytes.saturating_mul(self.columns as u64)
    }

    /// Dirty bytes in all.
    pub(super) fn dirty_bytes(&self) -> u64 {
        self.dirty.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cohort_bitmap::Granularity;

    fn bitmap(size: u64, granularity: u64, runs: &[(u64, u64)]) -> DirtyBitmap {
        let granularity = Granularity::new(granularity).expect("a power of two");
        let mut bits = DirtyBitmap::new(size, granularity).expect("granules");
        for (offset, length) in runs {
            bits.set(*offset, *length).expect("on the disk");
        }
        bits
    }

    #[test]
    fn cells_count_every_dirty_byte_once() {
        let bits = bitmap(100_001, 512, &[(0, 1), (3000, 50_000), (100_000, 1)]);
        for (columns, rows) in [(1, 1), (3, 2), (7, 5), (64, 64), (1000, 1)] {
            let picture = Picture::of(&bits, columns, rows);
            assert_eq!(picture.dirty_bytes(), bits.dirty_bytes());
            assert!(picture.dirty.len() <= columns * rows);
            for (cell, dirty) in (0..).zip(&picture.dirty) {
                let start = cell * picture.cell_bytes;
                let end = (start + picture.cell_bytes).min(bits.size());
                let counted: u64 = bits
                    .runs_in(start, end, u64::MAX)
                    .map(|run| run.length)
                    .sum();
                assert_eq!(counted, *dirty);
            }
        }
    }

    #[test]
    fn only_cells_without_a_dirty_byte_are_clean_and_only_whole_ones_full() {
        // Four granules a cell; the last cell has one, and not all of it.
        let bits = bitmap(
            16 * 1024 + 100,
            1024,
            &[(0, 1), (4096, 3073), (8192, 3072), (16_384, 1)],
        );
        let picture = Picture::of(&bits, 5, 1);
        let shades: Vec<_> = (0..6).map(|cell| picture.shade(cell)).collect();
        assert_eq!(picture.cell_bytes, 4096);
        assert_eq!(shades, [Some(4), Some(6), Some(5), Some(0), Some(6), None]);
    }

    #[test]
    fn the_largest_and_the_smallest_disks_have_pictures() {
        let vast = bitmap(u64::MAX >> 1, 1 << 31, &[(0, 1), ((u64::MAX >> 1) - 1, 1)]);
        let picture = Picture::of(&vast, 64, 32);
        assert_eq!(picture.dirty_bytes(), vast.dirty_bytes());
        let one = Picture::of(&bitmap(1, 512, &[(0, 1)]), 64, 32);
        assert_eq!((one.columns, one.rows(), one.shade(0)), (1, 1, Some(6)));
        let none = Picture::of(&bitmap(0, 512, &[]), 64, 32);
        assert_eq!((none.rows(), none.dirty_bytes()), (0, 0));
    }
}
