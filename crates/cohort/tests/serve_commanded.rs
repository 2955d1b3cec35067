//! Disks of the command line that NBD clients write to and QMP clients command, both at once.

mod lab;

use std::fs;
use std::io::{ErrorKind, Read};
use std::time::Duration;

use lab::machine::ask;
use lab::server::{Raw, Server};
use lab::{Lab, have, noise};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;
const BLOCK: u32 = 4096;
const GRANULE: u64 = 64 << 10;

/// `cohort serve` at both sockets.
fn serve(lab: &Lab, args: &[&str]) -> Server {
    Server::start(lab, &[args, &["--qmp", "qmp.sock"]].concat())
}

fn command(lab: &Lab, command: &str, arguments: Value) -> Result<Value, String> {
    ask(&lab.path("qmp.sock"), command, arguments)
}

fn write(client: &mut Raw, cookie: u64, offset: u64) {
    client.ask(0, 1, cookie, offset, BLOCK);
    client.put(&noise(cookie + 100, BLOCK as usize));
    assert_eq!(client.reply(), (0, cookie));
}

fn raw_disk(lab: &Lab) {
    lab.noise("a.raw", 7, 8 * MIB as usize);
}

fn dirty(lab: &Lab, node: &str) -> Value {
    let nodes = command(lab, "query-named-block-nodes", json!({})).unwrap();
    let mut nodes = nodes.as_array().unwrap().iter();
    nodes.find(|found| found["node-name"] == node).unwrap()["dirty-bitmaps"][0]["count"].clone()
}

/// Backs the disk up offline; how much was copied, and what was said.
#[track_caller]
fn back_up(lab: &Lab) -> (u64, String) {
    let ran = lab
        .cohort(["backup", "a=a.raw", "--to", "R", "--json"])
        .exits(0);
    let disk = &ran.json()["disks"][0];
    (
        disk["copied_bytes"].as_u64().unwrap(),
        disk["notes"].to_string(),
    )
}

#[test]
fn what_nbd_clients_write_qmp_clients_see() {
    let lab = Lab::new();
    raw_disk(&lab);
    let server = serve(&lab, &["a.raw"]);
    command(
        &lab,
        "block-dirty-bitmap-add",
        json!({ "node": "a", "name": "b" }),
    )
    .unwrap();
    let mut client = server.enter("a");
    write(&mut client, 1, MIB);
    write(&mut client, 2, 5 * MIB);
    assert_eq!(dirty(&lab, "a"), 2 * GRANULE);
    let exports = command(&lab, "query-block-exports", json!({})).unwrap();
    assert_eq!(
        (&exports[0]["id"], &exports[0]["node-name"]),
        (&json!("a"), &json!("a"))
    );
    drop(client);
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn every_write_is_recorded_for_the_next_backup_whoever_made_it() {
    let lab = Lab::new();
    raw_disk(&lab);
    assert_eq!(serve(&lab, &["a.raw"]).stop(), Some(0));
    assert_eq!(back_up(&lab).0, 8 * MIB);
    let server = serve(&lab, &["a.raw"]);
    let mut client = server.enter("a");
    write(&mut client, 1, MIB);
    // A job of QMP's, and a node that lies on the disk.
    fs::write(lab.path("c.raw"), vec![0; 8 * MIB as usize]).unwrap();
    lab.noise("one.raw", 9, 8 * MIB as usize);
    for name in ["c", "one"] {
        let file =
            json!({ "driver": "file", "node-name": name, "filename": format!("{name}.raw") });
        command(&lab, "blockdev-add", file).unwrap();
    }
    let part = json!({ "driver": "raw", "node-name": "part", "file": "a", "offset": 4 * MIB, "size": MIB });
    command(&lab, "blockdev-add", part).unwrap();
    command(
        &lab,
        "block-export-add",
        json!({ "type": "nbd", "id": "p", "node-name": "part", "writable": true }),
    )
    .unwrap();
    let mut inner = server.enter("part");
    write(&mut inner, 2, 0);
    drop((client, inner));
    assert_eq!(server.stop(), Some(0));
    let (copied, said) = back_up(&lab);
    assert_eq!(copied, 2 * GRANULE, "{said}");
    assert!(said.contains("is known from tracking store"), "{said}");
    lab.restores_to("R", "a", "a.raw");

    // A job that writes to the disk.
    let server = serve(&lab, &["a.raw"]);
    let file = json!({ "driver": "file", "node-name": "one", "filename": "one.raw" });
    command(&lab, "blockdev-add", file).unwrap();
    let copy = json!({ "job-id": "j", "device": "one", "target": "a", "sync": "full", "auto-dismiss": false });
    command(&lab, "blockdev-backup", copy).unwrap();
    let socket = lab.path("qmp.sock").display().to_string();
    lab.cohort(["job", "watch", "j", "--socket", &socket])
        .exits(0);
    assert_eq!(server.stop(), Some(0));
    assert_eq!(back_up(&lab).0, 8 * MIB);
    lab.restores_to("R", "a", "one.raw");
}

#[test]
fn a_disk_of_the_command_line_stays_and_nothing_gets_past_its_gate() {
    let lab = Lab::new();
    raw_disk(&lab);
    let server = serve(&lab, &["a.raw"]);
    let delete =
        |node: &str| command(&lab, "blockdev-del", json!({ "node-name": node })).unwrap_err();
    assert!(delete("a").contains("is in use"));
    let nodes = command(&lab, "query-named-block-nodes", json!({})).unwrap();
    assert_eq!(nodes.as_array().unwrap().len(), 1, "{nodes}");
    command(&lab, "block-export-del", json!({ "id": "a" })).unwrap();
    assert!(delete("a").contains("is not owned by the monitor"));
    // Not even with what lay on it.
    let above = json!({ "driver": "raw", "node-name": "above", "file": "a" });
    command(&lab, "blockdev-add", above).unwrap();
    command(&lab, "blockdev-del", json!({ "node-name": "above" })).unwrap();
    assert!(delete("a").contains("is not owned by the monitor"));
    let again = json!({ "driver": "file", "node-name": "f", "filename": "a.raw" });
    assert!(
        command(&lab, "blockdev-add", again).is_err(),
        "its file is locked"
    );
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn clients_may_export_more_at_the_same_socket() {
    let lab = Lab::new();
    raw_disk(&lab);
    let server = serve(&lab, &["a.raw"]);
    let address = json!({ "type": "unix", "data": { "path": "other.sock" } });
    let started = command(&lab, "nbd-server-start", json!({ "addr": address }));
    assert!(started.unwrap_err().contains("already running"));
    let null = json!({ "driver": "null-co", "node-name": "n", "size": MIB });
    command(&lab, "blockdev-add", null).unwrap();
    let export = json!({ "type": "nbd", "id": "n", "node-name": "n", "writable": true });
    command(&lab, "block-export-add", export).unwrap();
    write(&mut server.enter("n"), 1, 0);
    write(&mut server.enter("a"), 1, 0);
    command(&lab, "quit", json!({})).unwrap();
    assert_eq!(server.wait(), Some(0));
}

#[test]
fn bitmaps_of_an_image_are_told_and_kept() {
    if !have(&["qemu-img", "nbdinfo"]) {
        return;
    }
    let lab = Lab::new();
    lab.run("qemu-img create -q -f qcow2 a.qcow2 8M");
    lab.run("qemu-img bitmap --add a.qcow2 b0");
    let server = serve(&lab, &["a.qcow2"]);
    let mut client = server.enter("a");
    write(&mut client, 1, 5 * MIB);
    drop(client);
    let map = lab.tool("nbdinfo", &["--map=qemu:dirty-bitmap:b0", &server.uri("a")]);
    let said = map
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let dirty: Vec<_> = said.filter(|words| words[2] == "1").collect();
    assert_eq!(dirty, [["5242880", "65536", "1", "dirty"]], "{map}");
    assert_eq!(server.stop(), Some(0));
    let list = lab.cohort(["bitmap", "list", "a.qcow2"]).exits(0).stdout;
    assert!(list.contains("b0") && list.contains("64.0 KiB"), "{list}");
    assert!(
        list.contains("recording, exact"),
        "the store is closed after the image: {list}"
    );
    lab.run("qemu-img check -q a.qcow2");
}

#[test]
fn what_is_there_is_said_at_the_start() {
    let lab = Lab::new();
    raw_disk(&lab);
    let server = serve(&lab, &["a.raw"]);
    let said = server.said().join("\n");
    assert!(said.contains("serving nbd+unix:///a?socket="), "{said}");
    assert!(said.contains("tracked in a.raw.cohort"), "{said}");
    assert!(said.contains("commanded over QMP at qmp.sock"), "{said}");
    assert_eq!(server.stop(), Some(0));
    // A kill, and then one that serves nobody at first.
    drop(serve(&lab, &["a.raw", "--track", "power"]));
    let mut command = lab.program();
    command.args(["serve", "root=a.raw", "--qmp", "qmp.sock", "--json"]);
    let mut child = command
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let ready: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(
        (&ready["event"], &ready["qmp"]),
        (&json!("ready"), &json!("qmp.sock"))
    );
    assert_eq!(ready["exports"][0]["tracking"]["store"], "a.raw.cohort");
    assert_eq!(ready["exports"][0]["addresses"], json!([]));
    let _ = ask(&lab.path("qmp.sock"), "quit", json!({})).unwrap();
    let stopped: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(
        (&stopped["event"], &stopped["unproven"]),
        (&json!("stopped"), &json!([]))
    );
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// Threads that served it and that nobody calls any more leave; the connection stays.
#[test]
fn a_client_that_kept_many_threads_busy_is_served_after_a_long_silence() {
    let lab = Lab::new();
    raw_disk(&lab);
    let server = serve(&lab, &["a.raw"]);
    let slow = json!({ "driver": "null-co", "node-name": "slow", "size": MIB, "read-zeroes": true,
        "latency-ns": 20_000_000 });
    command(&lab, "blockdev-add", slow).unwrap();
    let export = json!({ "type": "nbd", "id": "slow", "node-name": "slow" });
    command(&lab, "block-export-add", export).unwrap();
    let mut client = server.enter("slow");
    let reads = |client: &mut Raw, count: u64| {
        (0..count).for_each(|cookie| client.ask(0, 0, cookie, cookie * u64::from(BLOCK), BLOCK));
        for _ in 0..count {
            assert_eq!(client.reply().0, 0);
            client.get(BLOCK as usize);
        }
    };
    reads(&mut client, 100);
    let patience = |client: &Raw, seconds| {
        let time = Duration::from_secs(seconds);
        client.0.set_read_timeout(Some(time)).unwrap();
    };
    // Longer than a thread stays.
    patience(&client, 7);
    let nothing = client.0.read(&mut [0]).unwrap_err();
    assert_eq!(nothing.kind(), ErrorKind::WouldBlock);
    patience(&client, 60);
    (0..5).for_each(|_| reads(&mut client, 1));
    assert_eq!(server.stop(), Some(0));
}
