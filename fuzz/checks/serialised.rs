//! Any bytes read as a bitmap's serialised form.

use cohort_bitmap::DirtyBitmap;

const HEADER_BYTES: usize = 24;

/// Reading is safe; what is read is sound, and gives the same set when it is written and read again. Once as the
/// bytes are, and once with the checksums put in, which no fuzzer guesses.
pub fn check(bytes: &[u8]) {
    check_one(bytes);
    check_one(&summed(bytes));
}

fn check_one(bytes: &[u8]) {
    let Ok(bitmap) = DirtyBitmap::decode(bytes) else {
        return;
    };
    assert_eq!(bitmap.self_check(), Ok(()));
    assert_eq!(DirtyBitmap::decode(&bitmap.encode()), Ok(bitmap));
}

/// Takes the bytes for a header and records without checksums, and adds those.
pub fn summed(bytes: &[u8]) -> Vec<u8> {
    let (mut out, mut checksum, mut rest) = (Vec::new(), 0, bytes);
    let mut length = HEADER_BYTES;
    while rest.len() >= length {
        let (piece, after) = rest.split_at(length);
        checksum = crc32c::crc32c_append(checksum, piece);
        out.extend_from_slice(piece);
        out.extend_from_slice(&checksum.to_le_bytes());
        rest = after;
        let &[_, _, _, _, form, ref body @ ..] = rest else {
            break;
        };
        let low_high = body.first_chunk().copied().unwrap_or_default();
        let count = usize::from(u16::from_le_bytes(low_high)) + 1;
        length = match form {
            0 => 5,
            1 => 9,
            2 => 7 + 2 * count,
            3 => 7 + 4 * count,
            // The words of a block; of the last one, whatever there is.
            _ => (5 + 8 * 1024).min(rest.len()),
        };
    }
    out.extend_from_slice(rest);
    out
}
