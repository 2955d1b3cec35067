//! How long writes are held up at a gate, and how long their own disk takes: counted while they pass.
//!
//! Counters only. Nothing waits on them, so they are plain atomics of the standard library, also under
//! loom. Times fall into buckets an eighth of a power of two wide, the way of HdrHistogram (Tene,
//! 2012): a percentile is at most one eighth too large, the worst is exact.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Counts the writes through one gate, from when it is installed there.
#[derive(Debug, Default)]
pub struct WriteMeter {
    delays: Histogram,
    fences: Histogram,
    device_nanos: AtomicU64,
    writes: AtomicU64,
}

/// How long some writes were held up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delays {
    /// How many writes that is.
    pub writes: u64,
    /// 99 in a hundred waited no longer; at most an eighth more than the truth.
    pub p99: Duration,
    /// The longest.
    pub worst: Duration,
}

/// How many writes were held up for how long, since the meter was installed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spread {
    /// For some times, each twice the one before and a nanosecond: how many writes were held up no longer.
    pub up_to: Vec<(Duration, u64)>,
    /// How many writes there are in all.
    pub writes: u64,
    /// Their delays added up.
    pub total: Duration,
}

/// What a device took for writes, in all, since the meter was installed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceTime {
    /// Writes that ended.
    pub writes: u64,
    /// Their times added up.
    pub total: Duration,
}

impl WriteMeter {
    /// What fence and copy-before-write added to writes: from their arrival to when their own disk was
    /// asked.
    pub fn delays(&self) -> Delays {
        Histogram::sum(std::iter::once(&self.delays))
    }

    /// What a closed gate alone added, to those that found it closed.
    pub fn fence_delays(&self) -> Delays {
        Self::all_fence_delays([self])
    }

    /// As [`fence_delays`](Self::fence_delays), for several disks together.
    pub fn all_fence_delays<'a>(meters: impl IntoIterator<Item = &'a Self>) -> Delays {
        Histogram::sum(meters.into_iter().map(|meter| &meter.fences))
    }

    /// What [`delays`](Self::delays) sums up, time by time: from a microsecond to seventeen seconds.
    pub fn spread(&self) -> Spread {
        self.delays.spread()
    }

    /// What the disk itself took.
    pub fn device(&self) -> DeviceTime {
        DeviceTime {
            writes: self.writes.load(Ordering::Relaxed),
            total: Duration::from_nanos(self.device_nanos.load(Ordering::Relaxed)),
        }
    }

    /// A write was held up so long, `at_gate` of it by a closed gate if it found one, and its disk took
    /// so long.
    pub(crate) fn count(&self, at_gate: Option<Duration>, delay: Duration, device: Duration) {
        if let Some(at_gate) = at_gate {
            self.fences.record(at_gate);
        }
        self.delays.record(delay);
        self.device_nanos
            .fetch_add(nanos(device), Ordering::Relaxed);
        self.writes.fetch_add(1, Ordering::Relaxed);
    }
}

/// Buckets of one power of two.
const PARTS: usize = 8;
const PARTS_SHIFT: u32 = PARTS.trailing_zeros();
/// Up to 2^44 ns, five hours; what is longer is in the last one, and the worst is exact anyway.
const BUCKETS: usize = PARTS * 42;

/// The times of a [`Spread`], as powers of two of nanoseconds.
const SPREAD_POWERS: std::ops::RangeInclusive<u32> = 10..=34;

#[derive(Default)]
struct Histogram {
    /// Made for the first time that is counted: most gates never hold anybody up, and many see no write at all.
    buckets: OnceLock<Box<[AtomicU64; BUCKETS]>>,
    total: AtomicU64,
    worst: AtomicU64,
}

impl Histogram {
    fn record(&self, time: Duration) {
        let nanos = nanos(time);
        let buckets = self
            .buckets
            .get_or_init(|| Box::new([const { AtomicU64::new(0) }; BUCKETS]));
        buckets[bucket(nanos)].fetch_add(1, Ordering::Relaxed);
        if nanos == 0 {
            return;
        }
        self.total.fetch_add(nanos, Ordering::Relaxed);
        if nanos > self.worst.load(Ordering::Relaxed) {
            self.worst.fetch_max(nanos, Ordering::Relaxed);
        }
    }

    /// Adds what is in the buckets to `counts`.
    fn add_to(&self, counts: &mut [u64; BUCKETS]) {
        let buckets = self.buckets.get().into_iter().flat_map(|all| all.iter());
        for (count, bucket) in counts.iter_mut().zip(buckets) {
            *count += bucket.load(Ordering::Relaxed);
        }
    }

    fn spread(&self) -> Spread {
        let mut counts = [0; BUCKETS];
        self.add_to(&mut counts);
        let up_to = SPREAD_POWERS.map(|power| {
            let longest = Duration::from_nanos((1 << power) - 1);
            let below = bucket(1 << power);
            (longest, counts[..below].iter().sum())
        });
        Spread {
            up_to: up_to.collect(),
            writes: counts.iter().sum(),
            total: Duration::from_nanos(self.total.load(Ordering::Relaxed)),
        }
    }

    fn sum<'a>(all: impl Iterator<Item = &'a Histogram>) -> Delays {
        let (mut counts, mut worst) = ([0; BUCKETS], 0);
        for one in all {
            one.add_to(&mut counts);
            worst = worst.max(one.worst.load(Ordering::Relaxed));
        }
        let writes: u64 = counts.iter().sum();
        let mut left = writes / 100;
        let last = counts.iter().rposition(|count| {
            let here = *count > left;
            left = left.saturating_sub(*count);
            here
        });
        Delays {
            writes,
            p99: Duration::from_nanos(last.map_or(0, |bucket| end_of(bucket).min(worst))),
            worst: Duration::from_nanos(worst),
        }
    }
}

/// Times below eight nanoseconds have a bucket each; of every greater power of two, eight.
fn bucket(nanos: u64) -> usize {
    let power = nanos.max(1).ilog2();
    let bucket = if power < PARTS_SHIFT {
        nanos as usize
    } else {
        let part = (nanos >> (power - PARTS_SHIFT)) as usize - PARTS;
        (power - PARTS_SHIFT + 1) as usize * PARTS + part
    };
    bucket.min(BUCKETS - 1)
}

/// The longest time in a bucket.
fn end_of(bucket: usize) -> u64 {
    match (bucket / PARTS, bucket % PARTS) {
        (0, nanos) => nanos as u64,
        (power, part) => (((PARTS + part + 1) as u64) << (power - 1)) - 1,
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Self::sum([self].into_iter()).fmt(f)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn bucket_of_every_time_ends_at_most_an_eighth_after_it() {
        let times = (0..44).flat_map(|power| {
            let one = 1u64 << power;
            [one - 1, one, one + one / 3, 2 * one - 1]
        });
        for nanos in times {
            let end = end_of(bucket(nanos));
            assert!(end >= nanos && end - nanos <= nanos / 8, "{nanos} in {end}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn one_write_in_a_hundred_is_above_the_percentile_and_the_worst_is_exact() {
        let meter = WriteMeter::default();
        assert_eq!(meter.delays(), Delays::default());
        for micros in 1..=1000 {
            let time = Duration::from_micros(micros);
            meter.count((micros > 990).then_some(time), time, 2 * time);
        }
        let delays = meter.delays();
        assert_eq!(
            (delays.writes, delays.worst),
            (1000, Duration::from_micros(1000))
        );
        let range = Duration::from_micros(990)..=Duration::from_micros(1000);
        assert!(range.contains(&delays.p99), "{delays:?}");
        assert_eq!(meter.fence_delays().writes, 10);
        assert_eq!(meter.device().total, 2 * Duration::from_micros(500_500));
        let both = WriteMeter::all_fence_delays([&meter, &meter]);
        assert_eq!((both.writes, both.p99), (20, meter.fence_delays().p99));
    }

    #[test]
    fn spread_counts_each_write_at_its_time_and_after() {
        let meter = WriteMeter::default();
        let nanos = [0, 1_023, 1_024, 1 << 20, (1 << 34) - 1, 1 << 34, 1 << 50];
        for nanos in nanos {
            meter.count(None, Duration::from_nanos(nanos), Duration::ZERO);
        }
        let spread = meter.spread();
        let total: u64 = nanos.iter().sum();
        assert_eq!(
            (spread.writes, spread.total),
            (7, Duration::from_nanos(total))
        );
        for (longest, writes) in &spread.up_to {
            let longest = u64::try_from(longest.as_nanos()).unwrap();
            let no_longer = nanos.iter().filter(|nanos| **nanos <= longest).count();
            assert_eq!(*writes, no_longer as u64, "{longest}");
        }
        assert_eq!(spread.up_to.len(), 25);
    }
}
