//! The QMP server as its clients meet it: several at once, hostile and slow ones; what it may open; its end.

#[path = "../qmp_differential/side.rs"]
mod side;

use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use side::Side;

/// How long a client that is not sent away is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

fn start() -> (Side, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    (Side::cohort(folder.path()), folder)
}

fn done() -> Value {
    json!({ "return": {} })
}

fn add_null(side: &mut Side, name: &str) {
    let null = json!({ "driver": "null-co", "node-name": name, "size": 1 << 20 });
    assert_eq!(side.ask("blockdev-add", &null), done());
}

#[test]
fn clients_are_served_side_by_side_and_all_are_told() {
    let (mut first, folder) = start();
    let mut second = Side::join(folder.path());
    add_null(&mut first, "d");
    add_null(&mut second, "t");
    let backup = json!({ "job-id": "j", "device": "d", "target": "t", "sync": "full" });
    assert_eq!(second.ask("blockdev-backup", &backup), done());
    first.wait("j", "null", "the other client's job");
    second.wait("j", "null", "its own job");
    assert_eq!(first.events(), second.events());
}

#[test]
fn the_socket_is_its_owners_alone() {
    let (_side, folder) = start();
    let mode = std::fs::metadata(folder.path().join("qmp.sock"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn garbage_harms_nobody() {
    let (mut side, folder) = start();
    for garbage in [
        &b"\xff\x00\x01{]}\"'"[..],
        &[b'['; 5000],
        &[b'x'; 100_000],
        b"{\"execute\":",
    ] {
        let mut stream = UnixStream::connect(folder.path().join("qmp.sock")).unwrap();
        stream.write_all(garbage).unwrap();
        drop(stream);
        add_null(&mut side, "d");
        assert_eq!(
            side.ask("blockdev-del", &json!({ "node-name": "d" })),
            done()
        );
    }
}

#[test]
fn a_client_that_does_not_read_is_sent_away_and_others_are_served() {
    let (mut side, folder) = start();
    let mut deaf = UnixStream::connect(folder.path().join("qmp.sock")).unwrap();
    deaf.write_all(b"{\"execute\":\"qmp_capabilities\"}")
        .unwrap();
    // Asks and asks, and hears nothing, until it is sent away: a write then fails, or waits for nobody.
    deaf.set_write_timeout(Some(PATIENCE)).unwrap();
    let ask = b"{\"execute\":\"query-qmp-schema\"}".repeat(100);
    let refused = std::iter::repeat_with(|| deaf.write_all(&ask)).find_map(Result::err);
    let kind = refused.expect("it does not end well").kind();
    assert!(
        matches!(kind, ErrorKind::BrokenPipe | ErrorKind::ConnectionReset),
        "{kind:?}"
    );
    add_null(&mut side, "d");
}

#[test]
fn a_moment_without_room_for_clients_is_not_the_end() {
    const FILES: usize = 32;
    let folder = tempfile::tempdir().unwrap();
    let limited = format!("ulimit -n {FILES}; exec \"$0\" serve --qmp qmp.sock");
    let mut command = Command::new("sh");
    command.args(["-c", &limited, env!("CARGO_BIN_EXE_cohort")]);
    command.current_dir(folder.path()).stdout(Stdio::null());
    let child = Killed(command.spawn().unwrap());
    let mut first = Side::join(folder.path());
    let more = || UnixStream::connect(folder.path().join("qmp.sock")).unwrap();
    let many: Vec<_> = (0..2 * FILES).map(|_| more()).collect();
    let files = format!("/proc/{}/fd", child.0.id());
    let deadline = Instant::now() + PATIENCE;
    while std::fs::read_dir(&files).unwrap().count() < FILES {
        assert!(Instant::now() < deadline, "it takes them all");
        std::thread::yield_now();
    }
    // It is alive, and has tried to take the next.
    add_null(&mut first, "d");
    drop(many);
    add_null(&mut Side::join(folder.path()), "t");
}

/// A daemon that goes with the test, however that ends.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn nothing_outside_the_folder_is_opened() {
    let outside = tempfile::tempdir().unwrap();
    let secret = outside.path().join("secret.raw");
    std::fs::write(&secret, vec![0; 4096]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("mine.raw"), vec![0; 4096]).unwrap();
    std::os::unix::fs::symlink(&secret, folder.path().join("link.raw")).unwrap();
    let mut side = Side::cohort_with(folder.path(), &["--restrict", "."]);
    let file =
        |name: &str, path: &str| json!({ "driver": "file", "node-name": name, "filename": path });
    assert_eq!(side.ask("blockdev-add", &file("mine", "mine.raw")), done());
    let secret = secret.display().to_string();
    for path in [secret.as_str(), "link.raw", "../secret.raw"] {
        let answer = side.ask("blockdev-add", &file("theirs", path));
        let text = answer["error"].as_str().unwrap_or_default();
        assert!(text.contains("does not lie in"), "{path}: {answer}");
    }
    let create = json!({ "job-id": "c", "options": { "driver": "file", "filename": "/tmp/x.raw", "size": 1 } });
    assert!(side.ask("blockdev-create", &create)["error"].is_string());
    // Nor by an image that a client makes.
    std::fs::write(folder.path().join("base.raw"), vec![0; 4096]).unwrap();
    let over = |job: &str, path: &str| {
        json!({ "job-id": job, "options": { "driver": "qcow2", "file": "image", "size": 4096,
            "backing-file": path, "backing-fmt": "raw" } })
    };
    let image =
        json!({ "job-id": "f", "options": { "driver": "file", "filename": "i.qcow2", "size": 0 } });
    let overlay = json!({ "driver": "qcow2", "node-name": "overlay", "file": "image" });
    assert_eq!(side.ask("blockdev-create", &image), done());
    side.wait("f", "concluded", "the file");
    assert_eq!(side.ask("blockdev-add", &file("image", "i.qcow2")), done());
    for (job, path, is_opened) in [
        ("c", secret.as_str(), false),
        ("d", "link.raw", false),
        ("e", "base.raw", true),
    ] {
        assert_eq!(side.ask("blockdev-create", &over(job, path)), done());
        side.wait(job, "concluded", "the image");
        let mut answer = side.ask("blockdev-add", &overlay);
        if is_opened {
            assert_eq!(answer, done());
        } else {
            let text = answer["error"].take();
            let text = text.as_str().unwrap_or_default();
            assert!(text.contains("does not lie in"), "{path}: {text}");
        }
    }
}

#[test]
fn quit_is_answered_and_jobs_are_settled_before_the_end() {
    let (mut side, folder) = start();
    add_null(&mut side, "d");
    add_null(&mut side, "t");
    let backup = json!({ "job-id": "j", "device": "d", "target": "t", "sync": "none" });
    assert_eq!(side.ask("blockdev-backup", &backup), done());
    assert_eq!(side.ask("quit", &json!({})), done());
    assert_eq!(side.exit_code(), Some(0));
    let events = &side.events()["j"];
    let last: Vec<_> = events
        .iter()
        .rev()
        .take(4)
        .rev()
        .map(|event| event.split('(').next().unwrap())
        .collect();
    assert_eq!(
        last,
        ["aborting", "BLOCK_JOB_CANCELLED", "concluded", "null"]
    );
    assert!(!folder.path().join("qmp.sock").exists());
}

#[test]
fn disks_of_the_command_line_are_nodes() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.raw"), vec![0; 65536]).unwrap();
    let mut side = Side::cohort_with(folder.path(), &["root=a.raw"]);
    let bitmap = json!({ "node": "root", "name": "b" });
    assert_eq!(side.ask("block-dirty-bitmap-add", &bitmap), done());
}

#[test]
fn an_undecided_bitmap_waits_for_a_word() {
    let (mut side, _folder) = start();
    for name in ["d", "t"] {
        add_null(&mut side, name);
    }
    let rules = json!([{ "event": "none", "iotype": "write-zeroes", "sector": 1024, "errno": 5 }]);
    let failing =
        json!({ "driver": "blkdebug", "node-name": "w", "image": "t", "inject-error": rules });
    assert_eq!(side.ask("blockdev-add", &failing), done());
    assert_eq!(
        side.ask(
            "block-dirty-bitmap-add",
            &json!({ "node": "d", "name": "b" })
        ),
        done()
    );
    let backup = json!({
        "job-id": "j", "device": "d", "target": "w", "sync": "full", "bitmap": "b", "bitmap-mode": "always",
        "x-cohort-ask": true, "auto-dismiss": false, "x-perf": { "max-workers": 1, "max-chunk": 65536 },
    });
    assert_eq!(side.ask("blockdev-backup", &backup), done());
    side.wait("j", "concluded", "the failing job");
    let why = side.ask("x-cohort-job-why", &json!({ "id": "j" }));
    assert!(
        why["return"]["why"]
            .as_str()
            .unwrap()
            .contains("Input/output error"),
        "{why}"
    );
    side.ask("job-dismiss", &json!({ "id": "j" }));
    let again = side.ask("blockdev-backup", &backup)["error"].to_string();
    assert!(again.contains("waits for an answer"), "{again}");
    let count = |side: &mut Side| {
        let nodes = side.ask("query-named-block-nodes", &json!({}));
        let nodes = nodes["return"].as_array().unwrap().clone();
        nodes.iter().find(|node| node["node-name"] == "d").unwrap()["dirty-bitmaps"][0]["count"]
            .clone()
    };
    assert_eq!(count(&mut side), 0);
    let keep = json!({ "node": "d", "name": "b", "answer": "keep" });
    assert_eq!(side.ask("x-cohort-bitmap-decide", &keep), done());
    assert_eq!(count(&mut side), 8 * 65536, "the second half is not copied");
    // The partial is gone with its node, and what it says with it.
    assert_eq!(
        side.ask("blockdev-del", &json!({ "node-name": "w" })),
        done()
    );
    assert_eq!(count(&mut side), 0);
}
