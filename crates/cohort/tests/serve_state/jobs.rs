//! Jobs that were cut short, and verdicts that were written.

use super::*;

#[test]
fn a_job_cut_short_is_told_until_it_is_dismissed_and_leaves_its_bitmap_dirty() {
    let lab = Lab::new();
    let daemon = with_bitmap(&lab);
    write(&lab, "a", 0);
    let slow = json!({
        "job-id": "slow", "device": "a", "target": "t", "sync": "bitmap", "bitmap": "b",
        "bitmap-mode": "always", "speed": 1,
    });
    daemon.does("blockdev-backup", slow);
    write(&lab, "a", 9 * u64::from(BLOCK));
    let daemon = daemon.kill_and_start();
    let told = |daemon: &Daemon<'_>| {
        let jobs = daemon.does("query-jobs", json!({}));
        let jobs = jobs.as_array().unwrap();
        assert_eq!(jobs.len(), 1, "{jobs:?}");
        assert_eq!(
            (&jobs[0]["id"], &jobs[0]["status"]),
            (&json!("slow"), &json!("concluded"))
        );
        jobs[0]["error"].as_str().unwrap().to_owned()
    };
    let error = told(&daemon);
    assert!(
        error.contains("ended before there was a verdict; bitmap 'b' of node 'a' has what it had"),
        "{error}"
    );
    assert!(dirty(&daemon, "b") >= 2 * u64::from(BLOCK));
    let daemon = daemon.kill_and_start();
    assert_eq!(told(&daemon), error);
    let job = daemon.does("query-jobs", json!({}));
    daemon.does("job-dismiss", json!({ "id": job[0]["id"] }));
    let daemon = daemon.kill_and_start();
    assert_eq!(daemon.does("query-jobs", json!({})), json!([]));
    // The anchor of what was copied was the target, while the daemon lived: all that was dirty is copied again.
    back_up(&lab, &daemon, "incremental", "on-success");
    assert!(same(&lab));
}

#[test]
fn a_daemon_that_is_told_to_end_settles_its_jobs_and_the_next_tells_of_them() {
    let lab = Lab::new();
    let daemon = with_bitmap(&lab);
    write(&lab, "a", 0);
    for name in ["one", "two"] {
        raw_disk(&lab, &format!("{name}.raw"));
        daemon.does("blockdev-add", file(name));
    }
    let action = |id: &str, target: &str, bitmap: Value| {
        let mut data =
            json!({ "job-id": id, "device": "a", "target": target, "sync": "full", "speed": 1 });
        data.as_object_mut()
            .unwrap()
            .extend(bitmap.as_object().unwrap().clone());
        json!({ "type": "blockdev-backup", "data": data })
    };
    let ours = json!({ "bitmap": "b", "bitmap-mode": "on-success" });
    let actions = [action("j1", "one", ours), action("j2", "two", json!({}))];
    let grouped = json!({ "actions": actions, "properties": { "completion-mode": "grouped" } });
    daemon.does("transaction", grouped);
    daemon.quit();
    let daemon = Daemon::start(&lab, &[]);
    let jobs = daemon.does("query-jobs", json!({}));
    for (job, id) in jobs.as_array().unwrap().iter().zip(["j2", "j1"]) {
        assert_eq!(
            (&job["id"], &job["status"]),
            (&json!(id), &json!("concluded"))
        );
        assert_eq!(job["error"], "Operation canceled");
    }
    assert_eq!(dirty(&daemon, "b"), u64::from(BLOCK));
}

#[test]
fn a_verdict_that_was_written_counts_though_no_hook_ran() {
    let lab = Lab::new();
    let daemon = with_bitmap(&lab);
    write(&lab, "a", 0);
    let slow = json!({
        "job-id": "j", "device": "a", "target": "t", "sync": "incremental", "bitmap": "b", "speed": 1,
    });
    daemon.does("blockdev-backup", slow);
    write(&lab, "a", 9 * u64::from(BLOCK));
    daemon.kill();
    // As if it had been killed a moment later: the job had been lent all sets but the newest.
    let journal = FileJournal::open(lab.path("S")).unwrap();
    let notes = journal.contents().notes;
    let rows = notes
        .values()
        .map(|note| serde_json::from_slice::<Value>(note).unwrap());
    let bitmap = rows
        .into_iter()
        .find_map(|row| row.get("bitmap").cloned())
        .unwrap();
    let mut lent = bitmap["sets"].clone();
    let numbers = lent["numbers"].as_array_mut().unwrap();
    let newest = numbers
        .iter()
        .map(|number| number.as_u64().unwrap())
        .max()
        .unwrap();
    numbers.retain(|number| number.as_u64() != Some(newest));
    let record = json!({ "version": 1, "node": "a", "bitmap": "b", "sets": lent });
    let record = Record(record.to_string().into_bytes());
    let member = ("j".into(), "backup".into(), record);
    journal
        .decide(&"j".into(), &Verdict::Commit, &[member])
        .unwrap();
    drop(journal);
    let daemon = Daemon::start(&lab, &[]);
    let job = &daemon.does("query-jobs", json!({}))[0];
    assert_eq!(
        (&job["status"], job.get("error")),
        (&json!("concluded"), None)
    );
    // What was written since, and at most what intents looked ahead at; not what was copied.
    let mut client = Raw::enter_at(&lab.path("nbd.sock"), "a");
    client.ask(0, 0, 1, 0, 512);
    assert_eq!(client.reply(), (0, 1));
    drop(client);
    let sha = |daemon: &Daemon<'_>| {
        daemon.does(
            "x-debug-block-dirty-bitmap-sha256",
            json!({ "node": "a", "name": "b" }),
        )
    };
    let (count, hash) = (dirty(&daemon, "b"), sha(&daemon));
    assert!((u64::from(BLOCK)..MIB).contains(&count), "{count}");
    write(&lab, "a", 0);
    assert_ne!(sha(&daemon), hash, "the first block was clean");
    // Once is enough.
    daemon.kill();
    assert!(
        FileJournal::open(lab.path("S"))
            .unwrap()
            .owed()
            .unwrap()
            .is_empty()
    );
}

#[test]
fn another_job_of_that_name_takes_the_place_of_one_that_was_cut_short() {
    let lab = Lab::new();
    let daemon = with_bitmap(&lab);
    let backup = json!({ "job-id": "j", "device": "a", "target": "t", "sync": "full", "speed": 1 });
    daemon.does("blockdev-backup", backup.clone());
    let options = json!({ "driver": "file", "filename": "x", "size": 512 });
    let same = json!({ "job-id": "j", "options": options });
    let refused = daemon.ask("blockdev-create", same).unwrap_err();
    assert!(refused.contains("already in use"), "{refused}");
    let daemon = daemon.kill_and_start();
    daemon.does("blockdev-backup", backup);
    let jobs = daemon.does("query-jobs", json!({}));
    assert_eq!(
        (jobs.as_array().unwrap().len(), &jobs[0]["status"]),
        (1, &json!("running"))
    );
    daemon.does("job-cancel", json!({ "id": "j" }));
    while daemon.does("query-jobs", json!({})) != json!([]) {}
    assert_eq!(
        daemon.kill_and_start().does("query-jobs", json!({})),
        json!([])
    );
}

#[test]
fn a_run_into_a_directory_that_was_cut_short_is_told_and_the_next_goes_on() {
    let lab = Lab::new();
    raw_disk(&lab, "a.raw");
    let daemon = Daemon::start(&lab, &["a.raw"]);
    let slow = json!({ "directory": "R", "speed": ["4K"] });
    daemon.does("x-cohort-backup", slow);
    let noted = || {
        lab.cohort(["doctor", "S"])
            .exits(0)
            .stdout
            .contains("job:run-1.a")
    };
    while !noted() {}
    daemon.kill();
    let daemon = Daemon::start(&lab, &["a.raw"]);
    let jobs = daemon.does("query-jobs", json!({}));
    assert_eq!(
        (&jobs[0]["id"], &jobs[0]["status"]),
        (&json!("run-1.a"), &json!("concluded"))
    );
    assert!(
        jobs[0]["error"]
            .as_str()
            .unwrap()
            .contains("the next run into R goes on"),
        "{jobs}"
    );
    lab.cohort(["backup", "--socket", "qmp.sock", "--to", "R"])
        .exits(0);
    daemon.does("job-dismiss", json!({ "id": "run-1.a" }));
    assert_eq!(daemon.quit().code, Some(0));
    lab.restores_to("R", "a", "a.raw");
}
