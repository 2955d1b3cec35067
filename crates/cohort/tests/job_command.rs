//! `cohort job …` against our daemon and against QEMU's storage daemon: the same words, the same ends.

mod lab;

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use lab::machine::Machine;
use lab::{Lab, Ran, have};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;

/// Does the same with both servers, where there is a QEMU.
fn with_both(check: impl Fn(&Lab, &Machine, &str)) {
    let lab = Lab::new();
    check(&lab, &ready(Machine::ours(&lab, &[])), "ours");
    if have(&["qemu-storage-daemon"]) {
        let lab = Lab::new();
        check(&lab, &ready(Machine::daemon(&lab, &[])), "QEMU's");
    }
}

/// A source and a target; and a target that cannot be written to at half a MiB.
fn ready(machine: Machine) -> Machine {
    for name in ["d", "t", "f"] {
        let null =
            json!({ "driver": "null-co", "node-name": name, "size": MIB, "read-zeroes": true });
        machine.ask("blockdev-add", null).unwrap();
    }
    let errors = ["write", "write-zeroes"]
        .map(|kind| json!({ "event": "none", "iotype": kind, "sector": 1024, "errno": 5 }));
    let bad =
        json!({ "driver": "blkdebug", "node-name": "w", "image": "f", "inject-error": errors });
    machine.ask("blockdev-add", bad).unwrap();
    machine
}

/// Starts a backup of `d`, with these options besides.
fn start(machine: &Machine, id: &str, more: Value) {
    let small = json!({ "max-workers": 1, "max-chunk": 65536 });
    let mut backup =
        json!({ "job-id": id, "device": "d", "target": "t", "sync": "full", "x-perf": small });
    let options = backup.as_object_mut().unwrap();
    options.extend(more.as_object().unwrap().clone());
    machine.ask("blockdev-backup", backup).unwrap();
}

fn job(lab: &Lab, args: &[&str]) -> Ran {
    let socket = lab.path("qmp.sock").display().to_string();
    let args = ["job"].iter().chain(args).copied();
    lab.cohort(args.chain(["--socket", &socket]))
}

fn status_of(machine: &Machine, id: &str) -> String {
    let jobs = machine.ask("query-jobs", json!({})).unwrap();
    let mut jobs = jobs.as_array().unwrap().iter();
    let found = jobs.find(|job| job["id"] == id);
    found.map_or("gone".into(), |job| {
        job["status"].as_str().unwrap().to_owned()
    })
}

fn wait_for(machine: &Machine, id: &str, status: &str) {
    wait_until(|| status_of(machine, id) == status);
}

fn wait_until(is: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is() {
        assert!(Instant::now() < deadline, "it does not come to that");
        std::thread::yield_now();
    }
}

/// `cohort job watch`, once it has said where its jobs are.
struct Watch {
    child: Child,
    lines: Vec<Value>,
    rest: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Watch {
    fn begin(lab: &Lab, jobs: &[&str]) -> Watch {
        let mut command = lab.program();
        // QEMU's monitors have one client at a time.
        let more = lab.path("more.sock").exists();
        let socket = if more { "more.sock" } else { "qmp.sock" };
        command.args(["job", "watch", "--json", "--socket", socket]);
        let mut child = command.args(jobs).stdout(Stdio::piped()).spawn().unwrap();
        let mut rest = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = rest.next().expect("it is told where the job is").unwrap();
        let lines = vec![serde_json::from_str(&first).unwrap()];
        Watch { child, lines, rest }
    }

    /// All that it said, and its exit code.
    fn end(mut self) -> (Vec<Value>, Option<i32>) {
        for line in self.rest {
            self.lines
                .push(serde_json::from_str(&line.unwrap()).unwrap());
        }
        (self.lines, self.child.wait().unwrap().code())
    }
}

#[test]
fn jobs_are_listed_as_they_are() {
    with_both(|lab, machine, whose| {
        let none = job(lab, &["list"]).exits(0);
        assert_eq!(none.stdout, "no jobs\n", "{whose}");
        start(
            machine,
            "full0",
            json!({ "speed": 65536, "auto-dismiss": false }),
        );
        let told = job(lab, &["list", "--json"]).exits(0).json();
        let listed = &told["jobs"][0];
        assert_eq!(told["event"], "jobs");
        assert_eq!(
            (&listed["id"], &listed["type"]),
            (&json!("full0"), &json!("backup")),
            "{whose}"
        );
        assert_eq!(
            (&listed["status"], &listed["total"]),
            (&json!("running"), &json!(MIB)),
            "{whose}"
        );
        assert_eq!(
            (&listed["speed_bytes"], &listed["paused"]),
            (&json!(65536), &json!(false))
        );
        let text = job(lab, &["list"]).exits(0).stdout;
        let row = text.lines().nth(1).unwrap();
        assert!(
            text.contains("STATUS") && row.contains("full0") && row.contains("64.0 KiB/s"),
            "{text}"
        );
    });
}

#[test]
fn a_job_is_held_goes_on_and_ends_as_it_is_told() {
    with_both(|lab, machine, whose| {
        start(
            machine,
            "j",
            json!({ "speed": 65536, "auto-dismiss": false, "auto-finalize": false }),
        );
        job(lab, &["pause", "j"]).exits(0);
        wait_for(machine, "j", "paused");
        job(lab, &["pause", "j"]).exits(56).says(&[
            "cannot pause in status 'paused': Job is already paused",
            "'paused' accepts cancel, resume, set-speed",
        ]);
        job(lab, &["speed", "j", "0"]).exits(0);
        let resumed = job(lab, &["resume", "j", "--json"]).exits(0).json();
        assert_eq!(
            (&resumed["event"], &resumed["verb"]),
            (&json!("accepted"), &json!("resume"))
        );
        wait_for(machine, "j", "pending");
        job(lab, &["finalize", "j"]).exits(0);
        wait_for(machine, "j", "concluded");
        let dismissed = job(lab, &["dismiss", "j"]).exits(0);
        assert_eq!(
            dismissed.stdout, "j: dismiss accepted; it is gone\n",
            "{whose}"
        );
        assert_eq!(status_of(machine, "j"), "gone");
    });
}

#[test]
fn a_refusal_says_job_verb_status_and_what_is_accepted() {
    with_both(|lab, machine, whose| {
        start(machine, "j", json!({ "auto-dismiss": false }));
        wait_for(machine, "j", "concluded");
        let refused = job(lab, &["pause", "j", "--json"]).exits(56).says(&[
            "job 'j' cannot pause in status 'concluded'",
            "pause is accepted in created, running, paused, ready and standby",
            "'concluded' accepts dismiss",
        ]);
        let first: Value = serde_json::from_str(refused.stdout.lines().next().unwrap()).unwrap();
        assert_eq!(
            (&first["event"], &first["status"]),
            (&json!("refused"), &json!("concluded")),
            "{whose}"
        );
        assert_eq!(
            (&first["verb"], &first["accepts"]),
            (&json!("pause"), &json!(["dismiss"]))
        );
        assert_eq!(refused.json()["exit"], "verb-refused");
        start(machine, "k", json!({ "sync": "none" }));
        job(lab, &["complete", "k"]).exits(56).says(&[
            "cannot complete in status 'running'",
            "accepted in ready and standby",
        ]);
        job(lab, &["dismiss", "k"])
            .exits(56)
            .says(&["'running' accepts cancel, pause, resume, set-speed"]);
    });
}

#[test]
fn an_unknown_job_is_told_with_those_that_there_are() {
    with_both(|lab, machine, _| {
        start(machine, "k", json!({ "sync": "none" }));
        for verb in [
            "pause", "resume", "cancel", "complete", "finalize", "dismiss", "why", "watch",
        ] {
            job(lab, &[verb, "x"])
                .exits(55)
                .says(&["there is no job 'x'; there are k"]);
        }
        job(lab, &["speed", "x", "1M"])
            .exits(55)
            .says(&["no job 'x'"]);
    });
}

#[test]
fn a_watch_ends_with_its_job_and_says_how() {
    with_both(|lab, machine, whose| {
        start(machine, "good", json!({ "speed": 65536 }));
        let watch = Watch::begin(lab, &["good"]);
        job(lab, &["speed", "good", "0"]).exits(0);
        let (lines, code) = watch.end();
        assert_eq!(code, Some(0), "{whose}: {lines:?}");
        let ended = &lines.last().unwrap()["jobs"][0];
        assert_eq!(
            (&ended["outcome"], &ended["done"]),
            (&json!("done"), &json!(MIB)),
            "{whose}"
        );
        assert_eq!(lines[0]["status"], "running");

        start(machine, "stopped", json!({ "sync": "none" }));
        let watch = Watch::begin(lab, &["stopped"]);
        job(lab, &["cancel", "stopped"]).exits(0);
        let (lines, code) = watch.end();
        assert_eq!(
            (code, &lines.last().unwrap()["jobs"][0]["outcome"]),
            (Some(5), &json!("cancelled")),
            "{whose}"
        );

        start(machine, "bad", json!({ "target": "w", "speed": 65536 }));
        let watch = Watch::begin(lab, &["bad"]);
        job(lab, &["speed", "bad", "0"]).exits(0);
        let (lines, code) = watch.end();
        let ended = &lines.last().unwrap()["jobs"][0];
        assert_eq!(
            (code, &ended["outcome"]),
            (Some(57), &json!("failed")),
            "{whose}: {ended}"
        );
        assert_eq!(ended["error"], "Input/output error", "{whose}");
    });
}

#[test]
fn a_concluded_job_is_watched_no_longer_and_still_says_how_it_ended() {
    with_both(|lab, machine, whose| {
        start(
            machine,
            "j",
            json!({ "sync": "none", "auto-dismiss": false }),
        );
        job(lab, &["cancel", "j", "--force"]).exits(0);
        wait_for(machine, "j", "concluded");
        let watched = job(lab, &["watch"]).exits(5);
        assert!(
            watched.stdout.starts_with("j: cancelled ("),
            "{whose}: {}",
            watched.stdout
        );
        job(lab, &["dismiss", "j"]).exits(0);
        assert_eq!(job(lab, &["watch"]).exits(0).stdout, "no jobs\n");
    });
}

#[test]
fn a_soft_cancel_settles_by_policy_and_a_forced_one_leaves_no_trace() {
    let lab = Lab::new();
    let machine = ready(Machine::ours(&lab, &[]));
    let dirty = || {
        let nodes = machine.ask("query-named-block-nodes", json!({})).unwrap();
        let mut nodes = nodes.as_array().unwrap().iter();
        nodes.find(|node| node["node-name"] == "d").unwrap()["dirty-bitmaps"][0]["count"].clone()
    };
    machine
        .ask(
            "block-dirty-bitmap-add",
            json!({ "node": "d", "name": "b" }),
        )
        .unwrap();
    let always =
        json!({ "bitmap": "b", "bitmap-mode": "always", "speed": 65536, "auto-dismiss": false });
    for (words, count) in [
        (&["cancel", "j", "--force"][..], json!(0)),
        (&["cancel", "j"], json!(MIB - 65536)),
    ] {
        start(&machine, "j", always.clone());
        let first = || {
            let jobs = machine.ask("query-jobs", json!({})).unwrap();
            jobs[0]["current-progress"] == 65536
        };
        wait_until(first);
        // Softly also while it is held, which QEMU refuses.
        job(&lab, &["pause", "j"]).exits(0);
        wait_for(&machine, "j", "paused");
        job(&lab, words).exits(0);
        wait_for(&machine, "j", "concluded");
        job(&lab, &["dismiss", "j"]).exits(0);
        assert_eq!(dirty(), count, "{words:?}");
    }
}

#[test]
fn why_is_the_engines_own_sentence_and_others_say_where_the_job_is() {
    with_both(|lab, machine, whose| {
        start(machine, "j", json!({ "sync": "none" }));
        job(lab, &["pause", "j"]).exits(0);
        wait_for(machine, "j", "paused");
        if whose == "ours" {
            let why = job(lab, &["why", "j"]).exits(0);
            assert_eq!(
                why.stdout,
                "j: paused: it was paused by a user and waits for a resume\n"
            );
            let why = job(lab, &["why", "j", "--json"]).exits(0).json();
            assert_eq!(
                why["why"],
                "paused: it was paused by a user and waits for a resume"
            );
        } else {
            job(lab, &["why", "j"])
                .exits(1)
                .says(&["only `cohort serve` says why", "job 'j' is paused"]);
        }
    });
}

#[test]
fn a_job_that_copies_no_disk_has_no_speed() {
    with_both(|lab, machine, whose| {
        let create = json!({ "job-id": "c", "options": { "driver": "file", "filename": "new.raw", "size": 4096 } });
        machine.ask("blockdev-create", create).unwrap();
        wait_for(machine, "c", "concluded");
        let list = job(lab, &["list"]).exits(0).stdout;
        assert!(list.contains("create"), "{whose}: {list}");
        job(lab, &["speed", "c", "1M"])
            .exits(56)
            .says(&["cannot set-speed in status 'concluded'"]);
        job(lab, &["cancel", "c"]).exits(56).says(&[
            "cannot cancel in status 'concluded'",
            "'concluded' accepts dismiss",
        ]);
        job(lab, &["dismiss", "c"]).exits(0);
    });
}

#[test]
fn where_no_server_is_that_is_said() {
    let lab = Lab::new();
    job(&lab, &["list"]).exits(54).says(&[
        "no server of jobs answers",
        "qmp.sock",
        "cohort serve --qmp",
    ]);
    let failed = job(&lab, &["why", "j", "--json"]).exits(54).json();
    assert_eq!(failed["exit"], "no-server");
    // A socket that nobody listens at any more, and one at which something else talks.
    drop(std::os::unix::net::UnixListener::bind(lab.path("qmp.sock")).unwrap());
    job(&lab, &["list"]).exits(54).says(&["Connection refused"]);
    std::fs::remove_file(lab.path("qmp.sock")).unwrap();
    std::fs::write(lab.path("a.raw"), vec![0; 4096]).unwrap();
    let mut other = lab.program();
    other.args(["serve", "a.raw", "--track", "off", "--socket", "qmp.sock"]);
    let mut other = other.stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(other.stdout.take().unwrap()).lines();
    assert!(said.any(|line| line.unwrap() == "ready"));
    job(&lab, &["list"]).exits(54).says(&["does not speak QMP"]);
    other.kill().unwrap();
    other.wait().unwrap();
    job(&lab, &[]).exits(2);
}

#[test]
fn a_server_that_ends_settles_the_jobs_and_the_watch_says_so() {
    let lab = Lab::new();
    let machine = ready(Machine::ours(&lab, &[]));
    start(&machine, "j", json!({ "sync": "none" }));
    let watch = Watch::begin(&lab, &[]);
    machine.quit();
    let (lines, code) = watch.end();
    assert_eq!(
        (code, &lines.last().unwrap()["jobs"][0]["outcome"]),
        (Some(5), &json!("cancelled")),
        "{lines:?}"
    );
}
