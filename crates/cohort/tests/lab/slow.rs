//! A command that is met in the middle of its work: what it tells in JSON is read line by line, as it comes.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::Value;

use super::Ran;

/// A command that runs.
pub struct Slow {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Slow {
    /// Starts it.
    pub fn start(command: &mut Command) -> Slow {
        let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let out = BufReader::new(child.stdout.take().expect("its output"));
        Slow { child, out }
    }

    /// Starts a backup, and waits until one of its disks has copied more than `bytes`.
    #[track_caller]
    pub fn copying(command: &mut Command, bytes: u64) -> Slow {
        let mut slow = Slow::start(command);
        slow.until(|event| {
            event["phase"] == "copying" && event["done_bytes"].as_u64() > Some(bytes)
        });
        slow
    }

    /// Reads what it tells until something is told that is awaited.
    #[track_caller]
    pub fn until(&mut self, awaited: impl Fn(&Value) -> bool) -> Value {
        loop {
            let mut line = String::new();
            let length = self.out.read_line(&mut line).expect("a line");
            assert!(length > 0, "it ended before");
            let event: Value = serde_json::from_str(&line).expect("JSON");
            if awaited(&event) {
                return event;
            }
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, name: &str) {
        super::signal(&self.child, name);
    }

    /// Kills it.
    pub fn kill(mut self) {
        self.child.kill().expect("it is killed");
        self.child.wait().expect("it is gone");
    }

    /// Waits for its end; what it told since the last look.
    pub fn end(mut self) -> Ran {
        let (mut stdout, mut stderr) = (String::new(), String::new());
        self.out.read_to_string(&mut stdout).expect("text");
        let mut errors = self.child.stderr.take().expect("its errors");
        errors.read_to_string(&mut stderr).expect("text");
        let code = self.child.wait().expect("it ends").code();
        Ran {
            code,
            stdout,
            stderr,
        }
    }
}
