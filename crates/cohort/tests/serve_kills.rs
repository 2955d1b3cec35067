//! A daemon with a state directory is killed at any moment, under load, again and again.
//!
//! Two disks are written to by NBD clients and backed up into two targets, grouped, by a QMP client that also cancels,
//! pauses, and adds and removes things. After each kill the next daemon has everything again, every write that was
//! answered is on its disk, and a granule that a disk and its target differ in is dirty: so a backup of what is dirty makes
//! them the same. `COHORT_TORTURE_DAEMON=N` kills N times in place of fifty.

mod lab;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use lab::server::Raw;
use lab::{Lab, noise};
use serde_json::{Value, json};

const DISK: u64 = 32 << 20;
const BLOCK: u64 = 4096;
const DISKS: [&str; 2] = ["a", "b"];

/// Numbers that look random, the same for the same seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % limit
    }
}

fn chance(seed: u64) -> Chance {
    Chance(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
}

/// What a client wrote to a disk: by block, the seed of its bytes.
#[derive(Default)]
struct Written {
    answered: BTreeMap<u64, u64>,
    /// Asked for, and not answered when the daemon was killed.
    open: Option<(u64, u64)>,
}

/// A connection to the monitor that may end at any time.
struct Monitor {
    stream: UnixStream,
    lines: Lines<BufReader<UnixStream>>,
}

impl Monitor {
    fn connect(lab: &Lab) -> Option<Self> {
        let stream = UnixStream::connect(lab.path("qmp.sock")).ok()?;
        let lines = BufReader::new(stream.try_clone().ok()?).lines();
        let mut monitor = Self { stream, lines };
        monitor.lines.next()?.ok()?;
        monitor.ask("qmp_capabilities", json!({}))?.ok()?;
        Some(monitor)
    }

    /// Nothing if the daemon is gone.
    fn ask(&mut self, command: &str, arguments: Value) -> Option<Result<Value, String>> {
        let question = json!({ "execute": command, "arguments": arguments });
        self.stream
            .write_all(question.to_string().as_bytes())
            .ok()?;
        loop {
            let line = self.lines.next()?.ok()?;
            let mut answer: Value = serde_json::from_str(&line).ok()?;
            if answer.get("event").is_none() {
                return Some(match answer.get("error") {
                    Some(error) => Err(error["desc"].to_string()),
                    None => Ok(answer["return"].take()),
                });
            }
        }
    }

    #[track_caller]
    fn does(&mut self, command: &str, arguments: Value) -> Value {
        self.ask(command, arguments).expect("it lives").unwrap()
    }
}

fn spawn(lab: &Lab) -> Child {
    let mut command = lab.program();
    command.args(["serve", "--qmp", "qmp.sock", "--state", "S"]);
    let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    piped.spawn().expect("it starts")
}

fn ready(lab: &Lab) -> Child {
    let mut child = spawn(lab);
    let lines = BufReader::new(child.stdout.as_mut().expect("its output")).lines();
    if !lines.map_while(Result::ok).any(|line| line == "ready") {
        let mut said = String::new();
        let _ = child
            .stderr
            .take()
            .expect("its messages")
            .read_to_string(&mut said);
        panic!("{said}");
    }
    child
}

fn kill(mut child: Child) {
    child.kill().expect("it is ours");
    child.wait().expect("it is gone");
}

/// Disks, targets, bitmaps, exports; and a first backup of everything.
fn furnish(lab: &Lab) {
    for name in ["a", "b", "ta", "tb"] {
        let file = fs::File::create(lab.path(&format!("{name}.raw"))).expect("a disk");
        file.set_len(DISK).expect("room");
    }
    let child = ready(lab);
    let mut monitor = Monitor::connect(lab).expect("a monitor");
    for name in ["a", "b", "ta", "tb"] {
        let file =
            json!({ "driver": "file", "node-name": name, "filename": format!("{name}.raw") });
        monitor.does("blockdev-add", file);
    }
    let addr = json!({ "type": "unix", "data": { "path": "nbd.sock" } });
    monitor.does("nbd-server-start", json!({ "addr": addr }));
    for name in DISKS {
        // Fine, so that what is prepared for is little.
        let bitmap = json!({ "node": name, "name": "b", "granularity": 512 });
        monitor.does("block-dirty-bitmap-add", bitmap);
        let export = json!({ "type": "nbd", "id": name, "node-name": name, "writable": true });
        monitor.does("block-export-add", export);
    }
    kill(child);
}

/// Writes to an export until the daemon is gone, and tells of every answer.
fn write_on(socket: &Path, export: &str, seed: u64, told: &Sender<()>) -> Written {
    let mut written = Written::default();
    let mut chance = chance(seed);
    let Ok(mut client) = Raw::try_enter_at(socket, export) else {
        // It was killed so soon.
        return written;
    };
    for cookie in 1.. {
        // Half of the writes crowd together, as a guest's do.
        let room = if chance.below(2) == 0 {
            64
        } else {
            DISK / BLOCK
        };
        let (block, bytes) = (chance.below(room), seed << 32 | cookie);
        written.open = Some((block, bytes));
        let data = noise(bytes, BLOCK as usize);
        if !client.try_ask(1, cookie, block * BLOCK, BLOCK as u32, &data) {
            break;
        }
        match client.try_reply() {
            Some((0, answered)) if answered == cookie => {}
            Some(other) => panic!("{other:?}"),
            None => break,
        }
        written.answered.insert(block, bytes);
        written.open = None;
        let _ = told.send(());
    }
    written
}

/// Both disks into their targets, as one group.
fn group(name: &str, mode: &str, speed: u64, dismissed: bool) -> Value {
    let action = |disk: &str| {
        let data = json!({
            "job-id": format!("{name}{disk}"), "device": disk, "target": format!("t{disk}"), "sync": "bitmap",
            "bitmap": "b", "bitmap-mode": mode, "speed": speed, "auto-dismiss": dismissed,
        });
        json!({ "type": "blockdev-backup", "data": data })
    };
    let actions: Vec<_> = DISKS.into_iter().map(action).collect();
    json!({ "actions": actions, "properties": { "completion-mode": "grouped" } })
}

/// Commands of every kind until the daemon is gone.
fn command_on(mut monitor: Monitor, seed: u64) -> Option<()> {
    let mut chance = chance(seed);
    for number in 0.. {
        let mode = ["on-success", "always", "never"][chance.below(3) as usize];
        let speed = [0, 0, 1 << 20][chance.below(3) as usize];
        let _ = monitor.ask(
            "transaction",
            group(&format!("g{number}"), mode, speed, true),
        )?;
        let job = |disk: &str| json!({ "id": format!("g{number}{disk}") });
        match chance.below(4) {
            0 => drop(monitor.ask("job-cancel", job("a"))?),
            1 => {
                let soft = json!({ "id": format!("g{number}b"), "force": false });
                drop(monitor.ask("job-cancel", soft)?);
            }
            2 => drop(monitor.ask("job-pause", job("b"))?),
            _ => {}
        }
        let extra = json!({ "node": "a", "name": "extra" });
        let _ = monitor.ask("block-dirty-bitmap-add", extra.clone())?;
        let node = json!({ "driver": "raw", "node-name": "part", "file": "b", "size": DISK / 2 });
        let _ = monitor.ask("blockdev-add", node)?;
        if chance.below(2) == 0 {
            let _ = monitor.ask("block-dirty-bitmap-clear", extra.clone())?;
            let _ = monitor.ask("block-dirty-bitmap-remove", extra)?;
            let _ = monitor.ask("blockdev-del", json!({ "node-name": "part" }))?;
        }
        let _ = monitor.ask("job-resume", job("b"))?;
        if speed > 0 {
            let _ = monitor.ask("job-cancel", job("b"))?;
        }
        while monitor
            .ask("query-jobs", json!({}))?
            .is_ok_and(|jobs| jobs != json!([]))
        {}
    }
    None
}

/// Every write that was answered is on its disk. Gives what is there now.
fn check_disk(lab: &Lab, disk: &str, known: &mut BTreeMap<u64, u64>, written: Written) {
    let file = fs::File::open(lab.path(&format!("{disk}.raw"))).expect("the disk");
    known.extend(written.answered);
    if let Some((block, _)) = written.open {
        // The old bytes, or the new: nobody was told.
        known.remove(&block);
    }
    for (block, bytes) in known {
        let mut found = vec![0; BLOCK as usize];
        file.read_exact_at(&mut found, *block * BLOCK)
            .expect("its bytes");
        assert!(
            found == noise(*bytes, BLOCK as usize),
            "{disk}: block {block} lost an answered write"
        );
    }
}

/// What the next daemon says, and a backup by what its bitmaps say. Gives how much of the disks was dirty.
fn check_daemon(lab: &Lab) -> u64 {
    let mut monitor = Monitor::connect(lab).expect("a monitor");
    let state = monitor.does("x-cohort-query-state", json!({}));
    for line in state["told"].as_array().expect("lines") {
        let text = line["text"].as_str().expect("text");
        assert!(line["back"] == true || line["kind"] == "job", "{line}");
        assert!(!text.contains("counts as dirty"), "{line}");
    }
    for job in monitor
        .does("query-jobs", json!({}))
        .as_array()
        .expect("jobs")
    {
        assert_eq!(job["status"], "concluded", "{job}");
        monitor.does("job-dismiss", json!({ "id": job["id"] }));
    }
    for disk in DISKS {
        let mut client = Raw::enter_at(&lab.path("nbd.sock"), disk);
        client.ask(0, 0, 1, 0, 512);
        assert_eq!(client.reply(), (0, 1));
    }
    let nodes = monitor.does("query-named-block-nodes", json!({}));
    let nodes = nodes.as_array().expect("nodes").iter();
    let bitmaps = nodes.flat_map(|node| node["dirty-bitmaps"].as_array().into_iter().flatten());
    let dirty = bitmaps
        .filter(|bitmap| bitmap["name"] == "b")
        .map(|bitmap| bitmap["count"].as_u64());
    let dirty = dirty.map(|count| count.expect("a count")).sum();
    monitor.does("transaction", group("check", "on-success", 0, false));
    let ended = lab.cohort(["job", "watch", "checka", "checkb", "--socket", "qmp.sock"]);
    ended.exits(0);
    for disk in DISKS {
        monitor.does("job-dismiss", json!({ "id": format!("check{disk}") }));
        let read = |name: String| fs::read(lab.path(&format!("{name}.raw"))).expect("a disk");
        assert!(
            read(disk.to_owned()) == read(format!("t{disk}")),
            "{disk}: a granule in which it differs from its target was clean"
        );
    }
    dirty
}

#[test]
fn no_kill_under_load_loses_an_answered_write_or_what_a_client_asked_for() {
    let kills: u64 = std::env::var("COHORT_TORTURE_DAEMON")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(50);
    let lab = Lab::new();
    furnish(&lab);
    let mut known: [BTreeMap<u64, u64>; 2] = Default::default();
    let (mut writes, mut dirty) = (0, 0);
    for round in 1..=kills {
        println!("round {round}");
        let mut chance = chance(round);
        // Sometimes the daemon that is to bring everything back is killed as well, wherever it is then.
        if chance.below(3) == 0 {
            let child = spawn(&lab);
            (0..chance.below(2000)).for_each(|_| thread::yield_now());
            kill(child);
        }
        let child = ready(&lab);
        let (told, answers): (Sender<()>, Receiver<()>) = channel();
        let monitor = Monitor::connect(&lab).expect("a monitor");
        let written: Vec<Written> = thread::scope(|scope| {
            let writers = DISKS.into_iter().zip(0..).map(|(disk, index)| {
                let (told, socket) = (told.clone(), lab.path("nbd.sock"));
                scope.spawn(move || write_on(&socket, disk, round * 2 + index, &told))
            });
            let writers: Vec<_> = writers.collect();
            scope.spawn(move || command_on(monitor, round));
            let most = chance.below(400) as usize;
            answers.iter().take(most).for_each(drop);
            kill(child);
            writers
                .into_iter()
                .map(|writer| writer.join().expect("a writer"))
                .collect()
        });
        for ((disk, known), written) in DISKS.into_iter().zip(&mut known).zip(written) {
            writes += written.answered.len();
            check_disk(&lab, disk, known, written);
        }
        let child = ready(&lab);
        dirty += check_daemon(&lab);
        kill(child);
    }
    let share = dirty as f64 / (kills * 2 * DISK) as f64;
    println!(
        "{kills} kills, {writes} writes answered, none missing; {:.1} % dirty",
        share * 100.0
    );
    assert!(share < 0.5, "bitmaps that say everything say nothing");
}
