//! Disks written to through `cohort serve`, and what the next backup knows of that: after the server's end, and after its
//! `kill -9`.

mod lab;

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};

use lab::server::{Raw, Server};
use lab::{Lab, have, noise};

const SIZE: u64 = 1 << 30;
const BLOCK: u32 = 4096;
const GRANULE: u64 = 64 << 10;
const READ: u16 = 0;
const WRITE: u16 = 1;
const FUA: u16 = 1;

/// A sparse disk with some data.
fn disk(lab: &Lab) {
    let file = fs::File::create(lab.path("a.raw")).expect("a disk");
    file.set_len(SIZE).expect("its size");
    file.write_all_at(&noise(5, 300_000), 3 << 20)
        .expect("its data");
}

/// Backs `a` up; gives how much was copied and what was said.
#[track_caller]
fn back_up(lab: &Lab, source: &str, more: &[&str]) -> (u64, String) {
    let common = ["backup", source, "--to", "R", "--json"];
    let ran = lab.cohort(common.iter().chain(more)).exits(0);
    let disk = &ran.json()["disks"][0];
    let copied = disk["copied_bytes"].as_u64().expect("bytes");
    (copied, disk["notes"].to_string())
}

/// What `bitmap list` prints for people.
fn list(lab: &Lab, disk: &str) -> String {
    lab.cohort(["bitmap", "list", disk]).exits(0).stdout
}

/// Writes one block that is other than all before, and waits for the answer.
fn write(client: &mut Raw, cookie: u64, offset: u64, flags: u16) {
    client.ask(flags, WRITE, cookie, offset, BLOCK);
    client.put(&noise(cookie + 100, BLOCK as usize));
    assert_eq!(client.reply(), (0, cookie));
}

/// Serves `a.raw`, has a client write at some offsets, and stops.
fn written(lab: &Lab, args: &[&str], offsets: &[u64]) {
    let server = Server::start(lab, args);
    let mut client = server.enter("a");
    for (cookie, offset) in (0..).zip(offsets) {
        write(&mut client, cookie, *offset, 0);
    }
    drop(client);
    assert_eq!(server.stop(), Some(0));
}

/// Clients that never say which disk they want, or that hear no answer, are no reason to distrust what is known of it.
#[test]
fn whoever_is_there_at_the_end_the_store_is_closed() {
    let lab = Lab::new();
    disk(&lab);
    for kind in ["silent", "deaf"] {
        let server = Server::start(&lab, &["a.raw", "--drain", "1"]);
        let mut client = server.enter("a");
        write(&mut client, 1, 5 << 20, 0);
        let there = match kind {
            "silent" => {
                let mut client = Raw(server.connect());
                client.get(18);
                client
            }
            _ => {
                let mut client = server.enter("a");
                (0..4).for_each(|cookie| client.ask(0, READ, cookie, 0, 32 << 20));
                // It is being sent.
                assert_eq!(client.reply(), (0, 0));
                client
            }
        };
        drop(client);
        assert_eq!(server.stop(), Some(0), "{kind}");
        drop(there);
        let told = list(&lab, "a.raw");
        assert!(!told.contains("not closed"), "{kind}:\n{told}");
        fs::remove_file(lab.path("a.raw.cohort")).expect("the store");
    }
}

#[test]
fn a_server_that_does_not_begin_leaves_the_stores_as_they_were() {
    let lab = Lab::new();
    disk(&lab);
    written(&lab, &["a.raw"], &[0]);
    let long = format!("{}=a.raw", "n".repeat(32));
    for args in [
        &["a.raw", "--socket", "none/s"][..],
        &["a.raw", "--socket", "s", "--metrics", "none/m"],
        &["a.raw", "--socket", "s", "--tls-certificates", "none"],
        &["a.raw", "none.raw", "--socket", "s"],
        &["a.raw", "--qmp", "none/q"],
        &["a.raw", "--qmp", "q", "--restrict", "none"],
        &["a.raw", &long, "--qmp", "q"],
    ] {
        let ran = lab.cohort(["serve"].iter().chain(args));
        assert_ne!(ran.code, Some(0), "{args:?}: {ran:?}");
        let told = list(&lab, "a.raw");
        assert!(
            told.contains("; closed") && !told.contains("unproven"),
            "{args:?}: {told}"
        );
    }
}

#[test]
fn a_disk_that_was_served_is_backed_up_by_its_store() {
    let lab = Lab::new();
    disk(&lab);
    for (round, mode) in ["kill", "power"].into_iter().enumerate() {
        let at = round as u64 * (100 << 20);
        written(&lab, &["a.raw", "--track", mode], &[at, at + (50 << 20)]);
        let told = list(&lab, "a.raw");
        for part in [
            "recording, exact",
            "a.raw.cohort",
            "closed",
            ["survives a killed process", "survives a loss of power"][round],
        ] {
            assert!(told.contains(part), "'{part}' is missing in:\n{told}");
        }
        assert!(!told.contains("not closed"), "{told}");
        let (copied, said) = back_up(&lab, "a=a.raw", &[]);
        if round == 0 {
            // There was no point that a set could speak of.
            assert_eq!(said, "[]");
        } else {
            assert_eq!(copied, 2 * GRANULE, "{said}");
            assert!(
                said.contains("is known from tracking store") && said.contains(": exact"),
                "{said}"
            );
        }
        lab.restores_to("R", "a", "a.raw");
    }
    // The set of nobody went when a directory had one, and one set is left.
    written(&lab, &["a.raw"], &[7 << 20]);
    let told = list(&lab, "a.raw");
    assert_eq!(told.matches("Cohort set").count(), 1, "{told}");
    assert_eq!(back_up(&lab, "a=a.raw", &[]).0, GRANULE);
    lab.restores_to("R", "a", "a.raw");
    // Written past the store, it is compared.
    let file = fs::File::options()
        .write(true)
        .open(lab.path("a.raw"))
        .expect("it");
    file.write_all_at(&[1; 10], 9 << 20).expect("a write");
    let (copied, said) = back_up(&lab, "a=a.raw", &[]);
    assert_eq!(copied, GRANULE, "{said}");
    assert!(said.contains("is not gone by yet"), "{said}");
    lab.restores_to("R", "a", "a.raw");
}

/// Storms with so many clients and kills the server when it has acknowledged so much; gives what it acknowledged.
fn killed_mid_storm(lab: &Lab, mode: &str, seed: u64) -> BTreeSet<u64> {
    let server = Server::start(lab, &["a.raw", "--track", mode]);
    let clients: Vec<_> = (0..4)
        .map(|client| {
            let mut raw = server.enter("a");
            std::thread::spawn(move || storm(&mut raw, seed * 4 + client))
        })
        .collect();
    // The first to have enough ends it for all; the others are in the middle of something.
    let mut clients = clients.into_iter();
    let first = clients.next().expect("one");
    let mut acknowledged = first.join().expect("a storm");
    drop(server);
    for client in clients {
        acknowledged.extend(client.join().expect("a storm"));
    }
    acknowledged
}

/// Writes here and there until the server is gone, or the first client has had enough.
fn storm(client: &mut Raw, seed: u64) -> BTreeSet<u64> {
    let mut acknowledged = BTreeSet::new();
    let words = noise(seed + 1, 8 << 16);
    let mut at = 0;
    for (cookie, word) in (0..).zip(words.chunks_exact(8)) {
        let word = u64::from_le_bytes(word.try_into().expect("eight"));
        let blocks = SIZE / u64::from(BLOCK);
        at = match word % 3 {
            0 => word / 3 % blocks,
            1 => (at + 1) % blocks,
            _ => (at - at % 1024 + word / 3 % 1024) % blocks,
        };
        let flags = if word.is_multiple_of(7) { FUA } else { 0 };
        let offset = at * u64::from(BLOCK);
        let mut asked = 0x2560_9513_u32.to_be_bytes().to_vec();
        asked.extend(flags.to_be_bytes());
        asked.extend(WRITE.to_be_bytes());
        asked.extend(u64::to_be_bytes(cookie));
        asked.extend(offset.to_be_bytes());
        asked.extend(BLOCK.to_be_bytes());
        asked.extend(noise(seed ^ cookie, BLOCK as usize));
        let mut reply = [0; 16];
        let sent = std::io::Write::write_all(&mut client.0, &asked);
        if sent.and_then(|()| client.0.read_exact(&mut reply)).is_err() {
            break;
        }
        assert_eq!(reply[4..8], [0; 4]);
        acknowledged.insert(offset);
        if seed.is_multiple_of(4) && acknowledged.len() as u64 > 20 + seed * 13 % 200 {
            break;
        }
    }
    acknowledged
}

/// What `bitmap export` prints.
fn ranges(lab: &Lab) -> Vec<(u64, u64)> {
    let ran = lab.cohort(["bitmap", "export", "a.raw", "a"]).exits(0);
    let line = |line: &str| {
        let (offset, length) = line.split_once(' ').expect("two");
        (
            offset.parse().expect("a number"),
            length.parse().expect("a number"),
        )
    };
    ran.stdout.lines().map(line).collect()
}

#[test]
fn no_acknowledged_write_is_missing_after_a_kill_of_the_server() {
    let lab = Lab::new();
    disk(&lab);
    written(&lab, &["a.raw"], &[0]);
    back_up(&lab, "a=a.raw", &[]);
    let named = ["--bitmap", "a=a.raw.cohort"];
    for kill in 0..12 {
        let mode = ["kill", "power"][kill as usize % 2];
        let acknowledged = killed_mid_storm(&lab, mode, kill);
        assert!(acknowledged.len() > 20, "{}", acknowledged.len());
        let ranges = ranges(&lab);
        for at in &acknowledged {
            let held = ranges
                .iter()
                .any(|(offset, length)| (*offset..offset + length).contains(at));
            assert!(held, "kill {kill}: the write at {at} is missing");
        }
        let told = list(&lab, "a.raw");
        for part in ["recording, exact", "; unproven: ", "was killed"] {
            assert!(told.contains(part), "'{part}' is missing in:\n{told}");
        }
        // Every third time the disk is compared instead, and its user told that he need not.
        if kill % 3 == 2 {
            let (_, said) = back_up(&lab, "a=a.raw", &[]);
            assert!(
                said.contains("nobody can show") && said.contains("--bitmap a="),
                "{said}"
            );
        } else {
            let (_, said) = back_up(&lab, "a=a.raw", &named);
            assert!(said.contains("is known from tracking store"), "{said}");
        }
        lab.restores_to("R", "a", "a.raw");
    }
}

/// What `nbdcopy` was writing when the server was killed.
#[test]
fn a_kill_under_a_real_client_costs_a_stated_excess() {
    if !have(&["nbdcopy", "qemu-img", "qemu-io"]) {
        return;
    }
    let lab = Lab::new();
    disk(&lab);
    written(&lab, &["a.raw"], &[0]);
    back_up(&lab, "a=a.raw", &[]);
    let new = fs::File::create(lab.path("new")).expect("a file");
    new.set_len(SIZE).expect("its size");
    new.write_all_at(&noise(9, 200 << 20), 1 << 20)
        .expect("its data");
    for kill in 0..3_u64 {
        let server = Server::start(&lab, &["a.raw"]);
        let said = lab.tool(
            "qemu-io",
            &[
                "-f",
                "raw",
                "-c",
                "write 900M 64k",
                "-c",
                "flush",
                &server.uri("a"),
            ],
        );
        assert!(!said.contains("failed"), "{said}");
        let mut copy = Command::new("nbdcopy")
            .args(["--destination-is-zero", "new", &server.uri("a")])
            .current_dir(lab.path("."))
            .stderr(Stdio::null())
            .spawn()
            .expect("nbdcopy");
        let at = 1000 + (3 + kill * 20) * (1 << 20);
        let image = fs::File::open(lab.path("a.raw")).expect("the disk");
        let mut byte = [0; 64];
        let expected = &noise(9, 200 << 20)[(at - (1 << 20)) as usize..][..64];
        while byte != expected && copy.try_wait().expect("a child").is_none() {
            image.read_exact_at(&mut byte, at).expect("a read");
        }
        drop(server);
        copy.wait().expect("it ends");
        println!("{}", list(&lab, "a.raw"));
        let (_, said) = back_up(&lab, "a=a.raw", &["--bitmap", "a=a.raw.cohort"]);
        assert!(said.contains(": exact plus at most "), "{said}");
        lab.restores_to("R", "a", "a.raw");
    }
}

/// The same end for the same storm: QEMU's bitmap is of no use afterwards, and ours says by how much it may say too much.
#[test]
fn a_kill_leaves_qemu_an_inconsistent_bitmap_and_us_a_stated_excess() {
    if !have(&["qemu-img", "qemu-storage-daemon", "nbdcopy"]) {
        return;
    }
    let lab = Lab::new();
    lab.run("qemu-img create -q -f qcow2 q.qcow2 1G");
    lab.run("qemu-img bitmap --add q.qcow2 theirs");
    let node = "driver=qcow2,node-name=q,file.driver=file,file.filename=q.qcow2";
    let args = ["--daemonize", "--pidfile", "pid", "--blockdev", node];
    let serving = [
        "--nbd-server",
        "addr.type=unix,addr.path=s",
        "--export",
        "type=nbd,id=e,node-name=q,writable=on,name=q",
    ];
    lab.tool("qemu-storage-daemon", &[&args[..], &serving[..]].concat());
    let uri = format!("nbd+unix:///q?socket={}", lab.path("s").display());
    lab.noise("some", 3, 8 << 20);
    let copied = lab.tool("nbdcopy", &["some", &uri]);
    let pid = fs::read_to_string(lab.path("pid")).expect("its number");
    let kill = format!(
        "kill -9 {0} && while kill -0 {0} 2>&-; do :; done",
        pid.trim()
    );
    lab.tool("sh", &["-c", &kill]);
    fs::remove_file(lab.path("s")).expect("its socket");
    let theirs = list(&lab, "q.qcow2");
    println!("QEMU's, killed:\n{copied}{theirs}");
    assert!(theirs.contains("inconsistent"), "{theirs}");

    disk(&lab);
    written(&lab, &["a.raw"], &[0]);
    back_up(&lab, "a=a.raw", &[]);
    killed_mid_storm(&lab, "kill", 8);
    let ours = list(&lab, "a.raw");
    println!("ours, killed:\n{ours}");
    assert!(ours.contains("recording, exact plus at most "), "{ours}");
    let (_, said) = back_up(&lab, "a=a.raw", &["--bitmap", "a=a.raw.cohort"]);
    println!("the backup from it: {said}");
    lab.restores_to("R", "a", "a.raw");
}

/// Closing such an image writes to it once more, and the store knows.
#[test]
fn an_image_with_bitmaps_of_qemu_s_is_backed_up_by_its_store() {
    if !have(&["qemu-img"]) {
        return;
    }
    let lab = Lab::new();
    lab.run("qemu-img create -q -f qcow2 a.qcow2 1G");
    lab.run("qemu-img bitmap --add a.qcow2 theirs");
    written(&lab, &["a.qcow2"], &[0]);
    back_up(&lab, "a=a.qcow2", &[]);
    written(&lab, &["a.qcow2"], &[5 << 20, 6 << 20]);
    let (copied, said) = back_up(&lab, "a=a.qcow2", &[]);
    assert!(said.contains(": exact"), "{said}");
    assert_eq!(copied, 2 * GRANULE, "{said}");
    lab.keep("a.qcow2", "kept");
    lab.restores_to("R", "a", "kept");
    lab.run("qemu-img check -q a.qcow2");
    let told = list(&lab, "a.qcow2");
    assert!(
        told.contains("theirs") && told.contains("enabled"),
        "{told}"
    );
}

#[test]
fn a_server_says_what_it_records_and_goes_on_where_it_cannot() {
    let lab = Lab::new();
    disk(&lab);
    written(&lab, &["--read-only", "a.raw"], &[]);
    written(&lab, &["--track", "off", "a.raw"], &[0]);
    assert!(!lab.path("a.raw.cohort").exists());
    fs::write(lab.path("a.raw.cohort"), "something else").expect("a file");
    written(&lab, &["a.raw"], &[0]);
    assert_eq!(
        fs::read(lab.path("a.raw.cohort")).expect("it"),
        b"something else"
    );
    let (_, said) = back_up(&lab, "a=a.raw", &[]);
    assert!(said.contains("a.raw.cohort"), "{said}");
    lab.cohort(["serve", "a.raw", "--track", "kill", "--socket", "s"])
        .exits(41)
        .says(&["a.raw.cohort", "--track off"]);
}
