//! The engine beside what people write themselves, in one run: time and memory per job, and how long a verb takes while every
//! core is busy. What each figure means is in `docs/performance.md`. Words choose tables (`-- beside alone`, of `TABLES`), all
//! without any; `COHORT_BENCH_MIN` and `COHORT_BENCH_MAX` set the smallest and the largest group.

use std::process::Command;
use std::time::{Duration, Instant};

use benches::apart::{self, Apart};
use benches::ours::{self, Sort};
use benches::peers::{self, StorageDaemon};
use benches::{Contender, machine, percentiles, rounds, timed};
use cohort_job::{Disposition, Engine, JobHandle, JobSpec, Status, Subscription};

/// Groups, and in how many rounds each is run.
const GROUPS: [(usize, usize); 6] = [
    (1, 501),
    (8, 501),
    (64, 201),
    (1_024, 101),
    (16_384, 21),
    (1_000_000, 5),
];
/// The largest groups that the slower peers run.
const SAGA_MAX: usize = 1_024;
const DAEMON_MAX: usize = 1_024;
/// How a group ends.
const ALL_COMMIT: &str = "all commit";
const LAST_FAILS: &str = "last fails";

/// The tables that may be asked for.
const TABLES: [&str; 6] = ["beside", "ours", "alone", "latency", "idle", "memory"];

fn main() {
    if let Some(words) = apart::words() {
        return contend(&words);
    }
    let words: Vec<_> = std::env::args().skip(1).collect();
    let asked = |table: &&str| words.iter().any(|word| word == table);
    let chosen: Vec<_> = match TABLES.into_iter().filter(asked).collect::<Vec<_>>() {
        some if !some.is_empty() => some,
        _ => TABLES.to_vec(),
    };
    println!("{}\n", machine());
    let max = size("COHORT_BENCH_MAX").unwrap_or(usize::MAX);
    let sizes = size("COHORT_BENCH_MIN").unwrap_or(0)..=max;
    let groups: Vec<_> = GROUPS
        .into_iter()
        .filter(|(jobs, _)| sizes.contains(jobs))
        .collect();
    for table in chosen {
        match table {
            "beside" => beside_the_peers(&groups),
            "ours" => by_themselves(&groups),
            "alone" => alone(),
            "latency" => latency(max.min(100_000)),
            "idle" => idle(max),
            _ => memory(),
        }
        println!();
    }
}

fn size(variable: &str) -> Option<usize> {
    std::env::var(variable).ok()?.parse().ok()
}

fn memory() {
    println!("MEMORY, by a counting allocator");
    let memory = Command::new(env!("CARGO_BIN_EXE_engine-memory")).status();
    assert!(memory.is_ok_and(|status| status.success()), "memory");
}

fn per_job(time: Duration, jobs: usize) -> f64 {
    time.as_secs_f64() * 1e6 / jobs as f64
}

fn cell(figure: Option<f64>) -> String {
    figure.map_or_else(|| format!("{:>9}", "-"), |figure| format!("{figure:>9.3}"))
}

/// The engine, rayon, tokio, steno and QEMU's storage daemon: all jobs succeed, then the last one fails. Each in a process of
/// its own.
fn beside_the_peers(groups: &[(usize, usize)]) {
    println!("TIME PER JOB in µs, median of the rounds; all jobs are no-ops, ours has every hook");
    println!(
        "{:>9}  {:<10}  {:>9}  {:>9}  {:>9}  {:>9}  {:>9}  {:>7}  {:>7}",
        "jobs", "end", "ours", "rayon", "JoinSet", "steno", "daemon", "/rayon", "/JoinSet"
    );
    for end in [ALL_COMMIT, LAST_FAILS] {
        for &(jobs, count) in groups {
            let count_of = jobs.to_string();
            let contender = |name| {
                let mut process = Apart::start(&[name, &count_of, end]);
                Contender::new(name, move || process.round())
            };
            let peers = ["ours", "rayon", "JoinSet", "steno"].into_iter();
            let fit = peers.filter(|&name| name != "steno" || jobs <= SAGA_MAX);
            let mut contenders: Vec<_> = fit.map(contender).collect();
            rounds(count, &mut contenders);
            let times: Vec<_> = contenders
                .iter()
                .map(|contender| per_job(contender.median(), jobs))
                .collect();
            let daemon = (end == ALL_COMMIT && jobs <= DAEMON_MAX)
                .then(|| daemon(jobs))
                .flatten();
            println!(
                "{jobs:>9}  {end}  {}  {}  {}  {}  {}  {:>6.2}×  {:>6.2}×",
                cell(Some(times[0])),
                cell(Some(times[1])),
                cell(Some(times[2])),
                cell(times.get(3).copied()),
                cell(daemon),
                times[0] / times[1],
                times[0] / times[2],
            );
        }
    }
}

/// One of the contenders: what its process does.
fn contend(words: &[String]) {
    let [name, jobs, end] = words else {
        panic!("a name, a number and an end, not {words:?}");
    };
    let jobs = jobs.parse().expect("a number of jobs");
    let fails = end == LAST_FAILS;
    match name.as_str() {
        "ours" => {
            let engine = Engine::new().expect("an engine");
            apart::serve(|| timed(|| ours::group(&engine, Sort::Plain, jobs, fails)));
        }
        "rayon" => {
            let pool = rayon::ThreadPoolBuilder::new().build().expect("a pool");
            apart::serve(|| timed(|| peers::rayon_scope(&pool, jobs, fails)));
        }
        "JoinSet" | "steno" => {
            let runtime = tokio::runtime::Runtime::new().expect("a runtime");
            if name == "JoinSet" {
                apart::serve(|| timed(|| peers::join_set(&runtime, jobs, fails)));
            } else {
                apart::serve(|| timed(|| peers::saga(&runtime, jobs, fails)));
            }
        }
        _ => panic!("no contender: {name}"),
    }
}

/// The storage daemon's time per job, in a process of its own; none if it is not installed or refuses.
fn daemon(jobs: usize) -> Option<f64> {
    let mut daemon = StorageDaemon::start(jobs).ok()??;
    let mut times: Vec<_> = (0..3).filter_map(|_| daemon.run().ok()).collect();
    times.sort();
    times.get(1).map(|time| per_job(*time, jobs))
}

/// The engine alone: with subscribers, with names, with hooks that do something, added one by one.
fn by_themselves(groups: &[(usize, usize)]) {
    println!(
        "OURS in µs per job: with subscribers, added one by one, with names, with hooks that work"
    );
    println!(
        "{:>9}  {:>9}  {:>9}  {:>9}  {:>9}  {:>9}  {:>9}",
        "jobs", "plain", "1 subscr.", "8 subscr.", "one by one", "named", "hooks"
    );
    let quiet = Engine::new().expect("an engine");
    let heard = [1, 8].map(|count| (Engine::new().expect("an engine"), count));
    for &(jobs, count) in groups {
        let group = |engine, sort| timed(|| ours::group(engine, sort, jobs, false));
        let mut contenders = vec![
            Contender::new("plain", || group(&quiet, Sort::Plain)),
            Contender::new("one by one", || group(&quiet, Sort::OneByOne)),
            Contender::new("named", || group(&quiet, Sort::Named)),
            Contender::new("hooks", || group(&quiet, Sort::Hooks)),
        ];
        for (engine, subscribers) in &heard {
            contenders.push(Contender::new("heard", || {
                let subscriptions: Vec<_> =
                    (0..*subscribers).map(|_| engine.subscribe(1_024)).collect();
                std::thread::scope(|scope| {
                    for subscription in &subscriptions {
                        scope.spawn(|| listen(subscription));
                    }
                    group(engine, Sort::Plain)
                })
            }));
        }
        rounds(count.min(21), &mut contenders);
        let [plain, one, named, hooks, few, many] =
            [0, 1, 2, 3, 4, 5].map(|at: usize| cell(Some(per_job(contenders[at].median(), jobs))));
        println!("{jobs:>9}  {plain}  {few}  {many}  {one:>10}  {named}  {hooks}");
    }
}

/// Takes notices until none has come for a while.
fn listen(subscription: &Subscription) {
    while subscription
        .recv_timeout(Duration::from_millis(5))
        .is_some()
    {}
}

/// A lone job, by each of the two ways to have it run.
fn alone() {
    let engine = Engine::new().expect("an engine");
    let times = |run: &dyn Fn()| percentiles((0..20_000).map(|_| timed(run)).collect());
    let placed = times(&|| {
        let outcome = engine.run(JobSpec::unnamed(), ours::Noop).expect("a job");
        assert!(outcome.is_some());
    });
    let elsewhere = times(&|| {
        let job = engine
            .launch(JobSpec::unnamed(), ours::Noop)
            .expect("a job");
        assert!(job.wait().is_some());
    });
    println!("A LONE JOB, µs: median, 99th percentile");
    println!("{:<44}  {}", "by Engine::run", both(placed));
    println!("{:<44}  {}", "by launch, then wait", both(elsewhere));
}

fn both((median, late): (Duration, Duration)) -> String {
    format!("{:>9.2}  {:>9.2}", per_job(median, 1), per_job(late, 1))
}

/// Verbs on one job while sixteen others keep every core busy.
fn latency(members: usize) {
    println!(
        "LATENCY OF A VERB in µs while sixteen jobs keep every core busy: median, 99th percentile"
    );
    println!("{:<44}  {:>20}  {:>20}", "", "accepted", "took effect");
    let engine = Engine::new().expect("an engine");
    let mut busy = engine.group("busy");
    let endless = || (0..16).map(|_| ours::Endless(Duration::from_micros(20)));
    busy.add_all(&JobSpec::unnamed(), endless()).expect("room");
    let busy = busy.launch();

    let other = engine
        .launch(JobSpec::unnamed(), ours::Endless(Duration::from_micros(1)))
        .expect("a job");
    pauses("another group, at work", &other);
    let _ = other.cancel(Disposition::Keep);

    let idle = ours::idle(&engine, members);
    let member = idle.job(members as u32 / 2).expect("a member");
    pauses(&format!("a member of {members}, all idle"), &member);
    let _ = idle.cancel(Disposition::Keep);
    idle.wait();

    let mut group = engine.group("at work");
    group
        .add_all(
            &JobSpec::unnamed(),
            (0..members).map(|_| ours::Endless(Duration::ZERO)),
        )
        .expect("room");
    let member = group.launch().job(members as u32 / 2).expect("a member");
    pauses(&format!("a member of {members}, all at work"), &member);
    let _ = member.cancel(Disposition::Keep);
    let _ = busy.cancel(Disposition::Keep);
    busy.wait();
}

/// Pauses and resumes a job many times.
fn pauses(what: &str, job: &JobHandle) {
    let (mut accepted, mut effective) = (Vec::new(), Vec::new());
    let end = Instant::now() + Duration::from_secs(4);
    while Instant::now() < end {
        benches::rest(Duration::from_micros(200));
        let begin = Instant::now();
        job.pause().expect("it is at work");
        accepted.push(begin.elapsed());
        while job.status() != Status::Paused {
            std::thread::yield_now();
        }
        effective.push(begin.elapsed());
        job.resume().expect("it was paused");
    }
    println!(
        "{what:<44}  {}  {}",
        both(percentiles(accepted)),
        both(percentiles(effective))
    );
}

/// A million jobs that wait: what they take, and that a verb still works.
fn idle(max: usize) {
    let jobs = max.min(1_000_000);
    let engine = Engine::new().expect("an engine");
    let resident = || benches::status_bytes("self", "VmRSS").unwrap_or_default();
    let before = resident();
    let begin = Instant::now();
    let group = ours::idle(&engine, jobs);
    let built = begin.elapsed();
    let bytes = resident().saturating_sub(before) as f64 / jobs as f64;
    println!("{jobs} JOBS IDLE: launched in {built:.2?}, {bytes:.0} resident bytes a job");
    pauses(
        "a verb on one of them, nothing else to do",
        &group.job(jobs as u32 / 2).expect("it"),
    );
    let begin = Instant::now();
    group.cancel(Disposition::Keep).expect("it is not decided");
    group.wait();
    println!("all cancelled and over in {:.2?}", begin.elapsed());
}
