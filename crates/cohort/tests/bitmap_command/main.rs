//! `cohort bitmap list | show | export | import | merge`, on real images with QEMU's tools as judges, and on tracking stores
//! of writers that are alive, closed and killed.

mod images;
#[path = "../lab/mod.rs"]
mod lab;
mod stores;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cohort_bitmap::Granularity;
use cohort_bitmap::store::{Label, Mode, Owner};
use cohort_block::{Device, Gated, OsFile, RawDevice, TrackingStore};
use lab::{Lab, Ran, have};
use serde_json::Value;

/// A disk whose last granule is not whole.
const SIZE: u64 = (8 << 20) + 3 * 512;

/// A lab with the image `a.qcow2`, in which QEMU's bitmaps `b` (64 KiB) and `fine` (4 KiB) are marked.
fn lab_with_bitmaps() -> Option<Lab> {
    if !have(&["qemu-img", "qemu-io", "qemu-storage-daemon"]) {
        return None;
    }
    let lab = Lab::new();
    lab.run(&format!("qemu-img create -q -f qcow2 a.qcow2 {SIZE}"));
    lab.run("qemu-img bitmap --add a.qcow2 b");
    let end = SIZE - 512;
    write(
        &lab,
        &["write -P 1 1M 100k", &format!("write -P 2 {end} 512")],
    );
    lab.run("qemu-img bitmap --add -g 4096 a.qcow2 fine");
    write(&lab, &["write -P 3 3000k 9k", "write -P 4 0 1k"]);
    Some(lab)
}

fn write(lab: &Lab, commands: &[&str]) {
    lab.qemu_io("qcow2", "a.qcow2", commands);
}

/// QEMU's daemon with `a.qcow2` open, killed when dropped.
struct Daemon<'a>(&'a Lab);

impl<'a> Daemon<'a> {
    fn start(lab: &'a Lab, read_only: &str, bitmap: Option<&str>) -> Daemon<'a> {
        let disk = format!(
            "driver=qcow2,node-name=q,read-only={read_only},file.driver=file,file.filename=a.qcow2"
        );
        let bitmap = bitmap.map_or(String::new(), |name| format!(",bitmaps.0={name}"));
        let export = format!("type=nbd,id=e,node-name=q,name=q{bitmap}");
        let _ = fs::remove_file(lab.path("s"));
        // It returns when clients may connect.
        let args = ["--daemonize", "--pidfile", "pid", "--blockdev", &disk];
        let serving = [
            "--nbd-server",
            "addr.type=unix,addr.path=s",
            "--export",
            &export,
        ];
        lab.tool("qemu-storage-daemon", &[&args[..], &serving[..]].concat());
        Daemon(lab)
    }

    fn kill(self) {
        drop(self);
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        let id = fs::read_to_string(self.0.path("pid")).unwrap_or_default();
        let killed = Command::new("sh")
            .args([
                "-c",
                &format!(
                    "kill -9 {0} && while kill -0 {0} 2>&-; do :; done",
                    id.trim()
                ),
            ])
            .status();
        assert!(killed.is_ok());
    }
}

/// What QEMU says of a bitmap, through NBD.
fn nbdinfo(lab: &Lab, name: &str) -> String {
    let daemon = Daemon::start(lab, "on", Some(name));
    let uri = format!("nbd+unix:///q?socket={}", lab.path("s").display());
    let map = lab.tool(
        "nbdinfo",
        &["--json", &format!("--map=qemu:dirty-bitmap:{name}"), &uri],
    );
    daemon.kill();
    map
}

fn export(lab: &Lab, name: &str, more: &[&str]) -> String {
    let args = [&["bitmap", "export", "a.qcow2", name], more].concat();
    lab.cohort(args).exits(0).stdout
}

/// Runs an import with `text` on standard input.
fn import(lab: &Lab, args: &[&str], text: &[u8]) -> Ran {
    let mut running = lab
        .program()
        .args(["bitmap", "import"])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    // One that refuses its arguments does not read.
    let _ = running.stdin.take().expect("a pipe").write_all(text);
    running.wait_with_output().expect("it ends").into()
}

fn check(lab: &Lab) {
    lab.run("qemu-img check -q -f qcow2 a.qcow2");
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

/// The bitmaps that `list` tells of.
fn list(lab: &Lab, path: &str) -> Vec<Value> {
    let told = lab
        .cohort(["bitmap", "list", path, "--json"])
        .exits(0)
        .json();
    told["bitmaps"].as_array().expect("bitmaps").clone()
}

#[test]
fn bad_input_is_refused_by_name_place_and_rule() {
    let Some(lab) = lab_with_bitmaps() else {
        return;
    };
    let before = fs::read(lab.path("a.qcow2")).expect("the image");
    fs::write(lab.path("plain"), [1; 4096]).expect("a disk");
    fs::write(lab.path("plain.cohort"), b"something else").expect("a file");
    fs::write(lab.path("lone"), [1; 4096]).expect("a disk");
    for command in ["show", "export"] {
        let unknown = lab.cohort(["bitmap", command, "a.qcow2", "x"]).exits(51);
        unknown.says(&["no bitmap \"x\"", "\"b\", \"fine\""]);
        lab.cohort(["bitmap", command, "a.qcow2"])
            .exits(2)
            .says(&["\"b\", \"fine\"", "say which"]);
        lab.cohort(["bitmap", command, "lone"])
            .exits(27)
            .says(&["lone.cohort", "nothing is known"]);
        lab.cohort(["bitmap", command, "missing"]).exits(20);
    }
    lab.cohort(["bitmap", "list", "plain"])
        .exits(27)
        .says(&["plain.cohort", "no tracking store"]);
    lab.cohort(["bitmap", "merge", "a.qcow2", "x", "b"])
        .exits(51)
        .says(&["\"b\", \"fine\""]);
    lab.cohort(["bitmap", "merge", "a.qcow2", "b", "x"])
        .exits(51)
        .says(&["\"b\", \"fine\""]);
    import(&lab, &["lone", "n"], b"")
        .exits(27)
        .says(&["not a qcow2 image"]);
    let bad = |text: &str, parts: &[&str]| {
        import(&lab, &["a.qcow2", "n"], text.as_bytes())
            .exits(53)
            .says(parts);
    };
    bad("0 1\n1 2 3\n", &["standard input: line 2", "offset length"]);
    bad("0 512\n8G 1\n", &["line 2", "not all on the disk"]);
    bad("[{\"offset\": 0}]", &["the map", "line 1"]);
    import(&lab, &["a.qcow2", "n", "list"], b"")
        .exits(20)
        .says(&["list"]);
    import(&lab, &["a.qcow2", "n", "--granularity", "1000"], b"")
        .exits(2)
        .says(&["1000"]);
    import(&lab, &["a.qcow2", &"n".repeat(1024)], b"")
        .exits(2)
        .says(&["1023"]);
    assert!(
        before == fs::read(lab.path("a.qcow2")).expect("the image"),
        "nothing was changed"
    );
}

#[test]
fn a_bitmap_is_shown_in_a_pipe_without_colours_and_as_svg() {
    let Some(lab) = lab_with_bitmaps() else {
        return;
    };
    let shown = lab
        .cohort(["bitmap", "show", "a.qcow2", "b"])
        .exits(0)
        .stdout;
    assert!(!shown.contains('\u{1b}'), "{shown:?}");
    assert!(shown.contains("a cell is 64.0 KiB"), "{shown}");
    assert_eq!(
        shown.matches('█').count(),
        6 + 1,
        "its granules, and the legend:\n{shown}"
    );
    assert!(
        shown.lines().all(|line| line.chars().count() <= 80),
        "{shown}"
    );
    let rows = lab
        .cohort(["bitmap", "show", "a.qcow2", "fine", "--rows"])
        .exits(0)
        .stdout;
    assert!(rows.contains("3072000   12288"), "{rows}");
    let told = lab
        .cohort(["bitmap", "show", "a.qcow2", "b", "--json", "--rows"])
        .exits(0)
        .json();
    let sum: u64 = told["cells"]
        .as_array()
        .expect("cells")
        .iter()
        .filter_map(Value::as_u64)
        .sum();
    assert_eq!(told["bitmap"]["dirty_bytes"], sum);
    assert_eq!(told["rows"].as_array().map(Vec::len), Some(4));

    let svg = |more: &[&str]| {
        lab.cohort([&["bitmap", "show", "a.qcow2", "b", "--out", "b.svg"], more].concat())
    };
    svg(&[]).exits(0);
    let text = fs::read_to_string(lab.path("b.svg")).expect("the drawing");
    assert!(text.starts_with("<svg ") && text.ends_with("</svg>\n"));
    assert!(
        text.contains("131072 bytes at byte 1048576: 128 KiB dirty"),
        "{text}"
    );
    svg(&[])
        .exits(42)
        .says(&["b.svg exists already", "--force"]);
    svg(&["--force"]).exits(0);
    let onto = [
        "bitmap", "export", "a.qcow2", "b", "--force", "--out", "a.qcow2",
    ];
    lab.cohort(onto).exits(25).says(&["the disk itself"]);
    check(&lab);
}
