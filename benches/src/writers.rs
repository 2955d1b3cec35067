//! Threads that write 4 KiB at random places of a disk, and how long each write took.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cohort_block::Device;

use crate::percentiles;

/// Bytes of one write.
pub const BLOCK: u64 = 4096;

/// Writes that a thread has room to note from the start: growing would take time among the writes.
const NOTES: usize = 1 << 20;

/// Threads that write until they are stopped.
#[derive(Debug)]
pub struct Writers {
    stop: Arc<AtomicBool>,
    began: Instant,
    threads: Vec<JoinHandle<Vec<Duration>>>,
}

impl Writers {
    /// `depth` threads, each with one write under way at a time, somewhere in the first `length` bytes.
    pub fn start<D: Device + 'static>(disk: &Arc<D>, length: u64, depth: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (1..=depth as u64).map(|seed| {
            let (disk, stop) = (Arc::clone(disk), Arc::clone(&stop));
            std::thread::spawn(move || {
                let (mut random, mut times) = (seed, Vec::with_capacity(NOTES));
                while !stop.load(Ordering::Relaxed) {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    times.push(write(&*disk, random % (length / BLOCK) * BLOCK));
                }
                times
            })
        });
        Writers {
            threads: threads.collect(),
            began: Instant::now(),
            stop,
        }
    }

    /// Lets each end its last write.
    ///
    /// # Panics
    /// If a write failed.
    pub fn stop(self) -> Written {
        self.stop.store(true, Ordering::Relaxed);
        let time = self.began.elapsed();
        let threads = self.threads.into_iter();
        Written::new(threads.flat_map(|t| t.join().expect("a writer")), time)
    }
}

/// Writes once to each of the first `blocks` blocks of `size` bytes, in an order of no pattern, with `depth` threads.
///
/// # Panics
/// If a write failed.
pub fn pass<D: Device + 'static>(disk: &Arc<D>, blocks: u64, size: u64, depth: usize) -> Written {
    let began = Instant::now();
    let threads: Vec<_> = (0..depth as u64)
        .map(|thread| {
            let disk = Arc::clone(disk);
            // A step of a prime number, which is more than there are blocks, so every one has its turn.
            let places = (thread..blocks).step_by(depth);
            let places = places.map(move |n| n.wrapping_mul(1_000_003) % blocks * size);
            std::thread::spawn(move || places.map(|at| write(&*disk, at)).collect::<Vec<_>>())
        })
        .collect();
    let times = threads.into_iter();
    let times: Vec<_> = times.flat_map(|t| t.join().expect("a writer")).collect();
    Written::new(times, began.elapsed())
}

fn write(disk: &dyn Device, at: u64) -> Duration {
    let began = Instant::now();
    disk.write_at(&[7; BLOCK as usize], at).expect("a write");
    began.elapsed()
}

/// What some writers did in some time.
#[derive(Clone, Copy, Debug)]
pub struct Written {
    /// Writes that ended.
    pub writes: usize,
    /// From the first to the last.
    pub time: Duration,
    /// 99 in a hundred took no longer.
    pub p99: Duration,
    /// The longest.
    pub worst: Duration,
}

impl Written {
    fn new(times: impl IntoIterator<Item = Duration>, time: Duration) -> Self {
        let times: Vec<_> = times.into_iter().collect();
        Written {
            writes: times.len(),
            time,
            worst: times.iter().max().copied().unwrap_or_default(),
            p99: percentiles(times).1,
        }
    }

    /// Writes in a second.
    pub fn rate(&self) -> f64 {
        self.writes as f64 / self.time.as_secs_f64()
    }
}
