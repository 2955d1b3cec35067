//! Killed, cut off from power, or failing at any step of a change: the image is sound, and its bitmaps are the
//! old ones, the new ones, or not believed. Never wrong ones.

use std::collections::BTreeMap;

use cohort_bitmap::DirtyBitmap;
use cohort_bitmap::store::qcow2::{Bitmaps, Condition, Qcow2Error, Saved};

use crate::kit::{Fill, Memory, Numbers, Step, attempt, filled, have_qemu, image, put, told};

const SIZE: u64 = 40 << 20;

/// What the bitmaps of an image say, by name.
type Truth = BTreeMap<String, DirtyBitmap>;

type Start = fn() -> Vec<u8>;

type Change = fn(&mut Bitmaps<Memory>) -> Result<(), Qcow2Error>;

/// What is done, to which image, and how.
const CHANGES: &[(&str, Start, Change)] = &[
    ("add", two, |bitmaps| {
        bitmaps.add("new", &filled(SIZE, 512, Fill::Mixed(5)), true)
    }),
    ("remove", two, |bitmaps| bitmaps.remove("one")),
    ("replace", two, |bitmaps| {
        bitmaps.replace("two", &filled(SIZE, 1024, Fill::Random(6)))
    }),
    ("subtract", two, |bitmaps| {
        bitmaps
            .subtract("one", &filled(SIZE, 512, Fill::Mixed(1)))
            .map(drop)
    }),
    ("remove all", two, |bitmaps| {
        bitmaps.remove("one")?;
        bitmaps.remove("two")
    }),
    ("hold and release", two, |bitmaps| {
        let mut held = bitmaps.hold()?;
        held[0].add(&filled(SIZE, 512, Fill::Random(7)))?;
        bitmaps.release(&held)
    }),
    ("hold and save", two, |bitmaps| {
        let held = [bitmaps.hold()?, bitmaps.hold_disabled()?].concat();
        let mut one = held[0].bits().clone();
        one.merge(&filled(SIZE, 512, Fill::Random(7)))?;
        bitmaps.save(&[
            saved("one", true, Some(one)),
            saved("new", false, Some(filled(SIZE, 4096, Fill::Mixed(5)))),
        ])
    }),
    ("add the first", bare, |bitmaps| {
        bitmaps.add("new", &filled(SIZE, 4096, Fill::Mixed(5)), true)
    }),
    ("add across sectors", crowded, |bitmaps| {
        bitmaps.add("new", &filled(SIZE, 4096, Fill::Mixed(5)), true)?;
        bitmaps.add("newer", &filled(SIZE, 65_536, Fill::Ends), false)?;
        bitmaps.remove("new")?;
        bitmaps.remove("newer")
    }),
];

fn saved(name: &str, enabled: bool, bits: Option<DirtyBitmap>) -> Saved {
    Saved {
        name: name.to_owned(),
        enabled,
        bits,
    }
}

fn bare() -> Vec<u8> {
    image(9, 4, SIZE)
}

/// An image whose header has so much in it already that what leads to the bitmaps lies in two sectors.
fn crowded() -> Vec<u8> {
    let mut bytes = image(12, 4, SIZE);
    let others = 376_u32;
    bytes[104..108].copy_from_slice(&[0x12, 0x34, 0x56, 0x78]);
    bytes[108..112].copy_from_slice(&others.to_be_bytes());
    bytes
}

/// Clusters of 512 bytes: a change has hundreds of writes, and counts grow.
fn two() -> Vec<u8> {
    let memory = Memory::new(image(9, 4, SIZE));
    let mut bitmaps = Bitmaps::open(memory.clone()).unwrap();
    bitmaps
        .add("one", &filled(SIZE, 512, Fill::Random(1)), true)
        .unwrap();
    bitmaps
        .add("two", &filled(SIZE, 4096, Fill::Mixed(2)), false)
        .unwrap();
    memory.bytes()
}

/// What an image is believed to say; those in use are not believed.
fn truth(bytes: &[u8]) -> Truth {
    let bitmaps = Bitmaps::open(Memory::new(bytes.to_vec())).expect("the bitmaps open");
    if bitmaps.is_stale() {
        return Truth::new();
    }
    let believed = bitmaps
        .list()
        .iter()
        .filter(|entry| *entry.condition() == Condition::Consistent);
    believed
        .map(|entry| {
            (
                entry.name().to_owned(),
                bitmaps.read(entry.name()).expect("it reads"),
            )
        })
        .collect()
}

/// What a whole change makes of the image, every truth on the way (between steps of several changes), and
/// what was written.
fn play(start: Start, change: Change) -> (Vec<Truth>, Vec<Step>) {
    let begin = start();
    let memory = Memory::new(begin.clone());
    change(&mut Bitmaps::open(memory.clone()).unwrap()).unwrap();
    let steps = memory.steps();
    // What holds at each sync, in order, is what may be found.
    let (mut now, mut truths) = (begin.clone(), vec![truth(&begin)]);
    for step in &steps {
        match step {
            Step::Write { offset, bytes } => put(&mut now, *offset, bytes),
            Step::Sync => truths.push(truth(&now)),
        }
    }
    truths.push(truth(&now));
    (truths, steps)
}

/// What is believed was the truth at some moment of the change: all of it, at one moment.
fn assert_believable(what: &str, found: &Truth, truths: &[Truth]) {
    let names: Vec<_> = found.keys().collect();
    assert!(
        truths.contains(found),
        "{what}: {names:?} say what was never true"
    );
}

/// Whether an image is sound; some clusters may be lost.
fn assert_sound(what: &str, bytes: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("disk"), bytes).unwrap();
    let output = attempt(folder.path(), "qemu-img check -f qcow2 disk");
    // 0: clean. 3: clusters that nothing refers to.
    assert!(
        matches!(output.status.code(), Some(0 | 3)),
        "{what}: {}",
        told(&output)
    );
}

#[test]
fn killed_after_any_write_an_image_is_sound() {
    let peers = have_qemu();
    for (name, start, change) in CHANGES {
        let (truths, steps) = play(*start, *change);
        let mut now = start();
        for (index, step) in steps.iter().enumerate() {
            let what = format!("{name}, killed before step {index} of {}", steps.len());
            let found = truth(&now);
            assert_believable(&what, &found, &truths);
            if peers && (index % 97 == 0 || steps.len() - index < 4) {
                assert_sound(&what, &now);
            }
            if let Step::Write { offset, bytes } = step {
                put(&mut now, *offset, bytes);
            }
        }
        assert!(truth(&now) == truths[truths.len() - 1], "{name}");
    }
}

/// Of what was written since the last sync any part may be there, in sectors, in any order.
#[test]
fn without_power_at_any_moment_an_image_is_sound() {
    let peers = have_qemu();
    let mut numbers = Numbers(11);
    for (name, start, change) in CHANGES {
        let (truths, steps) = play(*start, *change);
        let mut durable = start();
        let mut since: Vec<(u64, Vec<u8>)> = Vec::new();
        for (index, step) in steps.iter().enumerate() {
            match step {
                Step::Write { offset, bytes } => since.push((*offset, bytes.clone())),
                Step::Sync => {
                    for _ in 0..4 {
                        let found = lose_some(&durable, &since, &mut numbers);
                        let what =
                            format!("{name}, no power before step {index} of {}", steps.len());
                        assert_believable(&what, &truth(&found), &truths);
                        if peers {
                            assert_sound(&what, &found);
                        }
                    }
                    for (offset, bytes) in since.drain(..) {
                        put(&mut durable, offset, &bytes);
                    }
                }
            }
        }
        assert!(since.is_empty(), "{name}: what counts is synced at the end");
    }
}

/// What may be found of unsynced writes: each of their sectors or not, and of those that are lost at the end of the file
/// either zeroes or nothing.
fn lose_some(durable: &[u8], since: &[(u64, Vec<u8>)], numbers: &mut Numbers) -> Vec<u8> {
    let mut found = durable.to_vec();
    let odds = numbers.below(5);
    let grown = numbers.below(2) == 0;
    for (offset, bytes) in since {
        let mut at = 0;
        while at < bytes.len() {
            let sector = (512 - (offset + at as u64) % 512) as usize;
            let end = (at + sector).min(bytes.len());
            if numbers.below(4) < odds {
                put(&mut found, offset + at as u64, &bytes[at..end]);
            } else if grown {
                let length = found.len().max(*offset as usize + end);
                found.resize(length, 0);
            }
            at = end;
        }
    }
    found
}

#[test]
fn a_write_that_fails_leaves_the_old_or_the_new() {
    for (name, start, change) in CHANGES {
        let (truths, steps) = play(*start, *change);
        let many = steps.len();
        for left in (0..many).filter(|left| left % 7 == 0 || many - left < 12) {
            let memory = Memory::new(start());
            memory.fail_after(left);
            let mut bitmaps = Bitmaps::open(memory.clone()).unwrap();
            let error = change(&mut bitmaps).expect_err("a failing file");
            assert!(error.to_string().contains("injected"), "{error}");
            let what = format!("{name}, failed at step {left}");
            assert_believable(&what, &truth(&memory.bytes()), &truths);
        }
    }
}
