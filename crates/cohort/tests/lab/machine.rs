//! QEMU's storage daemon, an emulator, or our own daemon, as a child of the test, with its monitor.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Lab;

/// A machine whose monitor is at `qmp.sock` of a lab. Killed when dropped.
pub struct Machine {
    child: Child,
    socket: std::path::PathBuf,
}

impl Machine {
    /// A storage daemon with these options.
    pub fn daemon(lab: &Lab, options: &[&str]) -> Machine {
        let chardev = "socket,id=c,path=qmp.sock,server=on,wait=off";
        let mut command = Command::new("qemu-storage-daemon");
        command.args(options);
        command.args(["--chardev", chardev, "--monitor", "chardev=c"]);
        // A monitor has one client at a time.
        let more = "socket,id=m,path=more.sock,server=on,wait=off";
        command.args(["--chardev", more, "--monitor", "chardev=m"]);
        command.args(["--pidfile", "pid"]);
        Machine::start(lab, command)
    }

    /// An emulator with these options, whose processor never runs.
    pub fn emulator(lab: &Lab, options: &[&str]) -> Machine {
        let mut command = Command::new("qemu-system-x86_64");
        command.args([
            "-S",
            "-display",
            "none",
            "-nodefaults",
            "-machine",
            "q35,accel=tcg",
        ]);
        command.args(options);
        command.args(["-qmp", "unix:qmp.sock,server=on,wait=off"]);
        command.args(["-pidfile", "pid"]);
        Machine::start(lab, command)
    }

    /// Our own daemon with these arguments.
    pub fn ours(lab: &Lab, arguments: &[&str]) -> Machine {
        let mut command = lab.program();
        command.args(["serve", "--qmp", "qmp.sock"]).args(arguments);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("a daemon");
        let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let ready = lines.any(|line| line.is_ok_and(|line| line == "ready"));
        assert!(ready, "it does not start");
        Machine {
            child,
            socket: lab.path("qmp.sock"),
        }
    }

    fn start(lab: &Lab, mut command: Command) -> Machine {
        let (socket, pid) = (lab.path("qmp.sock"), lab.path("pid"));
        for old in [&socket, &pid] {
            let _ = std::fs::remove_file(old);
        }
        command.current_dir(lab.path(""));
        let child = command.stdin(Stdio::null()).spawn().expect("a machine");
        let mut machine = Machine { child, socket };
        let deadline = Instant::now() + Duration::from_secs(60);
        let has_pid = || !std::fs::read_to_string(&pid).unwrap_or_default().is_empty();
        // A daemon writes its number when clients may come; one that comes sooner can bring it down. An emulator's
        // number is there before its socket.
        while !has_pid() || UnixStream::connect(&machine.socket).is_err() {
            let ended = machine.child.try_wait().expect("its state");
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "it does not start"
            );
            std::thread::yield_now();
        }
        machine
    }

    /// Asks over a connection of its own; the answer, or the error's text.
    pub fn ask(&self, command: &str, arguments: Value) -> Result<Value, String> {
        self.ask_at("qmp.sock", command, arguments)
    }

    /// The same of what must succeed.
    #[track_caller]
    pub fn does(&self, command: &str, arguments: Value) -> Value {
        self.ask(command, arguments).unwrap()
    }

    /// As [`ask`](Self::ask), at the monitor of that name.
    pub fn ask_at(&self, monitor: &str, command: &str, arguments: Value) -> Result<Value, String> {
        let socket = self.socket.with_file_name(monitor);
        ask(&socket, command, arguments)
    }

    /// The names of all bitmaps of a node.
    pub fn bitmaps(&self, node: &str) -> Vec<String> {
        let nodes = self.does("query-named-block-nodes", json!({ "flat": true }));
        let mut nodes = nodes.as_array().expect("nodes").iter();
        let node = nodes
            .find(|found| found["node-name"] == node)
            .expect("the node");
        let bitmaps = node["dirty-bitmaps"].as_array().into_iter().flatten();
        bitmaps
            .filter_map(|bitmap| bitmap["name"].as_str().map(str::to_owned))
            .collect()
    }

    /// Asserts that nothing of ours is left but one bitmap for each of these nodes; gives their names.
    #[track_caller]
    pub fn is_tidy(&self, nodes: &[&str]) -> Vec<String> {
        let ours = |value: &Value, key: &str| {
            let names = value.as_array().expect("a list").iter();
            let names = names.filter_map(|one| one[key].as_str());
            names
                .filter(|name| name.starts_with("cohort-"))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let none: [String; 0] = [];
        assert_eq!(ours(&self.does("query-jobs", json!({})), "id"), none);
        assert_eq!(
            ours(&self.does("query-block-exports", json!({})), "id"),
            none
        );
        let all = self.does("query-named-block-nodes", json!({ "flat": true }));
        assert_eq!(ours(&all, "node-name"), none);
        let each = nodes.iter().map(|node| {
            let bitmaps = self.bitmaps(node);
            assert_eq!(bitmaps.len(), 1, "{node}: {bitmaps:?}");
            bitmaps.into_iter().next().expect("one")
        });
        each.collect()
    }

    /// Has it end in order.
    pub fn quit(mut self) {
        let _ = self.ask("quit", json!({}));
        self.child.wait().expect("it ends");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks the server at that socket, over a connection of its own; the answer, or the error's text.
pub fn ask(socket: &Path, command: &str, arguments: Value) -> Result<Value, String> {
    let stream = UnixStream::connect(socket).expect("a monitor");
    let wait = Some(Duration::from_secs(60));
    stream.set_read_timeout(wait).expect("a timeout");
    let mut lines = BufReader::new(&stream).lines();
    let mut answer = |command: &str, arguments: &Value| {
        let question = json!({ "execute": command, "arguments": arguments });
        if !command.is_empty() {
            (&stream)
                .write_all(question.to_string().as_bytes())
                .expect("it listens");
        }
        let mut values = lines
            .by_ref()
            .map(|line| serde_json::from_str::<Value>(&line.expect("a line")).expect("JSON"));
        let answer = values.find(|value| value.get("event").is_none());
        answer.expect("it went away")
    };
    answer("", &Value::Null);
    answer("qmp_capabilities", &json!({}));
    let mut value = answer(command, &arguments);
    match value.get("error") {
        Some(error) => Err(error["desc"].to_string()),
        None => Ok(value["return"].take()),
    }
}
