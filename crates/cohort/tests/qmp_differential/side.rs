//! One daemon and the connection to it.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cohort_qmp::{Client, Received};
use serde_json::{Value, json};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// After so long without a word it is over.
const SILENCE: Duration = Duration::from_millis(150);

/// A daemon in a folder of its own.
pub(crate) struct Side {
    /// Nothing if somebody else looks after the daemon.
    child: Option<Child>,
    stream: UnixStream,
    client: Client,
    waiting: Vec<Received>,
    /// Every event, with whose it is.
    told: Vec<(String, String)>,
    folder: PathBuf,
}

#[allow(dead_code, reason = "two tests share it, and neither needs all of it")]
impl Side {
    pub(crate) fn qemu(program: &Path, folder: &Path) -> Self {
        let chardev = "socket,path=qmp.sock,server=on,wait=off,id=c";
        let mut command = Command::new(program);
        command.args(["--chardev", chardev, "--monitor", "chardev=c"]);
        command.args(["--pidfile", "pid"]).current_dir(folder);
        let mut child = command.stdout(Stdio::null()).spawn().unwrap();
        let deadline = Instant::now() + PATIENCE;
        // Its number is written when clients may come; one that comes sooner can bring it down.
        while std::fs::read_to_string(folder.join("pid"))
            .unwrap_or_default()
            .is_empty()
        {
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none(), "the daemon ended: {ended:?}");
            assert!(Instant::now() < deadline, "the daemon does not start");
            std::thread::yield_now();
        }
        Self::connect(Some(child), folder)
    }

    pub(crate) fn cohort(folder: &Path) -> Self {
        Self::cohort_with(folder, &[])
    }

    /// Ours, with more arguments.
    pub(crate) fn cohort_with(folder: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cohort"));
        command.args(["serve", "--qmp", "qmp.sock"]).args(arguments);
        command.current_dir(folder).stdout(Stdio::null());
        Self::connect(Some(command.spawn().unwrap()), folder)
    }

    /// Another client of the daemon in that folder.
    pub(crate) fn join(folder: &Path) -> Self {
        Self::connect(None, folder)
    }

    fn connect(child: Option<Child>, folder: &Path) -> Self {
        let deadline = Instant::now() + PATIENCE;
        let stream = loop {
            match UnixStream::connect(folder.join("qmp.sock")) {
                Ok(stream) => break stream,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            std::thread::yield_now();
        };
        let mut side = Self {
            child,
            stream,
            client: Client::new(),
            waiting: Vec::new(),
            told: Vec::new(),
            folder: folder.to_owned(),
        };
        while !matches!(
            side.next_within(PATIENCE).expect("an answer in time"),
            Received::Greeting { .. }
        ) {}
        assert_eq!(
            side.ask("qmp_capabilities", &json!({})),
            json!({ "return": {} })
        );
        side
    }

    /// Asks, and waits for the answer; a daemon that does not come back is gone.
    pub(crate) fn ask(&mut self, command: &str, arguments: &Value) -> Value {
        let (number, bytes) = self.client.ask(command, arguments.clone());
        if self.stream.write_all(&bytes).is_err() {
            return json!({ "gone": true });
        }
        while let Some(received) = self.next_within(PATIENCE) {
            if let Received::Reply { number: of, result } = &received
                && *of == number
            {
                return shown(result);
            }
            self.note(received);
        }
        json!({ "gone": true })
    }

    /// Sends a text as it stands; gives all answers that come until nothing more does.
    pub(crate) fn raw(&mut self, text: &str) -> Vec<Value> {
        self.stream.write_all(text.as_bytes()).unwrap();
        self.stream.write_all(b"\n").unwrap();
        let mut answers = Vec::new();
        while let Some(received) = self.next_within(SILENCE) {
            if let Received::Reply { result, .. } = &received {
                answers.push(shown(result));
            }
            self.note(received);
        }
        answers
    }

    /// Waits until an event has said that a job is in this status.
    pub(crate) fn wait(&mut self, job: &str, status: &str, scenario: &str) {
        let deadline = Instant::now() + PATIENCE;
        let said =
            |told: &[(String, String)]| told.iter().any(|(of, what)| of == job && what == status);
        while !said(&self.told) {
            assert!(
                Instant::now() < deadline,
                "{scenario}: {job} never was {status}: {:?}",
                self.told
            );
            let received = self.next_within(PATIENCE);
            let received = received
                .unwrap_or_else(|| panic!("{scenario}: {job} never was {status}: {:?}", self.told));
            self.note(received);
        }
    }

    /// Waits until a job that has begun has done so many bytes.
    pub(crate) fn wait_for_progress(&mut self, job: &str, done: u64, scenario: &str) {
        self.wait_until(job, scenario, |found| {
            found["total-progress"] != 0 && found["current-progress"] == done
        });
    }

    /// Waits until a job is paused: an event may have told of another pause.
    pub(crate) fn wait_for_pause(&mut self, job: &str, scenario: &str) {
        self.wait_until(job, scenario, |found| found["status"] == "paused");
    }

    fn wait_until(&mut self, job: &str, scenario: &str, so: impl Fn(&Value) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let jobs = self.ask("query-jobs", &json!({}));
            let jobs = jobs["return"].as_array().cloned().unwrap_or_default();
            let found = jobs.into_iter().find(|found| found["id"] == job);
            if found.as_ref().is_some_and(&so) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{scenario}: {job} is at {found:?}"
            );
        }
    }

    /// A guest's write, through an export.
    pub(crate) fn write(&mut self, export: &str, at: u64, length: u64, byte: u8) {
        let uri = format!("nbd+unix:///{export}?socket=guest.sock");
        let write = format!("write -P {byte} {at} {length}");
        let mut qemu_io = Command::new("qemu-io");
        qemu_io
            .args(["-f", "raw", "-c", &write, &uri])
            .current_dir(&self.folder);
        let done = qemu_io.output().unwrap();
        let said = String::from_utf8_lossy(&done.stdout);
        assert!(
            said.contains(&format!("wrote {length}/{length}")),
            "{write}: {done:?}"
        );
    }

    /// Somebody else opens an image to write, and is killed.
    pub(crate) fn abandon(&mut self, image: &str) {
        let mut qemu_io = Command::new("qemu-io");
        qemu_io.args(["-f", "qcow2", "-c", "abort", image]);
        let ended = qemu_io.current_dir(&self.folder).output().unwrap();
        assert_eq!(ended.status.code(), None, "{ended:?}");
    }

    /// Listens until nothing more is said.
    pub(crate) fn settle(&mut self) {
        while let Some(received) = self.next_within(SILENCE) {
            self.note(received);
        }
    }

    pub(crate) fn events(&self) -> BTreeMap<String, Vec<String>> {
        let mut events: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (of, what) in &self.told {
            let told = events.entry(of.clone()).or_default();
            told.push(what.clone());
            // QEMU drains disks when it likes, which shows as a pause: how often is chance.
            if told.ends_with(&["paused", "running", "paused", "running"].map(str::to_owned)) {
                told.truncate(told.len() - 2);
            }
        }
        events
    }

    /// Ends the daemon, and waits until it is gone.
    pub(crate) fn end(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Waits until the daemon has ended by itself, hearing what it says until then.
    pub(crate) fn exit_code(&mut self) -> Option<i32> {
        while let Some(received) = self.next_within(PATIENCE) {
            self.note(received);
        }
        self.child.as_mut()?.wait().unwrap().code()
    }

    fn note(&mut self, received: Received) {
        let Received::Event { name, data } = received else {
            return;
        };
        let text = |key: &str| {
            let value = data.get(key)?;
            Some(
                value
                    .as_str()
                    .map_or_else(|| value.to_string(), str::to_owned),
            )
        };
        let of = text("id").or_else(|| text("device")).unwrap_or_default();
        let what = if name == "JOB_STATUS_CHANGE" {
            text("status").unwrap_or_default()
        } else {
            let facts = [
                "type",
                "operation",
                "action",
                "len",
                "offset",
                "speed",
                "error",
            ];
            let facts: Vec<_> = facts
                .iter()
                .filter_map(|key| Some(format!("{key}={}", text(key)?)))
                .collect();
            format!("{name}({})", facts.join(","))
        };
        self.told.push((of, what));
    }

    fn next_within(&mut self, patience: Duration) -> Option<Received> {
        let mut bytes = [0; 65536];
        while self.waiting.is_empty() {
            self.stream.set_read_timeout(Some(patience)).unwrap();
            match self.stream.read(&mut bytes) {
                Ok(0) | Err(_) => return None,
                Ok(read) => self
                    .client
                    .receive(&bytes[..read], &mut self.waiting)
                    .unwrap(),
            }
        }
        Some(self.waiting.remove(0))
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        self.end();
    }
}

fn shown(result: &Result<Value, cohort_qmp::Error>) -> Value {
    match result {
        Ok(value) => json!({ "return": value }),
        Err(error) => json!({ "error": format!("{}: {}", error.class, error.text) }),
    }
}
