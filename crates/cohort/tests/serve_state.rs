//! `cohort serve --state`: a daemon restarts into what it was, whether it ended in order or was killed.

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
    fs::write(lab.path(name), noise(7, MIB as usize)).unwrap();
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

/// A graph of each kind that comes back, with an export at its top and one that is gone again.
fn furnish(lab: &Lab, daemon: &Daemon<'_>) {
    let limits =
        json!({ "qom-type": "throttle-group", "id": "slow", "limits": { "bps-total": MIB << 10 } });
    daemon.does("object-add", limits);
    for name in ["a", "b", "gone"] {
        raw_disk(lab, &format!("{name}.raw"));
        daemon.does("blockdev-add", file(name));
    }
    let half = json!({ "driver": "raw", "node-name": "half", "file": "a", "size": MIB / 2 });
    daemon.does("blockdev-add", half);
    let throttled = json!({
        "driver": "throttle", "node-name": "throttled", "throttle-group": "slow",
        "file": { "driver": "raw", "node-name": "inner", "file": "b" },
    });
    daemon.does("blockdev-add", throttled);
    listen(daemon);
    for name in ["half", "throttled", "gone"] {
        daemon.does("block-export-add", export(name));
    }
    daemon.does("nbd-server-add", json!({ "device": "a" }));
    daemon.does("block-export-del", json!({ "id": "export-gone" }));
    daemon.does("blockdev-del", json!({ "node-name": "gone" }));
}

#[test]
fn nodes_exports_and_the_server_are_back_after_a_quit_and_after_a_kill() {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab, &[]);
    furnish(&lab, &daemon);
    let seen = daemon.seen();
    assert_eq!(daemon.quit().code, Some(0));
    let daemon = Daemon::start(&lab, &[]);
    assert_eq!(daemon.state()["ended-in-order"], true);
    // Files are called by their whole names now.
    let again = daemon.seen();
    assert_eq!(again["exports"], seen["exports"]);
    let names = |seen: &Value| -> Vec<_> {
        let nodes = seen["nodes"].as_array().unwrap().iter();
        nodes
            .map(|node| (node["node-name"].clone(), node["drv"].clone()))
            .collect()
    };
    assert_eq!(names(&again), names(&seen));
    write(&lab, "half", 0);
    daemon.kill();
    let daemon = Daemon::start(&lab, &[]);
    assert_eq!((daemon.seen(), daemon.missing()), (again, vec![]));
    assert_eq!(daemon.state()["ended-in-order"], false);
    write(&lab, "throttled", u64::from(BLOCK));
    let ended = daemon.quit();
    assert_eq!((ended.code, &*ended.said), (Some(0), ""));
}

#[test]
fn what_cannot_come_back_is_told_by_name_and_holds_up_nothing() {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab, &[]);
    furnish(&lab, &daemon);
    daemon.kill();
    fs::rename(lab.path("b.raw"), lab.path("elsewhere")).unwrap();
    let daemon = Daemon::start(&lab, &[]);
    let missing = ["node b", "node throttled", "export export-throttled"];
    assert_eq!(daemon.missing(), missing);
    write(&lab, "half", 0);
    // Something else takes one of the names; the others come back with the file.
    daemon.does(
        "block-export-add",
        json!({ "type": "nbd", "id": "export-throttled", "node-name": "a", "name": "x" }),
    );
    let said = daemon.quit().said;
    assert!(
        said.contains("cohort: node 'b' is not back: ") && said.contains("b.raw"),
        "{said}"
    );
    fs::rename(lab.path("elsewhere"), lab.path("b.raw")).unwrap();
    let daemon = Daemon::start(&lab, &[]);
    let none: [&str; 0] = [];
    assert_eq!(daemon.missing(), none);
    let exports = daemon.does("query-block-exports", json!({}));
    let nodes: Vec<_> = exports
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["node-name"])
        .collect();
    assert_eq!(nodes, ["a", "a", "half"]);
}

#[test]
fn the_command_line_wins_and_what_was_added_comes_back_beside_it() {
    let lab = Lab::new();
    raw_disk(&lab, "a.raw");
    raw_disk(&lab, "other.raw");
    let daemon = Daemon::start(&lab, &[]);
    for name in ["a", "other"] {
        daemon.does("blockdev-add", file(name));
    }
    listen(&daemon);
    daemon.does("block-export-add", export("other"));
    daemon.kill();
    let daemon = Daemon::start(&lab, &["a.raw", "--socket", "s"]);
    assert_eq!(daemon.missing(), ["node a", "nbd-server nbd"]);
    for name in ["a", "other"] {
        let mut client = Raw::enter_at(&lab.path("s"), name);
        client.ask(0, 1, 1, 0, 512);
        client.put(&[0; 512]);
        assert_eq!(client.reply(), (0, 1));
    }
    drop(daemon);
    // Without the disk on the command line what was added is itself again.
    let daemon = Daemon::start(&lab, &[]);
    assert!(daemon.missing().is_empty());
    write(&lab, "other", 0);
}

#[test]
fn a_second_daemon_is_told_who_has_the_directory_and_a_dead_one_is_no_obstacle() {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab, &[]);
    let second = |lab: &Lab| lab.cohort(["serve", "--qmp", "other.sock", "--state", "S"]);
    let pid = daemon.child.id().to_string();
    second(&lab).exits(44).says(&["S: another process", &pid]);
    daemon.kill();
    assert_eq!(Daemon::start(&lab, &[]).quit().code, Some(0));
    // Directories of others are left alone.
    lab.cohort(["serve", "--qmp", "q", "--state", "no/such"])
        .exits(43);
    fs::create_dir(lab.path("R")).unwrap();
    fs::write(lab.path("R/catalogue.redb"), "").unwrap();
    lab.cohort(["serve", "--qmp", "q", "--state", "R"])
        .exits(43)
        .says(&["a backup directory"]);
}

/// A disk `a` with a bitmap, exported, and a target `t` of its size.
fn with_bitmap(lab: &Lab, daemon: &Daemon<'_>) {
    for name in ["a", "t"] {
        raw_disk(lab, &format!("{name}.raw"));
        daemon.does("blockdev-add", file(name));
    }
    let bitmap = json!({ "node": "a", "name": "b", "granularity": BLOCK });
    daemon.does("block-dirty-bitmap-add", bitmap);
    listen(daemon);
    daemon.does("block-export-add", export("a"));
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
fn bitmaps_are_exact_after_a_quit() {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab, &[]);
    with_bitmap(&lab, &daemon);
    write(&lab, "a", 0);
    let off = json!({ "node": "a", "name": "off", "disabled": true });
    daemon.does("block-dirty-bitmap-add", off);
    let merge = json!({ "node": "a", "target": "off", "bitmaps": ["b"] });
    daemon.does("block-dirty-bitmap-merge", merge);
    let gone = json!({ "node": "a", "name": "gone" });
    daemon.does("block-dirty-bitmap-add", gone.clone());
    daemon.does("block-dirty-bitmap-remove", gone);
    write(&lab, "a", 5 * u64::from(BLOCK));
    let seen = daemon.seen();
    assert_eq!(
        (dirty(&daemon, "b"), dirty(&daemon, "off")),
        (2 * u64::from(BLOCK), 64 << 10)
    );
    daemon.quit();
    let daemon = Daemon::start(&lab, &[]);
    assert_eq!(
        (text_of(&daemon, "a/b"), text_of(&daemon, "a/off")),
        Default::default()
    );
    let bitmaps = |seen: &Value| seen["nodes"].to_string().matches("dirty-bitmaps").count();
    assert_eq!(bitmaps(&daemon.seen()), bitmaps(&seen));
    assert_eq!(dirty(&daemon, "b"), 2 * u64::from(BLOCK));
    assert_eq!(bitmap(&daemon, "off")["recording"], false);
    assert_eq!(bitmap(&daemon, "off")["count"], 64 << 10);
    // And they go on from there.
    write(&lab, "a", 9 * u64::from(BLOCK));
    assert_eq!(dirty(&daemon, "b"), 3 * u64::from(BLOCK));
    daemon.does(
        "block-dirty-bitmap-clear",
        json!({ "node": "a", "name": "b" }),
    );
    daemon.quit();
    assert_eq!(dirty(&Daemon::start(&lab, &[]), "b"), 0);
}

#[test]
fn no_write_is_missing_after_a_kill_and_the_excess_is_told() {
    let lab = Lab::new();
    let mut daemon = Daemon::start(&lab, &[]);
    with_bitmap(&lab, &daemon);
    back_up(&lab, &daemon, "full", "on-success");
    for round in 0..4 {
        write(&lab, "a", 100 * u64::from(BLOCK));
        write(&lab, "a", (7 + round) * u64::from(BLOCK));
        daemon.kill();
        daemon = Daemon::start(&lab, &[]);
        let text = text_of(&daemon, "a/b");
        assert!(
            text.starts_with("exact") && text.contains("if nobody else wrote"),
            "{text}"
        );
        // What was written before the first of several kills is still there.
        assert!(dirty(&daemon, "b") >= 2 * u64::from(BLOCK));
        if round % 2 == 1 {
            back_up(&lab, &daemon, "incremental", "on-success");
            assert!(same(&lab), "round {round}");
            assert_eq!(dirty(&daemon, "b"), 0);
        }
    }
    // The verdict counts after a kill as well.
    daemon.kill();
    assert_eq!(dirty(&Daemon::start(&lab, &[]), "b"), 0);
}

#[test]
fn a_bitmap_of_a_file_that_somebody_else_wrote_to_is_all_dirty_and_says_so() {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab, &[]);
    with_bitmap(&lab, &daemon);
    daemon.quit();
    fs::write(lab.path("a.raw"), noise(8, MIB as usize)).unwrap();
    let daemon = Daemon::start(&lab, &[]);
    let text = text_of(&daemon, "a/b");
    assert!(text.starts_with("all of it counts as dirty: "), "{text}");
    assert_eq!(dirty(&daemon, "b"), MIB);
    let said = daemon.quit().said;
    assert!(
        said.contains("bitmap 'a/b' is back: all of it counts as dirty"),
        "{said}"
    );
    // Said once: from then on it is what it is.
    assert_eq!(text_of(&Daemon::start(&lab, &[]), "a/b"), "");
}

#[test]
fn a_job_cut_short_is_told_until_it_is_dismissed_and_leaves_its_bitmap_dirty() {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab, &[]);
    with_bitmap(&lab, &daemon);
    write(&lab, "a", 0);
    let slow = json!({
        "job-id": "slow", "device": "a", "target": "t", "sync": "bitmap", "bitmap": "b",
        "bitmap-mode": "always", "speed": 1,
    });
    daemon.does("blockdev-backup", slow);
    write(&lab, "a", 9 * u64::from(BLOCK));
    daemon.kill();
    let daemon = Daemon::start(&lab, &[]);
    let told = |daemon: &Daemon<'_>| {
        let jobs = daemon.does("query-jobs", json!({}));
        let jobs = jobs.as_array().unwrap();
        assert_eq!(jobs.len(), 1, "{jobs:?}");
        assert_eq!(
            (&jobs[0]["id"], &jobs[0]["status"]),
            (&json!("slow"), &json!("concluded"))
        );
        jobs[0]["error"].as_str().unwrap().to_owned()
    };
    let error = told(&daemon);
    assert!(
        error.contains("ended before there was a verdict; bitmap 'b' of node 'a' has what it had"),
        "{error}"
    );
    assert!(dirty(&daemon, "b") >= 2 * u64::from(BLOCK));
    daemon.kill();
    let daemon = Daemon::start(&lab, &[]);
    assert_eq!(told(&daemon), error);
    let job = daemon.does("query-jobs", json!({}));
    daemon.does("job-dismiss", json!({ "id": job[0]["id"] }));
    daemon.kill();
    let daemon = Daemon::start(&lab, &[]);
    assert_eq!(daemon.does("query-jobs", json!({})), json!([]));
    // The anchor of what was copied was the target, while the daemon lived: all that was dirty is copied again.
    back_up(&lab, &daemon, "incremental", "on-success");
    assert!(same(&lab));
}

#[test]
fn a_daemon_that_is_told_to_end_settles_its_jobs_and_the_next_tells_of_them() {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab, &[]);
    with_bitmap(&lab, &daemon);
    write(&lab, "a", 0);
    for name in ["one", "two"] {
        raw_disk(&lab, &format!("{name}.raw"));
        daemon.does("blockdev-add", file(name));
    }
    let action = |id: &str, target: &str, bitmap: Value| {
        let mut data =
            json!({ "job-id": id, "device": "a", "target": target, "sync": "full", "speed": 1 });
        data.as_object_mut()
            .unwrap()
            .extend(bitmap.as_object().unwrap().clone());
        json!({ "type": "blockdev-backup", "data": data })
    };
    let ours = json!({ "bitmap": "b", "bitmap-mode": "on-success" });
    let actions = [action("j1", "one", ours), action("j2", "two", json!({}))];
    let grouped = json!({ "actions": actions, "properties": { "completion-mode": "grouped" } });
    daemon.does("transaction", grouped);
    daemon.quit();
    let daemon = Daemon::start(&lab, &[]);
    let jobs = daemon.does("query-jobs", json!({}));
    for (job, id) in jobs.as_array().unwrap().iter().zip(["j2", "j1"]) {
        assert_eq!(
            (&job["id"], &job["status"]),
            (&json!(id), &json!("concluded"))
        );
        assert_eq!(job["error"], "Operation canceled");
    }
    assert_eq!(dirty(&daemon, "b"), u64::from(BLOCK));
}

#[test]
fn a_verdict_that_was_written_counts_though_no_hook_ran() {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab, &[]);
    with_bitmap(&lab, &daemon);
    write(&lab, "a", 0);
    let slow = json!({
        "job-id": "j", "device": "a", "target": "t", "sync": "incremental", "bitmap": "b", "speed": 1,
    });
    daemon.does("blockdev-backup", slow);
    write(&lab, "a", 9 * u64::from(BLOCK));
    daemon.kill();
    // As if it had been killed a moment later: the job had been lent all sets but the newest.
    let journal = FileJournal::open(lab.path("S")).unwrap();
    let notes = journal.contents().notes;
    let rows = notes
        .values()
        .map(|note| serde_json::from_slice::<Value>(note).unwrap());
    let bitmap = rows
        .into_iter()
        .find_map(|row| row.get("bitmap").cloned())
        .unwrap();
    let mut lent = bitmap["sets"].clone();
    let numbers = lent["numbers"].as_array_mut().unwrap();
    let newest = numbers
        .iter()
        .map(|number| number.as_u64().unwrap())
        .max()
        .unwrap();
    numbers.retain(|number| number.as_u64() != Some(newest));
    let record = json!({ "version": 1, "node": "a", "bitmap": "b", "sets": lent });
    let record = Record(record.to_string().into_bytes());
    let member = ("j".into(), "backup".into(), record);
    journal
        .decide(&"j".into(), &Verdict::Commit, &[member])
        .unwrap();
    drop(journal);
    let daemon = Daemon::start(&lab, &[]);
    let job = &daemon.does("query-jobs", json!({}))[0];
    assert_eq!(
        (&job["status"], job.get("error")),
        (&json!("concluded"), None)
    );
    // What was written since, and at most what intents looked ahead at; not what was copied.
    let mut client = Raw::enter_at(&lab.path("nbd.sock"), "a");
    client.ask(0, 0, 1, 0, 512);
    assert_eq!(client.reply(), (0, 1));
    drop(client);
    let sha = |daemon: &Daemon<'_>| {
        daemon.does(
            "x-debug-block-dirty-bitmap-sha256",
            json!({ "node": "a", "name": "b" }),
        )
    };
    let (count, hash) = (dirty(&daemon, "b"), sha(&daemon));
    assert!((u64::from(BLOCK)..MIB).contains(&count), "{count}");
    write(&lab, "a", 0);
    assert_ne!(sha(&daemon), hash, "the first block was clean");
    // Once is enough.
    daemon.kill();
    assert!(
        FileJournal::open(lab.path("S"))
            .unwrap()
            .owed()
            .unwrap()
            .is_empty()
    );
}

#[test]
fn a_doctor_lists_what_is_written_down_and_forgets_what_it_is_told_to() {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab, &[]);
    with_bitmap(&lab, &daemon);
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

#[test]
fn another_job_of_that_name_takes_the_place_of_one_that_was_cut_short() {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab, &[]);
    with_bitmap(&lab, &daemon);
    let backup = json!({ "job-id": "j", "device": "a", "target": "t", "sync": "full", "speed": 1 });
    daemon.does("blockdev-backup", backup.clone());
    let options = json!({ "driver": "file", "filename": "x", "size": 512 });
    let same = json!({ "job-id": "j", "options": options });
    let refused = daemon.ask("blockdev-create", same).unwrap_err();
    assert!(refused.contains("already in use"), "{refused}");
    daemon.kill();
    let daemon = Daemon::start(&lab, &[]);
    daemon.does("blockdev-backup", backup);
    let jobs = daemon.does("query-jobs", json!({}));
    assert_eq!(
        (jobs.as_array().unwrap().len(), &jobs[0]["status"]),
        (1, &json!("running"))
    );
    daemon.does("job-cancel", json!({ "id": "j" }));
    while daemon.does("query-jobs", json!({})) != json!([]) {}
    daemon.kill();
    assert_eq!(
        Daemon::start(&lab, &[]).does("query-jobs", json!({})),
        json!([])
    );
}

#[test]
fn a_run_into_a_directory_that_was_cut_short_is_told_and_the_next_goes_on() {
    let lab = Lab::new();
    raw_disk(&lab, "a.raw");
    let daemon = Daemon::start(&lab, &["a.raw"]);
    let slow = json!({ "directory": "R", "speed": ["4K"] });
    daemon.does("x-cohort-backup", slow);
    let noted = || {
        lab.cohort(["doctor", "S"])
            .exits(0)
            .stdout
            .contains("job:run-1.a")
    };
    while !noted() {}
    daemon.kill();
    let daemon = Daemon::start(&lab, &["a.raw"]);
    let jobs = daemon.does("query-jobs", json!({}));
    assert_eq!(
        (&jobs[0]["id"], &jobs[0]["status"]),
        (&json!("run-1.a"), &json!("concluded"))
    );
    assert!(
        jobs[0]["error"]
            .as_str()
            .unwrap()
            .contains("the next run into R goes on"),
        "{jobs}"
    );
    lab.cohort(["backup", "--socket", "qmp.sock", "--to", "R"])
        .exits(0);
    daemon.does("job-dismiss", json!({ "id": "run-1.a" }));
    assert_eq!(daemon.quit().code, Some(0));
    lab.restores_to("R", "a", "a.raw");
}
