//! Locks between us and QEMU's tools, both ways.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use cohort_block::{Format, OpenError, OpenOptions, open};
use common::{attempt, have_qemu, qemu_io, run, text};

/// A qemu-io that has opened an image and waits for commands until it is dropped.
struct Holder(Child);

impl Holder {
    /// Returns once the image is open: qemu-io has then answered a command.
    fn open(dir: &Path, words: &[&str]) -> Self {
        let mut child = Command::new("qemu-io")
            .args(words)
            .current_dir(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        writeln!(child.stdin.as_mut().unwrap(), "length").unwrap();
        let mut answers = BufReader::new(child.stdout.as_mut().unwrap()).lines();
        let answer = answers.next().expect("qemu-io opened the image").unwrap();
        assert!(answer.contains("MiB"), "{answer}");
        Self(child)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // Killed, not asked: the locks must not outlive it.
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn make(dir: &Path) {
    run(dir, "qemu-img create -f qcow2 disk.qcow2 4M");
    run(dir, "qemu-img create -f raw disk.raw 4M");
}

const IMAGES: [(&str, &str, Format); 2] = [
    ("disk.qcow2", "qcow2", Format::Qcow2),
    ("disk.raw", "raw", Format::Raw),
];

fn is_locked<T>(result: Result<T, OpenError>) -> bool {
    matches!(result, Err(OpenError::Locked { .. }))
}

#[test]
fn an_image_that_qemu_writes_is_refused_until_qemu_is_gone() {
    if !have_qemu() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    make(dir.path());
    for (name, word, format) in IMAGES {
        let path = dir.path().join(name);
        let writer = Holder::open(dir.path(), &["-f", word, name]);
        let options = OpenOptions::read_only().format(format);
        let refused = open(&path, options).unwrap_err();
        assert!(
            refused.to_string().contains("open for writing"),
            "{refused}"
        );
        assert!(is_locked(open(&path, OpenOptions::read_write())));
        open(&path, options.without_lock()).unwrap();
        drop(writer);
        open(&path, options).unwrap();
    }
}

#[test]
fn who_only_reads_in_qemu_does_not_disturb_readers() {
    if !have_qemu() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    make(dir.path());
    for (name, word, _) in IMAGES {
        let path = dir.path().join(name);
        let _reader = Holder::open(dir.path(), &["-r", "-f", word, name]);
        open(&path, OpenOptions::read_only()).unwrap();
    }
    // A reader of qcow2 wants its metadata left alone; one of raw lets others write.
    let _reader = Holder::open(dir.path(), &["-r", "-f", "qcow2", "disk.qcow2"]);
    assert!(is_locked(open(
        dir.path().join("disk.qcow2"),
        OpenOptions::read_write()
    )));
}

#[test]
fn what_we_read_qemu_may_read_and_may_not_write() {
    if !have_qemu() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    make(dir.path());
    for (name, word, _) in IMAGES {
        let device = open(dir.path().join(name), OpenOptions::read_only()).unwrap();
        let write = ["qemu-io", "-f", word, "-c", "write 0 4k", name];
        let refused = attempt(dir.path(), &write);
        assert!(
            !refused.status.success() && text(&refused).contains("lock"),
            "{}",
            text(&refused)
        );
        let second = open(dir.path().join(name), OpenOptions::read_only()).unwrap();
        let read = attempt(
            dir.path(),
            &["qemu-io", "-r", "-f", word, "-c", "read 0 4k", name],
        );
        assert!(read.status.success(), "{}", text(&read));
        drop((device, second));
        qemu_io(dir.path(), name, word, &["write 0 4k".into()]);
    }
}

#[test]
fn what_we_write_qemu_may_neither_write_nor_resize() {
    if !have_qemu() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    make(dir.path());
    for (name, word, _) in IMAGES {
        let device = open(dir.path().join(name), OpenOptions::read_write()).unwrap();
        for words in [
            &["qemu-io", "-f", word, "-c", "write 0 4k", name][..],
            &["qemu-img", "resize", "-f", word, name, "8M"],
        ] {
            let refused = attempt(dir.path(), words);
            assert!(!refused.status.success(), "{words:?}: {}", text(&refused));
            assert!(
                text(&refused).contains("lock"),
                "{words:?}: {}",
                text(&refused)
            );
        }
        assert!(is_locked(open(
            dir.path().join(name),
            OpenOptions::read_only()
        )));
        drop(device);
        run(dir.path(), &format!("qemu-img resize -f {word} {name} 8M"));
    }
}

#[test]
fn backing_files_are_locked_too() {
    if !have_qemu() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    make(dir.path());
    run(
        dir.path(),
        "qemu-img create -f qcow2 -b disk.raw -F raw top",
    );
    let writer = Holder::open(dir.path(), &["-f", "raw", "disk.raw"]);
    let refused = open(dir.path().join("top"), OpenOptions::read_only()).unwrap_err();
    assert!(matches!(&refused, OpenError::Locked { path, .. } if path.ends_with("disk.raw")));
    drop(writer);
    let device = open(dir.path().join("top"), OpenOptions::read_write()).unwrap();
    let write = ["qemu-io", "-f", "raw", "-c", "write 0 4k", "disk.raw"];
    assert!(!attempt(dir.path(), &write).status.success());
    // Another overlay of the same base is nobody's conflict.
    run(
        dir.path(),
        "qemu-img create -f qcow2 -b disk.raw -F raw other",
    );
    open(dir.path().join("other"), OpenOptions::read_write()).unwrap();
    drop(device);
}
