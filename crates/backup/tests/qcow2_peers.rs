//! Sealed images in the hands of QEMU's own tools, where they are installed.

use std::fs;
use std::path::Path;
use std::process::Command;

use cohort_backup::{Backing, CreateOptions, Qcow2Builder};
use cohort_block::{File, OpenOptions, OsFile};

/// What a disk holds, kept beside the images.
struct Disk {
    bytes: Vec<u8>,
    cluster: usize,
    stamp: u8,
}

impl Disk {
    fn new(size: usize, cluster: usize) -> Self {
        Self {
            bytes: vec![0; size],
            cluster,
            stamp: 0,
        }
    }

    /// Writes clusters to the disk and to the image.
    fn write(&mut self, builder: &Qcow2Builder<OsFile>, first: usize, count: usize) {
        self.stamp += 1;
        let start = first * self.cluster;
        let end = (start + count * self.cluster).min(self.bytes.len());
        for (at, byte) in self.bytes[start..end].iter_mut().enumerate() {
            *byte = (at / 97) as u8 ^ self.stamp;
        }
        let data = &self.bytes[start..end];
        builder.write_clusters(first as u64, data).unwrap();
    }

    fn zero(&mut self, builder: &Qcow2Builder<OsFile>, first: usize, count: usize) {
        let start = first * self.cluster;
        let end = (start + count * self.cluster).min(self.bytes.len());
        self.bytes[start..end].fill(0);
        builder
            .write_zero_clusters(first as u64, count as u64)
            .unwrap();
    }
}

#[test]
fn every_seal_of_a_chain_is_clean_and_reads_the_same() {
    if !qemu_img_is_here() {
        return;
    }
    for (cluster, clusters) in [(512, 150), (4 << 10, 600), (64 << 10, 40)] {
        check_chain(cluster, clusters * cluster);
        check_chain(cluster, clusters * cluster - 301);
    }
    check_chain(2 << 20, (15 << 21) - 1);
}

/// Tables are written where something was, and nowhere else.
#[test]
fn a_sparse_disk_of_sixteen_tebibytes_is_a_small_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("huge.qcow2");
    let builder = Qcow2Builder::create(
        OsFile::create_new(&path).unwrap(),
        &CreateOptions::new(16 << 40),
    )
    .unwrap();
    let last = builder.clusters() - 1;
    let places = [0, 1 << 13, (1 << 27) + 5, last];
    for (index, fill) in places.into_iter().zip(1_u8..) {
        builder.write_cluster(index, &[fill; 64 << 10]).unwrap();
        builder.seal().unwrap();
    }
    builder.write_zero_clusters(2, last - 10).unwrap();
    builder.finish().unwrap();
    assert!(builder.file().len().unwrap() < 4 << 20);
    let again = Qcow2Builder::open(OsFile::open(&path, true).unwrap()).unwrap();
    assert_eq!(again.allocated_bytes(), 2 * (64 << 10));
    assert!(again.contains(0).unwrap() && again.contains(last).unwrap());
    assert!(!again.contains(1 << 13).unwrap());
    if qemu_img_is_here() {
        let report = qemu_img(&["check", "huge.qcow2"], dir.path());
        assert!(report.contains("No errors"), "{report}");
    }
}

fn check_chain(cluster: usize, size: usize) {
    let dir = tempfile::tempdir().unwrap();
    let mut disk = Disk::new(size, cluster);
    let clusters = size.div_ceil(cluster);
    let create = |name: &str, backing: Option<&str>| {
        let mut options = CreateOptions::new(size as u64).cluster_size(cluster as u64);
        if let Some(file) = backing {
            options = options.backing(Backing {
                file: file.into(),
                format: "qcow2".into(),
            });
        }
        let file = OsFile::create_new(dir.path().join(name)).unwrap();
        Qcow2Builder::create(file, &options).unwrap()
    };
    let check = |disk: &Disk, name: &str| check_image(&dir.path().join(name), &disk.bytes);

    let base = create("base.qcow2", None);
    disk.write(&base, 0, clusters / 2);
    base.seal().unwrap();
    check(&disk, "base.qcow2");
    disk.write(&base, clusters / 2 - 1, clusters.div_ceil(2));
    disk.zero(&base, 1, 2);
    base.seal().unwrap();
    check(&disk, "base.qcow2");
    // More was written and never sealed: the file is longer than what it counts.
    let sealed = disk.bytes.clone();
    disk.write(&base, 0, clusters);
    drop(base.stage(0, &disk.bytes[..cluster]).unwrap());
    disk.bytes = sealed;
    check(&disk, "base.qcow2");
    drop(base);

    let base = Qcow2Builder::open(OsFile::open(dir.path().join("base.qcow2"), true).unwrap());
    let base = base.unwrap();
    disk.write(&base, 3, 5);
    base.finish().unwrap();
    let counted = base.file().len().unwrap();
    check(&disk, "base.qcow2");
    assert!(
        counted <= (disk.bytes.len() + 40 * cluster) as u64,
        "the tail is cut"
    );

    let name = "layer of a disk.qcow2";
    let layer = create(name, Some("base.qcow2"));
    layer.seal().unwrap();
    check(&disk, name);
    disk.zero(&layer, 0, 4);
    disk.write(&layer, clusters - 1, 1);
    layer.seal().unwrap();
    check(&disk, name);
    disk.write(&layer, 2, 3);
    disk.zero(&layer, clusters - 1, 1);
    layer.seal().unwrap();
    check(&disk, name);
    drop(layer);
    check(&disk, name);
    let top = create("top.qcow2", Some(name));
    disk.write(&top, 5, 9);
    top.finish().unwrap();
    check(&disk, "top.qcow2");

    let info = qemu_img(
        &["info", "--backing-chain", "--output=json", "top.qcow2"],
        dir.path(),
    );
    let chain: Vec<serde_json::Value> = serde_json::from_str(&info).unwrap();
    let files: Vec<_> = chain
        .iter()
        .map(|file| file["filename"].as_str().unwrap())
        .collect();
    assert_eq!(files, ["top.qcow2", name, "base.qcow2"]);
    assert_eq!(chain[0]["backing-filename-format"], "qcow2");
}

/// Noise, text, zeroes, and halves of each, in clusters of every size: compressed, written over, taken up again.
#[test]
fn compressed_clusters_of_every_size_read_the_same() {
    if !qemu_img_is_here() {
        return;
    }
    for bits in 9..=21 {
        let cluster = 1_usize << bits;
        let clusters = (8 << 20 >> bits).clamp(12, 300);
        let size = clusters * cluster - 301;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("packed.qcow2");
        let mut disk: Vec<u8> = (0..clusters as u64)
            .flat_map(|index| mixed(index, cluster))
            .take(size)
            .collect();
        let options = CreateOptions::new(size as u64).cluster_size(cluster as u64);
        let builder = Qcow2Builder::create(OsFile::create_new(&path).unwrap(), &options).unwrap();
        builder.write_compressed(0, &disk).unwrap();
        builder.seal().unwrap();
        check_image(&path, &disk);
        // Over what is packed: packed anew, whole, and whole over packed and back.
        let mut over = |builder: &Qcow2Builder<OsFile>, first: usize, seed: u64, pack: bool| {
            let bytes = first * cluster..(first + 5) * cluster;
            let data: Vec<u8> = (0..5).flat_map(|at| mixed(seed + at, cluster)).collect();
            disk[bytes].copy_from_slice(&data);
            match pack {
                true => builder.write_compressed(first as u64, &data).unwrap(),
                false => builder.write_clusters(first as u64, &data).unwrap(),
            }
            disk.clone()
        };
        over(&builder, 1, 91, true);
        over(&builder, 3, 92, false);
        let sealed = over(&builder, 5, 93, true);
        builder.seal().unwrap();
        check_image(&path, &sealed);
        drop(builder);
        let builder = Qcow2Builder::open(OsFile::open(&path, true).unwrap()).unwrap();
        let sealed = over(&builder, 0, 94, true);
        builder.finish().unwrap();
        check_image(&path, &sealed);
    }
}

/// The file ends where what is compressed ends, within a cluster.
#[test]
fn a_file_that_ends_within_a_cluster_reads_the_same() {
    if !qemu_img_is_here() {
        return;
    }
    const CLUSTER: usize = 64 << 10;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("packed.qcow2");
    let options = CreateOptions::new(40 * CLUSTER as u64);
    let builder = Qcow2Builder::create(OsFile::create_new(&path).unwrap(), &options).unwrap();
    let mut disk = Disk::new(40 * CLUSTER, CLUSTER);
    // Room for tables, before what is compressed.
    disk.write(&builder, 10, 5);
    builder.seal().unwrap();
    disk.zero(&builder, 10, 5);
    builder.seal().unwrap();
    let packed = mixed(3, CLUSTER);
    builder.write_compressed(2, &packed).unwrap();
    disk.bytes[2 * CLUSTER..3 * CLUSTER].copy_from_slice(&packed);
    builder.finish().unwrap();
    let length = fs::metadata(&path).unwrap().len();
    assert!(!length.is_multiple_of(CLUSTER as u64), "{length} bytes");
    check_image(&path, &disk.bytes);
    let device = cohort_block::open(&path, OpenOptions::read_only()).unwrap();
    let mut read = vec![0; disk.bytes.len()];
    device.read_at(&mut read, 0).unwrap();
    assert!(read == disk.bytes, "it reads otherwise here");
    drop(device);
    Qcow2Builder::open(OsFile::open(&path, true).unwrap()).unwrap();
}

/// A cluster of one of six kinds.
fn mixed(index: u64, cluster: usize) -> Vec<u8> {
    let mut state = index.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let noise = std::iter::repeat_with(move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005);
        state = state.wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    });
    let text = b"a hole stays a hole, and what was read is what was there. ".iter();
    let mut bytes: Vec<u8> = match index % 6 {
        0 | 1 | 4 => noise.take(cluster).collect(),
        2 => vec![0; cluster],
        3 => text.cycle().copied().take(cluster).collect(),
        _ => noise.map(|byte| byte & 0x1f).take(cluster).collect(),
    };
    if index % 6 == 4 {
        bytes[cluster / 2..].fill(index as u8);
    }
    bytes
}

/// Clean, and the same bytes as the disk.
fn check_image(image: &Path, disk: &[u8]) {
    let dir = image.parent().unwrap();
    let name = image.file_name().unwrap().to_str().unwrap();
    let report = qemu_img(&["check", "--output=json", "-U", name], dir);
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    for fault in ["corruptions", "leaks", "check-errors"] {
        let found = report
            .get(fault)
            .and_then(serde_json::Value::as_u64)
            .unwrap_or(0);
        assert_eq!(found, 0, "{report}");
    }
    fs::write(dir.join("disk.raw"), disk).unwrap();
    let compare = [
        "compare", "-U", "-f", "qcow2", "-F", "raw", name, "disk.raw",
    ];
    let verdict = qemu_img(&compare, dir);
    assert!(verdict.contains("identical"), "{verdict}");
    qemu_img(&["convert", "-U", "-O", "raw", name, "converted.raw"], dir);
    let mut converted = fs::read(dir.join("converted.raw")).unwrap();
    assert_eq!(converted.len(), disk.len().next_multiple_of(512));
    converted.truncate(disk.len());
    assert!(converted == disk, "{name} converts to something else");
}

fn qemu_img(arguments: &[&str], dir: &Path) -> String {
    let output = Command::new("qemu-img")
        .args(arguments)
        .current_dir(dir)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "qemu-img {arguments:?}: {text}{error}"
    );
    text
}

/// Whether the peer is installed. Says so loudly if not; where `CI` is set that is a failure.
fn qemu_img_is_here() -> bool {
    let here = Command::new("qemu-img").arg("--version").output().is_ok();
    if !here {
        eprintln!("SKIPPED: qemu-img is not installed, so no sealed image was shown to it");
        assert!(
            std::env::var_os("CI").is_none(),
            "qemu-img is missing where CI is set"
        );
    }
    here
}
