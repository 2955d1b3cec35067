//! `cohort serve` for clients that exist: QEMU's tools and libnbd's.

mod lab;

use std::fs;

use lab::server::Server;
use lab::{Lab, have, length, noise};
use serde_json::Value;

const TOOLS: [&str; 4] = ["qemu-img", "qemu-io", "nbdinfo", "nbdcopy"];

/// Bytes of the disks.
const SIZE: u64 = (24 << 20) + 1536;

/// A lab, if the tools are here.
fn lab() -> Option<Lab> {
    have(&TOOLS).then(Lab::new)
}

/// A lab with a raw disk of odd size with data and holes, and an empty qcow2 image as large, if the tools are here.
fn two_disks() -> Option<Lab> {
    let lab = lab()?;
    let disk = fs::File::create(lab.path("a.raw")).expect("a disk");
    disk.set_len(SIZE).expect("room");
    lab.overwrite("a.raw", &noise(1, 5 << 20), 3 << 20);
    lab.overwrite("a.raw", &noise(2, 1536), 24 << 20);
    lab.run(&format!("qemu-img create -q -f qcow2 b.qcow2 {SIZE}"));
    Some(lab)
}

#[test]
fn what_real_clients_copy_is_the_same_bytes() {
    let Some(lab) = two_disks() else { return };
    let server = Server::start(&lab, &["a.raw", "b.qcow2"]);
    let (a, b) = (server.uri("a"), server.uri("b"));
    lab.tool(
        "qemu-img",
        &["convert", "-n", "-f", "raw", "-O", "raw", &a, &b],
    );
    lab.same(("raw", &a), ("raw", &b));
    lab.tool("nbdcopy", &[&b, "copied"]);
    assert!(fs::read(lab.path("copied")).unwrap() == fs::read(lab.path("a.raw")).unwrap());
    lab.noise("new", 3, SIZE as usize);
    for to in [&a, &b] {
        lab.tool("nbdcopy", &["--flush", "new", to]);
        lab.same(("raw", "new"), ("raw", to));
    }
    assert_eq!(server.stop(), Some(0));
    assert!(!lab.path("s").exists(), "the socket goes with the server");
    lab.run("qemu-img check -q b.qcow2");
    lab.same(("raw", "new"), ("qcow2", "b.qcow2"));
}

#[test]
fn every_request_does_what_it_says() {
    let Some(lab) = two_disks() else { return };
    let server = Server::start(&lab, &["a.raw", "b.qcow2"]);
    for name in ["a", "b"] {
        let io = |commands: &[&str]| {
            let mut args = vec!["-f", "raw"];
            args.extend(commands.iter().flat_map(|command| ["-c", command]));
            let uri = server.uri(name);
            args.push(&uri);
            let said = lab.tool("qemu-io", &args);
            assert!(!said.contains("failed"), "{said}");
        };
        io(&["write -P 7 1000 70001", "read -P 7 1000 70001"]);
        io(&["write -f -P 8 4M 2M", "read -P 8 4M 2M", "flush"]);
        io(&["write -z 4M 64k", "read -P 0 4M 64k", "read -P 8 4160k 64k"]);
        io(&["write -z -u 5M 64k", "read -P 0 5M 64k", "discard 1M 1M"]);
        io(&[
            "aio_write -P 1 8M 64k",
            "aio_write -P 2 9M 64k",
            "aio_flush",
            "read -P 1 8M 64k",
            "read -P 2 9M 64k",
        ]);
    }
}

#[test]
fn holes_zeroes_and_layers_are_told() {
    let Some(lab) = two_disks() else { return };
    lab.run("qemu-img create -q -f qcow2 -b a.raw -F raw top.qcow2");
    lab.qemu_io("qcow2", "top.qcow2", &["write 8M 64k"]);
    let server = Server::start(&lab, &["--read-only", "a.raw", "top.qcow2"]);
    let map = |name: &str, context: &str| -> Vec<(u64, u64, u64)> {
        let text = lab.tool(
            "nbdinfo",
            &["--json", &format!("--map={context}"), &server.uri(name)],
        );
        let runs: Value = serde_json::from_str(&text).expect("JSON");
        let number = |run: &Value, key: &str| run[key].as_u64().expect("a number");
        let runs = runs.as_array().expect("runs").iter();
        runs.map(|run| {
            (
                number(run, "offset"),
                number(run, "length"),
                number(run, "type"),
            )
        })
        .collect()
    };
    let holes = [
        (0, 3 << 20, 3),
        (3 << 20, 5 << 20, 0),
        (8 << 20, 16 << 20, 3),
        (24 << 20, 1536, 0),
    ];
    assert_eq!(map("a", "base:allocation"), holes);
    let depth = map("top", "qemu:allocation-depth");
    assert!(depth.contains(&(8 << 20, 64 << 10, 1)), "{depth:?}");
    assert!(depth.contains(&(3 << 20, 5 << 20, 2)), "{depth:?}");
    let listed: Value =
        serde_json::from_str(&lab.tool("nbdinfo", &["--json", "--list", &server.uri("")]))
            .expect("JSON");
    let names: Vec<_> = listed["exports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["export-name"].clone())
        .collect();
    assert_eq!(names, ["a", "top"]);
    assert!(listed["exports"][0]["is_read_only"].as_bool().unwrap());
}

#[test]
fn bitmaps_of_an_image_are_exported() {
    let Some(lab) = lab() else { return };
    lab.run("qemu-img create -q -f qcow2 b.qcow2 8M");
    lab.run("qemu-img bitmap --add b.qcow2 b0");
    lab.qemu_io("qcow2", "b.qcow2", &["write 1M 128k", "write 5M 1"]);
    let server = Server::start(&lab, &["--read-only", "b.qcow2"]);
    let map = lab.tool("nbdinfo", &["--map=qemu:dirty-bitmap:b0", &server.uri("b")]);
    let dirty: Vec<Vec<&str>> = map
        .lines()
        .map(|line| line.split_whitespace().take(3).collect())
        .collect();
    assert_eq!(
        dirty,
        [
            ["0", "1048576", "0"],
            ["1048576", "131072", "1"],
            ["1179648", "4063232", "0"],
            ["5242880", "65536", "1"],
            ["5308416", "3080192", "0"]
        ]
    );
    let uri = server.uri("b");
    let options = format!(
        "driver=nbd,server.type=unix,server.path={},export=b,x-dirty-bitmap=qemu:dirty-bitmap:b0",
        lab.path("s").display()
    );
    let map = lab.tool(
        "qemu-img",
        &["map", "--output=json", "--image-opts", &options],
    );
    let runs: Value = serde_json::from_str(&map).expect("JSON");
    let dirty = runs
        .as_array()
        .unwrap()
        .iter()
        .filter(|run| run["data"] == false)
        .count();
    assert_eq!(dirty, 2, "QEMU shows dirty as no data, of {uri}: {map}");
}

/// What `nbdinfo` says of a bitmap: offsets, lengths, and whether they are dirty.
fn bitmap_of(lab: &Lab, uri: &str, bitmap: &str) -> Vec<(u64, u64, bool)> {
    let context = format!("--map=qemu:dirty-bitmap:{bitmap}");
    let text = lab.tool("nbdinfo", &["--json", &context, uri]);
    let runs: Value = serde_json::from_str(&text).expect("JSON");
    let number = |run: &Value, key: &str| run[key].as_u64().expect("a number");
    let runs = runs.as_array().expect("runs").iter();
    runs.map(|run| {
        (
            number(run, "offset"),
            number(run, "length"),
            number(run, "type") == 1,
        )
    })
    .collect()
}

/// The bytes that a bitmap holds for dirty.
fn dirty_bytes(runs: &[(u64, u64, bool)]) -> u64 {
    let dirty = runs.iter().filter(|run| run.2);
    dirty.map(|run| run.1).sum()
}

#[test]
fn bitmaps_of_an_image_that_is_written_to_are_told_as_they_are_and_saved_as_told() {
    let Some(lab) = lab() else { return };
    lab.run("qemu-img create -q -f qcow2 b.qcow2 8M");
    lab.run("qemu-img bitmap --add b.qcow2 b0");
    lab.qemu_io("qcow2", "b.qcow2", &["write 1M 128k"]);
    lab.run("qemu-img bitmap --add -g 1M b.qcow2 coarse");
    lab.run("qemu-img bitmap --add b.qcow2 old");
    lab.run("qemu-img bitmap --merge b0 b.qcow2 old");
    lab.run("qemu-img bitmap --disable b.qcow2 old");
    let server = Server::start(&lab, &["b.qcow2"]);
    let uri = server.uri("b");
    let old = [
        (0, 1 << 20, false),
        (1 << 20, 128 << 10, true),
        (1152 << 10, 7040 << 10, false),
    ];
    for bitmap in ["b0", "old"] {
        assert_eq!(bitmap_of(&lab, &uri, bitmap), old);
    }
    assert_eq!(bitmap_of(&lab, &uri, "coarse"), [(0, 8 << 20, false)]);
    let io = |command: &str| lab.tool("qemu-io", &["-f", "raw", "-c", command, &uri]);
    io("write 5M 1");
    io("write -z 6200k 100k");
    io("discard 7M 64k");
    let now = [
        (0, 1 << 20, false),
        (1 << 20, 128 << 10, true),
        (1152 << 10, 3968 << 10, false),
        (5120 << 10, 64 << 10, true),
        (5184 << 10, 960 << 10, false),
        (6144 << 10, 192 << 10, true),
        (6336 << 10, 832 << 10, false),
        (7168 << 10, 64 << 10, true),
        (7232 << 10, 960 << 10, false),
    ];
    assert_eq!(bitmap_of(&lab, &uri, "b0"), now);
    assert_eq!(
        bitmap_of(&lab, &uri, "coarse"),
        [(0, 5 << 20, false), (5 << 20, 3 << 20, true)]
    );
    assert_eq!(bitmap_of(&lab, &uri, "old"), old);
    // QEMU shows dirty as no data.
    let options = format!(
        "driver=nbd,server.type=unix,server.path={},export=b,x-dirty-bitmap=qemu:dirty-bitmap:b0",
        lab.path("s").display()
    );
    let map = lab.run(&format!(
        "qemu-img map --output=json --image-opts {options}"
    ));
    let map: Value = serde_json::from_str(&map).expect("JSON");
    let of_qemu = map.as_array().expect("runs").iter().map(|run| {
        let number = |key: &str| run[key].as_u64().expect("a number");
        (number("start"), number("length"), run["data"] == false)
    });
    assert_eq!(of_qemu.collect::<Vec<_>>(), now);
    assert_eq!(server.stop(), Some(0));
    let server = Server::start(&lab, &["--read-only", "b.qcow2"]);
    let uri = server.uri("b");
    assert_eq!(
        bitmap_of(&lab, &uri, "b0"),
        now,
        "as it was told, so it was saved"
    );
    assert_eq!(dirty_bytes(&bitmap_of(&lab, &uri, "coarse")), 3 << 20);
    assert_eq!(bitmap_of(&lab, &uri, "old"), old);
}

#[test]
fn points_of_a_backup_directory_are_mounted_to_restore_a_file() {
    if !have(&["qemu-img", "nbdcopy", "mkfs.ext4", "debugfs"]) {
        return;
    }
    let lab = Lab::new();
    lab.ext4("a.raw", 16, &[("letter", b"first words")]);
    lab.cohort(["backup", "a.raw", "--to", "R"]).exits(0);
    lab.keep("a.raw", "a.1");
    lab.put("a.raw", "letter", b"second words");
    lab.cohort(["backup", "a.raw", "--to", "R"]).exits(0);
    lab.cohort(["serve", "R", "a@1", "--socket", "s"])
        .exits(2)
        .says(&["--read-only"]);
    let server = Server::start(&lab, &["--read-only", "R", "a@1", "a"]);
    for (point, words) in [("a@1", "first words"), ("a@2", "second words")] {
        let _ = fs::remove_file(lab.path("point"));
        lab.tool("nbdcopy", &[&server.uri(point), "point"]);
        assert_eq!(lab.tool("debugfs", &["-R", "cat letter", "point"]), words);
    }
    lab.same(("raw", "a.1"), ("raw", &server.uri("a@1")));
    assert_eq!(length(&lab.path("point")), length(&lab.path("a.raw")));
}

#[test]
fn exports_are_backed_up_together() {
    let Some(lab) = two_disks() else { return };
    let server = Server::start(&lab, &["a.raw", "b.qcow2"]);
    let (a, b) = (server.uri("a"), format!("other={}", server.uri("b")));
    for round in 1..=2 {
        lab.tool(
            "qemu-io",
            &[
                "-f",
                "raw",
                "-c",
                &format!("write -P {round} {round}M 300k"),
                &server.uri("b"),
            ],
        );
        lab.cohort(["backup", &a, &b, "--to", "R"]).exits(0);
        for (point, name) in [("a", "a"), ("other", "b")] {
            lab.tool("nbdcopy", &[&server.uri(name), "now"]);
            lab.restores_to("R", &format!("{point}@{round}"), "now");
        }
    }
}

#[test]
fn an_export_that_cannot_be_read_is_named() {
    let lab = Lab::new();
    lab.cohort(["backup", "nbd+unix:///x?socket=none", "--to", "R"])
        .exits(21)
        .says(&["nbd+unix:///x?socket=none"]);
    lab.cohort(["backup", "nbd:none", "--to", "R"])
        .exits(2)
        .says(&["nbd://"]);
}

#[test]
fn a_socket_has_one_server_and_outlives_none() {
    let lab = Lab::new();
    lab.noise("a.raw", 1, 4096);
    lab.noise("b.raw", 1, 4096);
    let server = Server::start(&lab, &["a.raw"]);
    lab.cohort(["serve", "b.raw", "--socket", "s"])
        .exits(1)
        .says(&["another process listens there"]);
    lab.cohort(["serve", "a.raw", "--socket", "t"])
        .exits(23)
        .says(&["locked"]);
    server.signal("KILL");
    drop(server);
    assert!(lab.path("s").exists(), "what is killed cleans up nothing");
    let server = Server::start(&lab, &["a.raw"]);
    assert_eq!(server.stop(), Some(0));
    lab.cohort(["serve", "a.raw"]).exits(2);
    lab.cohort(["serve", "a.raw", "x=a.raw", "none.raw", "--socket", "s"])
        .exits(23);
    lab.cohort(["serve", "none.raw", "--socket", "s"]).exits(20);
    assert!(!lab.path("s").exists());
}
