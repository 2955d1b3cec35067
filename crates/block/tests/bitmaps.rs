//! QEMU's bitmaps of an image that is written to through us: they gain what was written, no more and no less.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cohort_bitmap::store::qcow2::{Condition, Qcow2Error, Saved};
use cohort_bitmap::{DirtyBitmap, Granularity};
use cohort_block::{BitmapOwner, Device, Image, OpenError, OpenOptions};
use common::{Numbers, attempt, content, have_qemu, qemu_io, run, text};

const SIZE: u64 = (48 << 20) + 7 * 512;

/// The bitmaps of an image; the last one is disabled.
const NAMES: [&str; 3] = ["fine", "coarse", "idle"];

/// A folder with the image `disk`, for one test at a time: a tool that one of them starts would have the other's locks
/// for a moment.
struct Lab {
    folder: tempfile::TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Lab {
    /// An empty one, if QEMU's tools are here.
    fn empty() -> Option<Self> {
        static TURN: Mutex<()> = Mutex::new(());
        have_qemu().then(|| Lab {
            _turn: TURN.lock().unwrap_or_else(PoisonError::into_inner),
            folder: tempfile::tempdir().unwrap(),
        })
    }

    /// With an image that was [`create`](Self::create)d.
    fn new() -> Option<Self> {
        let lab = Self::empty()?;
        lab.create("cluster_size=65536");
        Some(lab)
    }

    fn dir(&self) -> &Path {
        self.folder.path()
    }

    fn disk(&self) -> PathBuf {
        self.dir().join("disk")
    }

    fn run(&self, line: &str) -> String {
        run(self.dir(), line)
    }

    fn qemu_io(&self, commands: &[&str]) {
        let commands: Vec<_> = commands.iter().map(|&command| command.into()).collect();
        qemu_io(self.dir(), "disk", "qcow2", &commands);
    }

    /// Two enabled bitmaps and a disabled one, of which QEMU has marked something already.
    fn create(&self, options: &str) {
        self.run(&format!(
            "qemu-img create -q -f qcow2 -o {options} disk {SIZE}"
        ));
        self.run("qemu-img bitmap --add -g 4096 disk fine");
        self.run("qemu-img bitmap --add -g 65536 disk coarse");
        self.qemu_io(&["write 3M 100k", "write -z 20M 1M"]);
        self.run("qemu-img bitmap --add -g 512 disk idle");
        self.qemu_io(&["write 5M 1k"]);
        self.run("qemu-img bitmap --disable disk idle");
    }

    /// Opens the image to be written to.
    fn open(&self) -> Image {
        Image::open(self.disk(), OpenOptions::read_write()).unwrap()
    }

    /// Opens it to look at.
    fn look(&self) -> Image {
        Image::open(self.disk(), OpenOptions::read_only()).unwrap()
    }

    fn read(&self, name: &str) -> Result<DirtyBitmap, Qcow2Error> {
        self.read_layer(0, name)
    }

    fn read_layer(&self, layer: usize, name: &str) -> Result<DirtyBitmap, Qcow2Error> {
        let mut layers = self.look().bitmaps();
        layers.remove(layer).bitmaps.unwrap().read(name)
    }

    /// What those of [`create`](Self::create) say.
    fn read_all(&self) -> [DirtyBitmap; 3] {
        NAMES.map(|name| self.read(name).unwrap())
    }

    fn is_clean(&self) {
        let output = attempt(self.dir(), &["qemu-img", "check", "-f", "qcow2", "disk"]);
        assert!(output.status.success(), "{}", text(&output));
    }
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
    let Some(lab) = Lab::empty() else { return };
    let options = [
        "cluster_size=512",
        "cluster_size=65536,refcount_bits=1",
        "cluster_size=4096,refcount_bits=64",
        "cluster_size=2M",
    ];
    for (seed, options) in options.into_iter().enumerate() {
        lab.create(options);
        let before = lab.read_all();

        let image = lab.open();
        let device = Arc::clone(image.device());
        let written = scribble(&*device, seed as u64);
        let bytes = content(&*device);
        // The last of the two to go is the end.
        drop(image);
        device.write_at(&[1], SIZE - 1).unwrap();
        drop(device);

        lab.is_clean();
        for (name, mut expected) in NAMES.into_iter().zip(before) {
            if name != "idle" {
                expected.merge(&written).unwrap();
                expected.set(SIZE - 1, 1).unwrap();
            }
            assert!(lab.read(name).unwrap() == expected, "{options}: {name}");
        }
        let after = content(&**lab.look().device());
        assert!(after[..bytes.len() - 1] == bytes[..bytes.len() - 1]);
        // And QEMU goes on from there.
        lab.qemu_io(&["write 0 512"]);
        assert!(lab.read("fine").unwrap().get(0));
        lab.is_clean();
    }
}

#[test]
fn bitmaps_of_a_disk_that_nobody_wrote_to_are_what_they_were() {
    let Some(lab) = Lab::new() else { return };
    let before = lab.read_all();
    drop(lab.open());
    assert!(lab.read_all() == before);
    lab.is_clean();
}

/// What is in the file while it is open is what a kill leaves.
#[test]
fn killed_meanwhile_the_enabled_ones_are_inconsistent_for_everybody() {
    let Some(lab) = Lab::new() else { return };
    let idle = lab.read("idle").unwrap();
    let image = lab.open();
    scribble(&**image.device(), 7);
    image.device().flush().unwrap();
    fs::copy(lab.disk(), lab.dir().join("killed")).unwrap();
    drop(image);
    fs::rename(lab.dir().join("killed"), lab.disk()).unwrap();

    let info = lab.run("qemu-img info --output=json -f qcow2 disk");
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
    let error = lab.read("fine").unwrap_err();
    assert!(matches!(error, Qcow2Error::Inconsistent { .. }), "{error}");
    assert!(
        lab.read("idle").unwrap() == idle,
        "a disabled one says what it said"
    );

    // It may be written to again; the lost ones stay lost, and can be removed.
    let again = lab.open();
    again.device().write_at(&[1; 512], 0).unwrap();
    drop(again);
    let image = lab.look();
    let layer = image.bitmaps().remove(0).bitmaps.unwrap();
    assert_eq!(*layer.entry("fine").unwrap().condition(), Condition::InUse);
    drop((image, layer));
    lab.run("qemu-img bitmap --remove disk fine");
    lab.run("qemu-img bitmap --remove disk coarse");
    lab.is_clean();
}

#[test]
fn who_looks_meanwhile_sees_them_in_use_and_the_layers_below_as_they_are() {
    let Some(lab) = Lab::empty() else { return };
    lab.run("qemu-img create -q -f raw bottom 4M");
    lab.run("qemu-img create -q -f qcow2 -b bottom -F raw base");
    lab.run("qemu-img bitmap --add base below");
    lab.run("qemu-img create -q -f qcow2 -b base -F qcow2 disk");
    lab.run("qemu-img bitmap --add disk above");
    let image = lab.open();
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
    let info = lab.run("qemu-img info -f qcow2 disk");
    assert!(info.contains("backing file: base"), "{info}");
    assert!(
        !lab.read_layer(1, "below").unwrap().get(0),
        "nobody wrote there"
    );
    assert!(lab.read("above").unwrap().get(0));
    lab.is_clean();
}

/// Flags that we do not know: the writing could make the bitmap untrue.
#[test]
fn a_bitmap_of_an_unknown_kind_keeps_us_from_writing() {
    let Some(lab) = Lab::new() else { return };
    let mut bytes = fs::read(lab.disk()).unwrap();
    let extension = bytes
        .windows(4)
        .position(|four| four == [0x23, 0x85, 0x28, 0x75]);
    let place = extension.unwrap() + 8 + 16;
    let directory = u64::from_be_bytes(bytes[place..place + 8].try_into().unwrap()) as usize;
    bytes[directory + 15] |= 8;
    fs::write(lab.disk(), &bytes).unwrap();
    let refused = Image::open(lab.disk(), OpenOptions::read_write()).unwrap_err();
    assert!(matches!(refused, OpenError::Bitmaps { .. }), "{refused}");
    let told = refused.to_string();
    assert!(
        told.contains(r#"bitmap "fine" cannot be used: it has unknown flags (0x8)"#),
        "{told}"
    );
    assert!(fs::read(lab.disk()).unwrap() == bytes);
    assert!(lab.read("coarse").is_ok());
}

/// A program that knows no bitmaps wrote here: nobody believes them, and nobody is kept from writing.
#[test]
fn bitmaps_that_are_stale_already_are_left_so() {
    let Some(lab) = Lab::new() else { return };
    let mut bytes = fs::read(lab.disk()).unwrap();
    bytes[88..96].fill(0);
    fs::write(lab.disk(), &bytes).unwrap();
    let image = lab.open();
    image.device().write_at(&[1; 512], 0).unwrap();
    drop(image);
    assert!(matches!(lab.read("fine"), Err(Qcow2Error::Stale)));
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
    let Some(lab) = Lab::new() else { return };
    let before = lab.read_all();
    let image = lab.open();
    let owner = Arc::new(Owner::default());
    let found = image.hand_over_bitmaps(owner.clone()).unwrap();
    for ((found, name), bits) in found.iter().zip(NAMES).zip(before) {
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
    let image = lab.look();
    let told = image.hand_over_bitmaps(Arc::new(Owner::default())).unwrap();
    let told: Vec<_> = told.iter().map(|one| (&*one.name, one.enabled)).collect();
    assert_eq!(told, [("idle", true), ("new", false)]);
    assert!(lab.read("idle").unwrap() == new && lab.read("new").unwrap() == new);
    lab.is_clean();
}

#[test]
fn who_is_given_the_bitmaps_hears_that_they_could_not_be_saved() {
    let Some(lab) = Lab::new() else { return };
    let image = lab.open();
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
    let error = lab.read("fine").unwrap_err();
    assert!(matches!(error, Qcow2Error::Inconsistent { .. }), "{error}");
    lab.is_clean();
}
