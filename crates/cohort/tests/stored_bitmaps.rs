//! Bitmaps that are stored in qcow2 images: made over QMP and read by QEMU's tools, and the other way round.

mod lab;

use std::process::Command;

use lab::machine::Machine;
use lab::{Lab, have};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;
const TOOLS: [&str; 4] = ["qemu-img", "qemu-io", "qemu-nbd", "nbdinfo"];

/// A lab with an empty image `a.qcow2` of 8 MiB, if QEMU's tools are here.
fn lab() -> Option<Lab> {
    if !have(&TOOLS) {
        return None;
    }
    let lab = Lab::new();
    lab.run("qemu-img create -q -f qcow2 a.qcow2 8M");
    Some(lab)
}

fn add_image(daemon: &Machine) {
    let file = json!({ "driver": "file", "filename": "a.qcow2" });
    let node = json!({ "driver": "qcow2", "node-name": "a", "file": file });
    daemon.does("blockdev-add", node);
}

fn delete_image(daemon: &Machine) {
    daemon.does("blockdev-del", json!({ "node-name": "a" }));
}

fn of_a(bitmap: &str) -> Value {
    json!({ "node": "a", "name": bitmap })
}

/// Writes through an NBD export, as a guest would.
fn write(lab: &Lab, daemon: &Machine, commands: &[&str]) {
    let addr = json!({ "type": "unix", "data": { "path": "nbd.sock" } });
    daemon.does("nbd-server-start", json!({ "addr": addr }));
    let export = json!({ "type": "nbd", "id": "e", "node-name": "a", "writable": true });
    daemon.does("block-export-add", export);
    let mut words = vec!["-f", "raw"];
    words.extend(commands.iter().flat_map(|command| ["-c", *command]));
    words.push("nbd+unix:///a?socket=nbd.sock");
    lab.tool("qemu-io", &words);
    daemon.does("nbd-server-stop", json!({}));
}

/// What the node's queries say of a bitmap.
fn told(daemon: &Machine, name: &str) -> Value {
    let nodes = daemon.does("query-named-block-nodes", json!({}));
    let mut nodes = nodes.as_array().unwrap().iter();
    let node = nodes
        .find(|node| node["node-name"] == "a")
        .expect("the node");
    let mut bitmaps = node["dirty-bitmaps"].as_array().into_iter().flatten();
    let bitmap = bitmaps.find(|bitmap| bitmap["name"] == name);
    bitmap.cloned().unwrap_or_default()
}

/// What `qemu-img info` says of the image's bitmaps: each with its flags.
fn listed(lab: &Lab) -> Vec<(String, Value)> {
    let info = lab.run("qemu-img info -U --output=json a.qcow2");
    let info: Value = serde_json::from_str(&info).expect("JSON");
    let bitmaps = info["format-specific"]["data"]["bitmaps"].as_array();
    let told = |bitmap: &Value| {
        (
            bitmap["name"].as_str().unwrap().to_owned(),
            bitmap["flags"].clone(),
        )
    };
    bitmaps.into_iter().flatten().map(told).collect()
}

/// Where a bitmap is dirty: offset and length, as an NBD client sees it whom QEMU serves.
fn dirty(lab: &Lab, bitmap: &str) -> Vec<(u64, u64)> {
    let mut server = Command::new("qemu-nbd");
    server.args(["-r", "-f", "qcow2", "-B", bitmap, "-k"]);
    server.arg(lab.path("theirs.sock")).arg("a.qcow2");
    let mut server = server.current_dir(lab.path("")).spawn().expect("a server");
    let uri = format!("nbd+unix:///?socket={}", lab.path("theirs.sock").display());
    let context = format!("--map=qemu:dirty-bitmap:{bitmap}");
    // The server ends with its first client, so nobody asks it whether it listens but who wants the map.
    let map = loop {
        let ended = server.try_wait().expect("its state");
        let asked = Command::new("nbdinfo")
            .args(["--json", &context, &uri])
            .output();
        let asked = asked.expect("a client");
        if asked.status.success() {
            break String::from_utf8(asked.stdout).expect("text");
        }
        assert!(ended.is_none(), "{bitmap}: {asked:?}");
    };
    server.wait().expect("it ends");
    runs_of(&map)
}

/// The dirty runs of a map that `nbdinfo` tells.
fn runs_of(map: &str) -> Vec<(u64, u64)> {
    let map: Value = serde_json::from_str(map).expect("JSON");
    let extents = map.as_array().expect("extents").iter();
    let number = |extent: &Value, key: &str| extent[key].as_u64().expect("a number");
    extents
        .filter(|extent| extent["type"] == 1)
        .map(|extent| (number(extent, "offset"), number(extent, "length")))
        .collect()
}

fn is_clean(lab: &Lab) {
    lab.run("qemu-img check -q -f qcow2 a.qcow2");
}

#[test]
fn what_is_made_over_qmp_and_written_over_nbd_qemu_reads_in_the_image() {
    let Some(lab) = lab() else { return };
    let daemon = Machine::ours(&lab, &[]);
    add_image(&daemon);
    let add = |name: &str, more: Value| {
        let mut bitmap = json!({ "node": "a", "name": name, "persistent": true });
        bitmap
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        daemon.does("block-dirty-bitmap-add", bitmap);
    };
    add("b", json!({}));
    add("fine", json!({ "granularity": 4096 }));
    add("off", json!({ "disabled": true }));
    daemon.does(
        "block-dirty-bitmap-add",
        json!({ "node": "a", "name": "ours" }),
    );
    write(
        &lab,
        &daemon,
        &[
            "write -P 1 1M 512k",
            "write -P 2 5000k 1k",
            "write -z 7M 64k",
        ],
    );
    assert_eq!(told(&daemon, "b")["count"], (512 + 64 + 64) << 10);
    assert_eq!(
        listed(&lab),
        [],
        "nothing is there before the image is closed"
    );
    delete_image(&daemon);
    let auto = json!(["auto"]);
    let off = ("off".to_owned(), json!([]));
    assert_eq!(
        listed(&lab),
        [
            off.clone(),
            ("fine".to_owned(), auto.clone()),
            ("b".to_owned(), auto.clone())
        ]
    );
    is_clean(&lab);
    let coarse = [
        (MIB, MIB / 2),
        (5000 << 10 >> 16 << 16, 64 << 10),
        (7 * MIB, 64 << 10),
    ];
    assert_eq!(dirty(&lab, "b"), coarse);
    assert_eq!(
        dirty(&lab, "fine"),
        [(MIB, MIB / 2), (5000 << 10, 4096), (7 * MIB, 64 << 10)]
    );
    assert_eq!(dirty(&lab, "off"), []);
    lab.run("qemu-img bitmap --merge fine a.qcow2 off");
    assert_eq!(dirty(&lab, "off"), coarse);

    // It goes on from there, also through the end of the daemon; what is cleared and removed is so in the image.
    add_image(&daemon);
    daemon.does("block-dirty-bitmap-clear", of_a("b"));
    daemon.does("block-dirty-bitmap-remove", of_a("fine"));
    write(&lab, &daemon, &["write -P 3 3M 64k"]);
    daemon.quit();
    assert_eq!(listed(&lab), [off, ("b".to_owned(), auto)]);
    assert_eq!(
        (dirty(&lab, "b"), dirty(&lab, "off")),
        (vec![(3 * MIB, 64 << 10)], coarse.to_vec())
    );
    is_clean(&lab);
}

#[test]
fn what_qemu_made_in_the_image_serves_an_incremental_backup_over_qmp() {
    let Some(lab) = lab() else { return };
    lab.run("qemu-img bitmap --add a.qcow2 b");
    let theirs = |command: &str| lab.qemu_io("qcow2", "a.qcow2", &[command]);
    theirs("write -P 1 1M 512k");
    std::fs::write(lab.path("t.raw"), vec![0; 8 << 20]).expect("a target");
    let daemon = Machine::ours(&lab, &[]);
    add_image(&daemon);
    let found = told(&daemon, "b");
    let facts = ["persistent", "recording", "busy", "inconsistent"].map(|key| found[key].clone());
    assert_eq!(facts, [json!(true), json!(true), json!(false), Value::Null]);
    assert_eq!(found["count"], MIB / 2);
    write(&lab, &daemon, &["write -P 2 5M 64k"]);
    let target = json!({ "driver": "file", "node-name": "t", "filename": "t.raw" });
    daemon.does("blockdev-add", target);
    let backup = json!({
        "job-id": "j", "device": "a", "target": "t", "sync": "incremental", "bitmap": "b", "auto-dismiss": false,
    });
    daemon.does("blockdev-backup", backup);
    lab.cohort(["job", "watch", "j", "--socket", "qmp.sock"])
        .exits(0);
    let jobs = daemon.does("query-jobs", json!({}));
    assert_eq!(jobs[0]["total-progress"], MIB / 2 + (64 << 10), "{jobs}");
    daemon.does("job-dismiss", json!({ "id": "j" }));
    delete_image(&daemon);
    lab.run("qemu-img compare -F raw -f qcow2 a.qcow2 t.raw");
    assert_eq!((dirty(&lab, "b"), listed(&lab).len()), (vec![], 1));
    theirs("write -P 3 2M 64k");
    assert_eq!(dirty(&lab, "b"), [(2 * MIB, 64 << 10)]);
    is_clean(&lab);
}

#[test]
fn after_a_kill_they_are_inconsistent_for_everybody_and_can_be_removed() {
    let Some(lab) = lab() else { return };
    lab.run("qemu-img bitmap --add a.qcow2 on");
    lab.run("qemu-img bitmap --add --disable a.qcow2 off");
    let daemon = Machine::ours(&lab, &[]);
    add_image(&daemon);
    let new = json!({ "node": "a", "name": "new", "persistent": true });
    daemon.does("block-dirty-bitmap-add", new);
    write(&lab, &daemon, &["write -P 1 1M 64k"]);
    drop(daemon);
    let in_use = [
        ("on".to_owned(), json!(["in-use", "auto"])),
        ("off".to_owned(), json!(["in-use"])),
    ];
    assert_eq!(listed(&lab), in_use);
    let daemon = Machine::ours(&lab, &[]);
    add_image(&daemon);
    let found = told(&daemon, "on");
    assert_eq!(
        (&found["inconsistent"], &found["recording"]),
        (&json!(true), &json!(false))
    );
    let refused = daemon
        .ask("block-dirty-bitmap-clear", of_a("on"))
        .unwrap_err();
    assert!(
        refused.contains("is inconsistent and cannot be used"),
        "{refused}"
    );
    daemon.does("block-dirty-bitmap-remove", of_a("on"));
    delete_image(&daemon);
    assert_eq!(listed(&lab), in_use[1..], "the other one stays as it is");
    is_clean(&lab);
}

#[test]
fn a_program_without_bitmaps_leaves_none_and_a_new_one_takes_their_place() {
    let Some(lab) = lab() else { return };
    lab.run("qemu-img bitmap --add a.qcow2 old");
    // What such a program does: it takes back the promise that they are true.
    let image = std::fs::read(lab.path("a.qcow2")).expect("the image");
    let mut stale = image.clone();
    stale[95] &= !1;
    std::fs::write(lab.path("a.qcow2"), stale).expect("the image");
    let daemon = Machine::ours(&lab, &[]);
    add_image(&daemon);
    assert_eq!(told(&daemon, "old"), Value::Null);
    let new = json!({ "node": "a", "name": "old", "persistent": true });
    daemon.does("block-dirty-bitmap-add", new);
    write(&lab, &daemon, &["write -P 1 1M 64k"]);
    daemon.quit();
    assert_eq!(listed(&lab), [("old".to_owned(), json!(["auto"]))]);
    assert_eq!(dirty(&lab, "old"), [(MIB, 64 << 10)]);
}

#[test]
fn a_disk_of_the_command_line_has_the_bitmaps_of_its_image_and_is_given_others() {
    let Some(lab) = lab() else { return };
    for (name, more) in [("b", &[][..]), ("gone", &[]), ("off", &["--disable"])] {
        let words = [&["bitmap", "--add"][..], more, &["a.qcow2", name]].concat();
        lab.tool("qemu-img", &words);
    }
    let daemon = Machine::ours(&lab, &["a=a.qcow2", "--socket", "nbd.sock"]);
    for (name, recording) in [("b", true), ("gone", true), ("off", false)] {
        let told = told(&daemon, name);
        let expected = (&json!(true), &json!(recording), &json!(false));
        assert_eq!(
            (&told["persistent"], &told["recording"], &told["busy"]),
            expected
        );
    }
    let new = json!({ "node": "a", "name": "new", "persistent": true });
    daemon.does("block-dirty-bitmap-add", new);
    let uri = "nbd+unix:///a?socket=nbd.sock";
    let ours = |bitmap: &str| {
        let context = format!("--map=qemu:dirty-bitmap:{bitmap}");
        runs_of(&lab.tool("nbdinfo", &["--json", &context, uri]))
    };
    let writes = |command: &str| lab.tool("qemu-io", &["-f", "raw", "-c", command, uri]);
    writes("write -P 1 1M 64k");
    assert_eq!((ours("b"), ours("off")), (vec![(MIB, 64 << 10)], vec![]));

    // The export of the command line shows it, and a job may have it all the same: then its writes are in it.
    let null =
        json!({ "driver": "null-co", "node-name": "t", "size": 8 * MIB, "read-zeroes": true });
    daemon.does("blockdev-add", null);
    let backup = json!({ "job-id": "j", "device": "a", "target": "t", "sync": "bitmap", "bitmap": "b",
        "bitmap-mode": "on-success", "auto-finalize": false });
    daemon.does("blockdev-backup", backup);
    writes("write -P 2 2M 64k");
    assert_eq!(ours("b"), [(MIB, 64 << 10), (2 * MIB, 64 << 10)]);
    while daemon.ask("job-finalize", json!({ "id": "j" })).is_err() {}
    while told(&daemon, "b")["busy"] == true {}
    assert_eq!(ours("b"), [(2 * MIB, 64 << 10)]);

    // Of what was removed nobody knows any more what it would say.
    daemon.does("block-dirty-bitmap-remove", of_a("gone"));
    assert_eq!(ours("gone"), [(0, 8 * MIB)]);
    daemon.quit();
    let flags = [
        ("b", json!(["auto"])),
        ("off", json!([])),
        ("new", json!(["auto"])),
    ];
    assert_eq!(
        listed(&lab),
        flags.map(|(name, flags)| (name.to_owned(), flags))
    );
    assert_eq!(dirty(&lab, "b"), [(2 * MIB, 64 << 10)]);
    assert_eq!(dirty(&lab, "new"), [(MIB, 64 << 10), (2 * MIB, 64 << 10)]);
    is_clean(&lab);
    // The store beside the disk was closed after the image: it has nothing against the file.
    let told = lab.cohort(["bitmap", "list", "a.qcow2"]).exits(0).stdout;
    assert!(told.contains("recording, exact"), "{told}");
}

#[test]
fn a_disk_of_the_command_line_that_is_only_read_shows_the_bitmaps_of_its_image() {
    let Some(lab) = lab() else { return };
    lab.tool("qemu-img", &["bitmap", "--add", "a.qcow2", "b"]);
    lab.tool(
        "qemu-io",
        &["-f", "qcow2", "-c", "write -P 1 1M 64k", "a.qcow2"],
    );
    std::fs::write(lab.path("raw.img"), [7; 65536]).expect("a disk");
    let arguments = [
        "a=a.qcow2",
        "raw=raw.img",
        "--read-only",
        "--socket",
        "nbd.sock",
    ];
    let daemon = Machine::ours(&lab, &arguments);
    assert_eq!(told(&daemon, "b")["count"], 64 << 10);
    let text = |of: Value| daemon.ask("block-dirty-bitmap-clear", of).unwrap_err();
    let refused = text(of_a("b"));
    assert!(
        refused.contains("is readonly and cannot be modified"),
        "{refused}"
    );
    let new = json!({ "node": "raw", "name": "new", "persistent": true });
    let refused = daemon.ask("block-dirty-bitmap-add", new).unwrap_err();
    let expected = "Can't store persistent bitmaps to raw: Operation not supported";
    assert!(refused.contains(expected), "{refused}");
    daemon.quit();
    assert_eq!(dirty(&lab, "b"), [(MIB, 64 << 10)]);
}

#[test]
fn an_image_of_version_2_can_be_given_none() {
    if !have(&TOOLS) {
        return;
    }
    let lab = Lab::new();
    let old = [
        "create",
        "-q",
        "-f",
        "qcow2",
        "-o",
        "compat=0.10",
        "a.qcow2",
        "1M",
    ];
    lab.tool("qemu-img", &old);
    let daemon = Machine::ours(&lab, &[]);
    add_image(&daemon);
    let mut bitmap = json!({ "node": "a", "name": "b", "persistent": true });
    let refused = daemon
        .ask("block-dirty-bitmap-add", bitmap.clone())
        .unwrap_err();
    // As QEMU says it.
    let why =
        "Can't make bitmap 'b' persistent in 'a': Cannot store dirty bitmaps in qcow2 v2 files";
    assert_eq!(refused, json!(why).to_string());
    bitmap["persistent"] = json!(false);
    daemon.does("block-dirty-bitmap-add", bitmap);
    write(&lab, &daemon, &["write -P 1 0 64k"]);
    daemon.quit();
    is_clean(&lab);
}
