//! What a durable verdict costs: `cohort-journal` on the file system that the build directory is on.
//!
//! - *one verdict on sixteen members*, from the launch of the group until its hooks have returned, beside sixteen groups of
//!   one, each waited for before the next begins, and beside two bare syncs of a file, which is what one write costs at least;
//! - *groups a second*: groups of one, so many in flight at a time; those that are decided together share a write;
//! - *recovery*: opening a journal that owes that many groups, until the engine has run their hooks;
//! - *size*: of the file, after that many groups one after the other, with so many owed at a time; at most
//!   `COHORT_BENCH_GROUPS`, a million unless it says so.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use benches::{Contender, machine, number, rounds, timed};
use cohort_job::{
    Context, Driver, Engine, Entry, JobSpec, Journal, Owed, Record, Step, TxnHandle, Verdict,
};
use cohort_journal::FileJournal;

const ROUNDS: usize = 15;
/// As large as what a backup job prepares.
const RECORD_BYTES: usize = 400;

/// How many members were named.
static NAMED: AtomicUsize = AtomicUsize::new(0);

/// Prepares a record, and does nothing with it.
struct Prepared;

impl Driver for Prepared {
    fn step(&mut self, _: &mut Context<'_>) -> Step {
        Step::done()
    }

    fn prepare(&mut self, _: &mut Context<'_>) -> Result<Record, cohort_job::Error> {
        Ok(Record(vec![7; RECORD_BYTES]))
    }
}

fn main() {
    let lab = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    println!("{}", machine());
    verdicts(&lab.path().join("verdicts"));
    together(&lab.path().join("together"));
    recovery(&lab.path().join("recovery"));
    size(&lab.path().join("size"));
}

fn engine(directory: &Path) -> Engine {
    let journal = FileJournal::open(directory).expect("a journal");
    let engine = Engine::builder().journal(Arc::new(journal)).build();
    engine.expect("an engine")
}

fn launch(engine: &Engine, members: usize) -> TxnHandle {
    let mut group = engine.group("night");
    for _ in 0..members {
        // A name is taken until its group is over and forgotten, and groups overlap here.
        let number = NAMED.fetch_add(1, Ordering::Relaxed);
        let spec = JobSpec::new(format!("disk-{number}")).kind("backup");
        group.add(spec, Prepared).expect("a member");
    }
    group.launch()
}

fn committed(group: &TxnHandle) {
    assert_eq!(group.wait(), Some(Verdict::Commit));
}

fn verdicts(directory: &Path) {
    let engine = engine(directory);
    let mut file = File::create(directory.join("synced")).expect("a file");
    let mut sync_twice = move || {
        for _ in 0..2 {
            file.write_all(&[7; 4096]).expect("a write");
            file.sync_data().expect("a sync");
        }
    };
    let mut contenders = [
        Contender::new("one verdict on 16 members", || {
            timed(|| committed(&launch(&engine, 16)))
        }),
        Contender::new("16 verdicts on one member", || {
            timed(|| (0..16).for_each(|_| committed(&launch(&engine, 1))))
        }),
        Contender::new("two syncs of a file", || timed(&mut sync_twice)),
    ];
    rounds(ROUNDS, &mut contenders);
    println!(
        "\nVERDICTS in ms, medians of {ROUNDS} rounds; a group's hooks and the note that they ran are in it"
    );
    for contender in &contenders {
        let time = contender.median().as_secs_f64() * 1e3;
        println!("{:<30}{time:>10.2}", contender.name());
    }
}

fn together(directory: &Path) {
    println!("\nGROUPS OF ONE A SECOND, each with a durable verdict, so many in flight");
    for flight in [1_usize, 16, 256, 1024] {
        let engine = engine(&directory.with_extension(flight.to_string()));
        let groups = (flight * 16).clamp(256, 8192);
        let mut open = std::collections::VecDeque::new();
        let time = timed(|| {
            for _ in 0..groups {
                if open.len() == flight {
                    open.pop_front().iter().for_each(committed);
                }
                open.push_back(launch(&engine, 1));
            }
            open.drain(..).for_each(|group| committed(&group));
        });
        println!("{flight:<30}{:>10.0}", groups as f64 / time.as_secs_f64());
    }
}

fn entry(member: usize) -> Entry {
    let name = format!("disk-{member}");
    (
        name.as_str().into(),
        "backup".into(),
        Record(vec![7; RECORD_BYTES]),
    )
}

fn recovery(directory: &Path) {
    const OWED: usize = 100_000;
    let journal = FileJournal::open(directory).expect("a journal");
    // Many writers share each write; what is measured is reading them back.
    std::thread::scope(|scope| {
        for thread in 0..500 {
            let journal = &journal;
            scope.spawn(move || {
                for group in 0..OWED / 500 {
                    let name = format!("group {thread} {group}").as_str().into();
                    journal
                        .decide(&name, &Verdict::Commit, &[entry(0)])
                        .expect("a verdict");
                }
            });
        }
    });
    drop(journal);
    let begun = Instant::now();
    let engine = engine(directory);
    let opened = begun.elapsed();
    let recovered = engine.recover(|_, _, _, _| Some(Box::new(Prepared) as _));
    let groups = recovered.expect("the journal is read").groups;
    let hooks = begun.elapsed();
    assert_eq!(groups.len(), OWED);
    groups.iter().for_each(committed);
    let done = begun.elapsed();
    let seconds = |time: Duration| format!("{:.2} s", time.as_secs_f64());
    println!(
        "\nRECOVERY of {OWED} groups: read after {}, all hooks started after {}, all noted as done after {}",
        seconds(opened),
        seconds(hooks),
        seconds(done)
    );
}

fn size(directory: &Path) {
    const THREADS: usize = 100;
    let most: usize = number("COHORT_BENCH_GROUPS", 1_000_000);
    let journal = FileJournal::open(directory).expect("a journal");
    println!("\nSIZE of the file in KiB after so many groups, {THREADS} owed at a time");
    let (mut done, mut goal) = (0, 1_000.min(most));
    while done < goal {
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let journal = &journal;
                scope.spawn(move || {
                    let owed = Owed {
                        group: format!("group {thread}").into(),
                        verdict: Verdict::Commit,
                        records: vec![entry(0)],
                    };
                    for _ in 0..(goal - done).div_ceil(THREADS) {
                        journal
                            .decide(&owed.group, &owed.verdict, &owed.records)
                            .expect("a verdict");
                        journal.done(&owed).expect("a note");
                    }
                });
            }
        });
        let length = fs::metadata(directory.join("journal.redb")).expect("the file");
        println!("{goal:<30}{:>10}", length.len() >> 10);
        (done, goal) = (goal, (goal * 10).min(most));
    }
}
