//! QEMU's bitmaps of an image that is written to through us: they gain what was written, no more and no less.

mod common;

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cohort_bitmap::store::qcow2::{Condition, Qcow2Error, Saved};
use cohort_bitmap::{DirtyBitmap, Granularity};
use cohort_block::{BitmapOwner, Device, Image, OpenError, OpenOptions};
use common::{Numbers, attempt, content, have_qemu, qemu_io, run, text};

const SIZE: u64 = (48 << 20) + 7 * 512;

/// One test at a time: a tool that one of them starts would have the other's locks for a moment.
fn turn() -> Option<MutexGuard<'static, ()>> {
    static TURN: Mutex<()> = Mutex::new(());
    have_qemu().then(|| TURN.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Two enabled bitmaps and a disabled one, of which QEMU has marked something already.
fn create(dir: &Path, options: &str) {
    run(
        dir,
        &format!("qemu-img create -q -f qcow2 -o {options} disk {SIZE}"),
    );
    run(dir, "qemu-img bitmap --add -g 4096 disk fine");
    run(dir, "qemu-img bitmap --add -g 65536 disk coarse");
    qemu_io(
        dir,
        "disk",
        "qcow2",
        &["write 3M 100k".into(), "write -z 20M 1M".into()],
    );
    run(dir, "qemu-img bitmap --add -g 512 disk idle");
    qemu_io(dir, "disk", "qcow2", &["write 5M 1k".into()]);
    run(dir, "qemu-img bitmap --disable disk idle");
}

fn read(dir: &Path, name: &str) -> Result<DirtyBitmap, Qcow2Error> {
    let image = Image::open(dir.join("disk"), OpenOptions::read_only()).unwrap();
    let mut layers = image.bitmaps();
    assert_eq!(layers.len(), 1);
    layers.remove(0).bitmaps.unwrap().read(name)
}

fn assert_clean(dir: &Path) {
    let output = attempt(dir, &["qemu-img", "check", "-f", "qcow2", "disk"]);
    assert!(output.status.success(), "{}", text(&output));
}

/// Writes, zeroes and discards all over, and gives what should be marked.
fn scribble(device: &dyn Device, seed: u64) -> DirtyBitmap {
    let mut numbers = Numbers(seed);
    let mut written = DirtyBitmap::new(SIZE, Granularity::new(512).unwrap()).unwrap();
    for round in 0..60 {
        let offset = numbers.below(SIZE);
        let length = numbers.below(200_000).min(SIZE - offset);
        match round % 4 {
            0 | 1 => device
                .write_at(&vec![round as u8; length as usize], offset)
                .unwrap(),
            2 => device.write_zeroes(offset, length).unwrap(),
            _ => device.discard(offset, length).unwrap(),
        }
        written.set(offset, length).unwrap();
    }
    written
}

#[test]
fn enabled_bitmaps_gain_exactly_what_was_written() {
    let Some(_turn) = turn() else { return };
    let options = [
        "cluster_size=512",
        "cluster_size=65536,refcount_bits=1",
        "cluster_size=4096,refcount_bits=64",
        "cluster_size=2M",
    ];
    for (seed, options) in options.into_iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        create(dir, options);
        let names = ["fine", "coarse", "idle"];
        let before = names.map(|name| read(dir, name).unwrap());

        let image = Image::open(dir.join("disk"), OpenOptions::read_write()).unwrap();
        let device = Arc::clone(image.device());
        let written = scribble(&*device, seed as u64);
        let bytes = content(&*device);
        // The last of the two to go is the end.
        drop(image);
        device.write_at(&[1], SIZE - 1).unwrap();
        drop(device);

        assert_clean(dir);
        for (name, mut expected) in names.into_iter().zip(before) {
            if name != "idle" {
                expected.merge(&written).unwrap();
                expected.set(SIZE - 1, 1).unwrap();
            }
            assert!(read(dir, name).unwrap() == expected, "{options}: {name}");
        }
        let after = content(
            &**Image::open(dir.join("disk"), OpenOptions::read_only())
                .unwrap()
                .device(),
        );
        assert!(after[..bytes.len() - 1] == bytes[..bytes.len() - 1]);
        // And QEMU goes on from there.
        qemu_io(dir, "disk", "qcow2", &["write 0 512".into()]);
        assert!(read(dir, "fine").unwrap().get(0));
        assert_clean(dir);
    }
}

#[test]
fn bitmaps_of_a_disk_that_nobody_wrote_to_are_what_they_were() {
    let Some(_turn) = turn() else { return };
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    create(dir, "cluster_size=65536");
    let names = ["fine", "coarse", "idle"];
    let before = names.map(|name| read(dir, name).unwrap());
    drop(Image::open(dir.join("disk"), OpenOptions::read_write()).unwrap());
    assert!(names.map(|name| read(dir, name).unwrap()) == before);
    assert_clean(dir);
}

/// What is in the file while it is open is what a kill leaves.
#[test]
fn killed_meanwhile_the_enabled_ones_are_inconsistent_for_everybody() {
    let Some(_turn) = turn() else { return };
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    create(dir, "cluster_size=65536");
    let idle = read(dir, "idle").unwrap();
    let image = Image::open(dir.join("disk"), OpenOptions::read_write()).unwrap();
    scribble(&**image.device(), 7);
    image.device().flush().unwrap();
    let killed = tempfile::tempdir().unwrap();
    let dir = killed.path();
    fs::copy(folder.path().join("disk"), dir.join("disk")).unwrap();

    let info = run(dir, "qemu-img info --output=json -f qcow2 disk");
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    let flags: Vec<_> = info["format-specific"]["data"]["bitmaps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|bitmap| {
            (
                bitmap["name"].as_str().unwrap(),
                bitmap["flags"].to_string(),
            )
        })
        .collect();
    let lost = r#"["in-use","auto"]"#.to_owned();
    assert_eq!(
        flags,
        [
            ("fine", lost.clone()),
            ("coarse", lost),
            ("idle", "[]".into())
        ]
    );
    let error = read(dir, "fine").unwrap_err();
    assert!(matches!(error, Qcow2Error::Inconsistent { .. }), "{error}");
    assert!(
        read(dir, "idle").unwrap() == idle,
        "a disabled one says what it said"
    );

    // It may be written to again; the lost ones stay lost, and can be removed.
    let again = Image::open(dir.join("disk"), OpenOptions::read_write()).unwrap();
    again.device().write_at(&[1; 512], 0).unwrap();
    drop(again);
    let image = Image::open(dir.join("disk"), OpenOptions::read_only()).unwrap();
    let layer = image.bitmaps().remove(0).bitmaps.unwrap();
    assert_eq!(*layer.entry("fine").unwrap().condition(), Condition::InUse);
    drop((image, layer));
    run(dir, "qemu-img bitmap --remove disk fine");
    run(dir, "qemu-img bitmap --remove disk coarse");
    assert_clean(dir);
}

#[test]
fn who_looks_meanwhile_sees_them_in_use_and_the_layers_below_as_they_are() {
    let Some(_turn) = turn() else { return };
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    run(dir, "qemu-img create -q -f raw bottom 4M");
    run(dir, "qemu-img create -q -f qcow2 -b bottom -F raw base");
    run(dir, "qemu-img bitmap --add base below");
    run(dir, "qemu-img create -q -f qcow2 -b base -F qcow2 disk");
    run(dir, "qemu-img bitmap --add disk above");
    let image = Image::open(dir.join("disk"), OpenOptions::read_write()).unwrap();
    image.device().write_at(&[1; 512], 0).unwrap();
    let layers = image.bitmaps();
    let paths: Vec<_> = layers
        .iter()
        .map(|layer| layer.path.file_name().unwrap().to_owned())
        .collect();
    assert_eq!(paths, ["disk", "base"], "a raw layer has none");
    let condition = |layer: usize, name: &str| {
        layers[layer]
            .bitmaps
            .as_ref()
            .unwrap()
            .entry(name)
            .unwrap()
            .condition()
            .clone()
    };
    assert_eq!(condition(0, "above"), Condition::InUse);
    assert_eq!(condition(1, "below"), Condition::Consistent);
    drop((image, layers));
    let info = run(dir, "qemu-img info -f qcow2 disk");
    assert!(info.contains("backing file: base"), "{info}");
    assert!(!read_layer(dir, 1, "below").get(0), "nobody wrote there");
    assert!(read_layer(dir, 0, "above").get(0));
    assert_clean(dir);
}

fn read_layer(dir: &Path, layer: usize, name: &str) -> DirtyBitmap {
    let image = Image::open(dir.join("disk"), OpenOptions::read_only()).unwrap();
    image
        .bitmaps()
        .remove(layer)
        .bitmaps
        .unwrap()
        .read(name)
        .unwrap()
}

/// Flags that we do not know: the writing could make the bitmap untrue.
#[test]
fn a_bitmap_of_an_unknown_kind_keeps_us_from_writing() {
    let Some(_turn) = turn() else { return };
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    create(dir, "cluster_size=65536");
    let mut bytes = fs::read(dir.join("disk")).unwrap();
    let extension = bytes
        .windows(4)
        .position(|four| four == [0x23, 0x85, 0x28, 0x75]);
    let place = extension.unwrap() + 8 + 16;
    let directory = u64::from_be_bytes(bytes[place..place + 8].try_into().unwrap()) as usize;
    bytes[directory + 15] |= 8;
    fs::write(dir.join("disk"), &bytes).unwrap();
    let refused = Image::open(dir.join("disk"), OpenOptions::read_write()).unwrap_err();
    assert!(matches!(refused, OpenError::Bitmaps { .. }), "{refused}");
    let told = refused.to_string();
    assert!(
        told.contains(r#"bitmap "fine" cannot be used: it has unknown flags (0x8)"#),
        "{told}"
    );
    assert!(fs::read(dir.join("disk")).unwrap() == bytes);
    assert!(read(dir, "coarse").is_ok());
}

/// A program that knows no bitmaps wrote here: nobody believes them, and nobody is kept from writing.
#[test]
fn bitmaps_that_are_stale_already_are_left_so() {
    let Some(_turn) = turn() else { return };
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    create(dir, "cluster_size=65536");
    let mut bytes = fs::read(dir.join("disk")).unwrap();
    bytes[88..96].fill(0);
    fs::write(dir.join("disk"), &bytes).unwrap();
    let image = Image::open(dir.join("disk"), OpenOptions::read_write()).unwrap();
    image.device().write_at(&[1; 512], 0).unwrap();
    drop(image);
    assert!(matches!(read(dir, "fine"), Err(Qcow2Error::Stale)));
}

/// Says in the end what the image is to hold, and hears what could not be.
#[derive(Debug, Default)]
struct Owner {
    says: Mutex<Vec<Saved>>,
    heard: Mutex<Vec<String>>,
}

impl BitmapOwner for Owner {
    fn to_save(&self) -> Vec<Saved> {
        self.says.lock().unwrap().clone()
    }

    fn not_saved(&self, why: &str) {
        self.heard.lock().unwrap().push(why.to_owned());
    }
}

fn saved(name: &str, enabled: bool, bits: DirtyBitmap) -> Saved {
    Saved {
        name: name.to_owned(),
        enabled,
        bits: Some(bits),
    }
}

#[test]
fn who_is_given_the_bitmaps_says_in_the_end_what_the_image_holds() {
    let Some(_turn) = turn() else { return };
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    create(dir, "cluster_size=65536");
    let names = ["fine", "coarse", "idle"];
    let before = names.map(|name| read(dir, name).unwrap());
    let image = Image::open(dir.join("disk"), OpenOptions::read_write()).unwrap();
    let owner = Arc::new(Owner::default());
    let found = image.hand_over_bitmaps(owner.clone()).unwrap();
    for ((found, name), bits) in found.iter().zip(names).zip(before) {
        assert_eq!((&*found.name, found.enabled), (name, name != "idle"));
        assert!(found.bits.as_ref() == Some(&bits), "{name}");
    }
    let in_use = image.bitmaps().remove(0).bitmaps.unwrap();
    let conditions = in_use.list().iter().map(|entry| entry.condition());
    assert!(conditions.eq([&Condition::InUse; 3]), "disabled ones too");
    drop(in_use);

    image.device().write_at(&[1; 512], 0).unwrap();
    let mut new = DirtyBitmap::new(SIZE, Granularity::new(4096).unwrap()).unwrap();
    new.set(7 << 20, 1).unwrap();
    *owner.says.lock().unwrap() = vec![
        saved("idle", true, new.clone()),
        saved("new", false, new.clone()),
    ];
    drop(image);
    assert_eq!(*owner.heard.lock().unwrap(), [""; 0]);
    let image = Image::open(dir.join("disk"), OpenOptions::read_only()).unwrap();
    let told = image.hand_over_bitmaps(Arc::new(Owner::default())).unwrap();
    let told: Vec<_> = told.iter().map(|one| (&*one.name, one.enabled)).collect();
    assert_eq!(told, [("idle", true), ("new", false)]);
    assert!(read(dir, "idle").unwrap() == new && read(dir, "new").unwrap() == new);
    assert_clean(dir);
}

#[test]
fn who_is_given_the_bitmaps_hears_that_they_could_not_be_saved() {
    let Some(_turn) = turn() else { return };
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    create(dir, "cluster_size=65536");
    let image = Image::open(dir.join("disk"), OpenOptions::read_write()).unwrap();
    let owner = Arc::new(Owner::default());
    image.hand_over_bitmaps(owner.clone()).unwrap();
    let other = DirtyBitmap::new(SIZE + 512, Granularity::DEFAULT).unwrap();
    *owner.says.lock().unwrap() = vec![saved("fine", true, other)];
    drop(image);
    let heard = owner.heard.lock().unwrap();
    assert!(
        heard.len() == 1 && heard[0].contains("its bitmaps are left inconsistent"),
        "{heard:?}"
    );
    let error = read(dir, "fine").unwrap_err();
    assert!(matches!(error, Qcow2Error::Inconsistent { .. }), "{error}");
    assert_clean(dir);
}
