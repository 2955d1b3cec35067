//! `contrib/qga-hook` against a small guest agent: a unix socket that speaks the agent's protocol.
//!
//! Source of the facts: the agent's schema, `qga/qapi-schema.json` of QEMU, and its description of
//! `guest-sync-delimited`.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use cohort_backup::{Fence, Hook};

/// Never reached by a test that passes.
const LONG: Duration = Duration::from_secs(60);

#[test]
fn guest_is_frozen_while_the_gates_are_closed_and_thawed_afterwards() {
    let Some(agent) = Agent::start(Manner::Well) else {
        return;
    };
    let fenced = agent.raise(LONG).unwrap();
    assert!(fenced.is_empty(), "{fenced:?}");
    assert_eq!(
        agent.heard(),
        ["guest-fsfreeze-freeze", "guest-fsfreeze-thaw"]
    );
}

#[test]
fn what_an_earlier_call_left_in_the_channel_is_skipped() {
    let Some(agent) = Agent::start(Manner::WithLeftovers) else {
        return;
    };
    agent.raise(LONG).unwrap();
    assert_eq!(
        agent.heard(),
        ["guest-fsfreeze-freeze", "guest-fsfreeze-thaw"]
    );
}

#[test]
fn agent_that_cannot_freeze_voids_the_round_with_its_own_words_and_is_thawed() {
    let Some(agent) = Agent::start(Manner::CannotFreeze) else {
        return;
    };
    let error = agent.raise(LONG).unwrap_err();
    assert!(error.contains("failed to freeze /srv: busy"), "{error}");
    assert_eq!(
        agent.heard(),
        ["guest-fsfreeze-freeze", "guest-fsfreeze-thaw"]
    );
}

#[test]
fn agent_that_never_answers_voids_the_round_at_the_deadline() {
    let Some(agent) = Agent::start(Manner::Silent) else {
        return;
    };
    let error = agent.raise(Duration::from_secs(1)).unwrap_err();
    assert!(
        error.contains("did not end within 1s and was killed"),
        "{error}"
    );
}

#[test]
fn agent_that_is_not_there_is_named() {
    let Some(script) = script() else { return };
    let error = raise(&script, Path::new("/nonexistent/qga.sock"), LONG).unwrap_err();
    assert!(
        error.contains("qga-hook: ") && error.contains("No such file"),
        "{error}"
    );
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    Well,
    /// Half an answer from before waits in the channel.
    WithLeftovers,
    CannotFreeze,
    Silent,
}

/// An agent in a guest without anything else.
struct Agent {
    dir: tempfile::TempDir,
    script: PathBuf,
    heard: Receiver<String>,
}

impl Agent {
    fn start(manner: Manner) -> Option<Self> {
        let script = script()?;
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("qga.sock")).unwrap();
        let (tell, heard) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                if manner == Manner::WithLeftovers {
                    stream.write_all(b"urn\": 7}\n{\"return\": 12}\n").unwrap();
                }
                for line in BufReader::new(stream.try_clone().unwrap()).split(b'\n') {
                    let Ok(line) = line else { break };
                    let start = line.iter().rposition(|byte| *byte == 0xff);
                    let request: serde_json::Value =
                        serde_json::from_slice(&line[start.map_or(0, |at| at + 1)..]).unwrap();
                    let command = request["execute"].as_str().unwrap().to_owned();
                    if manner == Manner::Silent {
                        continue;
                    }
                    let answer = answer(&command, &request, manner);
                    if command != "guest-sync-delimited" {
                        tell.send(command).unwrap();
                    }
                    // Whoever asked may have been killed meanwhile.
                    let _ = stream.write_all(&answer);
                }
            }
        });
        Some(Agent { dir, script, heard })
    }

    fn raise(&self, wait: Duration) -> Result<Vec<String>, String> {
        raise(&self.script, &self.dir.path().join("qga.sock"), wait)
    }

    fn heard(&self) -> Vec<String> {
        self.heard.try_iter().collect()
    }
}

fn answer(command: &str, request: &serde_json::Value, manner: Manner) -> Vec<u8> {
    let text = match command {
        "guest-sync-delimited" => {
            let mut answer = vec![0xff];
            let number = &request["arguments"]["id"];
            answer.extend(format!("{{\"return\": {number}}}\n").bytes());
            return answer;
        }
        "guest-fsfreeze-freeze" if manner == Manner::CannotFreeze => {
            r#"{"error": {"class": "GenericError", "desc": "failed to freeze /srv: busy"}}"#
        }
        "guest-fsfreeze-freeze" | "guest-fsfreeze-thaw" => r#"{"return": 2}"#,
        other => panic!("{other} is not for hooks"),
    };
    format!("{text}\n").into_bytes()
}

/// A fence with the script as its hook. Failures to thaw, or why there was no fence.
fn raise(script: &Path, socket: &Path, wait: Duration) -> Result<Vec<String>, String> {
    let command = format!("'{}' '{}'", script.display(), socket.display());
    let fence = Hook::command(command, wait).join(Fence::new("test", LONG));
    match fence.unwrap().raise(|_| ()) {
        Ok(fenced) => Ok(fenced
            .thaw_failures
            .iter()
            .map(ToString::to_string)
            .collect()),
        Err(error) => Err(error.to_string()),
    }
}

/// The script. Without Python it is skipped, loudly; where tests count (CI), it fails.
fn script() -> Option<PathBuf> {
    let python = Command::new("python3").arg("--version").output();
    if python.is_ok_and(|output| output.status.success()) {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        return Some(root.join("contrib/qga-hook"));
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "python3 is not there, and CI is set"
    );
    eprintln!("SKIPPED: python3 is not there");
    None
}
