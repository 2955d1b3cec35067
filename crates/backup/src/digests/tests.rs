//! Digests: what is recorded reads back, and only from the file that was written.

use std::collections::BTreeMap;
use std::fs;

use cohort_block::{Device, MemoryDevice};
use proptest::prelude::*;

use super::*;

const CLUSTER: u64 = 4096;

fn read_back(sidecar: &Sidecar) -> BTreeMap<u64, Digest> {
    let mut all = BTreeMap::new();
    for run in sidecar.runs() {
        all.extend(
            run.clusters()
                .zip(sidecar.read(run, run.clusters()).unwrap()),
        );
    }
    all
}

#[derive(Clone, Debug)]
enum Deed {
    Data(u64, u64, u8),
    Zeroes(u64, u64),
    Forget(u64, u64),
}

fn deed() -> impl Strategy<Value = Deed> {
    let range = || (0u64..300, 1u64..40);
    prop_oneof![
        (range(), 1u8..).prop_map(|((first, count), byte)| Deed::Data(first, count, byte)),
        range().prop_map(|(first, count)| Deed::Zeroes(first, count)),
        range().prop_map(|(first, count)| Deed::Forget(first, count)),
    ]
}

proptest! {
    #[test]
    fn what_is_recorded_reads_back(layered: bool, deeds in prop::collection::vec(deed(), 0..30), odd in 0u64..CLUSTER) {
        let directory = tempfile::tempdir().unwrap();
        let size = 340 * CLUSTER - odd;
        let recording = Recording::create(directory.path(), size, CLUSTER, layered).unwrap();
        let mut model = BTreeMap::new();
        for deed in deeds {
            match deed {
                Deed::Data(first, count, byte) => {
                    let bytes = (count * CLUSTER).min(size - first * CLUSTER);
                    let data = vec![byte; bytes as usize];
                    recording.data(first, &data);
                    for (cluster, data) in (first..).zip(data.chunks(CLUSTER as usize)) {
                        model.insert(cluster, Digest::of(data, CLUSTER));
                    }
                }
                Deed::Zeroes(first, count) => {
                    recording.zeroes(first..first + count);
                    for cluster in first..first + count {
                        model.remove(&cluster);
                        if layered {
                            model.insert(cluster, Digest::of(&[], CLUSTER));
                        }
                    }
                }
                Deed::Forget(first, count) => {
                    recording.forget(first..first + count);
                    model.retain(|cluster, _| !(first..first + count).contains(cluster));
                }
            }
        }
        let path = directory.path().join("d");
        let root = recording.write(&path, |_| Ok(true)).unwrap();
        let sidecar = Sidecar::open(&path, root).unwrap();
        prop_assert_eq!((sidecar.size(), sidecar.cluster()), (size, CLUSTER));
        prop_assert_eq!(&read_back(&sidecar), &model);
        let again = Recording::create(directory.path(), size, CLUSTER, layered).unwrap();
        again.load(&sidecar).unwrap();
        prop_assert_eq!(again.write(&directory.path().join("e"), |_| Ok(true)).unwrap(), root);
    }
}

#[test]
fn every_changed_byte_of_the_file_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let recording = Recording::create(directory.path(), 8 * CLUSTER, CLUSTER, true).unwrap();
    recording.data(1, &[5; CLUSTER as usize]);
    recording.zeroes(4..6);
    let path = directory.path().join("d");
    let root = recording.write(&path, |_| Ok(true)).unwrap();
    let bytes = fs::read(&path).unwrap();
    for at in 0..bytes.len() {
        let mut wrong = bytes.clone();
        wrong[at] ^= 4;
        fs::write(&path, &wrong).unwrap();
        assert!(matches!(
            Sidecar::open(&path, root),
            Err(SidecarError::Changed { .. })
        ));
    }
    fs::write(&path, &bytes[..20]).unwrap();
    assert!(Sidecar::open(&path, root).is_err());
}

#[test]
fn missing_digests_are_read_from_the_image_and_stale_ones_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let image = MemoryDevice::new("image", 4 * CLUSTER - 100);
    image.write_at(&[1; 3 * CLUSTER as usize], 0).unwrap();
    image
        .write_at(&[2; CLUSTER as usize - 100], 3 * CLUSTER)
        .unwrap();
    let recording = Recording::create(directory.path(), image.size(), CLUSTER, true).unwrap();
    recording.data(0, &[1; CLUSTER as usize]);
    recording.data(1, &[9; CLUSTER as usize]);
    let held = [(0..1, false), (2..3, true), (3..4, false)];
    let read = recording
        .fit::<cohort_block::DeviceError>(&image, held.into_iter().map(Ok))
        .unwrap();
    assert_eq!(read, CLUSTER - 100, "only what had no digest");
    let path = directory.path().join("d");
    let root = recording.write(&path, |_| Ok(true)).unwrap();
    let expected = [
        (0, Digest::of(&[1; CLUSTER as usize], CLUSTER)),
        (2, Digest::of(&[], CLUSTER)),
        (3, Digest::of(&[2; CLUSTER as usize - 100], CLUSTER)),
    ];
    assert_eq!(
        read_back(&Sidecar::open(&path, root).unwrap()),
        BTreeMap::from(expected)
    );
}
