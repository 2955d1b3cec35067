//! Power loss at every moment of a session with the qcow2 builder.
//!
//! Every prefix of what a session asked of its file is replayed: all of it (the process was killed),
//! only what a sync covered (power was lost), and arbitrary subsets of the rest, with writes torn
//! between sectors. What is left must be, exactly, what the header on the disk promised when its seal
//! was made: contents, backing file, reference counts, no leaks.

#[path = "qcow2/log_file.rs"]
mod log_file;
#[path = "qcow2/reader.rs"]
mod reader;
#[path = "qcow2/session.rs"]
mod session;

use std::sync::Arc;

use cohort_backup::{Backing, BuildError, CreateOptions, Qcow2Builder};
use proptest::prelude::*;

use log_file::{Fate, LogFile, after_power_loss};
use reader::{Cluster, Image};
use session::{Session, Step};

/// A small source of chance that a failing case repeats.
#[derive(Debug, Clone)]
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        // The finaliser of SplitMix64 (Steele, Lea, Flood 2014).
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ word >> 31
    }

    fn fate(&mut self) -> Fate {
        let word = self.next();
        match word % 4 {
            0 => Fate::Done,
            1 => Fate::Lost,
            _ => Fate::Torn(word >> 2 & self.next() | self.next() & self.next()),
        }
    }
}

/// Replays losses of power at every place of the log; returns how many disks were looked at.
fn check_every_loss(session: &Session, start: &[u8], before: Option<&Image>, seed: u64) -> usize {
    let log = session.file.log();
    let mut chance = Chance(seed);
    let mut looked = 0;
    let mut look = |end: usize, fate: &mut dyn FnMut(usize) -> Fate| {
        let (disk, header) = after_power_loss(start, &log[..end], fate);
        let promised = match header {
            0 => before,
            _ => Some(&session.seals[header - 1]),
        };
        check_disk(&disk, promised, end);
        looked += 1;
    };
    for end in 0..=log.len() {
        look(end, &mut |_| Fate::Done);
        look(end, &mut |_| Fate::Lost);
        for _ in 0..3 {
            look(end, &mut |_| chance.fate());
        }
    }
    looked
}

fn check_disk(disk: &[u8], promised: Option<&Image>, end: usize) {
    match promised {
        Some(promised) => {
            let image = reader::read(disk).unwrap_or_else(|e| panic!("after {end}: {e}"));
            assert!(
                image == *promised,
                "after {end}: other contents than sealed"
            );
        }
        None => assert!(!reader::is_qcow2(disk), "after {end}: valid without a seal"),
    }
}

#[test]
fn a_scripted_session_survives_every_loss() {
    use Step::*;
    let script = [
        Write(0, 3),
        Write(60, 10),
        Seal,
        Write(1, 1),
        Zero(61, 2),
        Stage(5, 2),
        Seal,
        Publish,
        Write(149, 1),
        Stage(7, 1),
        Void,
        Write(20, 40),
        Seal,
        Reopen,
        Write(0, 150),
        Seal,
        Write(3, 30),
        KillInSeal(7),
        Write(4, 30),
        Write(90, 8),
        Seal,
        Write(2, 9),
        KillInSeal(9),
        Write(2, 80),
        Zero(0, 64),
        Seal,
        Seal,
        FullAfter(3),
        Write(8, 8),
        Seal,
        Seal,
        Zero(0, 150),
        Finish,
        Write(9, 1),
        Finish,
    ];
    for backing in [None, Some(backing("base.qcow2"))] {
        for cluster_size in [512, 1024] {
            let size = 149 * cluster_size as u64 + 77;
            let mut session = Session::create(size, cluster_size, backing.clone());
            session.run(&script);
            assert!(session.seals.len() >= 9, "{} seals", session.seals.len());
            let looked = check_every_loss(&session, &[], None, 1);
            assert!(looked > 500, "{looked} disks");
        }
    }
}

/// Packed data shares clusters, also with what was packed before a seal, is superseded, and takes up where it was.
#[test]
fn a_session_that_compresses_survives_every_loss() {
    use Step::*;
    let script = [
        Pack(0, 9),
        Pack(60, 10),
        Seal,
        Pack(1, 3),
        Write(62, 2),
        PackInSeal(20, 9, 3),
        Pack(148, 2),
        Zero(4, 2),
        Seal,
        Reopen,
        Pack(0, 150),
        KillInSeal(7),
        Pack(3, 30),
        FullAfter(1),
        Pack(40, 9),
        Seal,
        Write(0, 150),
        Seal,
        Pack(0, 150),
        Finish,
        Pack(9, 1),
        Finish,
    ];
    for cluster_size in [1024, 4096] {
        let size = 149 * cluster_size as u64 + 77;
        let mut session = Session::create(size, cluster_size, Some(backing("base.qcow2")));
        session.run(&script);
        assert!(session.seals.len() >= 6, "{} seals", session.seals.len());
        let looked = check_every_loss(&session, &[], None, 3);
        assert!(looked > 300, "{looked} disks");
    }
}

/// The file may end within a cluster that compressed data lies in: behind it nothing was written, or not yet.
#[test]
fn a_file_that_ends_behind_something_compressed_is_continued() {
    for clusters in 1..5 {
        let mut session = Session::create(100 << 10, 1024, None);
        // What is free again takes the tables, so that they do not lie behind what is compressed.
        session.run(&[Step::Write(0, 40), Step::Seal, Step::Zero(0, 40)]);
        session.run(&[Step::Seal, Step::Finish]);
        session.run(&[Step::Write(0, 9), Step::Seal, Step::Zero(0, 9), Step::Seal]);
        session.run(&[
            Step::Pack(0, 1),
            Step::FullAfter(0),
            Step::Pack(0, clusters),
            Step::Finish,
        ]);
        session.run(&[Step::Pack(0, 3), Step::PackInSeal(10, 20, clusters)]);
        session.run(&[Step::Reopen, Step::Write(3, 9), Step::Seal]);
        check_every_loss(&session, &[], None, clusters);
    }
}

#[test]
fn a_name_that_leaves_the_first_sector_is_there_from_the_first_seal() {
    let backing = backing(&"n".repeat(1023));
    let mut session = Session::create(20 << 12, 4096, Some(backing));
    session.run(&[
        Step::Write(3, 2),
        Step::Seal,
        Step::Reopen,
        Step::Zero(3, 1),
        Step::Finish,
    ]);
    check_every_loss(&session, &[], None, 2);
}

/// Only in the page cache: the seal that a killed process left is not the one on the disk yet.
#[test]
fn what_a_killed_process_left_unflushed_is_made_durable_before_it_is_built_upon() {
    for operations in 0..12 {
        let mut session = Session::create(40 << 9, 512, None);
        let kill = Step::KillInSeal(operations);
        session.run(&[Step::Write(0, 20), Step::Seal, Step::Write(0, 20), kill]);
        session.run(&[Step::Write(20, 20), Step::Write(0, 5), Step::Seal]);
        check_every_loss(&session, &[], None, operations);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn random_sessions_survive_every_loss(
        steps in prop::collection::vec(any_step(), 1..40),
        (clusters, tail) in (1_u64..200, 0_u64..512),
        cluster_bits in 9_u32..12,
        layer in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let size = (clusters << cluster_bits) - tail;
        let backing = layer.then(|| backing("below"));
        let mut session = Session::create(size, 1 << cluster_bits, backing);
        session.run(&steps);
        check_every_loss(&session, &[], None, seed);
    }

    /// Once more from a disk that lost power: the second builder finds what the first one left.
    #[test]
    fn a_session_after_a_loss_survives_the_next(
        first in prop::collection::vec(any_step(), 1..25),
        second in prop::collection::vec(any_step(), 1..25),
        place in any::<prop::sample::Index>(),
        seed in any::<u64>(),
    ) {
        let mut session = Session::create(100 << 10, 1024, Some(backing("below")));
        session.run(&first);
        session.run(&[Step::Write(seed % 90, 5), Step::Seal, Step::Write(2, 2), Step::Seal]);
        let log = session.file.log();
        let mut chance = Chance(seed);
        let end = place.index(log.len()) + 1;
        let (disk, header) = after_power_loss(&[], &log[..end], |_| chance.fate());
        if header == 0 {
            return Ok(());
        }
        let image = session.seals[header - 1].clone();
        let mut session = Session::resume(disk.clone(), &image, 1 << 30);
        session.run(&second);
        check_every_loss(&session, &disk, Some(&image), seed);
    }

    /// Whatever a file holds, opening it is an answer, not a panic; and what opens has an exact map.
    /// Contents are not looked at on opening: a digest or whoever inflates them finds their damage.
    #[test]
    fn garbage_is_refused(
        steps in prop::collection::vec(any_step(), 1..12),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut session = Session::create(70 << 10, 1024, Some(backing("below")));
        session.run(&steps);
        session.run(&[Step::Write(1, 3), Step::Zero(4, 2), Step::Pack(9, 5), Step::Seal]);
        let mut bytes = session.file.bytes();
        for (at, value, in_header) in damage {
            let room = if in_header { 144 } else { bytes.len() };
            bytes[at.index(room)] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if Qcow2Builder::open(LogFile::holding(bytes.clone())).is_ok() {
            reader::read(&bytes).unwrap();
        }
    }
}

/// A writer finds its table gone from memory; while it reads it from the file, a seal moves the
/// table and its old place is taken for data.
#[test]
fn a_table_that_moved_while_it_was_read_is_read_again() {
    let file = LogFile::default();
    let options = CreateOptions::new(64 << 9).cluster_size(512);
    let builder = Arc::new(Qcow2Builder::create(file.clone(), &options).unwrap());
    let write = |index: u64, fill: u8| builder.write_cluster(index, &[fill; 512]).unwrap();
    write(0, 1);
    builder.seal().unwrap();
    let other = Arc::clone(&builder);
    // The first operation writes the data, the second one reads the table.
    file.interrupt(1, move || {
        other.write_cluster(1, &[2; 512]).unwrap();
        other.seal().unwrap();
        let room = other.file_bytes();
        other.write_clusters(2, &[3; 512 * 40]).unwrap();
        (50..55).for_each(|index| other.write_cluster(index, &[4; 512]).unwrap());
        other.seal().unwrap();
        assert!(
            other.file_bytes() < room + 512 * 55,
            "old places are used again"
        );
    });
    write(63, 5);
    builder.seal().unwrap();
    let image = reader::read(&file.bytes()).unwrap();
    let first = |index: usize| match &image.clusters[index] {
        Cluster::Data(data) => data[0],
        Cluster::Unmapped | Cluster::Zero | Cluster::Damaged => 0,
    };
    assert_eq!([0, 1, 41, 42, 50, 63].map(first), [1, 2, 3, 0, 4, 5]);
}

#[test]
fn room_of_what_came_to_nothing_is_used_again() {
    let file = LogFile::default();
    let options = CreateOptions::new(256 << 9).cluster_size(512);
    let builder = Qcow2Builder::create(file.clone(), &options).unwrap();
    let data = vec![7; 20 << 9];
    builder.write_clusters(0, &data).unwrap();
    builder.seal().unwrap();
    let room = builder.file_bytes() + (20 << 9) + (12 << 9);
    for round in 0..50 {
        // A copy that is voided, one that is superseded, and a seal that finds no space.
        drop(builder.stage(20, &data).unwrap());
        builder.write_clusters(0, &data).unwrap();
        file.fill_after(Some(round % 3));
        assert!(builder.seal().is_err());
        file.fill_after(None);
        builder.seal().unwrap();
        assert!(
            builder.file_bytes() <= room,
            "round {round}: {}",
            builder.file_bytes()
        );
    }
    builder.write_zero_clusters(0, 256).unwrap();
    builder.finish().unwrap();
    assert!(
        file.bytes().len() <= 60 << 9,
        "the tail is cut: {}",
        file.bytes().len()
    );
    assert!(matches!(
        builder.write_cluster(0, &[1; 512]),
        Err(BuildError::Finished)
    ));
    reader::read(&file.bytes()).unwrap();
}

#[test]
fn damage_is_told_apart() {
    let mut session = Session::create(70 << 9, 512, None);
    session.run(&[Step::Write(1, 3), Step::Seal]);
    let open = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = session.file.bytes();
        change(&mut bytes);
        Qcow2Builder::open(LogFile::holding(bytes)).map(drop)
    };
    let unsupported = |change: &dyn Fn(&mut Vec<u8>), named: &str| match open(change) {
        Err(BuildError::Unsupported { feature }) => assert!(feature.contains(named), "{feature}"),
        other => panic!("{other:?}"),
    };
    open(&|_| {}).unwrap();
    assert!(matches!(
        open(&|bytes| bytes.clear()),
        Err(BuildError::NotSealed)
    ));
    assert!(matches!(
        open(&|bytes| bytes[0] = 0),
        Err(BuildError::NotSealed)
    ));
    unsupported(&|bytes| bytes[7] = 2, "version");
    unsupported(&|bytes| bytes[35] = 1, "encryption");
    unsupported(&|bytes| bytes[63] = 1, "snapshots");
    unsupported(&|bytes| bytes[79] = 1, "incompatible");
    unsupported(&|bytes| bytes[95] = 1, "bitmaps");
    let damaged = |change: &dyn Fn(&mut Vec<u8>)| {
        assert!(matches!(open(change), Err(BuildError::Damaged { .. })));
    };
    damaged(&|bytes| bytes[23] = 40);
    damaged(&|bytes| bytes[47] = 1);
    damaged(&|bytes| bytes[40..48].fill(0x7f));
    damaged(&|bytes| bytes[56..60].fill(0xff));
    damaged(&|bytes| bytes.truncate(2048));
    // What is compressed ends the file.
    let mut session = Session::create(70 << 10, 1024, None);
    session.run(&[Step::Write(0, 40), Step::Seal, Step::Zero(0, 40)]);
    session.run(&[Step::Seal, Step::Pack(0, 1), Step::Finish]);
    let mut bytes = session.file.bytes();
    bytes.truncate(bytes.len() - 1);
    let error = Qcow2Builder::open(LogFile::holding(bytes)).unwrap_err();
    assert!(
        error.to_string().contains("compressed data lies beyond"),
        "{error}"
    );
}

fn backing(file: &str) -> Backing {
    Backing {
        file: file.into(),
        format: "qcow2".into(),
    }
}

fn any_step() -> impl Strategy<Value = Step> {
    let place = || (0_u64..200, prop_oneof![4 => 1_u64..4, 1 => 1_u64..90]);
    prop_oneof![
        8 => place().prop_map(|(first, count)| Step::Write(first, count)),
        4 => place().prop_map(|(first, count)| Step::Pack(first, count)),
        3 => place().prop_map(|(first, count)| Step::Zero(first, count)),
        3 => place().prop_map(|(first, count)| Step::Stage(first, count)),
        3 => Just(Step::Publish),
        1 => Just(Step::Void),
        6 => Just(Step::Seal),
        4 => (place(), 0_u64..14).prop_map(|((first, count), operation)| {
            Step::WriteInSeal(first, count, operation)
        }),
        2 => (place(), 0_u64..14).prop_map(|((first, count), operation)| {
            Step::PackInSeal(first, count, operation)
        }),
        1 => Just(Step::Finish),
        2 => Just(Step::Reopen),
        2 => (0_u64..14).prop_map(Step::KillInSeal),
        1 => (0_u64..9).prop_map(Step::FullAfter),
    ]
}
