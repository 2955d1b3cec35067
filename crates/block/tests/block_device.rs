//! Block devices, on a loop device. Needs root: `cargo test -p cohort-block -- --ignored`.

mod common;

use std::path::{Path, PathBuf};

use cohort_block::{Device, ExtentKind, FileId, Image, OpenError, OpenOptions, open};
use common::{content, run};

/// A loop device over a file, let go when dropped.
struct Loop {
    dir: tempfile::TempDir,
    device: PathBuf,
}

impl Loop {
    fn new(length: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::File::create(dir.path().join("file"))
            .unwrap()
            .set_len(length)
            .unwrap();
        let device = run(dir.path(), "losetup -f --show file").trim().into();
        Self { dir, device }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        run(
            self.dir.path(),
            &format!("losetup -d {}", self.device.display()),
        );
    }
}

fn zeroes_and_ones(device: &dyn Device) {
    let size = device.size();
    device.write_at(&vec![1; size as usize], 0).unwrap();
    // Between sectors: the kernel refuses holes there.
    device.write_zeroes(1001, 99_999).unwrap();
    device.discard(size - 5000, 3001).unwrap();
    device.flush().unwrap();
    let bytes = content(device);
    assert!(bytes[..1001].iter().all(|byte| *byte == 1));
    assert!(bytes[1001..101_000].iter().all(|byte| *byte == 0));
    assert!(
        bytes[101_000..size as usize - 5000]
            .iter()
            .all(|byte| *byte == 1)
    );
}

#[test]
#[ignore = "needs root and a loop device"]
fn block_devices_are_disks_without_a_stamp_held_alone() {
    // A multiple of 512, of no larger block.
    let held = Loop::new((8 << 20) + 512);
    let image = Image::open(&held.device, OpenOptions::read_write()).unwrap();
    assert_eq!(image.device().size(), (8 << 20) + 512);
    assert_eq!(image.stamps().unwrap(), [None]);
    zeroes_and_ones(&**image.device());
    assert_eq!(
        image.device().extent(200_000, 512).unwrap().kind,
        ExtentKind::Data
    );
    let refused = open(&held.device, OpenOptions::read_only()).unwrap_err();
    assert!(matches!(refused, OpenError::Locked { .. }), "{refused}");
    drop(image);
    open(&held.device, OpenOptions::read_only()).unwrap();
}

#[test]
#[ignore = "needs root and a loop device"]
fn a_block_device_is_the_same_by_any_node_and_mounted_ones_are_refused() {
    let held = Loop::new(64 << 20);
    let other = held.dir.path().join("node");
    let FileId::BlockDevice { number } = FileId::of_path(&held.device).unwrap() else {
        panic!("not a block device");
    };
    let minor = number & 0xff;
    run(
        Path::new("/"),
        &format!("mknod {} b 7 {minor}", other.display()),
    );
    assert_eq!(
        FileId::of_path(&other).unwrap(),
        FileId::of_path(&held.device).unwrap()
    );

    run(
        Path::new("/"),
        &format!("mkfs.ext4 -q {}", held.device.display()),
    );
    let point = held.dir.path().join("mounted");
    std::fs::create_dir(&point).unwrap();
    run(
        Path::new("/"),
        &format!("mount {} {}", held.device.display(), point.display()),
    );
    let refused = open(&held.device, OpenOptions::read_only()).unwrap_err();
    run(Path::new("/"), &format!("umount {}", point.display()));
    assert!(matches!(refused, OpenError::Locked { .. }), "{refused}");
}
