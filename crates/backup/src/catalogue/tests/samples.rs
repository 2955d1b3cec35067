//! Catalogues to test with: small ones by hand, and any that a sequence of runs can lead to.

use cohort_bitmap::{DirtyBitmap, Granularity};
use proptest::prelude::*;

use crate::catalogue::*;

pub(in crate::catalogue) const START_UNIX_MS: u64 = 1_700_000_000_000;

pub(in crate::catalogue) fn disk(name: &str) -> DiskName {
    DiskName::new(name).unwrap()
}

pub(in crate::catalogue) fn fresh() -> Contents {
    Contents::new(DirectoryId::random(), START_UNIX_MS)
}

pub(in crate::catalogue) fn point(file: ImageName, parent: Option<RunId>) -> Point {
    Point {
        parent,
        size: 1 << 30,
        cluster_size: 65536,
        created_unix_ms: START_UNIX_MS,
        instant: Instant::Proven,
        skipped: Vec::new(),
        bytes_copied: 4096,
        digests: Some(digests(&file)),
        merging: Vec::new(),
        file,
    }
}

/// Digests beside an image, under its name.
fn digests(image: &ImageName) -> StoredDigests {
    let name = image.to_string().replace(".qcow2", ".digests");
    StoredDigests {
        file: name.parse().unwrap(),
        root: Root([7; 32]),
    }
}

pub(in crate::catalogue) fn partial(file: ImageName, parent: Option<RunId>, run: RunId) -> Partial {
    Partial {
        file,
        parent,
        decision: Decision::Keep,
        size: 1 << 30,
        cluster_size: 65536,
        durable_bytes: 1 << 20,
        remaining_bytes: 1 << 21,
        run,
        stopped_unix_ms: START_UNIX_MS,
        why: "a peer failed".to_owned(),
        digests: None,
        map: vec![shown(run, 1 << 21, 1 << 20)],
    }
}

/// Some bytes of a disk, as a run found them.
pub(in crate::catalogue) fn shown(run: RunId, offset: u64, length: u64) -> Shown {
    let mut clusters = DirtyBitmap::new(1 << 30, Granularity::new(65536).unwrap()).unwrap();
    clusters.set(offset, length).unwrap();
    Shown {
        run,
        created_unix_ms: START_UNIX_MS,
        instant: Instant::Proven,
        extents: Extents::of(clusters),
    }
}

/// The record of a point of `disk` in `run` that goes on from the newest point, or from its partial.
pub(in crate::catalogue) fn record(
    contents: &Contents,
    disk: &DiskName,
    run: RunId,
) -> PointRecord {
    let kept = contents.partials.get(disk);
    let (file, parent) = match kept {
        Some(partial) => (partial.file.clone(), partial.parent),
        None => {
            let file =
                ImageName::fresh(disk.clone(), run, contents.meta.directory, FileKind::Image);
            (file, contents.latest(disk).map(|(run, _)| run))
        }
    };
    PointRecord {
        disk: disk.clone(),
        run,
        point: point(file, parent),
        view: CommittedView {
            anchor: run,
            tracking: Tracking::none(),
        },
    }
}

pub(in crate::catalogue) fn kept(
    contents: &Contents,
    disk: &DiskName,
    run: RunId,
    decision: Decision,
) -> Kept {
    let file = ImageName::fresh(disk.clone(), run, contents.meta.directory, FileKind::Image);
    let parent = contents.latest(disk).map(|(run, _)| run);
    let mut partial = partial(file, parent, run);
    partial.decision = decision;
    let sets = vec![SetName {
        store: "/var/lib/cohort/a.store".to_owned(),
        id: StoreId([7; 16]),
        number: run.0,
    }];
    let against_partial = Tracking {
        proof: Proof::Proven,
        sets,
        image_bitmap: None,
    };
    Kept {
        disk: disk.clone(),
        partial,
        against_point: Tracking::none(),
        against_partial,
    }
}

/// What one run does to each of its disks.
#[derive(Clone, Copy, Debug)]
pub(in crate::catalogue) enum Deed {
    Commit,
    CommitIncomplete,
    KeepPartial,
    LeaveUndecided,
    Vanish,
    Drop,
    AnswerKeep,
    AnswerDiscard,
}

/// Carries a run out: the disks by number, each with its deed, and whether its hooks were all done.
pub(in crate::catalogue) fn carry_out(contents: &mut Contents, deeds: &[(u8, Deed)], done: bool) {
    let name = |number: u8| disk(&format!("disk-{number}.img"));
    let disks: Vec<_> = deeds
        .iter()
        .map(|(n, _)| (name(*n), format!("/dev/{n}")))
        .collect();
    let run = contents.begin_run(&disks, START_UNIX_MS).unwrap();
    let mut members = Vec::new();
    for (number, deed) in deeds {
        let disk = name(*number);
        match deed {
            Deed::Commit | Deed::CommitIncomplete => {
                let mut record = record(contents, &disk, run);
                if matches!(deed, Deed::CommitIncomplete) {
                    let range = |offset| ByteRange {
                        offset,
                        length: 512,
                    };
                    record.point.skipped = vec![range(0), range(1024)];
                    record.point.instant = Instant::NoInstant;
                }
                let bytes = RecordBytes(record.encode());
                let (name, kind) = (disk.to_string(), PointRecord::KIND.to_owned());
                members.push(Member {
                    name,
                    kind,
                    record: Some(bytes),
                });
                contents.commit_point(record).unwrap();
            }
            Deed::KeepPartial => {
                contents.keep_partial(kept(contents, &disk, run, Decision::Keep));
            }
            Deed::LeaveUndecided => {
                contents.keep_partial(kept(contents, &disk, run, Decision::Undecided));
            }
            Deed::Vanish => {}
            Deed::Drop => drop(contents.drop_partial(&disk)),
            Deed::AnswerKeep => drop(contents.answer(&disk, Answer::Keep)),
            Deed::AnswerDiscard => drop(contents.answer(&disk, Answer::Discard)),
        }
    }
    let aborted = Aborted {
        cause: AbortCause::Failed(0),
        disposition: Settling::Keep,
    };
    let outcome = if members.is_empty() {
        Outcome::Abort(aborted)
    } else {
        Outcome::Commit
    };
    let group = format!("run-{run}");
    let decided_unix_ms = START_UNIX_MS;
    contents
        .add_verdict(Decided {
            group: group.clone(),
            decided_unix_ms,
            outcome,
            owed: true,
            members,
        })
        .unwrap();
    if done {
        contents.verdict_done(&group).unwrap();
    }
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        4 => Just(Deed::Commit),
        1 => Just(Deed::CommitIncomplete),
        1 => Just(Deed::KeepPartial),
        1 => Just(Deed::LeaveUndecided),
        1 => Just(Deed::Vanish),
        1 => Just(Deed::Drop),
        1 => Just(Deed::AnswerKeep),
        1 => Just(Deed::AnswerDiscard),
    ]
}

/// Some runs over up to four disks.
pub(in crate::catalogue) fn runs() -> impl Strategy<Value = Vec<(Vec<(u8, Deed)>, bool)>> {
    let run = proptest::collection::btree_map(0..4u8, deed(), 0..4);
    let run = (
        run.prop_map(|deeds| deeds.into_iter().collect()),
        any::<bool>(),
    );
    proptest::collection::vec(run, 0..8)
}

/// A catalogue that some runs led to.
pub(in crate::catalogue) fn after_runs(runs: &[(Vec<(u8, Deed)>, bool)]) -> Contents {
    go_on(fresh(), runs)
}

/// The same catalogue after more runs.
pub(in crate::catalogue) fn go_on(
    mut contents: Contents,
    runs: &[(Vec<(u8, Deed)>, bool)],
) -> Contents {
    for (deeds, done) in runs {
        carry_out(&mut contents, deeds, *done);
        contents.check().unwrap();
    }
    contents
}

/// Two disks, three runs: points, an incomplete one, a partial, an owed verdict.
pub(in crate::catalogue) fn small() -> Contents {
    after_runs(&[
        (vec![(1, Deed::Commit), (2, Deed::Commit)], true),
        (
            vec![(1, Deed::CommitIncomplete), (2, Deed::KeepPartial)],
            true,
        ),
        (vec![(1, Deed::Commit)], false),
    ])
}
