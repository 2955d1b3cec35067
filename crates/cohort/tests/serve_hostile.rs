//! `cohort serve` and clients that are wrong, rude, slow or gone: they get their error, and nobody else notices.

mod lab;

use std::fs;
use std::io::Write;

use lab::server::{Raw, Server};
use lab::{Lab, noise};

const SIZE: u32 = 4 << 20;
const READ: u16 = 0;
const WRITE: u16 = 1;
const DISC: u16 = 2;
const FLUSH: u16 = 3;

fn serving(lab: &Lab, more: &[&str]) -> Server {
    lab.noise("a.raw", 1, SIZE as usize);
    let mut args = vec!["a.raw"];
    args.extend(more);
    Server::start(lab, &args)
}

/// A client that does all right sees a disk that is all right.
fn others_are_served(server: &Server) {
    let mut raw = server.enter("a");
    raw.ask(0, READ, 5, 1000, 1000);
    assert_eq!(raw.reply(), (0, 5));
    assert_eq!(raw.get(1000), noise(1, 2000)[1000..]);
}

#[test]
fn garbage_ends_a_connection_and_nothing_else() {
    let lab = Lab::new();
    let server = serving(&lab, &[]);
    for garbage in [
        &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
        &[0; 64],
        &[255; 64],
        b"\0\0\0\x03IHAVEOPX1234567890",
    ] {
        let mut stream = server.connect();
        // The server may have closed before all is written.
        let _ = stream.write_all(garbage);
        assert!(Raw(stream).is_closed());
    }
    let mut raw = server.enter("a");
    raw.put(&[7; 28]);
    assert!(raw.is_closed());
    let mut raw = Raw(server.connect());
    raw.get(18);
    raw.put(b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\0\x04none");
    assert!(
        raw.is_closed(),
        "no such export, and no error reply to say so"
    );
    others_are_served(&server);
}

#[test]
fn requests_beyond_the_limits_are_refused_and_the_next_one_is_served() {
    let lab = Lab::new();
    let server = serving(&lab, &[]);
    let mut raw = server.enter("a");
    let end = u64::from(SIZE);
    for (cookie, (kind, offset, length, error)) in [
        (READ, end, 1, 22),
        (READ, end - 1, 2, 22),
        (READ, u64::MAX, 2, 22),
        (READ, 0, u32::MAX, 22),
        (READ, 0, 0, 0),
        (READ, end, 0, 0),
        (FLUSH, 0, 0, 0),
        (4, end, 1, 22),
        (6, end, 1, 28),
        (7, 0, 512, 22),
        (99, 0, 512, 22),
    ]
    .into_iter()
    .enumerate()
    {
        raw.ask(0, kind, cookie as u64, offset, length);
        assert_eq!(
            raw.reply(),
            (error, cookie as u64),
            "command {kind} at {offset}, {length} bytes"
        );
    }
    raw.ask(0, WRITE, 50, end - 1, 100_000);
    raw.put(&[1; 100_000]);
    assert_eq!(raw.reply(), (28, 50), "its data was dropped");
    raw.ask(0x8000, READ, 51, 0, 512);
    assert_eq!(raw.reply(), (22, 51), "a flag that nobody knows");
    raw.ask(0, WRITE, 52, 3, 4);
    raw.put(b"well");
    assert_eq!(raw.reply(), (0, 52));
    raw.ask(0, READ, 53, 3, 4);
    assert_eq!((raw.reply(), raw.get(4)), ((0, 53), b"well".to_vec()));
    raw.ask(0, WRITE, 54, 0, u32::MAX);
    assert!(raw.is_closed(), "more data than is ever taken");
    assert_eq!(&fs::read(lab.path("a.raw")).unwrap()[3..7], b"well");
    others_are_served(&server);
}

#[test]
fn nothing_is_written_to_what_is_read_only() {
    let lab = Lab::new();
    let server = serving(&lab, &["--read-only"]);
    let mut raw = server.enter("a");
    raw.ask(0, WRITE, 1, 0, 512);
    raw.put(&[0; 512]);
    assert_eq!(raw.reply(), (1, 1));
    for kind in [4, 6] {
        raw.ask(0, kind, 2, 0, 4096);
        assert_eq!(raw.reply(), (1, 2));
    }
    assert_eq!(server.stop(), Some(0));
    assert!(fs::read(lab.path("a.raw")).unwrap() == noise(1, SIZE as usize));
}

#[test]
fn clients_that_stop_in_the_middle_hold_up_nobody() {
    let lab = Lab::new();
    let server = serving(&lab, &[]);
    let silent: Vec<_> = (0..20).map(|_| server.connect()).collect();
    let mut halves = Vec::new();
    for _ in 0..20 {
        let mut raw = server.enter("a");
        raw.ask(0, WRITE, 1, 0, 1 << 20);
        raw.put(&[1; 1000]);
        halves.push(raw);
    }
    let mut deaf = Vec::new();
    for _ in 0..4 {
        let mut raw = server.enter("a");
        for cookie in 0..8 {
            raw.ask(0, READ, cookie, 0, SIZE);
        }
        deaf.push(raw);
    }
    others_are_served(&server);
    drop((silent, halves, deaf));
    others_are_served(&server);
    let mut raw = server.enter("a");
    raw.ask(0, READ, 1, 0, 1000);
    raw.reply();
    assert!(
        raw.get(1000) == noise(1, 1000),
        "half a write writes nothing"
    );
}

#[test]
fn memory_has_a_bound_and_connections_leave_nothing() {
    let lab = Lab::new();
    let server = serving(&lab, &["--memory", "8M"]);
    let cycles = std::env::var("COHORT_NBD_CYCLES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(300);
    others_are_served(&server);
    let (_, files) = server.holds();
    for cycle in 0..cycles {
        match cycle % 4 {
            0 => drop(server.connect()),
            1 => drop(server.enter("a")),
            2 => others_are_served(&server),
            _ => {
                let mut raw = server.enter("a");
                raw.ask(0, READ, 1, 0, SIZE);
                raw.ask(0, DISC, 0, 0, 0);
                assert_eq!(raw.reply(), (0, 1));
                raw.get(SIZE as usize);
                assert!(raw.is_closed());
            }
        }
    }
    // Large requests of many clients at once, none of whom takes an answer.
    let mut deaf: Vec<_> = (0..48).map(|_| server.enter("a")).collect();
    for raw in &mut deaf {
        for cookie in 0..4 {
            raw.ask(0, READ, cookie, 0, SIZE);
        }
    }
    others_are_served(&server);
    let (resident, _) = server.holds();
    assert!(
        resident < 64 << 20,
        "{resident} bytes for 48 clients who asked for 768 MiB"
    );
    for raw in &mut deaf {
        for _ in 0..4 {
            raw.reply();
            raw.get(SIZE as usize);
        }
    }
    drop(deaf);
    others_are_served(&server);
    let gone = (0..1000).any(|_| {
        std::thread::yield_now();
        others_are_served(&server);
        server.holds().1 <= files
    });
    assert!(
        gone,
        "{files} files were open, and {} are now",
        server.holds().1
    );
}

#[test]
fn what_was_asked_before_the_end_is_answered() {
    let lab = Lab::new();
    let server = serving(&lab, &[]);
    let mut raw = server.enter("a");
    let mut idle = server.enter("a");
    for cookie in 0..64 {
        raw.ask(1, WRITE, cookie, cookie * 4096, 4096);
        raw.put(&[cookie as u8; 4096]);
    }
    // All has come when the last but one is answered.
    assert_eq!(raw.reply().0, 0);
    assert_eq!(server.stop(), Some(0));
    for _ in 1..64 {
        assert_eq!(raw.reply().0, 0);
    }
    assert!(raw.is_closed() && idle.is_closed());
    let disk = fs::read(lab.path("a.raw")).unwrap();
    for cookie in 0..64u64 {
        let at = cookie as usize * 4096;
        assert_eq!(disk[at..at + 4096], [cookie as u8; 4096]);
    }
}

#[test]
fn a_server_killed_under_load_comes_back_with_all_that_it_answered() {
    let lab = Lab::new();
    let mut server = serving(&lab, &[]);
    let mut expected = fs::read(lab.path("a.raw")).unwrap();
    for round in 1..=5u8 {
        // Each writer has its own quarter, and writes on until the server is gone.
        let answered: Vec<Vec<usize>> = std::thread::scope(|scope| {
            let writers = [0, 1, 2, 3].map(|quarter| {
                let raw = server.enter("a");
                scope.spawn(move || write_until_gone(raw, quarter, round))
            });
            let mut judge = server.enter("a");
            for cookie in 0..200 {
                judge.ask(0, READ, cookie, 0, 4096);
                assert_eq!(judge.reply(), (0, cookie));
                judge.get(4096);
            }
            server.signal("KILL");
            writers
                .map(|writer| writer.join().expect("a writer"))
                .to_vec()
        });
        assert!(
            answered.iter().any(|blocks| !blocks.is_empty()),
            "there was load"
        );
        drop(server);
        server = Server::start(&lab, &["a.raw"]);
        others_read(&server, &answered, round, &mut expected);
    }
    assert_eq!(server.stop(), Some(0));
}

const BLOCK: usize = 4096;
const QUARTER: usize = SIZE as usize / 4;

/// Writes block after block of its quarter, eight under way at a time, and tells which were answered.
fn write_until_gone(mut raw: Raw, quarter: usize, round: u8) -> Vec<usize> {
    let mut answered = Vec::new();
    for first in (0..QUARTER / BLOCK).step_by(8).cycle() {
        for block in first..first + 8 {
            let at = quarter * QUARTER + block * BLOCK;
            let sent = raw.try_ask(
                WRITE,
                block as u64,
                at as u64,
                BLOCK as u32,
                &[round; BLOCK],
            );
            if !sent {
                return answered;
            }
        }
        for _ in 0..8 {
            match raw.try_reply() {
                Some((0, block)) => answered.push(quarter * QUARTER + block as usize * BLOCK),
                Some(other) => panic!("{other:?}"),
                None => return answered,
            }
        }
    }
    answered
}

/// What was answered is there; what was not is there or as before, and never something else.
fn others_read(server: &Server, answered: &[Vec<usize>], round: u8, expected: &mut Vec<u8>) {
    let mut raw = server.enter("a");
    raw.ask(0, READ, 9, 0, SIZE);
    assert_eq!(raw.reply(), (0, 9));
    let now = raw.get(SIZE as usize);
    for at in answered.iter().flatten() {
        assert!(
            now[*at..at + BLOCK] == [round; BLOCK],
            "block at {at} of round {round}"
        );
    }
    let blocks = now.chunks(BLOCK).zip(expected.chunks(BLOCK));
    for (now, before) in blocks {
        let is_sound = now
            .iter()
            .zip(before)
            .all(|(now, before)| *now == round || now == before);
        assert!(is_sound, "something that nobody wrote");
    }
    *expected = now;
}

#[test]
fn many_exports_are_held_in_little_memory() {
    let lab = Lab::new();
    let names: Vec<_> = (0..64).map(|number| format!("d{number}.raw")).collect();
    for name in &names {
        let disk = fs::File::create(lab.path(name)).expect("a disk");
        disk.set_len(1 << 40).expect("room");
    }
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let server = Server::start(&lab, &names);
    let (resident, files) = server.holds();
    // Of a build without optimisation, with a tracking store for each disk.
    assert!(resident < 20 << 20, "{resident} bytes for 64 exports");
    let mut guests: Vec<_> = (0..200)
        .map(|number| server.enter(&format!("d{}", number % 64)))
        .collect();
    for raw in &mut guests {
        raw.ask(0, READ, 1, 1 << 39, 512);
        assert_eq!((raw.reply(), raw.get(512)), ((0, 1), vec![0; 512]));
    }
    drop(guests);
    let mut raw = server.enter("d0");
    let gone = (0..10_000).any(|_| {
        raw.ask(0, READ, 1, 0, 512);
        raw.reply();
        raw.get(512);
        server.holds().1 <= files + 1
    });
    assert!(
        gone,
        "{files} files were open, and {} are now",
        server.holds().1
    );
}
