//! `cohort bitmap list | show | export | import | merge`, on real images with QEMU's tools as judges, and on tracking stores
//! of writers that are alive, closed and killed.

mod lab;

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
    let size = SIZE.to_string();
    qemu_img(&lab, &["create", "-q", "-f", "qcow2", "a.qcow2", &size]);
    qemu_img(&lab, &["bitmap", "--add", "a.qcow2", "b"]);
    let end = SIZE - 512;
    write(
        &lab,
        &["write -P 1 1M 100k", &format!("write -P 2 {end} 512")],
    );
    qemu_img(&lab, &["bitmap", "--add", "-g", "4096", "a.qcow2", "fine"]);
    write(&lab, &["write -P 3 3000k 9k", "write -P 4 0 1k"]);
    Some(lab)
}

fn qemu_img(lab: &Lab, args: &[&str]) -> String {
    lab.tool("qemu-img", args)
}

fn write(lab: &Lab, commands: &[&str]) {
    let mut args = vec!["-t", "unsafe", "-f", "qcow2"];
    commands
        .iter()
        .for_each(|command| args.extend(["-c", *command]));
    args.push("a.qcow2");
    lab.tool("qemu-io", &args);
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
    qemu_img(lab, &["check", "-q", "-f", "qcow2", "a.qcow2"]);
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
fn what_qemu_says_of_a_bitmap_we_export_byte_for_byte() {
    let Some(lab) = lab_with_bitmaps() else {
        return;
    };
    if !have(&["nbdinfo"]) {
        return;
    }
    for name in ["b", "fine"] {
        let before = fs::read(lab.path("a.qcow2")).expect("the image");
        let ours = export(&lab, name, &["--json"]);
        assert_eq!(json(&ours), json(&nbdinfo(&lab, name)));
        assert!(before == fs::read(lab.path("a.qcow2")).expect("the image"));
    }
    let last = SIZE / 65536 * 65536;
    let list = format!(
        "0 65536\n1048576 131072\n3014656 131072\n{last} {}\n",
        SIZE - last
    );
    assert_eq!(export(&lab, "b", &[]), list);
    assert_eq!(export(&lab, "fine", &[]), "0 4096\n3072000 12288\n");
}

#[test]
fn what_we_import_qemu_reads_and_merges() {
    let Some(lab) = lab_with_bitmaps() else {
        return;
    };
    let list = format!("4095 2\n5M 1K\n# a comment\n\n{} 1\n", SIZE - 1);
    import(
        &lab,
        &["a.qcow2", "ours", "--granularity", "4096"],
        list.as_bytes(),
    )
    .exits(0);
    check(&lab);
    let end = SIZE / 4096 * 4096;
    let exact = format!("0 8192\n5242880 4096\n{end} {}\n", SIZE - end);
    assert_eq!(export(&lab, "ours", &[]), exact);
    qemu_img(
        &lab,
        &[
            "bitmap", "--add", "-g", "4096", "--merge", "ours", "a.qcow2", "theirs",
        ],
    );
    assert_eq!(export(&lab, "theirs", &[]), exact);
    if have(&["nbdinfo"]) {
        assert_eq!(
            json(&nbdinfo(&lab, "ours")),
            json(&export(&lab, "ours", &["--json"]))
        );
        // The map of one image, as nbdinfo prints it, makes the same bitmap in it again.
        let map = nbdinfo(&lab, "fine");
        import(
            &lab,
            &["a.qcow2", "again", "--granularity", "4K"],
            map.as_bytes(),
        )
        .exits(0);
        assert_eq!(export(&lab, "again", &[]), export(&lab, "fine", &[]));
    }
    // QEMU goes on marking it.
    write(&lab, &["write 2M 512"]);
    assert!(export(&lab, "ours", &[]).contains("\n2097152 4096\n"));
    check(&lab);
}

#[test]
fn bitmaps_of_several_granularities_merge_as_qemu_merges_them() {
    let Some(lab) = lab_with_bitmaps() else {
        return;
    };
    import(
        &lab,
        &["a.qcow2", "third", "--granularity", "512"],
        b"4M 512\n4200000 9000\n",
    )
    .exits(0);
    for (name, granularity) in [("ours", "16384"), ("theirs", "16384")] {
        qemu_img(
            &lab,
            &["bitmap", "--add", "-g", granularity, "a.qcow2", name],
        );
    }
    let ran = lab.cohort([
        "bitmap", "merge", "a.qcow2", "ours", "b", "fine", "third", "--json",
    ]);
    let ran = ran.exits(0).json();
    for source in ["b", "fine", "third"] {
        qemu_img(&lab, &["bitmap", "--merge", source, "a.qcow2", "theirs"]);
    }
    let merged = export(&lab, "ours", &[]);
    assert_eq!(merged, export(&lab, "theirs", &[]));
    let bytes: u64 = merged
        .lines()
        .map(|line| {
            line.split(' ')
                .nth(1)
                .expect("a length")
                .parse::<u64>()
                .expect("a number")
        })
        .sum();
    assert_eq!(ran["dirty_bytes"], bytes);
    // Coarser into finer, from another file that is the same image under another name.
    fs::copy(lab.path("a.qcow2"), lab.path("copy.qcow2")).expect("a copy");
    let into = [
        "bitmap",
        "merge",
        "a.qcow2",
        "fine",
        "b",
        "--from",
        "copy.qcow2",
    ];
    lab.cohort(into).exits(0);
    qemu_img(&lab, &["bitmap", "--merge", "b", "copy.qcow2", "fine"]);
    let other = lab
        .cohort(["bitmap", "export", "copy.qcow2", "fine"])
        .exits(0);
    assert_eq!(export(&lab, "fine", &[]), other.stdout);
    check(&lab);
}

#[test]
fn a_bitmap_is_replaced_only_on_request() {
    let Some(lab) = lab_with_bitmaps() else {
        return;
    };
    let before = export(&lab, "fine", &[]);
    let ran = import(&lab, &["a.qcow2", "fine"], b"0 1\n").exits(42);
    ran.says(&["has a bitmap \"fine\" already", "--replace"]);
    assert_eq!(export(&lab, "fine", &[]), before);
    import(&lab, &["a.qcow2", "fine", "--replace"], b"1M 1\n").exits(0);
    assert_eq!(
        export(&lab, "fine", &[]),
        "1048576 4096\n",
        "its granularity stays"
    );
    import(
        &lab,
        &["a.qcow2", "new", "--disabled", "--granularity", "2M"],
        b"",
    )
    .exits(0);
    let new = list(&lab, "a.qcow2").pop().expect("a bitmap");
    assert_eq!(
        (&new["state"], &new["dirty_bytes"]),
        (&"disabled".into(), &0.into())
    );
    assert_eq!(new["granularity_bytes"], 2 << 20);
    check(&lab);
}

#[test]
fn beside_a_writer_of_qemus_bitmaps_are_in_use_and_after_its_kill_inconsistent() {
    let Some(lab) = lab_with_bitmaps() else {
        return;
    };
    let daemon = Daemon::start(&lab, "off", None);
    let before = fs::read(lab.path("a.qcow2")).expect("the image");
    assert!(
        list(&lab, "a.qcow2")
            .iter()
            .all(|bitmap| bitmap["state"] == "in-use")
    );
    lab.cohort(["bitmap", "show", "a.qcow2", "b"])
        .exits(23)
        .says(&["a.qcow2: bitmap \"b\" is in use"]);
    import(&lab, &["a.qcow2", "n"], b"0 1\n")
        .exits(23)
        .says(&["a.qcow2: locked"]);
    lab.cohort(["bitmap", "merge", "a.qcow2", "b", "fine"])
        .exits(23)
        .says(&["a.qcow2: locked"]);
    assert!(
        before == fs::read(lab.path("a.qcow2")).expect("the image"),
        "nothing was changed"
    );
    daemon.kill();
    for bitmap in list(&lab, "a.qcow2") {
        assert_eq!(
            (&bitmap["state"], &bitmap["dirty_bytes"]),
            (&"inconsistent".into(), &Value::Null)
        );
    }
    for command in ["show", "export"] {
        lab.cohort(["bitmap", command, "a.qcow2", "b"])
            .exits(52)
            .says(&["\"b\" is inconsistent"]);
    }
    lab.cohort(["bitmap", "merge", "a.qcow2", "b", "fine"])
        .exits(52);
    import(&lab, &["a.qcow2", "b", "--replace"], b"0 1\n")
        .exits(52)
        .says(&["remove it"]);
}

/// Tells the tracking store of the disk `d` of a killed writer, which acknowledged the writes that are told too.
fn killed_mid_storm(lab: &Lab) -> Vec<u64> {
    let disk = fs::File::create(lab.path("d")).expect("a disk");
    disk.set_len(64 << 20).expect("room");
    let mut writer = Command::new(std::env::current_exe().expect("this test"))
        .args(["a_writer_that_is_to_be_killed", "--exact", "--nocapture"])
        .env("COHORT_TEST_STORM", lab.path("d"))
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    // Held open to the end: it is the kill that ends the writer, at the latest when the pipe is full.
    let mut lines = BufReader::new(writer.stdout.take().expect("its output")).lines();
    let told = lines.by_ref().map_while(Result::ok);
    let told = told.filter_map(|line| line.strip_prefix("wrote ")?.parse().ok());
    let acknowledged: Vec<u64> = told.take(300).collect();
    let beside = list(lab, "d");
    assert_eq!(beside[0]["state"], "recording");
    assert_eq!(
        beside[0]["why"],
        Value::Null,
        "it is alive, and nothing is in doubt"
    );
    writer.kill().expect("it lives");
    let ended = writer.wait().expect("it ends");
    assert_eq!(ended.signal(), Some(9), "it did not end by itself");
    acknowledged
}

/// Not a test: what `killed_mid_storm` starts.
#[test]
fn a_writer_that_is_to_be_killed() {
    let Some(path) = std::env::var_os("COHORT_TEST_STORM") else {
        return;
    };
    let path = Path::new(&path);
    let raw = OsFile::open(path, true).expect("the disk");
    let raw = RawDevice::new("d", Arc::new(raw), true).expect("a disk");
    let disk = Gated::new(Arc::new(raw));
    let beside = TrackingStore::path_beside(path);
    let store = TrackingStore::create(&beside, path, disk.size(), Mode::KilledProcess);
    let store = store.expect("a store");
    let owner = Owner {
        id: [7; 16],
        path: "/backups".into(),
    };
    let label = Label {
        owner,
        name: "since".into(),
        note: String::new(),
    };
    let since = store
        .store()
        .begin(label, Granularity::DEFAULT)
        .expect("a set");
    let soon = Instant::now() + Duration::from_secs(5);
    let mut closed = disk.close("tracking", soon).expect("closed");
    closed.install_recording(since);
    drop(closed);
    for step in 0_u64.. {
        let at = step * 7_919 * 512 % disk.size();
        disk.write_at(&[1; 512], at).expect("written");
        println!("wrote {at}");
    }
}

#[test]
fn the_store_of_a_killed_writer_holds_every_acknowledged_write_and_says_what_it_is_worth() {
    let lab = Lab::new();
    let acknowledged = killed_mid_storm(&lab);
    assert_eq!(acknowledged.len(), 300);
    let before = fs::read(lab.path("d.cohort")).expect("the store");
    for path in ["d", "d.cohort"] {
        let set = list(&lab, path).remove(0);
        assert_eq!(
            (&set["name"], &set["kind"]),
            (&"since".into(), &"cohort".into())
        );
        assert_eq!(set["owner"]["path"], "/backups");
        assert_eq!(set["state"], "recording");
        assert!(
            set["why"]
                .as_str()
                .is_some_and(|why| why.contains("not closed")),
            "{set}"
        );
        assert!(set["excess_bytes"].is_u64());
    }
    let told = lab.cohort(["bitmap", "list", "d"]).exits(0).stdout;
    for part in [
        "Cohort set #",
        "exact",
        "; unproven: ",
        "was killed",
        "survives a killed process",
    ] {
        assert!(told.contains(part), "'{part}' is missing in:\n{told}");
    }
    let ran = lab
        .cohort(["bitmap", "export", "d", "since"])
        .exits(0)
        .says(&["unproven"]);
    let runs: Vec<(u64, u64)> = ran
        .stdout
        .lines()
        .map(|line| line.split_once(' ').expect("two numbers"))
        .map(|(offset, length)| (offset.parse().expect("one"), length.parse().expect("one")))
        .collect();
    let holds = |at: &u64| {
        runs.iter()
            .any(|(offset, length)| (*offset..offset + length).contains(at))
    };
    assert!(acknowledged.iter().all(holds));
    assert!(
        before == fs::read(lab.path("d.cohort")).expect("the store"),
        "nothing was changed"
    );
}

#[test]
fn sets_of_a_store_go_into_a_bitmap_of_qemus() {
    let Some(lab) = lab_with_bitmaps() else {
        return;
    };
    let disk = fs::File::create(lab.path("raw")).expect("a disk");
    disk.set_len(SIZE).expect("room");
    let (beside, path) = (lab.path("raw.cohort"), lab.path("raw"));
    let store = TrackingStore::create(&beside, &path, SIZE, Mode::PowerLoss).expect("a store");
    for (name, at) in [("base", 2 << 20), ("base", 4 << 20)] {
        let mut bits = cohort_bitmap::DirtyBitmap::new(SIZE, Granularity::DEFAULT).expect("bits");
        bits.set(at, 1).expect("on the disk");
        let label = Label {
            name: name.into(),
            ..Label::default()
        };
        store.store().write_fixed(label, &bits).expect("a set");
    }
    store.close().expect("closed");
    let rows = list(&lab, "raw");
    assert_eq!(
        rows.iter().map(|row| &row["state"]).collect::<Vec<_>>(),
        ["fixed", "fixed"]
    );
    let number = |row: &Value| format!("#{}", row["set"]);
    let merge =
        |set: &str| lab.cohort(["bitmap", "merge", "a.qcow2", "fine", set, "--from", "raw"]);
    merge("base")
        .exits(2)
        .says(&["say which", &number(&rows[0]), &number(&rows[1])]);
    merge(&number(&rows[0])).exits(0);
    assert_eq!(
        export(&lab, "fine", &[]),
        "0 4096\n2097152 65536\n3072000 12288\n"
    );
    // Of another size it is another disk.
    disk.set_len(SIZE + 512).expect("room");
    merge(&number(&rows[0]))
        .exits(2)
        .says(&["disks of one size"]);
    check(&lab);
}

/// As QEMU looks for a bitmap: down the chain, and the uppermost of a name counts.
#[test]
fn bitmaps_of_images_beneath_are_found_and_told_apart() {
    let Some(lab) = lab_with_bitmaps() else {
        return;
    };
    let backing = [
        "create", "-q", "-f", "qcow2", "-b", "a.qcow2", "-F", "qcow2",
    ];
    qemu_img(&lab, &[&backing[..], &["top.qcow2"]].concat());
    let below = export(&lab, "b", &[]);
    let seen = |name: &str| lab.cohort(["bitmap", "export", "top.qcow2", name]).exits(0);
    assert_eq!(seen("b").stdout, below);
    qemu_img(&lab, &["bitmap", "--add", "top.qcow2", "fine"]);
    assert_eq!(seen("fine").stdout, "", "the uppermost one, which is new");
    let rows = list(&lab, "top.qcow2");
    let told: Vec<_> = rows
        .iter()
        .map(|row| {
            (
                row["name"].as_str(),
                row["image"]
                    .as_str()
                    .map(|path| path.ends_with("top.qcow2")),
            )
        })
        .collect();
    let expected = [("fine", true), ("b", false), ("fine", false)];
    assert_eq!(told, expected.map(|(name, top)| (Some(name), Some(top))));
    let shown = lab.cohort(["bitmap", "list", "top.qcow2"]).exits(0).stdout;
    assert!(shown.contains("QEMU, in "), "{shown}");
    lab.cohort(["bitmap", "show", "top.qcow2"])
        .exits(2)
        .says(&["\"b\" (in ", "say which"]);
    // What is beneath is read, and never changed from here.
    import(&lab, &["top.qcow2", "b", "--replace"], b"").exits(0);
    assert_eq!(export(&lab, "b", &[]), below);
    lab.cohort(["bitmap", "merge", "top.qcow2", "fine", "b"])
        .exits(0);
    check(&lab);
}

/// The image's file changes, the disk in it does not, and the store is told so.
#[test]
fn a_store_beside_an_image_outlives_a_change_of_its_bitmaps() {
    let Some(lab) = lab_with_bitmaps() else {
        return;
    };
    let (beside, path) = (lab.path("a.qcow2.cohort"), lab.path("a.qcow2"));
    let store = TrackingStore::create(&beside, &path, SIZE, Mode::PowerLoss).expect("a store");
    let since = store.store().begin(Label::default(), Granularity::DEFAULT);
    let since = since.expect("a set");
    since.record(5 << 20, 1);
    drop(since);
    store.close().expect("closed");
    let state = || {
        let set = list(&lab, "a.qcow2").pop().expect("a set");
        let told = |key: &str| set[key].clone();
        (told("state"), told("why"), told("dirty_bytes"))
    };
    let exact = ("recording".into(), Value::Null, 65_536.into());
    assert_eq!(state(), exact);
    import(&lab, &["a.qcow2", "n"], b"0 1\n").exits(0);
    assert_eq!(state(), exact);
    lab.cohort(["bitmap", "merge", "a.qcow2", "n", "fine"])
        .exits(0);
    assert_eq!(state(), exact);
    import(&lab, &["a.qcow2", "n"], b"0 1\n").exits(42);
    import(&lab, &["a.qcow2", "m"], b"no range\n").exits(53);
    assert_eq!(state(), exact, "what was refused changed nothing");
    // A store that was left open does not know the disk's last state, and nobody vouches for that.
    let opened = TrackingStore::open(&beside, &path, SIZE, Mode::PowerLoss);
    drop(opened.expect("a store"));
    let unproven = state();
    assert!(unproven.1.is_string(), "{unproven:?}");
    import(&lab, &["a.qcow2", "o"], b"0 1\n").exits(0);
    assert_eq!(state(), unproven);
    let opened = TrackingStore::open(&beside, &path, SIZE, Mode::PowerLoss);
    opened.expect("a store").0.close().expect("closed");
    // What it holds against the disk stands.
    write(&lab, &["write -q 0 64k"]);
    let lost = state();
    assert_eq!(lost.0, "lost");
    import(&lab, &["a.qcow2", "m"], b"0 1\n").exits(0);
    assert_eq!(state(), lost);
    check(&lab);
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
