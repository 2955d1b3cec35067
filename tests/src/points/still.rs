//! Waiting until every other thread of this process sleeps.
//!
//! Between two steps of a schedule nothing may run on its own. No room says so of itself, but the kernel knows: a thread
//! is asleep, and has not been given a processor since it was looked at before. Two looks at all threads that find the
//! same leave no room for one that wakes another and falls asleep itself. So one process runs one schedule at a time.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::{Duration, Instant};

/// Longer than anything in a run of this size works without waiting.
const PATIENCE: Duration = Duration::from_secs(60);

/// The threads of this process.
#[derive(Debug)]
pub(super) struct Threads {
    me: u32,
    others: BTreeMap<u32, Thread>,
}

/// What the kernel says of one thread; the files are read again and again.
#[derive(Debug)]
struct Thread {
    stat: File,
    schedstat: File,
}

/// How often each of the others was given a processor; none while one of them may run.
type Look = Option<Vec<(u32, u64)>>;

impl Threads {
    /// To be asked by this thread.
    pub(super) fn new() -> io::Result<Self> {
        let me = fs::read_link("/proc/thread-self")?;
        let me = me.file_name().and_then(|name| name.to_str()?.parse().ok());
        Ok(Self {
            me: me.ok_or(io::ErrorKind::InvalidData)?,
            others: BTreeMap::new(),
        })
    }

    /// Returns once all others sleep and nothing but a timer or this thread will wake them; false if they never do.
    pub(super) fn settle(&mut self) -> bool {
        let begun = Instant::now();
        let mut before = None;
        loop {
            let now = self.look();
            if now.is_some() && now == before {
                return true;
            }
            if now.is_none() {
                if begun.elapsed() > PATIENCE {
                    return false;
                }
                thread::yield_now();
            }
            before = now;
        }
    }

    fn look(&mut self) -> Look {
        self.meet().ok()?;
        let mut counts = Vec::with_capacity(self.others.len());
        let mut buffer = [0; 512];
        for (&id, thread) in &self.others {
            let text = read(&thread.stat, &mut buffer)?;
            // The name, in parentheses, may hold anything; the state comes after the last.
            let state = text.rsplit_once(')').map(|(_, rest)| rest.trim_start());
            if !state.is_some_and(|state| state.starts_with('S')) {
                return None;
            }
            let text = read(&thread.schedstat, &mut buffer)?;
            counts.push((id, text.split_whitespace().nth(2)?.parse().ok()?));
        }
        Some(counts)
    }

    /// Finds who came and who went.
    fn meet(&mut self) -> io::Result<()> {
        let mut there = Vec::new();
        for entry in fs::read_dir("/proc/self/task")? {
            let name = entry?.file_name();
            there.extend(name.to_str().and_then(|name| name.parse::<u32>().ok()));
        }
        self.others.retain(|id, _| there.contains(id));
        for id in there {
            if id != self.me && !self.others.contains_key(&id) {
                let open = |what: &str| File::open(format!("/proc/self/task/{id}/{what}"));
                let (stat, schedstat) = (open("stat")?, open("schedstat")?);
                self.others.insert(id, Thread { stat, schedstat });
            }
        }
        Ok(())
    }
}

/// The file as it is now; none if its thread is gone.
fn read<'a>(file: &File, buffer: &'a mut [u8]) -> Option<&'a str> {
    let length = file.read_at(buffer, 0).ok()?;
    std::str::from_utf8(&buffer[..length]).ok()
}
