//! Ours beside QEMU's tools.

use cohort_bitmap::store::qcow2::{Bitmaps, Condition, Qcow2Error};
use cohort_bitmap::{DirtyBitmap, Granularity};

use crate::kit::{
    Disk, Fill, Numbers, as_qemu_lists, as_qemu_reads, assert_clean, attempt, filled, have_qemu,
    qemu_io, run,
};

struct Case {
    cluster: u64,
    refcount_bits: u64,
    size: u64,
    granularity: u64,
}

/// Sizes are whole sectors and, most of them, whole nothing else.
const CASES: &[Case] = &[
    // Tables of three clusters.
    Case {
        cluster: 512,
        refcount_bits: 16,
        size: (300 << 20) + 512,
        granularity: 512,
    },
    Case {
        cluster: 512,
        refcount_bits: 64,
        size: (33 << 20) + 7 * 512,
        granularity: 512,
    },
    Case {
        cluster: 4096,
        refcount_bits: 1,
        size: (130 << 20) + 512,
        granularity: 512,
    },
    Case {
        cluster: 4096,
        refcount_bits: 2,
        size: (9 << 20) + 512,
        granularity: 4096,
    },
    Case {
        cluster: 65536,
        refcount_bits: 8,
        size: (9 << 20) + 7 * 512,
        granularity: 65536,
    },
    Case {
        cluster: 65536,
        refcount_bits: 16,
        size: 5 << 30,
        granularity: 512,
    },
    Case {
        cluster: 65536,
        refcount_bits: 32,
        size: (1 << 40) + 512,
        granularity: 2 << 20,
    },
    Case {
        cluster: 2 << 20,
        refcount_bits: 4,
        size: 512,
        granularity: 1 << 31,
    },
    Case {
        cluster: 2 << 20,
        refcount_bits: 16,
        size: (20 << 30) + 512,
        granularity: 1024,
    },
];

const FILLS: [Fill; 5] = [
    Fill::Nothing,
    Fill::Everything,
    Fill::Ends,
    Fill::Random(3),
    Fill::Mixed(4),
];

fn create(dir: &std::path::Path, case: &Case) {
    let Case {
        cluster,
        refcount_bits,
        size,
        ..
    } = case;
    let options = format!("cluster_size={cluster},refcount_bits={refcount_bits}");
    run(
        dir,
        &format!("qemu-img create -q -f qcow2 -o {options} disk {size}"),
    );
}

#[test]
fn qemu_reads_bit_for_bit_what_we_wrote() {
    if !have_qemu() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    for case in CASES {
        create(dir, case);
        let mut ours = Bitmaps::open(Disk::open(&dir.join("disk"))).unwrap();
        for (index, fill) in FILLS.into_iter().enumerate() {
            let bits = filled(case.size, case.granularity, fill);
            ours.add(&format!("b{index}"), &bits, index % 2 == 0)
                .unwrap();
        }
        assert_clean(dir, "disk");
        let listed: Vec<_> = (0..FILLS.len())
            .map(|index| {
                let flags = if index % 2 == 0 {
                    vec!["auto".to_owned()]
                } else {
                    vec![]
                };
                (format!("b{index}"), case.granularity, flags)
            })
            .collect();
        assert_eq!(as_qemu_lists(dir, "disk"), listed);
        for (index, fill) in FILLS.into_iter().enumerate() {
            let bits = filled(case.size, case.granularity, fill);
            let seen = as_qemu_reads(dir, "disk", &format!("b{index}"), &bits);
            assert!(
                seen == bits,
                "{fill:?} of {} in clusters of {}",
                case.size,
                case.cluster
            );
        }
    }
}

#[test]
fn we_read_bit_for_bit_what_qemu_wrote() {
    if !have_qemu() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    for (index, case) in CASES.iter().enumerate() {
        create(dir, case);
        let (size, granularity) = (case.size, case.granularity);
        run(
            dir,
            &format!("qemu-img bitmap --add -g {granularity} disk kept"),
        );
        run(
            dir,
            &format!("qemu-img bitmap --add --disable -g {granularity} disk idle"),
        );
        let mut written = filled(size, granularity, Fill::Nothing);
        let mut numbers = Numbers(index as u64);
        let mut commands = Vec::new();
        for _ in 0..30 {
            let sectors = size / 512;
            let offset = numbers.below(sectors) * 512;
            let length = (numbers.below(64.min(sectors)) * 512 + 512).min(size - offset);
            commands.push(format!("write -z {offset} {length}"));
            written.set(offset, length).unwrap();
        }
        qemu_io(dir, &commands);
        let ours = Bitmaps::open(Disk::open(&dir.join("disk"))).unwrap();
        assert!(ours.read("kept").unwrap() == written, "case {index}");
        assert!(ours.read("idle").unwrap().is_empty());
        assert!(ours.entry("kept").unwrap().is_enabled());
        assert!(!ours.entry("idle").unwrap().is_enabled());
    }
}

/// Back and forth: each side goes on with what the other left.
#[test]
fn both_sides_go_on_with_what_the_other_left() {
    if !have_qemu() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let size = (64 << 20) + 512;
    run(dir, &format!("qemu-img create -q -f qcow2 disk {size}"));
    let open = || Bitmaps::open(Disk::open(&dir.join("disk"))).unwrap();
    let (fine, coarse) = (
        filled(size, 4096, Fill::Random(1)),
        filled(size, 65536, Fill::Ends),
    );
    open().add("fine", &fine, false).unwrap();
    open().add("coarse", &coarse, true).unwrap();
    run(dir, "qemu-img bitmap --add --disable -g 64k disk sum");
    run(dir, "qemu-img bitmap --merge fine disk sum");
    run(dir, "qemu-img bitmap --merge coarse disk sum");
    let mut sum = coarse.clone();
    sum.merge(&fine).unwrap();
    assert!(open().read("sum").unwrap() == sum);

    run(dir, "qemu-img bitmap --enable disk fine");
    run(dir, "qemu-img bitmap --disable disk coarse");
    assert!(open().entry("fine").unwrap().is_enabled());
    assert!(!open().entry("coarse").unwrap().is_enabled());
    open().set_enabled("fine", false).unwrap();
    let left = open().subtract("sum", &coarse).unwrap();
    let mut expected = sum.clone();
    expected.subtract(&coarse).unwrap();
    assert!(left == expected && as_qemu_reads(dir, "disk", "sum", &sum) == expected);

    run(dir, "qemu-img bitmap --clear disk fine");
    assert!(open().read("fine").unwrap().is_empty());
    run(dir, "qemu-img bitmap --remove disk coarse");
    let error = open().read("coarse").unwrap_err();
    let expected = r#"the image has no bitmap "coarse"; it has "fine", "sum""#;
    assert_eq!(error.to_string(), expected);
    open().remove("fine").unwrap();
    open().remove("sum").unwrap();
    assert_eq!(as_qemu_lists(dir, "disk"), []);
    assert_clean(dir, "disk");
    run(dir, "qemu-img bitmap --add disk again");
    assert_clean(dir, "disk");
}

/// New blocks of counts, and a longer table of them, while the file is full.
#[test]
fn counts_grow_with_the_file() {
    if !have_qemu() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let size = 200 << 20;
    for refcount_bits in [1, 16, 64] {
        let options = format!("cluster_size=512,refcount_bits={refcount_bits}");
        run(
            dir,
            &format!("qemu-img create -q -f qcow2 -o {options} disk {size}"),
        );
        qemu_io(dir, &["write 0 1M".to_owned()]);
        let mut bitmaps = Bitmaps::open(Disk::open(&dir.join("disk"))).unwrap();
        for index in 0..30 {
            // Every second granule: 100 clusters of bits each.
            let mut bits = DirtyBitmap::new(size, Granularity::new(512).unwrap()).unwrap();
            for at in (index * 512..size).step_by(1024) {
                bits.set(at, 512).unwrap();
            }
            bitmaps.add(&format!("b{index}"), &bits, false).unwrap();
        }
        assert_clean(dir, "disk");
        for index in 0..30 {
            bitmaps.remove(&format!("b{index}")).unwrap();
        }
        assert_clean(dir, "disk");
    }
}

#[test]
fn a_backing_file_stays_known_when_its_name_must_move() {
    if !have_qemu() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    run(dir, "qemu-img create -q -f qcow2 base 8M");
    for cluster in [512, 4096, 65536] {
        let options = format!("cluster_size={cluster}");
        run(
            dir,
            &format!("qemu-img create -q -f qcow2 -o {options} -b base -F qcow2 disk"),
        );
        let bits = filled(8 << 20, 65536, Fill::Ends);
        let mut bitmaps = Bitmaps::open(Disk::open(&dir.join("disk"))).unwrap();
        for round in 0..3 {
            bitmaps.add("b", &bits, true).unwrap();
            let info = run(dir, "qemu-img info -f qcow2 disk");
            assert!(info.contains("backing file: base"), "round {round}: {info}");
            assert!(
                info.contains("backing file format: qcow2"),
                "round {round}: {info}"
            );
            assert!(as_qemu_reads(dir, "disk", "b", &bits) == bits);
            bitmaps.remove("b").unwrap();
            assert_clean(dir, "disk");
        }
    }
}

/// A layer each: what is in the image beneath is asked for there.
#[test]
fn each_layer_of_a_chain_has_bitmaps_of_its_own() {
    if !have_qemu() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    run(dir, "qemu-img create -q -f qcow2 base 8M");
    run(dir, "qemu-img bitmap --add base below");
    run(dir, "qemu-img create -q -f qcow2 -b base -F qcow2 top");
    run(dir, "qemu-img bitmap --add top above");
    let names = |image: &str| {
        let bitmaps = Bitmaps::open(Disk::open(&dir.join(image))).unwrap();
        bitmaps
            .list()
            .iter()
            .map(|entry| entry.name().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        (names("base"), names("top")),
        (vec!["below".into()], vec!["above".to_owned()])
    );
}

#[test]
fn in_use_means_the_same_on_both_sides() {
    if !have_qemu() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    run(dir, "qemu-img create -q -f qcow2 disk 8M");
    run(dir, "qemu-img bitmap --add disk kept");
    run(dir, "qemu-img bitmap --add --disable disk idle");
    // QEMU is killed while it has the image: it marks both, even without a write.
    let abort = attempt(dir, "qemu-io -f qcow2 -c abort disk");
    assert!(!abort.status.success());
    let mut ours = Bitmaps::open(Disk::open(&dir.join("disk"))).unwrap();
    assert!(matches!(
        ours.read("kept"),
        Err(Qcow2Error::Inconsistent { .. })
    ));
    assert_eq!(*ours.entry("idle").unwrap().condition(), Condition::InUse);
    ours.remove("kept").unwrap();
    ours.remove("idle").unwrap();
    assert_clean(dir, "disk");

    // We are killed while we have it: QEMU believes the disabled one, and no other.
    ours.add("kept", &filled(8 << 20, 65536, Fill::Ends), true)
        .unwrap();
    ours.add("idle", &filled(8 << 20, 65536, Fill::Random(9)), false)
        .unwrap();
    let mut held = ours.hold().unwrap();
    let flags = |dir| -> Vec<_> {
        as_qemu_lists(dir, "disk")
            .into_iter()
            .map(|(name, _, flags)| (name, flags))
            .collect()
    };
    let both = vec!["in-use".to_owned(), "auto".to_owned()];
    assert_eq!(
        flags(dir),
        [("kept".to_owned(), both), ("idle".into(), vec![])]
    );
    assert_clean(dir, "disk");

    let written = filled(8 << 20, 512, Fill::Random(10));
    held[0].add(&written).unwrap();
    ours.release(&held).unwrap();
    let mut expected = filled(8 << 20, 65536, Fill::Ends);
    expected.merge(&written).unwrap();
    assert_eq!(flags(dir)[0], ("kept".to_owned(), vec!["auto".to_owned()]));
    assert!(as_qemu_reads(dir, "disk", "kept", &expected) == expected);
    assert_clean(dir, "disk");
}
