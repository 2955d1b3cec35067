//! What the benchmarks share: interleaved rounds, medians, and a table. Figures are reported, never gated: the machine they
//! run on is named, and every ratio is of two medians from the same run.

use std::time::{Duration, Instant};

pub mod apart;
pub mod choice;
pub mod daemon;
pub mod fills;
pub mod ours;
pub mod peers;
pub mod sets;
pub mod writers;

/// Something to be timed, under its name.
pub struct Contender<'a> {
    name: &'a str,
    run: Box<dyn FnMut() -> Duration + 'a>,
    times: Vec<Duration>,
}

impl std::fmt::Debug for Contender<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Contender")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl<'a> Contender<'a> {
    /// `run` does the work once and says how long the part that counts took.
    pub fn new(name: &'a str, run: impl FnMut() -> Duration + 'a) -> Self {
        Contender {
            name,
            run: Box::new(run),
            times: Vec::new(),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.name
    }

    /// The median of its rounds.
    ///
    /// # Panics
    /// Before any round was run.
    pub fn median(&self) -> Duration {
        let mut times = self.times.clone();
        times.sort();
        times[times.len() / 2]
    }
}

/// Runs all contenders in turn, A B A B …, after one round that does not count: a machine whose speed drifts is as unfair to
/// one as to the other.
pub fn rounds(count: usize, contenders: &mut [Contender<'_>]) {
    for round in 0..=count {
        for contender in contenders.iter_mut() {
            let time = (contender.run)();
            if round > 0 {
                contender.times.push(time);
            }
        }
    }
}

/// How long `work` takes.
pub fn timed<T>(work: impl FnOnce() -> T) -> Duration {
    let start = Instant::now();
    std::hint::black_box(work());
    start.elapsed()
}

/// What a variable of the environment says, or else that.
///
/// # Panics
/// If it says no number.
pub fn number<N: std::str::FromStr>(name: &str, otherwise: N) -> N {
    std::env::var(name).map_or(otherwise, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is a number, not '{text}'"))
    })
}

/// One line about the machine.
pub fn machine() -> String {
    let model = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = model
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .unwrap_or(": unknown processor");
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    format!(
        "{}, {cores} cores",
        model.trim_start_matches([' ', '\t', ':'])
    )
}

/// A figure of a process in bytes, from the kernel's account of it: `VmRSS`, `VmHWM`.
pub fn status_bytes(process: &str, figure: &str) -> Option<usize> {
    let text = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(figure))?;
    let kib: usize = line
        .trim_start_matches(':')
        .trim()
        .strip_suffix(" kB")?
        .parse()
        .ok()?;
    Some(kib << 10)
}

/// Processor time that a process and those that it waited for have used.
pub fn processor_time(process: &str) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // After the name, which may hold anything, come state and forty numbers; four of them are times in ticks of 10 ms.
    let fields = text.rsplit(')').next().unwrap_or_default();
    let ticks = fields.split_whitespace().skip(11).take(4);
    let ticks: u64 = ticks.filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

/// Forgets how much memory this process had resident at most: `VmHWM` begins anew.
pub fn forget_peak() {
    // Where that is not allowed the figure is too large.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// The median and the 99th percentile of some times.
///
/// # Panics
/// If there are none.
pub fn percentiles(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort();
    (times[times.len() / 2], times[times.len() * 99 / 100])
}

/// Lets time pass: between two samples, or until others have gone quiet.
#[expect(
    clippy::disallowed_methods,
    reason = "a benchmark measures time; nothing depends on what comes first"
)]
pub fn rest(time: Duration) {
    std::thread::sleep(time);
}
