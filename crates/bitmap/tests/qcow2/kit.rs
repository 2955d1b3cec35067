//! What these tests share: images in memory and on disk, files that fail or remember, QEMU's tools.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use cohort_bitmap::store::File;
use cohort_bitmap::{DirtyBitmap, Granularity};

/// A file of the operating system.
#[derive(Debug)]
pub(crate) struct Disk(fs::File);

impl Disk {
    pub(crate) fn open(path: &Path) -> Disk {
        Disk(
            fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open(path)
                .expect("the image opens"),
        )
    }
}

impl File for Disk {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(buf, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        // Nothing here survives the test, so nobody waits for the disk.
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }
}

/// What was done to a [`Memory`].
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Write { offset: u64, bytes: Vec<u8> },
    Sync,
}

/// A file in memory that remembers every write and sync, and fails when told to. Clones are one file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    bytes: Vec<u8>,
    steps: Vec<Step>,
    /// Writes and syncs that still succeed.
    left: Option<usize>,
}

impl Memory {
    pub(crate) fn new(bytes: Vec<u8>) -> Memory {
        let memory = Memory::default();
        memory.0.lock().unwrap().bytes = bytes;
        memory
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().bytes.clone()
    }

    pub(crate) fn steps(&self) -> Vec<Step> {
        self.0.lock().unwrap().steps.clone()
    }

    /// Lets so many writes and syncs pass, and fails every later one.
    pub(crate) fn fail_after(&self, steps: usize) {
        self.0.lock().unwrap().left = Some(steps);
    }

    fn step(&self, step: Step) -> io::Result<()> {
        let mut inner = self.0.lock().unwrap();
        if let Some(left) = &mut inner.left {
            *left = left
                .checked_sub(1)
                .ok_or_else(|| io::Error::other("injected"))?;
        }
        if let Step::Write { offset, bytes } = &step {
            put(&mut inner.bytes, *offset, bytes);
        }
        inner.steps.push(step);
        Ok(())
    }
}

/// Writes into bytes that grow.
pub(crate) fn put(all: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let end = offset as usize + bytes.len();
    if all.len() < end {
        all.resize(end, 0);
    }
    all[offset as usize..end].copy_from_slice(bytes);
}

impl File for Memory {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let inner = self.0.lock().unwrap();
        let from = inner
            .bytes
            .get(offset as usize..offset as usize + buf.len());
        buf.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.step(Step::Write {
            offset,
            bytes: buf.to_vec(),
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.step(Step::Sync)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().bytes.len() as u64)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.0.lock().unwrap().bytes.resize(length as usize, 0);
        Ok(())
    }
}

/// An image of an unwritten disk, version 3, without a backing file.
pub(crate) fn image(cluster_bits: u32, refcount_order: u32, size: u64) -> Vec<u8> {
    let cluster = 1u64 << cluster_bits;
    let l1_entries = size.div_ceil(cluster << (cluster_bits - 3)).max(1);
    let l1_clusters = (l1_entries * 8).div_ceil(cluster);
    // Header, refcount table, one block of counts, and the level-one table.
    let used = 3 + l1_clusters;
    let bits = 1u64 << refcount_order;
    assert!(used * bits <= cluster * 8, "one block counts all of it");
    let mut bytes = vec![0; (used * cluster) as usize];
    let mut field = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    field(0, b"QFI\xfb\0\0\0\x03");
    field(20, &cluster_bits.to_be_bytes());
    field(24, &size.to_be_bytes());
    field(36, &(l1_entries as u32).to_be_bytes());
    field(40, &(3 * cluster).to_be_bytes());
    field(48, &cluster.to_be_bytes());
    field(56, &1u32.to_be_bytes());
    field(96, &refcount_order.to_be_bytes());
    field(100, &104u32.to_be_bytes());
    field(cluster as usize, &(2 * cluster).to_be_bytes());
    for index in 0..used as usize {
        let at = 2 * cluster as usize;
        match refcount_order {
            0..3 => bytes[at + index * bits as usize / 8] |= 1 << (index * bits as usize % 8),
            _ => bytes[at + (index + 1) * bits as usize / 8 - 1] = 1,
        }
    }
    bytes
}

/// Numbers that look random and are the same in every run: splitmix64.
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    /// The next one, below `limit`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}

/// How a test's bitmap is filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fill {
    Nothing,
    Everything,
    /// The first granule and the last.
    Ends,
    Random(u64),
    /// Everything but some granules, so that clusters of bits are full, empty or neither.
    Mixed(u64),
}

pub(crate) fn filled(size: u64, granularity: u64, fill: Fill) -> DirtyBitmap {
    let granularity = Granularity::new(granularity).unwrap();
    let mut bitmap = DirtyBitmap::new(size, granularity).unwrap();
    match fill {
        Fill::Nothing => {}
        Fill::Everything => bitmap.set_all(),
        Fill::Ends => {
            bitmap.set(0, 1).unwrap();
            bitmap.set(size - 1, 1).unwrap();
        }
        Fill::Random(seed) => {
            let mut numbers = Numbers(seed);
            for _ in 0..200 {
                bitmap.set(numbers.below(size), 1).unwrap();
            }
        }
        Fill::Mixed(seed) => {
            bitmap.set(size / 5, size / 2).unwrap();
            let granules = bitmap.granules();
            let mut numbers = Numbers(seed);
            for _ in 0..20 {
                let at = numbers.below(granules) * granularity.bytes();
                bitmap
                    .reset(at, granularity.bytes().min(size - at))
                    .unwrap();
            }
        }
    }
    bitmap
}

/// Whether QEMU's tools are here. Says so loudly when they are not, and fails where they must be.
pub(crate) fn have_qemu() -> bool {
    let found = Command::new("qemu-img").arg("--version").output().is_ok();
    if !found {
        assert!(
            std::env::var_os("CI").is_none(),
            "QEMU's tools must be installed here"
        );
        eprintln!("SKIPPED: qemu-img not found");
    }
    found
}

/// Runs a tool in `dir` and gives what it printed; the words of `line` are split at spaces.
pub(crate) fn run(dir: &Path, line: &str) -> String {
    let output = attempt(dir, line);
    assert!(output.status.success(), "{line}: {}", told(&output));
    String::from_utf8(output.stdout).expect("tools print text")
}

/// Runs a tool in `dir`, whatever comes of it.
pub(crate) fn attempt(dir: &Path, line: &str) -> Output {
    let mut words = line.split_whitespace();
    Command::new(words.next().expect("a tool"))
        .args(words)
        .current_dir(dir)
        .output()
        .expect("the tool runs")
}

/// Runs commands of qemu-io on the image `disk`. It exits with success even when one fails.
pub(crate) fn qemu_io(dir: &Path, commands: &[String]) {
    let commands = commands.iter().flat_map(|command| ["-c", command]);
    let output = Command::new("qemu-io")
        .args(["-t", "unsafe", "-f", "qcow2"])
        .args(commands)
        .arg("disk")
        .current_dir(dir)
        .output()
        .expect("qemu-io runs");
    let said = told(&output);
    assert!(
        output.status.success() && !said.contains("failed"),
        "{said}"
    );
}

pub(crate) fn told(output: &Output) -> String {
    let Output { stdout, stderr, .. } = output;
    format!(
        "{}{}",
        String::from_utf8_lossy(stdout),
        String::from_utf8_lossy(stderr)
    )
}

/// Whether `qemu-img check` finds nothing at all to say against an image.
pub(crate) fn assert_clean(dir: &Path, name: &str) {
    let output = attempt(dir, &format!("qemu-img check -f qcow2 {name}"));
    assert!(output.status.success(), "{name}: {}", told(&output));
}

/// The bits of a bitmap as QEMU exports them.
pub(crate) fn as_qemu_reads(
    dir: &Path,
    image: &str,
    name: &str,
    like: &DirtyBitmap,
) -> DirtyBitmap {
    let socket = dir.join("nbd");
    let _ = fs::remove_file(&socket);
    let words = ["-r", "-f", "qcow2", "-B", name, "-k"];
    let mut server = Command::new("qemu-nbd");
    server.args(words).arg(&socket).arg(image).current_dir(dir);
    let mut server = server.spawn().expect("the server runs");
    let options = format!(
        "driver=nbd,server.type=unix,server.path={},x-dirty-bitmap=qemu:dirty-bitmap:{name}",
        socket.display()
    );
    // The server ends with its first client, so nobody asks it whether it listens but who wants the map.
    let map = loop {
        let ended = server.try_wait().expect("the server's state");
        let asked = attempt(
            dir,
            &format!("qemu-img map --output=json --image-opts {options}"),
        );
        if asked.status.success() {
            break asked.stdout;
        }
        assert!(ended.is_none(), "{image}, {name}: {}", told(&asked));
    };
    server.wait().expect("the server ends");
    let mut bitmap = DirtyBitmap::new(like.size(), like.granularity()).unwrap();
    let extents: serde_json::Value = serde_json::from_slice(&map).expect("a map");
    for extent in extents.as_array().expect("extents") {
        let number = |key: &str| extent[key].as_u64().expect("a number");
        // QEMU shows a bitmap as data where it is clean.
        if extent["data"] == false {
            bitmap.set(number("start"), number("length")).unwrap();
        }
    }
    bitmap
}

/// What `qemu-img info` says of an image's bitmaps: name, granularity, flags.
pub(crate) fn as_qemu_lists(dir: &Path, image: &str) -> Vec<(String, u64, Vec<String>)> {
    let info = run(
        dir,
        &format!("qemu-img info -U --output=json -f qcow2 {image}"),
    );
    let info: serde_json::Value = serde_json::from_str(&info).expect("info");
    let bitmaps = &info["format-specific"]["data"]["bitmaps"];
    let text = |value: &serde_json::Value| value.as_str().expect("text").to_owned();
    bitmaps
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default()
        .iter()
        .map(|bitmap| {
            let flags = bitmap["flags"]
                .as_array()
                .expect("flags")
                .iter()
                .map(text)
                .collect();
            (
                text(&bitmap["name"]),
                bitmap["granularity"].as_u64().expect("bytes"),
                flags,
            )
        })
        .collect()
}
