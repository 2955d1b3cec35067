//! Nodes, exports, the server, and who has the directory.

use super::*;

/// A graph of each kind that comes back, with an export at its top and one that is gone again.
fn furnish(lab: &Lab, daemon: &Daemon<'_>) {
    let limits =
        json!({ "qom-type": "throttle-group", "id": "slow", "limits": { "bps-total": MIB << 10 } });
    daemon.does("object-add", limits);
    for name in ["a", "b", "gone"] {
        raw_disk(lab, &format!("{name}.raw"));
        daemon.does("blockdev-add", file(name));
    }
    let half = json!({ "driver": "raw", "node-name": "half", "file": "a", "size": MIB / 2 });
    daemon.does("blockdev-add", half);
    let throttled = json!({
        "driver": "throttle", "node-name": "throttled", "throttle-group": "slow",
        "file": { "driver": "raw", "node-name": "inner", "file": "b" },
    });
    daemon.does("blockdev-add", throttled);
    listen(daemon);
    for name in ["half", "throttled", "gone"] {
        daemon.does("block-export-add", export(name));
    }
    daemon.does("nbd-server-add", json!({ "device": "a" }));
    daemon.does("block-export-del", json!({ "id": "export-gone" }));
    daemon.does("blockdev-del", json!({ "node-name": "gone" }));
}

#[test]
fn nodes_exports_and_the_server_are_back_after_a_quit_and_after_a_kill() {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab, &[]);
    furnish(&lab, &daemon);
    let seen = daemon.seen();
    assert_eq!(daemon.quit().code, Some(0));
    let daemon = Daemon::start(&lab, &[]);
    assert_eq!(daemon.state()["ended-in-order"], true);
    // Files are called by their whole names now.
    let again = daemon.seen();
    assert_eq!(again["exports"], seen["exports"]);
    let names = |seen: &Value| -> Vec<_> {
        let nodes = seen["nodes"].as_array().unwrap().iter();
        nodes
            .map(|node| (node["node-name"].clone(), node["drv"].clone()))
            .collect()
    };
    assert_eq!(names(&again), names(&seen));
    write(&lab, "half", 0);
    let daemon = daemon.kill_and_start();
    assert_eq!((daemon.seen(), daemon.missing()), (again, vec![]));
    assert_eq!(daemon.state()["ended-in-order"], false);
    write(&lab, "throttled", u64::from(BLOCK));
    let ended = daemon.quit();
    assert_eq!((ended.code, &*ended.said), (Some(0), ""));
}

#[test]
fn a_daemon_that_does_not_begin_says_nothing_of_how_the_one_before_ended() {
    let lab = Lab::new();
    let mut daemon = Daemon::start(&lab, &[]);
    for in_order in [true, false] {
        match in_order {
            true => daemon.quit(),
            false => daemon.kill(),
        };
        for args in [&["--qmp", "none/q"][..], &["--qmp", "q", "none.raw"]] {
            let args = [&["serve", "--state", "S"], args].concat();
            let ran = lab.cohort(&args);
            assert_ne!(ran.code, Some(0), "{ran:?}");
        }
        daemon = Daemon::start(&lab, &[]);
        assert_eq!(daemon.state()["ended-in-order"], in_order);
    }
}

#[test]
fn what_cannot_come_back_is_told_by_name_and_holds_up_nothing() {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab, &[]);
    furnish(&lab, &daemon);
    daemon.kill();
    fs::rename(lab.path("b.raw"), lab.path("elsewhere")).unwrap();
    let daemon = Daemon::start(&lab, &[]);
    let missing = ["node b", "node throttled", "export export-throttled"];
    assert_eq!(daemon.missing(), missing);
    write(&lab, "half", 0);
    // Something else takes one of the names; the others come back with the file.
    daemon.does(
        "block-export-add",
        json!({ "type": "nbd", "id": "export-throttled", "node-name": "a", "name": "x" }),
    );
    let said = daemon.quit().said;
    assert!(
        said.contains("cohort: node 'b' is not back: ") && said.contains("b.raw"),
        "{said}"
    );
    fs::rename(lab.path("elsewhere"), lab.path("b.raw")).unwrap();
    let daemon = Daemon::start(&lab, &[]);
    let none: [&str; 0] = [];
    assert_eq!(daemon.missing(), none);
    let exports = daemon.does("query-block-exports", json!({}));
    let nodes: Vec<_> = exports
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["node-name"])
        .collect();
    assert_eq!(nodes, ["a", "a", "half"]);
}

#[test]
fn the_command_line_wins_and_what_was_added_comes_back_beside_it() {
    let lab = Lab::new();
    raw_disk(&lab, "a.raw");
    raw_disk(&lab, "other.raw");
    let daemon = Daemon::start(&lab, &[]);
    for name in ["a", "other"] {
        daemon.does("blockdev-add", file(name));
    }
    listen(&daemon);
    daemon.does("block-export-add", export("other"));
    daemon.kill();
    let daemon = Daemon::start(&lab, &["a.raw", "--socket", "s"]);
    assert_eq!(daemon.missing(), ["node a", "nbd-server nbd"]);
    for name in ["a", "other"] {
        let mut client = Raw::enter_at(&lab.path("s"), name);
        client.ask(0, 1, 1, 0, 512);
        client.put(&[0; 512]);
        assert_eq!(client.reply(), (0, 1));
    }
    drop(daemon);
    // Without the disk on the command line what was added is itself again.
    let daemon = Daemon::start(&lab, &[]);
    assert!(daemon.missing().is_empty());
    write(&lab, "other", 0);
}

#[test]
fn a_second_daemon_is_told_who_has_the_directory_and_a_dead_one_is_no_obstacle() {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab, &[]);
    let second = |lab: &Lab| lab.cohort(["serve", "--qmp", "other.sock", "--state", "S"]);
    let pid = daemon.child.id().to_string();
    second(&lab).exits(44).says(&["S: another process", &pid]);
    assert_eq!(daemon.kill_and_start().quit().code, Some(0));
    // Directories of others are left alone.
    lab.cohort(["serve", "--qmp", "q", "--state", "no/such"])
        .exits(43);
    fs::create_dir(lab.path("R")).unwrap();
    fs::write(lab.path("R/catalogue.redb"), "").unwrap();
    lab.cohort(["serve", "--qmp", "q", "--state", "R"])
        .exits(43)
        .says(&["a backup directory"]);
}
