//! From a seed to a script.

use cohort_backup::{BitmapPolicy, OnMiss, OnUndecided, SyncMode, Unproven};
use cohort_job::Disposition;

use super::script::{Deed, DiskScript, Fault, Kind, Member, Round, Script, Write};
use crate::sim::random::Random;

const KIB: u64 = 1 << 10;

/// The script of a seed.
#[must_use]
pub fn generate(seed: u64) -> Script {
    let mut random = Random::new(seed);
    let random = &mut random;
    let disks: Vec<_> = (0..1 + random.below(3)).map(|_| disk(random)).collect();
    let rounds = (0..3 + random.below(3))
        .map(|number| round(random, &disks, number == 0))
        .collect();
    Script {
        schedule: random.next(),
        disks,
        rounds,
    }
}

fn disk(random: &mut Random) -> DiskScript {
    let kind = random.pick(&[Kind::Served, Kind::Served, Kind::Stored, Kind::File]);
    let granule = match kind {
        Kind::Served => random.pick(&[4 * KIB, 8 * KIB, 16 * KIB]),
        Kind::Stored | Kind::File => 64 * KIB,
    };
    let (unit, odd) = match kind {
        Kind::Served => (granule, random.pick(&[0, 0, 512, 1000, 3000])),
        Kind::Stored => (granule, random.pick(&[0, 512, 3000])),
        Kind::File => (8 * KIB, random.pick(&[0, 1000])),
    };
    DiskScript {
        kind,
        size: unit * u64::from(4 + random.below(9)) - odd,
        granule,
    }
}

fn round(random: &mut Random, disks: &[DiskScript], first: bool) -> Round {
    let mut members = Vec::new();
    for disk in 0..disks.len() {
        if !random.one_in(6) {
            members.push(member(random, disk));
        }
    }
    if members.is_empty() {
        members.push(member(random, 0));
    }
    let restart =
        (!first && random.one_in(4)).then(|| random.pick(&[Unproven::Compare, Unproven::Use]));
    let writes = |random: &mut Random, most: u32, served: bool| {
        let list: Vec<_> = (0..random.below(most))
            .map(|_| write(random, disks))
            .collect();
        let keep = |write: &Write| !served || disks[write.disk].kind != Kind::File;
        list.into_iter().filter(keep).collect()
    };
    let mut round = Round {
        restart,
        before: writes(random, 8, false),
        individual: random.one_in(4),
        members,
        during: writes(random, 14, true),
        faults: Vec::new(),
        deeds: Vec::new(),
    };
    if !random.one_in(3) {
        let disk = random.below(disks.len() as u32) as usize;
        trouble(random, &mut round, disk, &disks[disk]);
    }
    round
}

/// One thing that goes wrong, and now and then another.
fn trouble(random: &mut Random, round: &mut Round, disk: usize, of: &DiskScript) {
    let early = random.pick(&[4, 12, 40, 120]);
    let step = 1 + random.below(early);
    let most = random.pick(&[2, 6, 16]);
    let nth = 1 + random.below(most);
    match random.below(12) {
        0 | 1 => {
            let bad = random.next() % of.size;
            round.faults.push(Fault::Bad(disk, bad));
            if random.one_in(2) {
                round.faults.push(Fault::Bad(disk, random.next() % of.size));
            }
        }
        2 => round.faults.push(Fault::Save(disk, nth, random.one_in(2))),
        3 => round.faults.push(Fault::Sync(disk, 1 + random.below(4))),
        4 => round.faults.push(Fault::Write(disk, nth)),
        5 => round
            .faults
            .push(Fault::Stall(disk, nth, 1 + random.below(60))),
        6 => round
            .deeds
            .push((step, Deed::Cancel(disk, Disposition::Keep))),
        7 => {
            // First thoughts, and second ones.
            if random.one_in(3) {
                round
                    .deeds
                    .push((step, Deed::Cancel(disk, Disposition::Keep)));
            }
            let later = step + random.below(6);
            round
                .deeds
                .push((later, Deed::Cancel(disk, Disposition::Discard)));
        }
        8 => round.deeds.push((step, Deed::Hurry)),
        9 | 10 => round.deeds.push((step, Deed::Kill)),
        _ => {
            round.deeds.push((step, Deed::Pause(disk)));
            let later = step + 1 + random.below(40);
            round.deeds.push((later, Deed::Resume(disk)));
            let last = later + random.below(20);
            round
                .deeds
                .push((last, Deed::Cancel(disk, Disposition::Keep)));
        }
    }
    if random.one_in(4) {
        trouble(random, round, disk, of);
    }
    round.deeds.sort_by_key(|(step, _)| *step);
}

fn member(random: &mut Random, disk: usize) -> Member {
    use BitmapPolicy::{Always, Ask, Never, OnSuccess};
    let policy = random.pick(&[OnSuccess, Always, Always, Ask, Never]);
    let mode = match policy {
        Never => SyncMode::Bitmap,
        OnSuccess => random.pick(&[
            SyncMode::Bitmap,
            SyncMode::Incremental,
            SyncMode::Full,
            SyncMode::Top,
        ]),
        Always | Ask => random.pick(&[
            SyncMode::Bitmap,
            SyncMode::Bitmap,
            SyncMode::Full,
            SyncMode::Top,
        ]),
    };
    let undecided = [
        OnUndecided::Refuse,
        OnUndecided::Keep,
        OnUndecided::Keep,
        OnUndecided::Discard,
    ];
    Member {
        disk,
        mode,
        policy,
        undecided: random.pick(&undecided),
        cluster: random.pick(&[4 << 10, 8 << 10, 16 << 10, 64 << 10]),
        workers: random.pick(&[1, 2, 4]),
        staging: random.pick(&[0, 16 * KIB, 1 << 20]),
        skips: random.one_in(3).then(|| u64::from(1 + random.below(2))),
        impatient: random
            .one_in(12)
            .then(|| random.pick(&[OnMiss::BreakBackup, OnMiss::BreakWrite])),
        digests: !random.one_in(4),
    }
}

fn write(random: &mut Random, disks: &[DiskScript]) -> Write {
    let disk = random.below(disks.len() as u32) as usize;
    let size = disks[disk].size;
    let offset = random.next() % size;
    let most = random.pick(&[512, 4 * KIB, 20 * KIB]);
    let length = (1 + random.next() % most).min(size - offset);
    Write {
        disk,
        offset,
        length,
        zeroes: random.one_in(6),
        writer: random.below(2) as u8,
    }
}
