//! Bitmaps: exact after a quit, and after a kill no write is missing.

use super::*;

#[test]
fn bitmaps_are_exact_after_a_quit() {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab, &[]);
    with_bitmap(&lab, &daemon);
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
    let mut daemon = Daemon::start(&lab, &[]);
    with_bitmap(&lab, &daemon);
    back_up(&lab, &daemon, "full", "on-success");
    for round in 0..4 {
        write(&lab, "a", 100 * u64::from(BLOCK));
        write(&lab, "a", (7 + round) * u64::from(BLOCK));
        daemon.kill();
        daemon = Daemon::start(&lab, &[]);
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
    let daemon = Daemon::start(&lab, &[]);
    with_bitmap(&lab, &daemon);
    daemon.quit();
    fs::write(lab.path("a.raw"), noise(8, MIB as usize)).unwrap();
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
