//! Bitmaps: exact after a quit, and after a kill no write is missing.

use super::*;

#[test]
fn bitmaps_are_exact_after_a_quit() {
    let lab = Lab::new();
    let daemon = with_bitmap(&lab);
    write(&lab, "a", 0);
    let off = json!({ "node": "a", "name": "off", "disabled": true });
    daemon.does("block-dirty-bitmap-add", off);
    let merge = json!({ "node": "a", "target": "off", "bitmaps": ["b"] });
    daemon.does("block-dirty-bitmap-merge", merge);
    let gone = json!({ "node": "a", "name": "gone" });
    daemon.does("block-dirty-bitmap-add", gone.clone());
    daemon.does("block-dirty-bitmap-remove", gone);
    write(&lab, "a", 5 * u64::from(BLOCK));
    let seen = daemon.seen();
    assert_eq!(
        (dirty(&daemon, "b"), dirty(&daemon, "off")),
        (2 * u64::from(BLOCK), 64 << 10)
    );
    daemon.quit();
    let daemon = Daemon::start(&lab, &[]);
    assert_eq!(
        (text_of(&daemon, "a/b"), text_of(&daemon, "a/off")),
        Default::default()
    );
    let bitmaps = |seen: &Value| seen["nodes"].to_string().matches("dirty-bitmaps").count();
    assert_eq!(bitmaps(&daemon.seen()), bitmaps(&seen));
    assert_eq!(dirty(&daemon, "b"), 2 * u64::from(BLOCK));
    assert_eq!(bitmap(&daemon, "off")["recording"], false);
    assert_eq!(bitmap(&daemon, "off")["count"], 64 << 10);
    // And they go on from there.
    write(&lab, "a", 9 * u64::from(BLOCK));
    assert_eq!(dirty(&daemon, "b"), 3 * u64::from(BLOCK));
    daemon.does(
        "block-dirty-bitmap-clear",
        json!({ "node": "a", "name": "b" }),
    );
    daemon.quit();
    assert_eq!(dirty(&Daemon::start(&lab, &[]), "b"), 0);
}

#[test]
fn no_write_is_missing_after_a_kill_and_the_excess_is_told() {
    let lab = Lab::new();
    let mut daemon = with_bitmap(&lab);
    back_up(&lab, &daemon, "full", "on-success");
    for round in 0..4 {
        write(&lab, "a", 100 * u64::from(BLOCK));
        write(&lab, "a", (7 + round) * u64::from(BLOCK));
        daemon = daemon.kill_and_start();
        let text = text_of(&daemon, "a/b");
        assert!(
            text.starts_with("exact") && text.contains("if nobody else wrote"),
            "{text}"
        );
        // What was written before the first of several kills is still there.
        assert!(dirty(&daemon, "b") >= 2 * u64::from(BLOCK));
        if round % 2 == 1 {
            back_up(&lab, &daemon, "incremental", "on-success");
            assert!(same(&lab), "round {round}");
            assert_eq!(dirty(&daemon, "b"), 0);
        }
    }
    // The verdict counts after a kill as well.
    daemon.kill();
    assert_eq!(dirty(&Daemon::start(&lab, &[]), "b"), 0);
}

#[test]
fn a_bitmap_of_a_file_that_somebody_else_wrote_to_is_all_dirty_and_says_so() {
    let lab = Lab::new();
    let daemon = with_bitmap(&lab);
    daemon.quit();
    lab.noise("a.raw", 8, MIB as usize);
    let daemon = Daemon::start(&lab, &[]);
    let text = text_of(&daemon, "a/b");
    assert!(text.starts_with("all of it counts as dirty: "), "{text}");
    assert_eq!(dirty(&daemon, "b"), MIB);
    let said = daemon.quit().said;
    assert!(
        said.contains("bitmap 'a/b' is back: all of it counts as dirty"),
        "{said}"
    );
    // Said once: from then on it is what it is.
    assert_eq!(text_of(&Daemon::start(&lab, &[]), "a/b"), "");
}

/// A disk `a` in a qcow2 image, exported.
fn with_image(lab: &Lab, daemon: &Daemon<'_>) {
    let file = json!({ "driver": "file", "filename": "a.qcow2" });
    let node = json!({ "driver": "qcow2", "node-name": "a", "file": file });
    daemon.does("blockdev-add", node);
    listen(daemon);
    daemon.does("block-export-add", export("a"));
    assert!(lab.path("S").exists());
}

/// What `qemu-img info` says of the image's bitmaps: each with its flags.
fn stored(lab: &Lab) -> Vec<String> {
    let info = lab.run("qemu-img info -U --output=json a.qcow2");
    let info: Value = serde_json::from_str(&info).unwrap();
    let bitmaps = info["format-specific"]["data"]["bitmaps"].as_array();
    let told = |bitmap: &Value| format!("{} {}", bitmap["name"].as_str().unwrap(), bitmap["flags"]);
    bitmaps.into_iter().flatten().map(told).collect()
}

#[test]
fn a_kill_costs_bitmaps_in_images_nothing_that_a_store_knows() {
    if !lab::have(&["qemu-img", "qemu-io"]) {
        return;
    }
    let lab = Lab::new();
    lab.run("qemu-img create -q -f qcow2 a.qcow2 1M");
    lab.run("qemu-img bitmap --add -g 4096 a.qcow2 found");
    let theirs = |command| lab.qemu_io("qcow2", "a.qcow2", &[command]);
    theirs("write 512k 4k");
    let daemon = Daemon::start(&lab, &[]);
    with_image(&lab, &daemon);
    let new = json!({ "node": "a", "name": "new", "granularity": BLOCK, "persistent": true });
    daemon.does("block-dirty-bitmap-add", new);
    write(&lab, "a", 7 * u64::from(BLOCK));
    daemon.kill();
    assert_eq!(stored(&lab), [r#"found ["in-use","auto"]"#]);

    let daemon = Daemon::start(&lab, &[]);
    for (name, least) in [("found", 2), ("new", 1)] {
        let back = bitmap(&daemon, name);
        assert_eq!(
            (&back["persistent"], &back["inconsistent"]),
            (&json!(true), &Value::Null)
        );
        assert!(dirty(&daemon, name) >= least * u64::from(BLOCK), "{back}");
        let text = text_of(&daemon, &format!("a/{name}"));
        assert!(text.starts_with("exact"), "{text}");
    }
    daemon.does(
        "block-dirty-bitmap-clear",
        json!({ "node": "a", "name": "new" }),
    );
    write(&lab, "a", 9 * u64::from(BLOCK));
    let found = dirty(&daemon, "found");
    daemon.quit();
    assert_eq!(stored(&lab), [r#"found ["auto"]"#, r#"new ["auto"]"#]);
    lab.run("qemu-img check -q -f qcow2 a.qcow2");

    // Whoever keeps them while we are away is believed.
    theirs("write 0 4k");
    let daemon = Daemon::start(&lab, &[]);
    assert_eq!(dirty(&daemon, "new"), 2 * u64::from(BLOCK));
    assert_eq!(dirty(&daemon, "found"), found + u64::from(BLOCK));
    write(&lab, "a", 20 * u64::from(BLOCK));
    let daemon = daemon.kill_and_start();
    assert!(dirty(&daemon, "new") >= 3 * u64::from(BLOCK));
    daemon.does("block-export-del", json!({ "id": "export-a" }));
    daemon.does("blockdev-del", json!({ "node-name": "a" }));
    assert_eq!(stored(&lab), [r#"found ["auto"]"#, r#"new ["auto"]"#]);
    daemon.quit();
    assert_eq!(Daemon::start(&lab, &[]).missing(), [""; 0]);
}

#[test]
fn a_kill_costs_bitmaps_in_the_image_of_a_disk_of_the_command_line_nothing() {
    if !lab::have(&["qemu-img", "qemu-io"]) {
        return;
    }
    let lab = Lab::new();
    lab.tool(
        "qemu-img",
        &["create", "-q", "-f", "qcow2", "a.qcow2", "1M"],
    );
    lab.tool(
        "qemu-img",
        &["bitmap", "--add", "-g", "4096", "a.qcow2", "found"],
    );
    lab.tool("qemu-io", &["-f", "qcow2", "-c", "write 0 1M", "a.qcow2"]);
    let disk = ["a=a.qcow2", "--socket", "nbd.sock"];
    let daemon = Daemon::start(&lab, &disk);
    daemon.does(
        "block-dirty-bitmap-clear",
        json!({ "node": "a", "name": "found" }),
    );
    let new = json!({ "node": "a", "name": "new", "granularity": BLOCK, "persistent": true });
    daemon.does("block-dirty-bitmap-add", new);
    write(&lab, "a", 7 * u64::from(BLOCK));
    daemon.kill();
    assert_eq!(stored(&lab), [r#"found ["in-use","auto"]"#]);
    let daemon = Daemon::start(&lab, &disk);
    for name in ["found", "new"] {
        let back = bitmap(&daemon, name);
        assert_eq!(
            (&back["persistent"], &back["inconsistent"]),
            (&json!(true), &Value::Null)
        );
        assert!(dirty(&daemon, name) >= u64::from(BLOCK), "{back}");
    }
    daemon.quit();
    assert_eq!(stored(&lab), [r#"found ["auto"]"#, r#"new ["auto"]"#]);
    lab.tool("qemu-img", &["check", "-q", "-f", "qcow2", "a.qcow2"]);
    assert_eq!(Daemon::start(&lab, &disk).missing(), [""; 0]);
}
