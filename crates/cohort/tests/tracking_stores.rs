//! Backups of offline disks that go by the tracking store beside them, when it is named.

mod lab;

use std::os::unix::fs::FileExt;

use cohort_bitmap::store::Mode;
use cohort_block::TrackingStore;
use lab::Lab;

const SIZE: u64 = 4 << 20;

/// Backs `a` up; gives how much was copied and what was said.
#[track_caller]
fn back_up(lab: &Lab, more: &[&str]) -> (u64, String) {
    let common = ["backup", "a=a.raw", "--to", "R", "--json"];
    let ran = lab.cohort(common.iter().chain(more)).exits(0);
    let disk = &ran.json()["disks"][0];
    let copied = disk["copied_bytes"].as_u64().expect("bytes");
    (copied, disk["notes"].to_string())
}

#[test]
fn a_store_is_gone_by_when_it_is_named_and_nothing_refutes_it() {
    let lab = Lab::new();
    let path = lab.path("a.raw");
    let file = std::fs::File::create(&path).expect("a disk");
    file.set_len(SIZE).expect("its size");
    file.write_all_at(&[7; 200_000], 1 << 20).expect("its data");
    let beside = TrackingStore::path_beside(&path);
    let store = TrackingStore::create(&beside, &path, SIZE, Mode::PowerLoss).expect("a store");
    store.close().expect("closed");
    let named = ["--bitmap", "a=a.raw.cohort"];

    let (_, said) = back_up(&lab, &named);
    assert!(said.contains("is not gone by yet"), "{said}");
    let (copied, said) = back_up(&lab, &named);
    assert_eq!(copied, 0);
    assert!(
        said.contains("is known from tracking store") && said.contains(": exact"),
        "{said}"
    );
    // It need not be named, and what refutes it does so all the same.
    file.write_all_at(&[8; 65536], 2 << 20)
        .expect("written past the store");
    let (copied, said) = back_up(&lab, &[]);
    assert_eq!(copied, 65536);
    assert!(said.contains("was changed after the store"), "{said}");
    // That backup named a new set.
    let (copied, said) = back_up(&lab, &[]);
    assert_eq!(copied, 0);
    assert!(said.contains(": exact"), "{said}");
    file.write_all_at(&[9; 65536], 3 << 20)
        .expect("written past the store");
    let (copied, said) = back_up(&lab, &named);
    assert_eq!(copied, 65536);
    assert!(said.contains("is not gone by yet"), "{said}");
    lab.restores_to("R", "a", "a.raw");

    std::fs::remove_file(&beside).expect("removed");
    let ran = lab.cohort([
        "backup",
        "a=a.raw",
        "--to",
        "R",
        "--bitmap",
        "a=a.raw.cohort",
    ]);
    assert_ne!(ran.code, Some(0));
    ran.says(&["a.raw.cohort", "the disk is compared"]);
}
