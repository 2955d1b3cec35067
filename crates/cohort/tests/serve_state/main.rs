//! `cohort serve --state`: a daemon restarts into what it was, whether it ended in order or was killed.

mod bitmaps;
mod graph;
mod jobs;
#[path = "../lab/mod.rs"]
mod lab;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};

use cohort_job::{Journal, Record, Verdict};
use cohort_journal::FileJournal;
use lab::machine::ask;
use lab::server::Raw;
use lab::{Lab, noise};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;
const BLOCK: u32 = 4096;

/// A daemon with the state directory `S` and its monitor at `qmp.sock`. Killed when dropped.
struct Daemon<'a> {
    lab: &'a Lab,
    child: Child,
}

/// How it ended, and what it had said on standard error.
struct Ended {
    code: Option<i32>,
    said: String,
}

impl<'a> Daemon<'a> {
    fn start(lab: &'a Lab, args: &[&str]) -> Self {
        let mut command = lab.program();
        command.args(["serve", "--qmp", "qmp.sock", "--state", "S"]);
        let mut child = command
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let lines = BufReader::new(child.stdout.as_mut().expect("its output")).lines();
        let ready = lines.map_while(Result::ok).any(|line| line == "ready");
        let mut daemon = Self { lab, child };
        assert!(ready, "{}", daemon.said());
        daemon
    }

    fn ask(&self, command: &str, arguments: Value) -> Result<Value, String> {
        ask(&self.lab.path("qmp.sock"), command, arguments)
    }

    #[track_caller]
    fn does(&self, command: &str, arguments: Value) -> Value {
        self.ask(command, arguments).unwrap()
    }

    fn said(&mut self) -> String {
        let mut said = String::new();
        let stderr = self.child.stderr.as_mut().expect("its messages");
        stderr.read_to_string(&mut said).expect("text");
        said
    }

    fn kill(mut self) -> Ended {
        self.child.kill().expect("it is ours");
        self.end()
    }

    /// Kills it, and starts it again.
    fn kill_and_start(self) -> Self {
        let lab = self.lab;
        self.kill();
        Self::start(lab, &[])
    }

    fn quit(mut self) -> Ended {
        self.does("quit", json!({}));
        self.end()
    }

    fn end(&mut self) -> Ended {
        Ended {
            code: self.child.wait().expect("it ends").code(),
            said: self.said(),
        }
    }

    /// What is there, as far as clients see it.
    fn seen(&self) -> Value {
        let mut nodes = self.does("query-named-block-nodes", json!({}));
        for node in nodes.as_array_mut().unwrap() {
            node.as_object_mut().unwrap().remove("image");
        }
        json!({ "nodes": nodes, "exports": self.does("query-block-exports", json!({})) })
    }

    fn state(&self) -> Value {
        self.does("x-cohort-query-state", json!({}))
    }

    /// What is not back, each as its kind and name.
    fn missing(&self) -> Vec<String> {
        let state = self.state();
        let told = state["told"].as_array().unwrap().iter();
        told.filter(|line| line["back"] == false)
            .map(|line| {
                let (kind, name) = (line["kind"].as_str(), line["name"].as_str());
                format!("{} {}", kind.unwrap(), name.unwrap())
            })
            .collect()
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn raw_disk(lab: &Lab, name: &str) {
    lab.noise(name, 7, MIB as usize);
}

fn file(name: &str) -> Value {
    json!({ "driver": "file", "node-name": name, "filename": format!("{name}.raw") })
}

fn export(name: &str) -> Value {
    json!({ "type": "nbd", "id": format!("export-{name}"), "node-name": name, "name": name, "writable": true })
}

fn listen(daemon: &Daemon<'_>) {
    let addr = json!({ "type": "unix", "data": { "path": "nbd.sock" } });
    daemon.does("nbd-server-start", json!({ "addr": addr }));
}

fn write(lab: &Lab, export: &str, offset: u64) {
    let mut client = Raw::enter_at(&lab.path("nbd.sock"), export);
    client.ask(0, 1, 1, offset, BLOCK);
    client.put(&noise(offset, BLOCK as usize));
    assert_eq!(client.reply(), (0, 1));
}

/// A daemon that has a disk `a` with a bitmap, exported, and a target `t` of its size.
fn with_bitmap(lab: &Lab) -> Daemon<'_> {
    let daemon = Daemon::start(lab, &[]);
    for name in ["a", "t"] {
        raw_disk(lab, &format!("{name}.raw"));
        daemon.does("blockdev-add", file(name));
    }
    let bitmap = json!({ "node": "a", "name": "b", "granularity": BLOCK });
    daemon.does("block-dirty-bitmap-add", bitmap);
    listen(&daemon);
    daemon.does("block-export-add", export("a"));
    daemon
}

fn dirty(daemon: &Daemon<'_>, name: &str) -> u64 {
    bitmap(daemon, name)["count"].as_u64().unwrap()
}

fn bitmap(daemon: &Daemon<'_>, name: &str) -> Value {
    let nodes = daemon.does("query-named-block-nodes", json!({}));
    let mut nodes = nodes.as_array().unwrap().iter();
    let node = nodes.find(|node| node["node-name"] == "a").unwrap();
    let mut bitmaps = node["dirty-bitmaps"].as_array().unwrap().iter();
    bitmaps
        .find(|bitmap| bitmap["name"] == name)
        .unwrap()
        .clone()
}

fn text_of(daemon: &Daemon<'_>, name: &str) -> String {
    let state = daemon.state();
    let mut told = state["told"].as_array().unwrap().iter();
    let line = told.find(|line| line["name"] == name).unwrap();
    line["text"].as_str().unwrap().to_owned()
}

fn back_up(lab: &Lab, daemon: &Daemon<'_>, sync: &str, mode: &str) {
    let backup = json!({
        "job-id": "j", "device": "a", "target": "t", "sync": sync, "bitmap": "b", "bitmap-mode": mode,
        "auto-dismiss": false,
    });
    daemon.does("blockdev-backup", backup);
    lab.cohort(["job", "watch", "j", "--socket", "qmp.sock"])
        .exits(0);
    daemon.does("job-dismiss", json!({ "id": "j" }));
}

fn same(lab: &Lab) -> bool {
    fs::read(lab.path("a.raw")).unwrap() == fs::read(lab.path("t.raw")).unwrap()
}

#[test]
fn a_doctor_lists_what_is_written_down_and_forgets_what_it_is_told_to() {
    let lab = Lab::new();
    let daemon = with_bitmap(&lab);
    let slow = json!({ "job-id": "j", "device": "a", "target": "t", "sync": "full", "speed": 1 });
    daemon.does("blockdev-backup", slow);
    // A look beside the one who writes.
    let found = lab.cohort(["doctor", "S", "--json"]).exits(0).json();
    assert_eq!(found["writer"], true);
    let forget = ["doctor", "S", "--resolve", "export:export-a=forget"];
    lab.cohort(forget).exits(44);
    daemon.kill();
    let found = lab.cohort(["doctor", "S", "--json"]).exits(0).json();
    let ids: Vec<_> = found["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["id"].clone())
        .collect();
    let all = [
        "node:a",
        "node:t",
        "bitmap:a/b",
        "nbd-server:nbd",
        "export:export-a",
        "job:j",
    ];
    assert_eq!(ids, all);
    lab.cohort(forget).exits(0);
    lab.cohort(["doctor", "S", "--resolve", "job:j=forget"])
        .exits(0);
    let daemon = Daemon::start(&lab, &[]);
    assert!(daemon.missing().is_empty());
    assert_eq!(daemon.does("query-block-exports", json!({})), json!([]));
    assert_eq!(daemon.does("query-jobs", json!({})), json!([]));
    assert_eq!(dirty(&daemon, "b"), 0);
}

#[test]
fn what_a_newer_program_wrote_stays_and_is_told() {
    let lab = Lab::new();
    Daemon::start(&lab, &[]).quit();
    let journal = FileJournal::open(lab.path("S")).unwrap();
    let row = (format!("{:020}", 7), Some(br#"{"wormhole":{}}"#.to_vec()));
    journal.note(vec![row]).unwrap();
    drop(journal);
    let daemon = Daemon::start(&lab, &[]);
    raw_disk(&lab, "a.raw");
    daemon.does("blockdev-add", file("a"));
    assert!(
        daemon
            .quit()
            .said
            .contains("row 7 of S cannot be read, and stays")
    );
    lab.cohort(["doctor", "S", "--resolve", "note:7=forget"])
        .exits(0);
    let daemon = Daemon::start(&lab, &[]);
    assert!(daemon.missing().is_empty());
    assert_eq!(daemon.quit().said, "");
}
