//! Any bytes read as a bitmap's serialised form.

use cohort_bitmap::DirtyBitmap;

/// Reading is safe; what is read is sound, and gives the same set when it is written and read again.
pub fn check(bytes: &[u8]) {
    let Ok(bitmap) = DirtyBitmap::decode(bytes) else {
        return;
    };
    assert_eq!(bitmap.self_check(), Ok(()));
    assert_eq!(DirtyBitmap::decode(&bitmap.encode()), Ok(bitmap));
}
