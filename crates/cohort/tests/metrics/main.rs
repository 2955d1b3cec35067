//! `cohort serve --metrics`: what is told, whether it is true, and what clients of all kinds get.

#[path = "../lab/mod.rs"]
mod lab;
mod text;

use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lab::machine::ask;
use lab::server::Server;
use lab::{Lab, have, noise};
use serde_json::{Value, json};
use text::Page;

const MIB: u64 = 1 << 20;

/// Requests of the NBD protocol.
const READ: u16 = 0;
const WRITE: u16 = 1;
const FLUSH: u16 = 3;

/// A server of raw disks of 8 MiB with metrics at `m`.
fn serve(lab: &Lab, disks: &[&str], more: &[&str]) -> Server {
    for name in disks {
        let path = lab.path(name.rsplit_once('=').map_or(name, |(_, path)| path));
        fs::write(path, noise(7, 8 * MIB as usize)).unwrap();
    }
    Server::start(lab, &[disks, &["--metrics", "m"], more].concat())
}

fn command(lab: &Lab, command: &str, arguments: Value) -> Value {
    ask(&lab.path("qmp.sock"), command, arguments).unwrap()
}

/// What the socket says to these bytes, until it says no more.
fn say(lab: &Lab, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(lab.path("m")).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    // One that is refused may be told so before all is said.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8(answer).unwrap()
}

#[track_caller]
fn body(answer: &str) -> &str {
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let mut lines = head.split("\r\n");
    assert_eq!(lines.next(), Some("HTTP/1.1 200 OK"));
    let lines: BTreeSet<_> = lines.collect();
    let length = format!("Content-Length: {}", body.len());
    let expected = [
        "Content-Type: text/plain; version=0.0.4; charset=utf-8",
        "Connection: close",
        &length,
    ];
    assert_eq!(lines, BTreeSet::from(expected));
    body
}

#[track_caller]
fn fetch(lab: &Lab) -> Page {
    Page::read(body(&say(lab, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")))
}

/// Looks again until it is so.
#[track_caller]
fn wait_for(lab: &Lab, is: impl Fn(&Page) -> bool) -> Page {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let page = fetch(lab);
        if is(&page) {
            return page;
        }
        assert!(
            Instant::now() < deadline,
            "it does not come to that: {page:?}"
        );
    }
}

/// A target of the size of the disks, and a backup of `a` that does not come to its end.
fn begin_slow_backup(lab: &Lab) {
    let null = json!({ "driver": "null-co", "node-name": "t", "size": 8 * MIB });
    command(lab, "blockdev-add", null);
    let backup = json!({ "job-id": "slow", "device": "a", "target": "t", "sync": "full",
        "speed": 65536, "x-perf": { "max-workers": 1, "max-chunk": 65536 } });
    command(lab, "blockdev-backup", backup);
}

/// The names in the page's table.
fn documented() -> BTreeSet<String> {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md");
    let text = fs::read_to_string(page).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    let names = rows.filter_map(|row| row.split_once('`'));
    names
        .map(|(name, _)| name.to_owned())
        .filter(|name| name.starts_with("cohort_") || name.starts_with("process_"))
        .collect()
}

#[test]
fn every_metric_of_the_page_is_told_and_no_other() {
    let lab = Lab::new();
    let server = serve(&lab, &["a=a.raw"], &["--qmp", "qmp.sock"]);
    lab.cohort(["backup", "--socket", "qmp.sock", "--to", "R"])
        .exits(0);
    command(
        &lab,
        "block-dirty-bitmap-add",
        json!({ "node": "a", "name": "b" }),
    );
    begin_slow_backup(&lab);
    let told: BTreeSet<_> = fetch(&lab).families.into_keys().collect();
    assert_eq!(told, documented());
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn what_nbd_clients_do_is_counted() {
    let lab = Lab::new();
    let server = serve(&lab, &["a=a.raw", "b=b.raw"], &[]);
    let mut client = server.enter("a");
    for cookie in 0..3 {
        client.ask(0, WRITE, cookie, cookie << 16, 4096);
        client.put(&noise(cookie, 4096));
        assert_eq!(client.reply(), (0, cookie));
    }
    // Small ones are carried out in another way than large ones.
    for (cookie, length) in [(3, 512), (4, 1 << 20)] {
        client.ask(0, READ, cookie, 0, length);
        assert_eq!(client.reply(), (0, cookie));
        client.get(length as usize);
    }
    client.ask(0, WRITE, 5, 0, 1 << 20);
    client.put(&noise(9, 1 << 20));
    assert_eq!(client.reply(), (0, 5));
    client.ask(0, FLUSH, 6, 0, 0);
    assert_eq!(client.reply(), (0, 6));
    // Past the end.
    client.ask(0, READ, 7, 8 * MIB, 512);
    assert_eq!(client.reply(), (22, 7));

    let page = fetch(&lab);
    let of = |name: &str, operation: &str| {
        let labels = [("export", "a"), ("operation", operation)];
        page.value(&format!("cohort_export_{name}_total"), &labels)
    };
    let requests = ["read", "write", "flush", "trim"].map(|operation| of("requests", operation));
    assert_eq!(requests, [2.0, 4.0, 1.0, 0.0]);
    let bytes = [of("bytes", "read"), of("bytes", "write")];
    assert_eq!(bytes, [1_049_088.0, 1_060_864.0]);
    assert_eq!(
        page.find(
            "cohort_export_bytes_total",
            &[("export", "a"), ("operation", "flush")]
        ),
        None
    );
    assert_eq!(
        page.value("cohort_export_refused_total", &[("export", "a")]),
        1.0
    );
    assert_eq!(page.value("cohort_export_clients", &[("export", "a")]), 1.0);
    assert_eq!(page.value("cohort_export_clients", &[("export", "b")]), 0.0);
    let idle = [("export", "b"), ("operation", "write")];
    assert_eq!(page.value("cohort_export_requests_total", &idle), 0.0);
    // A large write passes the gate in pieces of half a MiB.
    for name in [
        "cohort_disk_write_delay_seconds_count",
        "cohort_disk_write_device_seconds_count",
    ] {
        assert_eq!(page.value(name, &[("disk", "a")]), 5.0, "{name}");
        assert_eq!(page.value(name, &[("disk", "b")]), 0.0, "{name}");
    }
    assert!(page.value("cohort_disk_write_device_seconds_sum", &[("disk", "a")]) > 0.0);
    assert_eq!(
        page.value("cohort_disk_size_bytes", &[("disk", "a")]),
        8.0 * MIB as f64
    );
    assert_eq!(page.value("cohort_nbd_clients", &[]), 1.0);
    assert_eq!(page.value("cohort_nbd_clients_accepted_total", &[]), 1.0);
    drop(client);
    wait_for(&lab, |page| page.value("cohort_nbd_clients", &[]) == 0.0);
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn a_client_too_many_is_counted() {
    let lab = Lab::new();
    let server = serve(&lab, &["a=a.raw"], &["--max-connections", "1"]);
    let _client = server.enter("a");
    let mut other = server.connect();
    assert_eq!(other.read(&mut [0; 1]).unwrap_or(0), 0, "sent away");
    let page = fetch(&lab);
    assert_eq!(page.value("cohort_nbd_clients_turned_away_total", &[]), 1.0);
    assert_eq!(page.value("cohort_nbd_clients_limit", &[]), 1.0);
}

#[test]
fn jobs_groups_fences_and_bitmaps_are_counted() {
    let lab = Lab::new();
    let server = serve(&lab, &["a=a.raw"], &["--qmp", "qmp.sock"]);
    let page = fetch(&lab);
    assert_eq!(page.value("cohort_fences_total", &[]), 0.0);
    assert_eq!(page.value("cohort_jobs", &[("status", "running")]), 0.0);
    command(
        &lab,
        "block-dirty-bitmap-add",
        json!({ "node": "a", "name": "b\"\\" }),
    );
    let mut client = server.enter("a");
    client.ask(0, WRITE, 1, 3 << 16, 4096);
    client.put(&noise(1, 4096));
    assert_eq!(client.reply(), (0, 1));
    begin_slow_backup(&lab);
    // How much there is to do it knows once it has begun.
    let has_begun = |page: &Page| {
        page.value("cohort_jobs", &[("status", "running")]) == 1.0
            && page.value("cohort_job_size_bytes", &[("job", "slow")]) == 8.0 * MIB as f64
    };
    let page = wait_for(&lab, has_begun);
    let dirty = [("disk", "a"), ("bitmap", "b\"\\")];
    assert_eq!(page.value("cohort_bitmap_dirty_bytes", &dirty), 65_536.0);
    assert_eq!(page.value("cohort_fences_total", &[]), 2.0);
    let (last, worst) = (
        page.value("cohort_fence_last_seconds", &[]),
        page.value("cohort_fence_worst_seconds", &[]),
    );
    assert!(0.0 < last && last <= worst, "{last} {worst}");
    assert!(page.value("cohort_job_done_bytes", &[("job", "slow")]) < 8.0 * MIB as f64);
    let decided =
        |page: &Page, verdict| page.value("cohort_groups_decided_total", &[("verdict", verdict)]);
    assert_eq!(
        (decided(&page, "commit"), decided(&page, "abort")),
        (0.0, 0.0)
    );

    command(&lab, "job-cancel", json!({ "id": "slow" }));
    let page = wait_for(&lab, |page| decided(page, "abort") == 1.0);
    assert_eq!(decided(&page, "commit"), 0.0);
    // The groups of a run into a directory are another engine's, and the fence is another room's.
    lab.cohort(["backup", "--socket", "qmp.sock", "--to", "R"])
        .exits(0);
    let page = fetch(&lab);
    assert_eq!(
        (decided(&page, "commit"), decided(&page, "abort")),
        (1.0, 1.0)
    );
    assert_eq!(page.value("cohort_fences_total", &[]), 3.0);
    assert_eq!(
        page.value("cohort_tracking_dirty_bytes", &[("disk", "a")]),
        0.0
    );
}

#[test]
fn requests_that_the_disk_fails_are_counted_as_such() {
    let lab = Lab::new();
    let server = serve(&lab, &["a=a.raw"], &["--qmp", "qmp.sock"]);
    command(
        &lab,
        "blockdev-add",
        json!({ "driver": "null-co", "node-name": "n", "size": MIB }),
    );
    let errors = json!([{ "event": "none", "iotype": "write", "errno": 5 }]);
    command(
        &lab,
        "blockdev-add",
        json!({ "driver": "blkdebug", "node-name": "w", "image": "n", "inject-error": errors }),
    );
    let export = json!({ "type": "nbd", "id": "w", "node-name": "w", "writable": true });
    command(&lab, "block-export-add", export);
    let mut client = server.enter("w");
    client.ask(0, WRITE, 1, 0, 4096);
    client.put(&noise(1, 4096));
    assert_eq!(client.reply(), (5, 1));
    let page = fetch(&lab);
    let labels = [("export", "w"), ("operation", "write")];
    let of = |name: &str| page.value(name, &labels);
    assert_eq!(of("cohort_export_requests_total"), 1.0);
    assert_eq!(of("cohort_export_errors_total"), 1.0);
    assert_eq!(of("cohort_export_bytes_total"), 0.0);
}

#[test]
fn who_asks_for_something_else_is_told_so() {
    let lab = Lab::new();
    let _server = serve(&lab, &["a=a.raw"], &[]);
    let endless = format!("GET /metrics HTTP/1.1\r\nHost: {}", "a".repeat(1 << 20));
    for (sent, status) in [
        (&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], "404 "),
        (
            b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}",
            "400 ",
        ),
        (b"DELETE /metrics HTTP/1.1\r\nHost: x\r\n\r\n", "405 "),
        (b"GET /metrics HTTP/1.1\r\n\r\n", "400 "),
        (b"GET /metrics HTTP/2.0\r\nHost: x\r\n\r\n", "505 "),
        (b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03", "400 "),
        (endless.as_bytes(), "431 "),
    ] {
        let answer = say(&lab, sent);
        let expected = format!("HTTP/1.1 {status}");
        assert!(answer.starts_with(&expected), "{status}: {answer:?}");
    }
    // One answer, whatever else is asked for.
    let twice = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\nGET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
    Page::read(body(&say(&lab, twice)));
}

#[test]
fn clients_that_say_nothing_keep_nobody_out_for_long() {
    let lab = Lab::new();
    let server = serve(&lab, &["a=a.raw"], &[]);
    fetch(&lab);
    let (_, files) = server.holds();
    let mut silent: Vec<_> = (0..40)
        .map(|_| UnixStream::connect(lab.path("m")).unwrap())
        .collect();
    for (at, stream) in silent.iter_mut().enumerate() {
        // One that is sent away already cannot be written to.
        let _ = stream.write_all(&b"GET /metrics HTTP/1.1\r\nHost: x\r\n"[..at % 30]);
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    let served =
        |lab: &Lab| say(lab, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").contains("200 OK");
    while !served(&lab) {
        assert!(Instant::now() < deadline, "they are never given up");
    }
    // All of them were sent away by us.
    for mut stream in silent {
        let ended = stream.read_to_end(&mut Vec::new());
        // What was not read of it when it was sent away makes that a reset.
        let reset = |error: &std::io::Error| error.kind() == ErrorKind::ConnectionReset;
        assert!(
            ended.as_ref().map_or_else(reset, |read| *read == 0),
            "{ended:?}"
        );
    }
    let page = wait_for(&lab, |_| server.holds().1 <= files + 1);
    assert_eq!(page.value("cohort_nbd_clients", &[]), 0.0);
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn a_server_that_ends_waits_for_no_scraper() {
    let lab = Lab::new();
    let server = serve(&lab, &["a=a.raw"], &["--qmp", "qmp.sock"]);
    let mode = fs::metadata(lab.path("m")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(
        server.said().contains(&"metrics at m".to_owned()),
        "{:?}",
        server.said()
    );
    let mut silent = UnixStream::connect(lab.path("m")).unwrap();
    silent.write_all(b"GET /met").unwrap();
    assert_eq!(server.stop(), Some(0));
    assert!(!lab.path("m").exists());
}

#[test]
fn a_place_that_is_none_is_refused() {
    let lab = Lab::new();
    fs::write(lab.path("a.raw"), [0; 512]).unwrap();
    let args = ["serve", "a.raw", "--socket", "s", "--metrics"];
    let with = |place: &'static str| lab.cohort(args.into_iter().chain([place]));
    with("localhost:9470")
        .exits(2)
        .says(&["such as 127.0.0.1:9470"]);
    fs::write(lab.path("taken"), "precious").unwrap();
    with("taken").exits(1).says(&["cannot listen at taken"]);
    assert_eq!(fs::read(lab.path("taken")).unwrap(), b"precious");
}

#[test]
fn clients_of_the_network_are_served_at_the_port_that_is_told() {
    let lab = Lab::new();
    lab.noise("a.raw", 7, MIB as usize);
    let server = Server::start(&lab, &["a=a.raw", "--metrics", "127.0.0.1:0"]);
    let said = server.said().iter();
    let mut urls = said.filter_map(|line| line.strip_prefix("metrics at "));
    let url = urls.next().expect("it says where");
    let port = url.strip_prefix("http://127.0.0.1:").unwrap();
    let port: u16 = port.strip_suffix("/metrics").unwrap().parse().unwrap();
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    Page::read(body(&answer));
    if have(&["curl"]) {
        let told = lab.tool(
            "curl",
            &[
                "--silent",
                "--show-error",
                "--fail",
                "--max-time",
                "60",
                url,
            ],
        );
        Page::read(&told);
    }
}

/// Prometheus's own judge of a page, where it is installed; nothing else depends on it.
#[test]
fn prometheus_has_nothing_to_say_against_it() {
    let judge = Command::new("promtool").arg("--version").output();
    if judge.is_err() {
        eprintln!("SKIPPED: not installed: promtool");
        return;
    }
    let lab = Lab::new();
    let _server = serve(&lab, &["a=a.raw"], &["--qmp", "qmp.sock"]);
    begin_slow_backup(&lab);
    let answer = say(&lab, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    let mut judge = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let input = judge.stdin.take();
    input.unwrap().write_all(body(&answer).as_bytes()).unwrap();
    let judged = judge.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&judged.stderr);
    assert!(judged.status.success() && said.is_empty(), "{said}");
}
