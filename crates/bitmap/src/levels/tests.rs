//! The bare hierarchy at its edges: every level's, a chunk's, the end's.

use super::*;

/// Three chunks and a bit.
const BITS: u64 = 3 * CHUNK_BITS + 7;

#[test]
fn every_level_boundary_keeps_its_summaries() {
    let mut levels = Levels::new(BITS);
    let places = [
        0,
        63,
        64,
        127,
        4095,
        4096,
        8191,
        8192,
        CHUNK_BITS - 1,
        CHUNK_BITS,
        2 * CHUNK_BITS,
        BITS - 1,
    ];
    for bit in places {
        levels.set(bit, bit + 1);
        assert_eq!(levels.self_check(), Ok(()), "set {bit}");
    }
    for step in 0..places.len() {
        let bit = places[step * 5 % places.len()];
        levels.reset(bit, bit + 1);
        assert_eq!(levels.self_check(), Ok(()), "reset {bit}");
    }
    assert_eq!((levels.next_one(0), levels.is_empty()), (None, true));
}

#[test]
fn what_is_full_needs_no_words_and_what_is_not_has_them_again() {
    let mut levels = Levels::new(BITS);
    levels.set(0, BITS);
    assert_eq!((levels.pages.touched(), levels.ones()), (0, BITS));
    levels.reset(0, BITS);
    levels.set(5, BITS - 2);
    assert_eq!(levels.ones(), BITS - 7);
    (0..5).for_each(|bit| levels.set(bit, bit + 1));
    levels.set(BITS - 2, BITS);
    let full = |levels: &Levels| (0..4).filter(|&chunk| levels.full.get(chunk)).count();
    assert_eq!((full(&levels), levels.ones()), (4, BITS));
    assert_eq!((levels.next_zero(0), levels.self_check()), (BITS, Ok(())));
    levels.reset(CHUNK_BITS, CHUNK_BITS + 1);
    levels.reset(BITS - 1, BITS);
    assert_eq!((full(&levels), levels.ones()), (2, BITS - 2));
    assert_eq!(
        (levels.next_zero(0), levels.self_check()),
        (CHUNK_BITS, Ok(()))
    );
    levels.reset(CHUNK_BITS, BITS);
    assert_eq!((full(&levels), levels.ones()), (1, CHUNK_BITS));
    assert_eq!(levels.self_check(), Ok(()));
}

#[test]
fn a_small_set_that_is_filled_in_one_go_needs_no_words() {
    for bits in [1, 7, 64] {
        let mut levels = Levels::new(bits);
        levels.set(0, bits);
        assert_eq!((levels.pages.touched(), levels.ones()), (0, bits), "{bits}");
        assert!(levels.get(bits - 1) && levels.self_check().is_ok());
        levels.reset(0, bits);
        assert_eq!((levels.pages.touched(), levels.ones()), (0, 0), "{bits}");
        levels.set(0, bits);
        levels.reset(0, 1);
        assert_eq!(
            (levels.next_one(0), levels.ones()),
            ((bits > 1).then_some(1), bits - 1)
        );
        assert_eq!(levels.self_check(), Ok(()));
    }
    // A part of it has words.
    let mut levels = Levels::new(7);
    levels.set(0, 6);
    assert_eq!((levels.pages.touched(), levels.ones()), (1, 6));
    levels.set(6, 7);
    assert_eq!((levels.ones(), levels.self_check()), (7, Ok(())));
}

/// A chunk keeps the words that it had when it became full; they count for nothing.
#[test]
fn words_beneath_what_is_full_come_to_light_no_more() {
    let whole = |levels: &mut Levels| levels.set(CHUNK_BITS, 2 * CHUNK_BITS);
    let mut levels = Levels::new(BITS);
    levels.set(CHUNK_BITS + 70, CHUNK_BITS + 80);
    whole(&mut levels);
    assert!(levels.get(CHUNK_BITS) && levels.get(CHUNK_BITS + 70));
    levels.set(CHUNK_BITS + 3, CHUNK_BITS + 4);
    assert_eq!((levels.ones(), levels.self_check()), (CHUNK_BITS, Ok(())));
    assert_eq!(levels.clone(), levels);
    levels.reset(CHUNK_BITS + 75, CHUNK_BITS + 76);
    let zero = levels.next_zero(CHUNK_BITS);
    assert_eq!((zero, levels.ones()), (CHUNK_BITS + 75, CHUNK_BITS - 1));
    whole(&mut levels);
    levels.reset(CHUNK_BITS, 2 * CHUNK_BITS);
    assert_eq!((levels.ones(), levels.next_one(0)), (0, None));
    assert!(!levels.get(CHUNK_BITS + 70));
    levels.set(CHUNK_BITS + 9, CHUNK_BITS + 10);
    assert_eq!((levels.ones(), levels.self_check()), (1, Ok(())));
}

#[test]
fn runs_begin_and_end_wherever_chunks_do() {
    let cases: [&[(u64, u64)]; 6] = [
        &[(0, BITS)],
        &[(CHUNK_BITS - 1, CHUNK_BITS + 1)],
        &[(CHUNK_BITS, 2 * CHUNK_BITS)],
        &[(3, 64), (65, 2 * CHUNK_BITS + 64), (BITS - 7, BITS)],
        &[
            (CHUNK_BITS + 4095, CHUNK_BITS + 4097),
            (3 * CHUNK_BITS, BITS - 1),
        ],
        &[
            (64, 128),
            (4096, 8192),
            (2 * CHUNK_BITS - 64, 3 * CHUNK_BITS),
        ],
    ];
    for runs in cases {
        let mut levels = Levels::new(BITS);
        runs.iter().for_each(|&(from, to)| levels.set(from, to));
        for start in runs
            .iter()
            .flat_map(|&(from, to)| [from, from + 1, to - 1, to])
            .chain([0])
        {
            let expected: Vec<_> = runs
                .iter()
                .filter(|run| run.1 > start)
                .map(|&(from, to)| (from.max(start), to))
                .collect();
            let mut walk = levels.runs_from(start);
            let walked: Vec<_> = iter::from_fn(|| walk.next_run()).collect();
            assert_eq!(walked, expected, "from {start}");
        }
    }
}

#[test]
fn self_check_finds_each_kind_of_damage() {
    let mut sound = Levels::new(BITS);
    sound.set(100, 200);
    let damage = |change: fn(&mut Levels)| {
        let mut broken = sound.clone();
        change(&mut broken);
        broken.self_check()
    };
    assert_eq!(damage(|_| ()), Ok(()));
    assert_eq!(
        damage(|l| l.pages = Pages::new(3)),
        Err(Inconsistency::Shape)
    );
    assert_eq!(
        damage(|l| l.change(3, |chunk| chunk.set(0, 8))),
        Err(Inconsistency::PastTheEnd)
    );
    let wrong = Inconsistency::Count {
        cached: 109,
        actual: 100,
    };
    assert_eq!(damage(|l| l.ones.add(9)), Err(wrong));
    assert_eq!(
        damage(|l| l.present.set(1)),
        Err(Inconsistency::Summary { level: 3 })
    );
    assert_eq!(
        damage(|l| l.full.set(1)),
        Err(Inconsistency::Summary { level: 3 })
    );
}

#[test]
fn replaced_words_are_counted_and_summarised() {
    let mut levels = Levels::new(130);
    levels.replace_word(2, u64::MAX);
    assert_eq!(
        (levels.ones(), levels.word(2), levels.self_check()),
        (2, 3, Ok(()))
    );
    levels.replace_word(2, 2);
    assert_eq!(
        (levels.ones(), levels.next_one(0), levels.self_check()),
        (1, Some(129), Ok(()))
    );
    levels.replace_word(2, 0);
    assert_eq!(
        (levels.ones(), levels.next_one(0), levels.self_check()),
        (0, None, Ok(()))
    );
}

#[test]
fn the_largest_number_of_bits_costs_nothing_untouched() {
    let mut levels = Levels::new(1 << 40);
    levels.set((1 << 40) - 1, 1 << 40);
    assert_eq!(
        (levels.next_one(0), levels.ones()),
        (Some((1 << 40) - 1), 1)
    );
    levels.set(0, 1 << 40);
    assert_eq!((levels.next_zero(0), levels.ones()), (1 << 40, 1 << 40));
    assert_eq!(levels.pages.touched(), page::PAGE_CHUNKS);
}
