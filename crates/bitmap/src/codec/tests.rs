//! The form to the byte, and every way to spoil it.

use super::*;
use crate::Granularity;

/// Granules of 512 bytes, the disk ending inside the last of three blocks and a bit; one block in each form.
fn sample() -> DirtyBitmap {
    let block = BLOCK_BITS * 512;
    let granularity = Granularity::new(512).unwrap();
    let mut bitmap = DirtyBitmap::new(4 * block + 5000 * 512 - 3, granularity).unwrap();
    bitmap.set(0, block).unwrap();
    bitmap.set(block + 70 * 512, 1).unwrap();
    bitmap.set(block + 512 * 512, 1).unwrap();
    bitmap.set(2 * block + 70 * 512, 6000 * 512).unwrap();
    for granule in (0..5000).step_by(2) {
        bitmap.set(4 * block + granule * 512, 1).unwrap();
    }
    bitmap
}

/// `bytes` with `change` done to the body of one record, and every checksum made right again.
fn crafted(form: u8, change: impl FnOnce(&mut Vec<u8>)) -> Result<DirtyBitmap, DecodeError> {
    let bytes = sample().encode();
    let mut change = Some(change);
    let (mut out, mut checksum) = (Vec::new(), 0);
    for piece in pieces(&bytes) {
        let mut piece = piece.to_vec();
        if piece.len() != HEADER_BYTES && piece[4] == form {
            change.take().expect("one record of each form")(&mut piece);
        }
        checksum = crc32c::crc32c_append(checksum, &piece);
        out.extend_from_slice(&piece);
        out.extend_from_slice(&checksum.to_le_bytes());
    }
    DirtyBitmap::decode(&out)
}

/// The header and the records, without their checksums.
fn pieces(bytes: &[u8]) -> Vec<&[u8]> {
    let mut rest = bytes;
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        let count =
            |width: usize| 7 + width * (usize::from(rest[5]) + 256 * usize::from(rest[6]) + 1);
        let length = match rest[4] {
            _ if pieces.is_empty() => HEADER_BYTES,
            END => 5,
            FULL => 9,
            POSITIONS => count(2),
            RUNS => count(4),
            _ => 5 + 8 * 79,
        };
        pieces.push(&rest[..length]);
        rest = &rest[length + 4..];
    }
    pieces
}

/// The form is on disks: it must not change without the version.
#[test]
fn version_two_is_these_bytes() {
    let mut bitmap = DirtyBitmap::new(1 << 20, Granularity::DEFAULT).unwrap();
    bitmap.set(3 << 16, 2 << 16).unwrap();
    let parts: [&[u8]; 3] = [
        b"cohortbm\x02\0\0\0\x10\0\0\0\0\0\x10\0\0\0\0\0",
        b"\0\0\0\0\x02\x01\0\x03\0\x04\0",
        b"\0\0\0\0\0",
    ];
    let (mut expected, mut checksum) = (Vec::new(), 0);
    for part in parts {
        checksum = crc32c::crc32c_append(checksum, part);
        expected.extend_from_slice(part);
        expected.extend_from_slice(&checksum.to_le_bytes());
    }
    assert_eq!(bitmap.encode(), expected);
}

#[test]
fn each_block_has_its_shortest_form() {
    let bytes = sample().encode();
    let forms: Vec<u8> = pieces(&bytes)[1..].iter().map(|piece| piece[4]).collect();
    assert_eq!(forms, [FULL, POSITIONS, RUNS, WORDS, END]);
    let all = DirtyBitmap::all_dirty(1 << 40, Granularity::new(1).unwrap()).unwrap();
    assert_eq!(
        all.encode().len(),
        28 + 13 + 9,
        "full blocks are one record"
    );
}

#[test]
fn streams_end_where_the_bitmap_does() {
    let (one, two) = (sample(), DirtyBitmap::new(0, Granularity::DEFAULT).unwrap());
    let mut bytes = Vec::new();
    one.write_to(&mut bytes).unwrap();
    two.write_to(&mut bytes).unwrap();
    let mut rest = bytes.as_slice();
    assert_eq!(DirtyBitmap::read_from(&mut rest).unwrap(), one);
    assert_eq!(DirtyBitmap::read_from(&mut rest).unwrap(), two);
    assert!(rest.is_empty());
}

#[test]
fn what_the_storage_says_is_passed_on() {
    struct Broken;
    impl io::Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::from_raw_os_error(5))
        }
    }
    impl io::Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::Error::from_raw_os_error(28))
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    assert!(matches!(
        DirtyBitmap::read_from(Broken),
        Err(ReadError::Input(_))
    ));
    assert_eq!(
        sample().write_to(Broken).unwrap_err().raw_os_error(),
        Some(28)
    );
}

#[test]
fn every_cut_is_refused_and_says_where() {
    let bytes = sample().encode();
    assert_eq!(DirtyBitmap::decode(&bytes), Ok(sample()));
    let mut at = 0;
    let mut begins = pieces(&bytes).into_iter().map(|piece| {
        at += piece.len() as u64 + 4;
        at
    });
    let (mut begin, mut next) = (0, begins.next().unwrap());
    for length in 0..bytes.len() as u64 {
        if length == next {
            (begin, next) = (next, begins.next().unwrap());
        }
        let cut = DirtyBitmap::decode(&bytes[..length as usize]);
        assert_eq!(cut, Err(DecodeError::Cut { at: begin }), "{length}");
    }
}

#[test]
fn every_flipped_bit_is_refused() {
    let bytes = sample().encode();
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(DirtyBitmap::decode(&flipped).is_err(), "bit {bit}");
    }
}

#[test]
fn records_cannot_be_dropped_doubled_swapped_or_lent() {
    let bytes = sample().encode();
    let mut other = sample();
    other.reset(0, 512).unwrap();
    let (mine, theirs) = (whole_pieces(&bytes), other.encode());
    let theirs = whole_pieces(&theirs);
    let spoilt = [
        [&mine[..2], &mine[3..]].concat(),
        [&mine[..2], &mine[1..]].concat(),
        [&mine[..1], &mine[2..3], &mine[1..2], &mine[3..]].concat(),
        [&mine[..3], &theirs[3..4], &mine[4..]].concat(),
        [&mine[..5], &theirs[5..]].concat(),
    ];
    for pieces in spoilt {
        let read = DirtyBitmap::decode(&pieces.concat());
        assert!(
            matches!(read, Err(DecodeError::Checksum { .. })),
            "{read:?}"
        );
    }
}

/// As [`pieces`], with their checksums.
fn whole_pieces(bytes: &[u8]) -> Vec<&[u8]> {
    let mut rest = bytes;
    let lengths = pieces(bytes).into_iter().map(|piece| piece.len() + 4);
    lengths
        .map(|length| rest.split_off(..length).unwrap())
        .collect()
}

#[test]
fn each_damage_has_its_error() {
    let bytes = sample().encode();
    let decode = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut changed = bytes.clone();
        change(&mut changed);
        DirtyBitmap::decode(&changed)
    };
    let end = bytes.len() as u64;
    assert_eq!(decode(&|b| b[0] = b'C'), Err(DecodeError::NotABitmap));
    assert_eq!(
        decode(&|b| b[8] = 1),
        Err(DecodeError::Version { version: 1 })
    );
    let damaged = |at| move |read| matches!(read, Err(DecodeError::Checksum { at: place, .. }) if place == at);
    assert!(damaged(0)(decode(&|b| b[12] ^= 1)));
    assert!(damaged(28)(decode(&|b| b[34] ^= 1)));
    assert!(damaged(41)(decode(&|b| b[49] ^= 1)));
    assert_eq!(
        decode(&|b| b.push(0)),
        Err(DecodeError::Trailing { at: end })
    );
    assert_eq!(
        decode(&|b| b[32] = 9),
        Err(DecodeError::Form { at: 28, form: 9 })
    );
}

#[test]
fn rightly_summed_nonsense_is_refused_too() {
    assert_eq!(crafted(FULL, |_| ()), Ok(sample()));
    let wrong = |at, block| Err(DecodeError::Block { at, block });
    assert_eq!(crafted(FULL, |b| b[5] = 0), wrong(28, 0), "no blocks");
    assert_eq!(crafted(FULL, |b| b[5] = 6), wrong(28, 0), "too many");
    assert_eq!(
        crafted(FULL, |b| b[3] = 1),
        wrong(28, 1 << 24),
        "past the end"
    );
    assert_eq!(crafted(POSITIONS, |b| b[0] = 0), wrong(41, 0), "repeated");
    assert_eq!(
        crafted(POSITIONS, |b| b[10] = 0),
        wrong(41, 1),
        "descending"
    );
    assert_eq!(crafted(RUNS, |b| b[8] = 0xff), wrong(56, 2), "backwards");
    let last = 56 + 7 + 4 + 4;
    assert_eq!(
        crafted(WORDS, |b| b[5..].fill(0)),
        wrong(last, 4),
        "nothing"
    );
    assert_eq!(
        crafted(WORDS, |b| *b.last_mut().unwrap() = 0x80),
        wrong(last, 4),
        "tail"
    );
    let end = last + 4 + 5 + 8 * 79;
    assert_eq!(
        crafted(END, |b| b[0] = 1),
        wrong(end, 1),
        "an end with a number"
    );
}

#[test]
fn headers_name_what_a_bitmap_can_be() {
    let header = |shift: u32, size: u64| {
        let mut bytes = b"cohortbm\x02\0\0\0".to_vec();
        bytes.extend_from_slice(&shift.to_le_bytes());
        bytes.extend_from_slice(&size.to_le_bytes());
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        DirtyBitmap::decode(&bytes)
    };
    assert_eq!(header(16, 5), Err(DecodeError::Cut { at: 28 }));
    for shift in [58, 64, 200] {
        assert_eq!(header(shift, 5), Err(DecodeError::Granularity { shift }));
    }
    assert!(matches!(header(0, 1 << 41), Err(DecodeError::Size(_))));
    assert!(matches!(header(57, u64::MAX), Err(DecodeError::Size(_))));
}
