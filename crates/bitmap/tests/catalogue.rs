//! The field's cases for the bare bitmap, B1 to B27, as QEMU 10's own bitmaps answer them. Where ours
//! differs on purpose the test says "ours". `docs/bitmap-cases.md` lists these and the others.

use std::{fs, path::Path};

use cohort_bitmap::{
    Added, ChunkError, DirtyBitmap, Granularity, MAX_GRANULES, RangeError, Recorder, Run,
    SizeError, SizeMismatch, Stretch,
};

/// The granule of most cases.
const K: u64 = 65_536;
const REST: u64 = u64::MAX;

#[test]
fn b1_empty_disk_has_nothing() {
    let mut bitmap = bitmap(0, 16);
    bitmap.set_all();
    assert_eq!((bitmap.count(), bitmap.granules()), (0, 0));
    assert_eq!(
        (bitmap.next_dirty(0, REST), bitmap.next_zero(0, REST)),
        (None, None)
    );
    assert_eq!(bitmap.runs().next(), None);
    assert_eq!((bitmap.self_check(), bitmap.dirty_bytes()), (Ok(()), 0));
}

/// QEMU's debug hash is over these words.
#[test]
fn b2_one_byte_disk_is_one_bit() {
    let mut bitmap = bitmap(1, 0);
    bitmap.set(0, 1).unwrap();
    assert_eq!(bitmap.count(), 1);
    assert_eq!(bitmap.export_chunk(0, 1).unwrap(), [1, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn b3_set_rounds_outward() {
    let mut bitmap = bitmap(32, 1);
    bitmap.set(0, 9).unwrap();
    assert_eq!(bitmap.to_row(), "1111100000000000");
}

/// Ours: a misaligned reset is an error, not an assertion.
#[test]
fn b4_reset_clears_whole_granules_only() {
    let mut bitmap = bitmap(32, 1);
    bitmap.set(0, 9).unwrap();
    bitmap.reset(2, 4).unwrap();
    assert_eq!(bitmap.to_row(), "1001100000000000");
    let granularity = Granularity::new(2).unwrap();
    assert_eq!(
        bitmap.reset(1, 3),
        Err(RangeError::Misaligned {
            offset: 1,
            length: 3,
            granularity
        })
    );
    assert_eq!(
        bitmap.reset(0, 3),
        Err(RangeError::Misaligned {
            offset: 0,
            length: 3,
            granularity
        })
    );
    assert_eq!(bitmap.to_row(), "1001100000000000");
}

#[test]
fn b5_cut_granule_counts_whole_and_its_bytes_count_exactly() {
    let mut bitmap = bitmap(10 * K + 1, 16);
    bitmap.set(10 * K, 1).unwrap();
    assert_eq!((bitmap.count(), bitmap.dirty_bytes()), (K, 1));
    assert_eq!(
        bitmap.runs().collect::<Vec<_>>(),
        [Run {
            offset: 10 * K,
            length: 1
        }]
    );
}

#[test]
fn b6_reset_may_end_with_the_disk() {
    let mut bitmap = bitmap(10 * K + 1, 16);
    bitmap.set_all();
    bitmap.reset(10 * K, 1).unwrap();
    assert_eq!((bitmap.get(10 * K), bitmap.get(10 * K - 1)), (false, true));
}

#[test]
fn b7_every_level_boundary_keeps_its_summaries() {
    let granules = 3 << 18;
    let mut bitmap = bitmap(granules, 0);
    let places = [64, 64 * 64, 64 * 64 * 64]
        .into_iter()
        .flat_map(|step| [0, step - 1, step, 2 * step - 1]);
    let mut places: Vec<u64> = places.chain([granules - 64, granules - 1]).collect();
    places.sort_unstable();
    places.dedup();
    for (number, &place) in places.iter().enumerate() {
        bitmap.set(place, 1).unwrap();
        assert_eq!(
            (bitmap.self_check(), bitmap.dirty_granules()),
            (Ok(()), number as u64 + 1)
        );
    }
    assert_eq!(bitmap.dirty_offsets().collect::<Vec<_>>(), places);
    for &place in &places {
        bitmap.reset(place, 1).unwrap();
        assert_eq!(bitmap.self_check(), Ok(()));
    }
    assert!(bitmap.is_empty());
}

#[test]
fn b8_resetting_the_middle_word_leaves_its_neighbours() {
    let mut bitmap = DirtyBitmap::all_dirty(3 * 64, Granularity::new(1).unwrap()).unwrap();
    bitmap.reset(64, 64).unwrap();
    assert_eq!(bitmap.self_check(), Ok(()));
    assert_eq!(
        bitmap.runs().collect::<Vec<_>>(),
        [
            Run {
                offset: 0,
                length: 64
            },
            Run {
                offset: 128,
                length: 64
            }
        ]
    );
}

#[test]
fn b9_setting_twice_counts_once() {
    let mut bitmap = bitmap(10 * K, 16);
    bitmap.set(3 * K, 2 * K).unwrap();
    bitmap.set(4 * K, 2 * K).unwrap();
    bitmap.set(4 * K, 2 * K).unwrap();
    assert_eq!(bitmap.count(), 3 * K);
}

/// Ours: an iterator borrows, so nobody changes the bitmap meanwhile; who must, asks for the next
/// area each time, and a bit that was cleared before it was reached is not met.
#[test]
fn b10_bit_cleared_ahead_is_not_met() {
    let mut bitmap = row("101");
    let first = bitmap.next_dirty_area(0, REST, REST).unwrap();
    bitmap.reset(2 * K, K).unwrap();
    assert_eq!(bitmap.next_dirty_area(first.end(), REST, REST), None);
}

#[test]
fn b11_next_dirty_inside_a_dirty_granule_is_the_start_itself() {
    assert_eq!(
        row("00001000").next_dirty(4 * K + 17, REST),
        Some(4 * K + 17)
    );
}

#[test]
fn b12_next_zero_skips_the_rest_of_the_granule() {
    assert_eq!(row("00001000").next_zero(4 * K + 17, REST), Some(5 * K));
}

#[test]
fn b13_nothing_is_clean_when_all_is_dirty() {
    assert_eq!(row("1111").next_zero(0, REST), None);
    assert_eq!(row("1111").next_zero(4 * K, REST), None);
}

#[test]
fn b14_area_ends_at_the_end_asked_for() {
    assert_eq!(
        row("0011111110").next_dirty_area(0, 6 * K, REST),
        Some(Run {
            offset: 2 * K,
            length: 4 * K
        })
    );
}

#[test]
fn b15_area_ends_at_its_maximum() {
    assert_eq!(
        row("0011111110").next_dirty_area(0, REST, 3 * K),
        Some(Run {
            offset: 2 * K,
            length: 3 * K
        })
    );
}

#[test]
fn b16_area_is_unaligned_where_the_question_is() {
    let area = row("0011111110").next_dirty_area(3 * K + 5, 3 * K + 6, REST);
    assert_eq!(
        area,
        Some(Run {
            offset: 3 * K + 5,
            length: 1
        })
    );
    assert_eq!(
        row("0011111110").next_dirty_area(9 * K, 2 * K, REST),
        None,
        "backwards"
    );
}

/// Ours: asking past the end is an error.
#[test]
fn b17_status_of_an_empty_bitmap_is_one_clean_stretch() {
    let bitmap = bitmap(10 * K + 1, 16);
    assert_eq!(
        bitmap.status(0, bitmap.size()),
        Ok(Stretch {
            dirty: false,
            length: 10 * K + 1
        })
    );
    assert_eq!(bitmap.status(3, 0), Err(RangeError::Empty { offset: 3 }));
    let past_end = RangeError::PastEnd {
        offset: 10 * K,
        length: 2,
        size: 10 * K + 1,
    };
    assert_eq!(bitmap.status(10 * K, 2), Err(past_end));
}

#[test]
fn b18_coarse_granule_marks_all_fine_ones_it_covers() {
    let mut fine = bitmap(10 * K, 12);
    fine.merge(&row("0001000000")).unwrap();
    assert_eq!(
        fine.runs().collect::<Vec<_>>(),
        [Run {
            offset: 48 << 12,
            length: 16 << 12
        }]
    );
}

#[test]
fn b19_fine_granule_marks_the_coarse_one_around_it() {
    let (mut coarse, mut fine) = (bitmap(10 * K, 16), bitmap(10 * K, 12));
    fine.set(17 << 12, 1).unwrap();
    coarse.merge(&fine).unwrap();
    assert_eq!(coarse.to_row(), "0100000000");
}

#[test]
fn b20_sizes_that_differ_are_named() {
    let mut bitmap = row("0000");
    let error = bitmap.merge(&row("00111")).unwrap_err();
    assert_eq!(
        error,
        SizeMismatch {
            size: 4 * K,
            other: 5 * K
        }
    );
    assert!(error.to_string().contains("262144") && error.to_string().contains("327680"));
    assert_eq!(
        (bitmap.intersect(&row("0")), bitmap.subtract(&row("0"))).0,
        Err(SizeMismatch {
            size: 4 * K,
            other: K
        })
    );
    assert!(bitmap.is_empty());
}

/// A set may grow clean, as QEMU's do; a view never does (`lives.rs`).
#[test]
fn b21_growth_is_clean_or_dirty_as_asked() {
    let (mut clean, mut dirty) = (row("01"), row("01"));
    clean.resize(3 * K, Added::Clean).unwrap();
    dirty.resize(3 * K, Added::Dirty).unwrap();
    assert_eq!(
        (clean.to_row(), dirty.to_row()),
        ("010".into(), "011".into())
    );
}

#[test]
fn b22_shrinking_forgets_for_good() {
    let mut bitmap = DirtyBitmap::all_dirty(100 * K, Granularity::DEFAULT).unwrap();
    bitmap.resize(10 * K, Added::Clean).unwrap();
    bitmap.resize(100 * K, Added::Clean).unwrap();
    assert_eq!(
        bitmap.runs().collect::<Vec<_>>(),
        [Run {
            offset: 0,
            length: 10 * K
        }]
    );
}

#[test]
fn b23_granule_that_the_new_end_cuts_keeps_its_bit() {
    let mut bitmap = row("00000110");
    bitmap.resize(5 * K + 9, Added::Clean).unwrap();
    assert_eq!(
        (bitmap.to_row(), bitmap.dirty_bytes()),
        ("000001".into(), 9)
    );
}

/// Ours: no finishing step; the bitmap is whole after every chunk.
#[test]
fn b24_chunks_carry_a_bitmap_over() {
    let mut from = bitmap(1000, 0);
    (0..1000)
        .filter(|granule| granule * granule % 7 == 2)
        .for_each(|granule| from.set(granule, 1).unwrap());
    let mut to = DirtyBitmap::all_dirty(1000, from.granularity()).unwrap();
    let mut whole = Vec::new();
    for start in (0..1000).step_by(64) {
        let length = 64.min(1000 - start);
        let chunk = from.export_chunk(start, length).unwrap();
        to.import_chunk(start, length, &chunk).unwrap();
        assert_eq!(to.self_check(), Ok(()));
        whole.extend(chunk);
    }
    assert_eq!(to, from);
    assert_eq!(
        whole,
        from.export_chunk(0, 1000).unwrap(),
        "chunks make up the whole"
    );
}

/// Ours: an error that names the alignment.
#[test]
fn b25_chunk_off_its_alignment_is_refused() {
    let mut bitmap = bitmap(200 * K, 16);
    let misaligned = ChunkError::Misaligned { alignment: 64 * K };
    assert_eq!(bitmap.export_chunk(K, 64 * K), Err(misaligned));
    assert_eq!(bitmap.export_chunk(0, 65 * K), Err(misaligned));
    assert_eq!(
        bitmap.import_chunk(0, 64 * K, &[0; 9]),
        Err(ChunkError::Length {
            expected: 8,
            actual: 9
        })
    );
    assert_eq!(
        bitmap.export_chunk(192 * K, 9 * K),
        Err(ChunkError::PastEnd { size: 200 * K })
    );
    assert_eq!(
        bitmap.export_chunk(192 * K, 8 * K).map(|chunk| chunk.len()),
        Ok(8)
    );
}

#[test]
fn b26_filling_with_ones_leaves_no_bit_past_the_end() {
    let mut bitmap = bitmap(10 * K, 16);
    bitmap.import_chunk(0, 10 * K, &[0xff; 8]).unwrap();
    assert_eq!((bitmap.dirty_granules(), bitmap.self_check()), (10, Ok(())));
    assert_eq!(
        bitmap.export_chunk(0, 10 * K).unwrap(),
        [0xff, 3, 0, 0, 0, 0, 0, 0]
    );
}

/// Ours: 2^40 granules, and more are refused. Read word by word this would take minutes, not one look a level; and
/// with all words allocated 128 GiB.
#[test]
fn b27_one_bit_in_the_largest_bitmap_is_found_through_the_summaries() {
    let granularity = Granularity::new(1).unwrap();
    let too_large = SizeError {
        size: MAX_GRANULES + 1,
        granularity,
    };
    assert_eq!(
        DirtyBitmap::new(MAX_GRANULES + 1, granularity),
        Err(too_large)
    );
    let mut bitmap = DirtyBitmap::new(MAX_GRANULES, granularity).unwrap();
    let last = MAX_GRANULES - 1;
    bitmap.set(last, 1).unwrap();
    for _ in 0..100_000 {
        assert_eq!(bitmap.next_dirty(0, REST), Some(last));
    }
    bitmap.reset(last, 1).unwrap();
    assert_eq!(bitmap.next_dirty(0, REST), None);
    let recorder = Recorder::like(&bitmap);
    recorder.mark(last, 1);
    assert_eq!((recorder.marked_granules(), recorder.get(last)), (1, true));
    assert_eq!(recorder.snapshot().next_dirty(0, REST), Some(last));
}

#[test]
fn sizes_past_63_bits_are_refused() {
    let widest = Granularity::new(1 << 57).unwrap();
    assert!(DirtyBitmap::new(u64::MAX, widest).is_err());
    let mut bitmap = DirtyBitmap::all_dirty(i64::MAX as u64, widest).unwrap();
    assert_eq!(
        (bitmap.granules(), bitmap.count(), bitmap.dirty_bytes()),
        (64, 1 << 63, i64::MAX as u64)
    );
    assert!(bitmap.resize(u64::MAX, Added::Dirty).is_err());
    assert_eq!(bitmap.size(), i64::MAX as u64);
}

#[test]
fn ranges_past_the_end_change_nothing() {
    let mut bitmap = row("0110");
    for (offset, length) in [
        (4 * K, 1),
        (0, 4 * K + 1),
        (u64::MAX, 1),
        (1, u64::MAX),
        (5 * K, 0),
    ] {
        let past_end = Err(RangeError::PastEnd {
            offset,
            length,
            size: 4 * K,
        });
        assert_eq!(
            (bitmap.set(offset, length), bitmap.reset(offset, length)),
            (past_end, past_end)
        );
    }
    assert_eq!(bitmap.to_row(), "0110");
    assert_eq!(
        (bitmap.get(u64::MAX), bitmap.next_dirty(u64::MAX, REST)),
        (false, None)
    );
}

#[test]
fn rows_hold_only_digits() {
    assert!(DirtyBitmap::from_row("01x", Granularity::DEFAULT).is_err());
    assert!(
        DirtyBitmap::from_row("0".repeat(70).as_str(), Granularity::new(1 << 57).unwrap()).is_err()
    );
    assert_eq!(
        DirtyBitmap::from_row("", Granularity::DEFAULT).map(|bitmap| bitmap.size()),
        Ok(0)
    );
}

/// `docs/bitmap-cases.md` has every case, and names tests that are there.
#[test]
fn the_page_of_cases_is_whole() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let page = fs::read_to_string(root.join("docs/bitmap-cases.md")).unwrap();
    let rows: Vec<Vec<&str>> = page
        .lines()
        .filter(|line| line.starts_with("| B"))
        .map(|line| line.split('|').map(str::trim).collect())
        .collect();
    for (number, row) in (1..=74).zip(&rows) {
        assert_eq!(row[1], format!("B{number}"));
        let words: Vec<&str> = row[3].split('`').collect();
        if let [_, file, _, test, _] = words[..] {
            let text = fs::read_to_string(root.join(file)).expect(file);
            assert!(text.contains(&format!("fn {test}()")), "{row:?}");
        } else {
            assert!(
                row[3].starts_with("none") || row[3].contains("must not compile"),
                "{row:?}"
            );
            assert_ne!(row[4], "", "B{number}: why there is none is not told");
        }
    }
    assert_eq!(rows.len(), 74);
}

fn bitmap(size: u64, shift: u32) -> DirtyBitmap {
    DirtyBitmap::new(size, Granularity::new(1 << shift).unwrap()).unwrap()
}

fn row(row: &str) -> DirtyBitmap {
    DirtyBitmap::from_row(row, Granularity::DEFAULT).unwrap()
}
