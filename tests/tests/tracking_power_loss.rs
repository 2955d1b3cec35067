//! Power is lost, or the process killed, at every moment of a session with a tracked disk.
//!
//! The claim: every write that was acknowledged, and every write that reached the disk at all, is in the sets that
//! the store holds afterwards. Printed are the cells (operation, fault, mode) that were met, and never met.
//!
//! Two faults are tried at every moment of four sessions in each mode; `COHORT_TORTURE_SESSIONS=N` tries all of them in N
//! sessions in each mode.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use cohort_bitmap::store::{DiskState, Inspection, Label, Mode, Recording, Store, inspect};
use cohort_bitmap::{Granularity, Recorder};
use cohort_block::{Device, Gated, RawDevice};
use cohort_tests::power_loss::{Chance, Event, Fate, Machine, Remains, after, durable};

const GRANULE: u64 = 512;
const DISK: u64 = 2048 * GRANULE;
const BLOCK: usize = 300;

/// The files of the machine.
const DATA: usize = 0;
const STORE: usize = 1;

/// What happens to what no sync covers when the machine stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// The process is killed: the kernel keeps all that was written.
    Killed,
    /// All of it reached the disk.
    AllDone,
    /// None of it did.
    AllLost,
    /// Any subset did, and torn.
    Some,
}

const FAULTS: [Fault; 4] = [Fault::Killed, Fault::AllDone, Fault::AllLost, Fault::Some];
const MODES: [Mode; 2] = [Mode::KilledProcess, Mode::PowerLoss];
const OPERATIONS: [&str; 9] = [
    "data write",
    "data sync",
    "header write",
    "table write",
    "log write, one sector",
    "log write, several",
    "body write",
    "store sync",
    "acknowledgement",
];

fn disk(session: u8) -> DiskState {
    DiskState {
        identity: [1; 24],
        session: [session; 16],
        size: DISK,
        stamp: None,
    }
}

/// A machine on which a tracked disk is used: writes from three threads, checkpoints, sets that follow one another, a
/// close and a reopening.
fn session(seed: u64, mode: Mode) -> Machine {
    let machine = Machine::holding(vec![vec![0; DISK as usize], Vec::new()]);
    let mut store = Store::create(machine.file(STORE), [2; 16], disk(1), mode).unwrap();
    let raw = RawDevice::new("disk", machine.file(DATA), true).unwrap();
    let gated = Gated::new(Arc::new(raw));
    let granularity = Granularity::new(GRANULE).unwrap();
    let mut since = store.begin(Label::default(), granularity).unwrap();
    install(&gated, &since, None);
    machine.begin();
    let mut random = Chance::new(seed);
    for round in 0..3 {
        write_from_threads(&machine, &gated, &mut random);
        match random.below(3) {
            0 => store.checkpoint().unwrap(),
            1 => {
                let prepared = store.prepare(Label::default(), granularity).unwrap();
                let next = prepared.begin(&Recorder::new(DISK, granularity).unwrap());
                install(&gated, &next, Some(&since));
                write_from_threads(&machine, &gated, &mut random);
                store.finish(since.set()).unwrap();
                since = next;
            }
            _ => gated.flush().unwrap(),
        }
        if round == 1 {
            let mut closed = gated.close("test", deadline()).unwrap();
            closed.remove_recording(&since);
            gated.flush().unwrap();
            store.close(disk(1)).unwrap();
            store = Store::open(machine.file(STORE), disk(1), mode).unwrap().0;
            since = store.resume(since.set()).unwrap();
            closed.install_recording(since.clone());
            drop(closed);
            // The first checkpoint of a new process, with and without writes before it.
            if random.below(2) == 0 {
                write_from_threads(&machine, &gated, &mut random);
            }
            store.checkpoint().unwrap();
        }
    }
    machine
}

fn install(gated: &Gated, new: &Recording, old: Option<&Recording>) {
    let mut closed = gated.close("test", deadline()).unwrap();
    closed.install_recording(new.clone());
    if let Some(old) = old {
        closed.remove_recording(old);
    }
}

fn deadline() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// Here and there, forward, or crowded; each noted when it is acknowledged.
fn write_from_threads(machine: &Machine, gated: &Gated, random: &mut Chance) {
    let seeds: Vec<u64> = (0..3).map(|_| random.word()).collect();
    thread::scope(|scope| {
        for seed in seeds {
            scope.spawn(move || {
                let mut random = Chance::new(seed);
                let mut at = random.below(DISK);
                for _ in 0..1 + random.below(6) {
                    at = match seed % 3 {
                        0 => random.below(DISK),
                        1 => at + BLOCK as u64,
                        _ => at - at % (64 * GRANULE) + random.below(64 * GRANULE),
                    };
                    at = at.min(DISK - BLOCK as u64);
                    gated.write_at(&[7; BLOCK], at).unwrap();
                    machine.note(at);
                }
            });
        }
    });
}

/// What is wrong with what the store says after the fault, if anything is.
fn judge(start: &[Vec<u8>], log: &[Event], fault: Fault, mode: Mode, seed: u64) -> Option<String> {
    let mut random = Chance::new(seed);
    let mut reached = Vec::new();
    let mut files = after(start, log, |_, event| {
        let fate = match fault {
            Fault::Killed | Fault::AllDone => Fate::Done,
            Fault::AllLost => Fate::Lost,
            Fault::Some => match random.below(3) {
                0 => Fate::Done,
                1 => Fate::Lost,
                _ => Fate::Torn(random.word()),
            },
        };
        if let Event::Write {
            file: DATA, offset, ..
        } = event
            && fate != Fate::Lost
        {
            reached.push(*offset);
        }
        fate
    });
    let synced = durable(log, 2)[DATA];
    for (at, event) in log.iter().enumerate() {
        match event {
            Event::Note(offset) => reached.push(*offset),
            Event::Write {
                file: DATA, offset, ..
            } if at < synced => reached.push(*offset),
            Event::Write { .. } | Event::SetLen { .. } | Event::Synced { .. } => {}
        }
    }
    let session = if fault == Fault::Killed { 1 } else { 9 };
    let store = Remains(files.swap_remove(STORE));
    match inspect(&store, Some(&disk(session))) {
        Err(error) => Some(error.to_string()),
        Ok(found) => missing(&found, &reached).or_else(|| vain_loss(&found, fault, mode)),
    }
}

fn missing(found: &Inspection, reached: &[u64]) -> Option<String> {
    let held = |at: u64| found.sets.iter().any(|set| set.dirty.get(at));
    let lacking = reached
        .iter()
        .find(|at| !held(**at) || !held(**at + BLOCK as u64 - 1));
    lacking.map(|at| format!("the write at {at} is in no set"))
}

/// Nothing may be lost by what the mode promises to survive.
fn vain_loss(found: &Inspection, fault: Fault, mode: Mode) -> Option<String> {
    let survives = fault == Fault::Killed || mode == Mode::PowerLoss;
    let lost = found.sets.iter().find_map(|set| set.lost.as_ref());
    lost.filter(|_| survives)
        .map(|lost| format!("lost without need: {}", lost.why))
}

fn operation(event: Option<&Event>) -> Option<&'static str> {
    Some(
        OPERATIONS[match event? {
            Event::Write { file: DATA, .. } => 0,
            Event::Synced { file: DATA, .. } => 1,
            Event::Write { offset, data, .. } => match offset {
                0..8192 => 2,
                8192..0x10_0000 => 3,
                0x10_0000..0x30_0000 if data.len() == 512 => 4,
                0x10_0000..0x30_0000 => 5,
                _ => 6,
            },
            Event::Synced { .. } => 7,
            Event::Note(_) => 8,
            Event::SetLen { .. } => return None,
        }],
    )
}

#[test]
fn no_write_is_missing_after_any_loss_of_power() {
    let torture: Option<u64> = std::env::var("COHORT_TORTURE_SESSIONS")
        .ok()
        .and_then(|text| text.parse().ok());
    let sessions = torture.unwrap_or(4);
    let mut cells = BTreeMap::new();
    let mut cases = 0_u64;
    for seed in 0..sessions {
        for mode in MODES {
            let machine = session(seed, mode);
            let (start, log) = (machine.start(), machine.log());
            for end in 0..=log.len() {
                let some = [FAULTS[end % 3], Fault::Some];
                let faults = torture.map_or(&some[..], |_| &FAULTS[..]);
                for &fault in faults {
                    let wrong = judge(&start, &log[..end], fault, mode, seed ^ end as u64);
                    assert_eq!(
                        wrong, None,
                        "seed {seed}, {mode}, {fault:?} after {end} events"
                    );
                    cases += 1;
                    if let Some(operation) = operation(log[..end].last()) {
                        *cells
                            .entry((operation, fault, mode.to_string()))
                            .or_insert(0) += 1;
                    }
                }
            }
        }
    }
    println!("{cases} losses in {} sessions", sessions * 2);
    let every = OPERATIONS
        .iter()
        .flat_map(|o| FAULTS.map(|f| MODES.map(|m| (*o, f, m.to_string()))))
        .flatten();
    let (met, never): (Vec<_>, Vec<_>) = every.partition(|cell| cells.contains_key(cell));
    println!("cells met: {}", met.len());
    for (operation, fault, mode) in &never {
        println!("never met: {operation}, {fault:?}, {mode}");
    }
    assert!(cases > 2000, "{cases} cases");
    assert!(met.len() >= 40, "{} cells met", met.len());
}
