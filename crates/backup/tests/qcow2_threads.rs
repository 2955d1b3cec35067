//! Many threads write while another seals; power is lost at every moment.

#[path = "qcow2/log_file.rs"]
#[allow(dead_code, reason = "shared with the replay of scripted sessions")]
mod log_file;
#[path = "qcow2/reader.rs"]
mod reader;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use cohort_backup::{CreateOptions, Qcow2Builder};

use log_file::{Fate, LogFile, after_power_loss};
use reader::Cluster;

const CLUSTER: usize = 512;
const CLUSTERS: usize = 300;
const WRITERS: usize = 3;
const SEALS: usize = 25;

/// For each cluster the newest version, as of some moment.
type Versions = Vec<u64>;

#[test]
fn a_seal_holds_what_was_published_before_it_and_nothing_torn() {
    let file = LogFile::default();
    let options = CreateOptions::new((CLUSTERS * CLUSTER) as u64).cluster_size(CLUSTER as u64);
    let builder = Qcow2Builder::create(file.clone(), &options).unwrap();
    let begun: Vec<AtomicU64> = (0..CLUSTERS).map(|_| AtomicU64::new(0)).collect();
    let published: Vec<AtomicU64> = (0..CLUSTERS).map(|_| AtomicU64::new(0)).collect();
    let read = |versions: &[AtomicU64]| -> Versions {
        versions
            .iter()
            .map(|version| version.load(Ordering::SeqCst))
            .collect()
    };
    let stop = AtomicBool::new(false);
    // Writers stay at most so many writes ahead of the seals, to keep the log short.
    let ahead = AtomicU64::new(40);

    // One bound from below and one from above for each seal.
    let bounds: Vec<(Versions, Versions)> = thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (builder, begun, published) = (&builder, &begun, &published);
            let (stop, ahead) = (&stop, &ahead);
            scope.spawn(move || {
                for version in 1.. {
                    while version > ahead.load(Ordering::SeqCst) && !stop.load(Ordering::SeqCst) {
                        thread::yield_now();
                    }
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    // Each writer has clusters of its own, so that versions have an order.
                    let stride = (version as usize * 7 + writer) % (CLUSTERS / WRITERS);
                    let index = stride * WRITERS + writer;
                    begun[index].store(version, Ordering::SeqCst);
                    builder
                        .write_cluster(index as u64, &data(index, version))
                        .unwrap();
                    published[index].store(version, Ordering::SeqCst);
                }
            });
        }
        let seal = |_| {
            ahead.fetch_add(40, Ordering::SeqCst);
            // At least one write between two seals, so that each writes a header.
            let before = read(&published);
            while read(&published) == before {
                thread::yield_now();
            }
            let least = read(&published);
            builder.seal().unwrap();
            (least, read(&begun))
        };
        let bounds = (0..SEALS).map(seal).collect();
        stop.store(true, Ordering::SeqCst);
        bounds
    });
    assert_eq!(file.headers(), SEALS);

    let log = file.log();
    let step = (log.len() / 400).max(1);
    let mut seen = 0;
    for end in (0..=log.len()).step_by(step) {
        let fates: [fn(usize) -> Fate; 3] = [
            |_| Fate::Done,
            |_| Fate::Lost,
            |at| if at % 3 == 0 { Fate::Done } else { Fate::Lost },
        ];
        for fate in fates {
            let (disk, header) = after_power_loss(&[], &log[..end], fate);
            if header == 0 {
                assert!(!reader::is_qcow2(&disk));
                continue;
            }
            seen += 1;
            let image = reader::read(&disk).unwrap();
            let (least, most) = &bounds[header - 1];
            for (index, cluster) in image.clusters.iter().enumerate() {
                let version = version(index, cluster);
                assert!(
                    (least[index]..=most[index]).contains(&version),
                    "cluster {index}"
                );
            }
        }
    }
    assert!(seen > 300, "{seen} disks");
}

fn data(index: usize, version: u64) -> Vec<u8> {
    let word = (version << 16 | index as u64).to_be_bytes();
    word.into_iter().cycle().take(CLUSTER).collect()
}

/// The version that a cluster holds, all of it.
fn version(index: usize, cluster: &Cluster) -> u64 {
    let Cluster::Data(bytes) = cluster else {
        return 0;
    };
    let word = u64::from_be_bytes(bytes[..8].try_into().unwrap());
    assert_eq!(*bytes, data(index, word >> 16), "cluster {index} is torn");
    word >> 16
}
