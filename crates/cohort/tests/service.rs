//! What a service manager is told, in the way of `sd_notify(3)`: once that we are ready, once that we stop.

mod lab;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixDatagram;
use std::process::Stdio;
use std::time::Duration;

use lab::Lab;
use lab::machine::ask;
use serde_json::json;

/// What the manager of `cohort serve ARGS` hears, from its start to SIGTERM, which comes after `meanwhile`.
fn told(lab: &Lab, args: &[&str], meanwhile: impl FnOnce()) -> Vec<String> {
    let manager = UnixDatagram::bind(lab.path("notify")).unwrap();
    // Only a server that never says so is waited for that long.
    let patience = Some(Duration::from_secs(60));
    manager.set_read_timeout(patience).unwrap();
    let mut command = lab.program();
    command.arg("serve").args(args);
    command.env("NOTIFY_SOCKET", lab.path("notify"));
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    assert_eq!(heard(&manager), "READY=1");
    meanwhile();
    lab::signal(&child, "TERM");
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line == "ready"));
    assert!(child.wait().unwrap().success());
    manager.set_nonblocking(true).unwrap();
    let mut messages = Vec::new();
    let mut buffer = [0; 64];
    while let Ok(length) = manager.recv(&mut buffer) {
        messages.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
    }
    messages
}

fn heard(manager: &UnixDatagram) -> String {
    let mut buffer = [0; 64];
    let length = manager.recv(&mut buffer).unwrap();
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

fn lab() -> Lab {
    let lab = Lab::new();
    fs::write(lab.path("a.raw"), vec![7; 1 << 20]).unwrap();
    lab
}

#[test]
fn a_server_is_ready_once_and_stops_once() {
    let lab = lab();
    assert_eq!(
        told(&lab, &["a.raw", "--socket", "s"], || ()),
        ["STOPPING=1"]
    );
}

#[test]
fn a_server_that_is_commanded_too_is_ready_once_and_stops_once() {
    let lab = lab();
    let args = ["a.raw", "--socket", "s", "--qmp", "qmp.sock"];
    assert_eq!(told(&lab, &args, || ()), ["STOPPING=1"]);
}

#[test]
fn a_client_that_ends_an_nbd_server_does_not_end_the_service() {
    let lab = lab();
    let at = |command, arguments| ask(&lab.path("qmp.sock"), command, arguments).unwrap();
    let messages = told(&lab, &["--qmp", "qmp.sock"], || {
        let addr = json!({ "type": "unix", "data": { "path": lab.path("nbd") } });
        at("nbd-server-start", json!({ "addr": addr }));
        at("nbd-server-stop", json!({}));
    });
    assert_eq!(messages, ["STOPPING=1"]);
}
