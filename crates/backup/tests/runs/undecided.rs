//! A partial that waits for keep or discard: refused, and answered both ways.

use std::fs;
use std::path::PathBuf;

use cohort_backup::catalogue::{Answer, Catalogue};
use cohort_backup::{BitmapPolicy, DiskOutcome, DiskSpec, OnUndecided, Options};

use crate::world::{CLUSTER, World, bad_cluster, disk, name, options, write};

/// A disk with one point, wholly rewritten since, and a partial that nobody has decided about.
fn undecided() -> (World, PathBuf, PathBuf) {
    let world = World::new();
    let (a, b) = (world.raw("a.raw", 40), world.raw("b.raw", 4));
    world.commit([DiskSpec::file(&a)]);
    write(&a, 0, 0x31, 40 * CLUSTER);
    let bad = DiskSpec::file(&a)
        .options(ask(OnUndecided::Refuse))
        .through(bad_cluster(35));
    let report = world.run([bad]);
    assert!(disk(&report, "a").left.is_some());
    (world, a, b)
}

fn ask(answer: OnUndecided) -> Options {
    options(|o| o.policy(BitmapPolicy::Ask).undecided(answer).workers(1))
}

#[test]
fn unanswered_disk_alone_is_refused_with_both_commands() {
    let (world, a, b) = undecided();
    let spec = DiskSpec::file(&a).options(ask(OnUndecided::Refuse));
    let report = world.run([spec, DiskSpec::file(&b)]);
    let DiskOutcome::Refused(unanswered) = &disk(&report, "a").outcome else {
        panic!("{report:?}")
    };
    let message = unanswered.to_string();
    let directory = world.repository();
    for word in ["keep", "discard"] {
        assert!(
            message.contains(&format!(
                "cohort bitmap decide {word} --from {} a",
                directory.display()
            )),
            "{message}"
        );
    }
    assert!(matches!(
        disk(&report, "b").outcome,
        DiskOutcome::Committed(_)
    ));
    assert_eq!(
        (world.points("a"), world.contents().partials.len()),
        (vec![1], 1)
    );
    world.check();
}

#[test]
fn refused_disk_alone_makes_a_run_of_nothing() {
    let (world, a, _) = undecided();
    let spec = DiskSpec::file(&a).options(ask(OnUndecided::Refuse));
    let report = world.run([spec]);
    assert_eq!(report.run, None);
    assert!(!report.succeeded());
}

#[test]
fn keep_completes_the_partial_and_discard_starts_from_the_point() {
    for (answer, saved) in [(OnUndecided::Keep, true), (OnUndecided::Discard, false)] {
        let (world, a, _) = undecided();
        let report = world.commit([DiskSpec::file(&a).options(ask(answer))]);
        assert_eq!(
            disk(&report, "a").copied_bytes < 20 * CLUSTER,
            saved,
            "{report:?}"
        );
        assert!(world.restored("a", 3) == fs::read(&a).unwrap());
        assert!(world.contents().partials.is_empty());
        world.check();
    }
}

#[test]
fn answer_may_come_at_any_time_between_runs() {
    for answer in [Answer::Keep, Answer::Discard] {
        let (world, a, _) = undecided();
        Catalogue::open(world.repository())
            .unwrap()
            .answer(&name("a"), answer)
            .unwrap();
        let spec = DiskSpec::file(&a).options(ask(OnUndecided::Refuse));
        let report = world.commit([spec]);
        assert_eq!(
            disk(&report, "a").copied_bytes < 20 * CLUSTER,
            answer == Answer::Keep
        );
        assert!(world.restored("a", 3) == fs::read(&a).unwrap());
        world.check();
    }
}

#[test]
fn partial_whose_file_is_lost_or_damaged_costs_only_itself() {
    for damage in [fs::remove_file::<PathBuf> as fn(PathBuf) -> _, |path| {
        fs::write(path, "garbage")
    }] {
        let (world, a, _) = undecided();
        let file = world.contents().partials[&name("a")].file.to_string();
        damage(world.repository().join(&file)).unwrap();
        let options = options(|o| o.undecided(OnUndecided::Keep).strict(true));
        let report = world.commit([DiskSpec::file(&a).options(options)]);
        assert!(
            disk(&report, "a")
                .notes
                .iter()
                .any(|note| note.contains("partial")),
            "{report:?}"
        );
        assert_eq!(disk(&report, "a").stepped_down, None);
        assert!(world.restored("a", 3) == fs::read(&a).unwrap());
        world.check();
    }
}
