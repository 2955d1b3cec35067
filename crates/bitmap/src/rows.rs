//! Bitmaps as rows of `0` and `1`, granule 0 first: for pictures, examples and tests.

use thiserror::Error;

use crate::{DirtyBitmap, Granularity};

impl DirtyBitmap {
    /// A disk of as many whole granules as the row has digits, `1` being dirty.
    ///
    /// # Errors
    /// [`RowError`] if there is anything but `0` and `1` in it, or more digits than granules may be.
    pub fn from_row(row: &str, granularity: Granularity) -> Result<DirtyBitmap, RowError> {
        let size = (row.len() as u64)
            .checked_mul(granularity.bytes())
            .ok_or(RowError::TooLong)?;
        let mut bitmap = DirtyBitmap::new(size, granularity).map_err(|_| RowError::TooLong)?;
        for (granule, digit) in row.bytes().enumerate() {
            match digit {
                b'0' => {}
                b'1' => bitmap.levels.set(granule as u64, granule as u64 + 1),
                _ => return Err(RowError::NotADigit { position: granule }),
            }
        }
        Ok(bitmap)
    }

    /// One digit per granule; meant for small bitmaps.
    pub fn to_row(&self) -> String {
        (0..self.granules())
            .map(|granule| if self.levels.get(granule) { '1' } else { '0' })
            .collect()
    }
}

/// The text is no row of bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RowError {
    /// Something other than `0` or `1`.
    #[error("a row of bits holds only 0 and 1, not what is at byte {position}")]
    NotADigit {
        /// Where, in bytes.
        position: usize,
    },
    /// More granules than a bitmap can have.
    #[error("the row has more digits than a bitmap of this granularity can have granules")]
    TooLong,
}
