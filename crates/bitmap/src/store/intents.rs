//! The path of a write: mark, look whether the place is covered, and if not make an intent safe first.
//!
//! First writers that come together share one write and one sync: whoever finds nobody at it takes
//! all that wait along (*group commit*). Where writes go forward, or crowd together, an intent also
//! names what they will probably touch next, so that most of them find their place covered; how much
//! may be named and not written is bounded, and is the *excess* that a crash leaves.

use std::fmt;
use std::ops::Range;
use std::sync::PoisonError;

use crate::sync::{Arc, Condvar, Mutex, MutexGuard, Ordering, fence};
use crate::{Granularity, Recorder};

use super::cover::Cover;
use super::layout::{LOG_SECTORS, StoreId};
use super::log::{self, Entry, encode_batch, entries_of};
use super::tracking::Shared;
use super::{Lost, Mode, SetId};

/// The most that is prepared for at a time. A sync costs at most some milliseconds, in which a
/// sequential writer moves a few mebibytes: at this size one sync in sixteen thousand writes of 4 KiB
/// is left.
const MOST_AHEAD: u64 = 64 << 20;

/// Granules looked back over to see whether writes go forward.
const LOOK_BACK: u64 = 16384;

/// Granules in the blocks that are looked at to see whether writes crowd together, largest first. A block is
/// prepared for as a whole when enough of it is covered.
const BLOCKS: [u64; 2] = [512, 64];

/// How many covered granules make the larger block a crowd: so few at first, and twice as many each time
/// the budget was used up, which is what writes spread evenly over a disk do.
const CROWD: std::ops::RangeInclusive<u64> = 1..=64;

/// How many of the newest stretches that were prepared for stay covered when an epoch ends.
const STAY_WARM: usize = 8;

/// Records writes into one set. Clones record into the same.
///
/// A writer calls [`record`](Self::record) before its data goes out.
#[derive(Clone)]
pub struct Recording {
    pub(super) shared: Arc<Shared>,
    pub(super) track: Track,
}

/// A set that records: its marks, and what of them is safe.
#[derive(Clone)]
pub(super) struct Track {
    pub(super) set: SetId,
    pub(super) recorder: Recorder,
    pub(super) cover: Arc<Cover>,
}

impl Recording {
    /// The set.
    #[must_use]
    pub fn set(&self) -> SetId {
        self.track.set
    }

    /// What was recorded since this process began to record into the set.
    #[must_use]
    pub fn recorder(&self) -> &Recorder {
        &self.track.recorder
    }

    /// Whether the two record into the same set of the same store.
    #[must_use]
    pub fn same(&self, other: &Recording) -> bool {
        self.track.recorder.same(&other.track.recorder)
    }

    /// Marks the granules that `offset..offset + length` touches, and returns when that is as safe as the
    /// store's mode says: only then may the data be written.
    ///
    /// Never fails: if the store does, it is lost from then on (see [`Store::lost`](super::Store::lost)), and
    /// the writer goes on.
    pub fn record(&self, offset: u64, length: u64) {
        let Track {
            recorder, cover, ..
        } = &self.track;
        let end = offset.saturating_add(length).min(recorder.size());
        if offset >= end {
            return;
        }
        recorder.mark(offset, length);
        // Marked before looked: see `Cover::cool`.
        fence(Ordering::SeqCst);
        let granularity = recorder.granularity();
        let granules = offset >> granularity.shift()..granularity.granules(end);
        if !cover.holds(&granules) {
            self.shared.make_safe(&self.track, granules);
        }
    }
}

#[cfg(all(test, loom))]
impl Recording {
    /// Covers granules that nobody wrote, as an intent that looked ahead does.
    pub(super) fn prepare_for(&self, granules: Range<u64>) {
        let mut state = self.shared.intents.lock();
        state.pending.push(Wish {
            track: self.track.clone(),
            granules,
            marked: false,
        });
        drop(self.shared.lead(state));
    }
}

impl Track {
    fn granularity(&self) -> Granularity {
        self.recorder.granularity()
    }
}

impl fmt::Debug for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recording")
            .field("set", &self.track.set)
            .field("recorder", &self.track.recorder)
            .finish_non_exhaustive()
    }
}

/// What writers and checkpoints meet over.
pub(super) struct Intents {
    state: Mutex<State>,
    /// Rung when a batch or a switch of epochs has ended.
    changed: Condvar,
    /// Rung when a checkpoint is wanted.
    work: Condvar,
    budget: u64,
    /// Where the log goes.
    log: LogPlace,
}

/// Where and how the log is written.
pub(super) struct LogPlace {
    pub(super) file: std::sync::Arc<dyn super::File>,
    pub(super) id: StoreId,
    pub(super) mode: Mode,
}

struct State {
    /// Intents that the next batch takes.
    pending: Vec<Wish>,
    /// The number of that batch.
    batch: u64,
    /// Up to this one all are safe.
    done: u64,
    /// What the batch under way will cover.
    flying: Vec<(SetId, Range<u64>)>,
    /// Somebody writes a batch or switches epochs.
    busy: bool,
    /// How many wait for that to end, and for work: to ring when nobody does costs a system call all the same.
    waiting: usize,
    idle: usize,
    epoch: u64,
    /// The next free sector of its half.
    next: u64,
    /// What the sector before that holds, if it has room for more.
    tail: Vec<Entry>,
    /// What was prepared for, oldest first.
    warm: Vec<Wish>,
    warm_bytes: u64,
    /// See [`CROWD`].
    crowd: u64,
    wanted: bool,
    lost: Option<Lost>,
    dismissed: bool,
}

/// A stretch to be covered, and how the log says it.
#[derive(Clone)]
struct Wish {
    track: Track,
    granules: Range<u64>,
    /// Whether a writer waits for it; else it is only prepared for.
    marked: bool,
}

impl Wish {
    fn bytes(&self) -> u64 {
        (self.granules.end - self.granules.start) << self.track.granularity().shift()
    }

    fn entries(&self) -> impl Iterator<Item = Entry> + use<> {
        let (start, bytes) = (
            self.granules.start << self.track.granularity().shift(),
            self.bytes(),
        );
        entries_of(Entry {
            set: self.track.set,
            start,
            marked: if self.marked { bytes } else { 0 },
            ahead: if self.marked { 0 } else { bytes },
        })
    }
}

impl Intents {
    /// A log that goes on in a new epoch, of which the first `next` sectors are written.
    pub(super) fn new(log: LogPlace, epoch: u64, next: u64, budget: u64) -> Self {
        let state = State {
            pending: Vec::new(),
            batch: 1,
            done: 0,
            flying: Vec::new(),
            busy: false,
            waiting: 0,
            idle: 0,
            epoch,
            next,
            tail: Vec::new(),
            warm: Vec::new(),
            warm_bytes: 0,
            crowd: *CROWD.start(),
            wanted: false,
            lost: None,
            dismissed: false,
        };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
            work: Condvar::new(),
            budget,
            log,
        }
    }

    pub(super) fn epoch(&self) -> u64 {
        self.lock().epoch
    }

    pub(super) fn lost(&self) -> Option<Lost> {
        self.lock().lost.clone()
    }

    /// From now on nothing is promised; the first loss stands.
    pub(super) fn lose(&self, lost: Lost) {
        let mut state = self.lock();
        state.lost.get_or_insert(lost);
        self.changed.notify_all();
        self.work.notify_all();
    }

    pub(super) fn dismiss(&self) {
        self.lock().dismissed = true;
        self.work.notify_all();
    }

    /// Waits until a checkpoint is wanted; false when there will be none any more.
    pub(super) fn wait_for_work(&self) -> bool {
        let mut state = self.lock();
        loop {
            if state.dismissed || state.lost.is_some() {
                return false;
            }
            if state.wanted {
                return true;
            }
            state.idle += 1;
            state = self
                .work
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }

    /// Ends the epoch: what follows goes to the other half, which must be free. What was prepared for and
    /// not written is no longer covered, except the newest stretches, which are named again, unless
    /// `exact`.
    ///
    /// # Errors
    /// The log could not be written.
    pub(super) fn switch(&self, exact: bool) -> std::io::Result<()> {
        let mut state = self.lock();
        while state.busy {
            state = self.wait(state);
        }
        state.busy = true;
        state.epoch += 1;
        state.wanted = false;
        state.cool(if exact { 0 } else { self.budget / 2 });
        let entries: Vec<_> = state.warm.iter().flat_map(Wish::entries).collect();
        let epoch = state.epoch;
        drop(state);
        let written = self.write(&entries, epoch, 0);
        let mut state = self.lock();
        state.next = log::sectors(entries.len());
        state.tail = log::tail(&entries).to_vec();
        state.busy = false;
        self.ring(&state);
        written
    }

    fn write(&self, entries: &[Entry], epoch: u64, at: u64) -> std::io::Result<()> {
        let bytes = encode_batch(entries, epoch, at, &self.log.id);
        self.log.file.write_at(&bytes, log::place(epoch, at))?;
        match self.log.mode {
            Mode::KilledProcess => Ok(()),
            Mode::PowerLoss => self.log.file.sync_data(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        state.waiting += 1;
        let mut state = self
            .changed
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner);
        state.waiting -= 1;
        state
    }

    /// A batch or a switch has ended: tells whoever waits for that, and for work if there is some.
    fn ring(&self, state: &State) {
        if state.waiting > 0 {
            self.changed.notify_all();
        }
        if state.wanted && state.idle > 0 {
            self.work.notify_all();
        }
    }
}

impl State {
    /// Uncovers what was prepared for in vain, and keeps at most `keep_bytes` of the newest.
    fn cool(&mut self, keep_bytes: u64) {
        let mut kept = Vec::new();
        let mut kept_bytes = 0;
        // Of what is uncovered: how much was written after all, and how much it is in total.
        let mut cooled = (0, 0);
        for wish in std::mem::take(&mut self.warm).into_iter().rev() {
            if kept.len() < STAY_WARM && kept_bytes + wish.bytes() <= keep_bytes {
                kept_bytes += wish.bytes();
                kept.push(wish);
            } else {
                let recorder = &wish.track.recorder;
                let shift = recorder.granularity().shift();
                let used = wish
                    .granules
                    .clone()
                    .filter(|g| recorder.get(g << shift))
                    .count() as u64;
                cooled.0 += used;
                cooled.1 += wish.granules.end - wish.granules.start;
                wish.track
                    .cover
                    .cool(&wish.granules, |granule| recorder.get(granule << shift));
            }
        }
        // What lies in a kept stretch and in a cooled one must stay covered as the log says.
        kept.iter()
            .for_each(|wish| wish.track.cover.set(&wish.granules));
        kept.reverse();
        if cooled.1 > 0 && cooled.0 * 4 >= cooled.1 {
            self.crowd = (self.crowd / 2).max(*CROWD.start());
        }
        (self.warm, self.warm_bytes) = (kept, kept_bytes);
    }

    /// Puts an intent on the list, unless a batch that is on its way covers it. Gives the number of the
    /// batch to wait for.
    fn wish(&mut self, track: &Track, granules: Range<u64>, budget: u64) -> u64 {
        let within = |set: SetId, of: &Range<u64>| {
            set == track.set && of.start <= granules.start && granules.end <= of.end
        };
        if self.flying.iter().any(|(set, of)| within(*set, of)) {
            return self.batch - 1;
        }
        if self
            .pending
            .iter()
            .any(|wish| within(wish.track.set, &wish.granules))
        {
            return self.batch;
        }
        if let Some(granules) = ahead(track, &granules, self.crowd) {
            let wish = Wish {
                track: track.clone(),
                granules,
                marked: false,
            };
            if self.warm_bytes + wish.bytes() <= budget {
                self.warm_bytes += wish.bytes();
                self.pending.push(wish);
            } else {
                if !self.wanted {
                    self.crowd = (self.crowd * 2).min(*CROWD.end());
                }
                self.wanted = true;
            }
        }
        self.pending.push(Wish {
            track: track.clone(),
            granules,
            marked: true,
        });
        self.batch
    }
}

/// What to prepare for beyond a first write to `granules`: as much again as was written right before
/// it, or the block around it if that is crowded.
fn ahead(track: &Track, granules: &Range<u64>, crowd: u64) -> Option<Range<u64>> {
    let (cover, granularity) = (&track.cover, track.granularity());
    let all = granularity.granules(track.recorder.size());
    let most = MOST_AHEAD >> granularity.shift();
    let run = cover.run_before(granules.start, most.min(LOOK_BACK));
    let forward = granules.end..all.min(granules.end + run);
    let block = BLOCKS
        .into_iter()
        .filter(|block| *block <= most)
        .find_map(|block| {
            let start = granules.start - granules.start % block;
            let around = start..all.min(start + block);
            let enough = (crowd * block / BLOCKS[0]).max(1);
            (cover.count(&around) >= enough).then_some(around)
        });
    let length = |range: &Range<u64>| range.end - range.start;
    block
        .filter(|block| length(block) > length(&forward))
        .or(Some(forward))
        .filter(|range| !range.is_empty())
}

impl Shared {
    /// Makes an intent safe, together with whoever else waits.
    fn make_safe(&self, track: &Track, granules: Range<u64>) {
        let intents = &self.intents;
        let mut state = intents.lock();
        if state.lost.is_some() || track.cover.holds(&granules) {
            return;
        }
        if track.cover.is_retired() {
            drop(state);
            self.fail("somebody wrote to the disk after recording had ended");
            return;
        }
        let mine = state.wish(track, granules, intents.budget);
        while state.done < mine && state.lost.is_none() {
            if state.busy {
                state = intents.wait(state);
            } else if state.next + sectors_of(&state.pending) > LOG_SECTORS {
                drop(state);
                self.make_room();
                state = intents.lock();
            } else {
                state = self.lead(state);
            }
        }
    }

    /// Checkpoints, unless somebody else just did. A failure shows in `lost`.
    fn make_room(&self) {
        let _ = self.checkpoint_if(|intents| {
            let state = intents.lock();
            state.next + sectors_of(&state.pending) > LOG_SECTORS
        });
    }

    /// Writes one batch for all who wait.
    fn lead<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let intents = &self.intents;
        state.busy = true;
        let wishes = std::mem::take(&mut state.pending);
        // The last sector is written again with what it holds, as long as it has room: a disk writes all of a sector or
        // nothing, so that is as safe as it was.
        let mut entries = std::mem::take(&mut state.tail);
        let at = state.next - u64::from(!entries.is_empty());
        entries.extend(wishes.iter().flat_map(Wish::entries));
        let (batch, epoch) = (state.batch, state.epoch);
        state.batch += 1;
        state.next = at + log::sectors(entries.len());
        state.tail = log::tail(&entries).to_vec();
        state.flying = wishes
            .iter()
            .map(|wish| (wish.track.set, wish.granules.clone()))
            .collect();
        drop(state);
        let written = intents.write(&entries, epoch, at);
        if let Err(error) = &written {
            // Before anybody goes on: what they write now is in no intent.
            self.fail(&format!("its log of intents cannot be written: {error}"));
        }
        let mut state = intents.lock();
        if written.is_ok() {
            for wish in wishes {
                wish.track.cover.set(&wish.granules);
                if !wish.marked {
                    state.warm.push(wish);
                }
            }
            state.done = batch;
        }
        state.flying.clear();
        state.busy = false;
        state.wanted |= state.next > LOG_SECTORS / 2;
        intents.ring(&state);
        state
    }
}

fn sectors_of(wishes: &[Wish]) -> u64 {
    log::sectors(wishes.iter().flat_map(Wish::entries).count())
}
