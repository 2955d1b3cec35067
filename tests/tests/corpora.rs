//! The committed corpora of the fuzz targets, replayed: what a fuzzer once found stays found.

#[expect(unreachable_pub, reason = "the same file is a library there")]
#[path = "../../fuzz/checks/lib.rs"]
mod checks;

use cohort_tests::mutants::root;

#[test]
fn nbd_peers() {
    replay("nbd", checks::nbd::check);
}

#[test]
fn qcow2_bitmaps() {
    replay("qcow2_bitmaps", checks::qcow2_bitmaps::check);
}

#[test]
fn qmp_peers() {
    replay("qmp", checks::qmp::check);
}

#[test]
fn serialised_bitmaps() {
    replay("serialised", checks::serialised::check);
}

#[test]
fn tracking_stores() {
    replay("store", checks::store::check);
}

/// Every file of a target's corpus, and each of them cut and flipped at some places.
fn replay(target: &str, check: fn(&[u8])) {
    let corpus = root().join("fuzz/corpus").join(target);
    let mut files = 0;
    for entry in std::fs::read_dir(&corpus).unwrap() {
        let mut bytes = std::fs::read(entry.unwrap().path()).unwrap();
        check(&bytes);
        for at in (0..bytes.len()).step_by(bytes.len() / 97 + 1) {
            check(&bytes[..at]);
            bytes[at] ^= 1 << (at % 8);
            check(&bytes);
            bytes[at] ^= 1 << (at % 8);
        }
        files += 1;
    }
    assert!(files > 0, "{} is empty", corpus.display());
}
