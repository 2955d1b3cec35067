//! Sets of tracking stores, of writers that are closed and killed, and what becomes of them beside an image.

use super::*;

/// Tells the tracking store of the disk `d` of a killed writer, which acknowledged the writes that are told too.
fn killed_mid_storm(lab: &Lab) -> Vec<u64> {
    let disk = fs::File::create(lab.path("d")).expect("a disk");
    disk.set_len(64 << 20).expect("room");
    let mut writer = Command::new(std::env::current_exe().expect("this test"))
        .args([
            "stores::a_writer_that_is_to_be_killed",
            "--exact",
            "--nocapture",
        ])
        .env("COHORT_TEST_STORM", lab.path("d"))
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    // Held open to the end: it is the kill that ends the writer, at the latest when the pipe is full.
    let mut lines = BufReader::new(writer.stdout.take().expect("its output")).lines();
    let told = lines.by_ref().map_while(Result::ok);
    let told = told.filter_map(|line| line.strip_prefix("wrote ")?.parse().ok());
    let acknowledged: Vec<u64> = told.take(300).collect();
    let beside = list(lab, "d");
    assert_eq!(beside[0]["state"], "recording");
    assert_eq!(
        beside[0]["why"],
        Value::Null,
        "it is alive, and nothing is in doubt"
    );
    writer.kill().expect("it lives");
    let ended = writer.wait().expect("it ends");
    assert_eq!(ended.signal(), Some(9), "it did not end by itself");
    acknowledged
}

/// Not a test: what `killed_mid_storm` starts.
#[test]
fn a_writer_that_is_to_be_killed() {
    let Some(path) = std::env::var_os("COHORT_TEST_STORM") else {
        return;
    };
    let path = Path::new(&path);
    let raw = OsFile::open(path, true).expect("the disk");
    let raw = RawDevice::new("d", Arc::new(raw), true).expect("a disk");
    let disk = Gated::new(Arc::new(raw));
    let beside = TrackingStore::path_beside(path);
    let store = TrackingStore::create(&beside, path, disk.size(), Mode::KilledProcess);
    let store = store.expect("a store");
    let owner = Owner {
        id: [7; 16],
        path: "/backups".into(),
    };
    let label = Label {
        owner,
        name: "since".into(),
        note: String::new(),
    };
    let since = store
        .store()
        .begin(label, Granularity::DEFAULT)
        .expect("a set");
    let soon = Instant::now() + Duration::from_secs(5);
    let mut closed = disk.close("tracking", soon).expect("closed");
    closed.install_recording(since);
    drop(closed);
    for step in 0_u64.. {
        let at = step * 7_919 * 512 % disk.size();
        disk.write_at(&[1; 512], at).expect("written");
        println!("wrote {at}");
    }
}

#[test]
fn the_store_of_a_killed_writer_holds_every_acknowledged_write_and_says_what_it_is_worth() {
    let lab = Lab::new();
    let acknowledged = killed_mid_storm(&lab);
    assert_eq!(acknowledged.len(), 300);
    let before = fs::read(lab.path("d.cohort")).expect("the store");
    for path in ["d", "d.cohort"] {
        let set = list(&lab, path).remove(0);
        assert_eq!(
            (&set["name"], &set["kind"]),
            (&"since".into(), &"cohort".into())
        );
        assert_eq!(set["owner"]["path"], "/backups");
        assert_eq!(set["state"], "recording");
        assert!(
            set["why"]
                .as_str()
                .is_some_and(|why| why.contains("not closed")),
            "{set}"
        );
        assert!(set["excess_bytes"].is_u64());
    }
    let told = lab.cohort(["bitmap", "list", "d"]).exits(0).stdout;
    for part in [
        "Cohort set #",
        "exact",
        "; unproven: ",
        "was killed",
        "survives a killed process",
    ] {
        assert!(told.contains(part), "'{part}' is missing in:\n{told}");
    }
    let ran = lab
        .cohort(["bitmap", "export", "d", "since"])
        .exits(0)
        .says(&["unproven"]);
    let runs: Vec<(u64, u64)> = ran
        .stdout
        .lines()
        .map(|line| line.split_once(' ').expect("two numbers"))
        .map(|(offset, length)| (offset.parse().expect("one"), length.parse().expect("one")))
        .collect();
    let holds = |at: &u64| {
        runs.iter()
            .any(|(offset, length)| (*offset..offset + length).contains(at))
    };
    assert!(acknowledged.iter().all(holds));
    assert!(
        before == fs::read(lab.path("d.cohort")).expect("the store"),
        "nothing was changed"
    );
}

#[test]
fn sets_of_a_store_go_into_a_bitmap_of_qemus() {
    let Some(lab) = lab_with_bitmaps() else {
        return;
    };
    let disk = fs::File::create(lab.path("raw")).expect("a disk");
    disk.set_len(SIZE).expect("room");
    let (beside, path) = (lab.path("raw.cohort"), lab.path("raw"));
    let store = TrackingStore::create(&beside, &path, SIZE, Mode::PowerLoss).expect("a store");
    for (name, at) in [("base", 2 << 20), ("base", 4 << 20)] {
        let mut bits = cohort_bitmap::DirtyBitmap::new(SIZE, Granularity::DEFAULT).expect("bits");
        bits.set(at, 1).expect("on the disk");
        let label = Label {
            name: name.into(),
            ..Label::default()
        };
        store.store().write_fixed(label, &bits).expect("a set");
    }
    store.close().expect("closed");
    let rows = list(&lab, "raw");
    assert_eq!(
        rows.iter().map(|row| &row["state"]).collect::<Vec<_>>(),
        ["fixed", "fixed"]
    );
    let number = |row: &Value| format!("#{}", row["set"]);
    let merge =
        |set: &str| lab.cohort(["bitmap", "merge", "a.qcow2", "fine", set, "--from", "raw"]);
    merge("base")
        .exits(2)
        .says(&["say which", &number(&rows[0]), &number(&rows[1])]);
    merge(&number(&rows[0])).exits(0);
    assert_eq!(
        export(&lab, "fine", &[]),
        "0 4096\n2097152 65536\n3072000 12288\n"
    );
    // Of another size it is another disk.
    disk.set_len(SIZE + 512).expect("room");
    merge(&number(&rows[0]))
        .exits(2)
        .says(&["disks of one size"]);
    check(&lab);
}

/// The image's file changes, the disk in it does not, and the store is told so.
#[test]
fn a_store_beside_an_image_outlives_a_change_of_its_bitmaps() {
    let Some(lab) = lab_with_bitmaps() else {
        return;
    };
    let (beside, path) = (lab.path("a.qcow2.cohort"), lab.path("a.qcow2"));
    let store = TrackingStore::create(&beside, &path, SIZE, Mode::PowerLoss).expect("a store");
    let since = store.store().begin(Label::default(), Granularity::DEFAULT);
    let since = since.expect("a set");
    since.record(5 << 20, 1);
    drop(since);
    store.close().expect("closed");
    let state = || {
        let set = list(&lab, "a.qcow2").pop().expect("a set");
        let told = |key: &str| set[key].clone();
        (told("state"), told("why"), told("dirty_bytes"))
    };
    let exact = ("recording".into(), Value::Null, 65_536.into());
    assert_eq!(state(), exact);
    import(&lab, &["a.qcow2", "n"], b"0 1\n").exits(0);
    assert_eq!(state(), exact);
    lab.cohort(["bitmap", "merge", "a.qcow2", "n", "fine"])
        .exits(0);
    assert_eq!(state(), exact);
    import(&lab, &["a.qcow2", "n"], b"0 1\n").exits(42);
    import(&lab, &["a.qcow2", "m"], b"no range\n").exits(53);
    assert_eq!(state(), exact, "what was refused changed nothing");
    // A store that was left open does not know the disk's last state, and nobody vouches for that.
    let opened = TrackingStore::open(&beside, &path, SIZE, Mode::PowerLoss);
    drop(opened.expect("a store"));
    let unproven = state();
    assert!(unproven.1.is_string(), "{unproven:?}");
    import(&lab, &["a.qcow2", "o"], b"0 1\n").exits(0);
    assert_eq!(state(), unproven);
    let opened = TrackingStore::open(&beside, &path, SIZE, Mode::PowerLoss);
    opened.expect("a store").0.close().expect("closed");
    // What it holds against the disk stands.
    write(&lab, &["write -q 0 64k"]);
    let lost = state();
    assert_eq!(lost.0, "lost");
    import(&lab, &["a.qcow2", "m"], b"0 1\n").exits(0);
    assert_eq!(state(), lost);
    check(&lab);
}
