//! A node's dirty bitmap: who has it, whether writes count, and of which sets of a store it is made. What it holds is in
//! `bitmaps/content.rs`.

mod content;

use std::sync::{Arc, Mutex};

use cohort_backup::Settled;
use cohort_bitmap::store::SetId;
use cohort_bitmap::store::qcow2::Saved;
use cohort_bitmap::{DirtyBitmap, Granularity, Recorder, Stretch, View};
use cohort_block::ClosedGate;
use cohort_qmp::{BitmapInfo, Error};

use self::content::Content;
use super::lock;
use super::nodes::Node;
use super::place::{Place, Purpose};
use super::state::{BitmapRow, Fresh, NodeStore, SetNames, Sets};

/// A bitmap is made of no more sets than this while nobody has it.
const MOST_SETS: usize = 3;

/// Most bitmaps of one node.
pub(super) const MOST_BITMAPS: usize = 1024;

/// A bitmap under a name.
#[derive(Debug)]
pub(super) struct Bitmap {
    pub(super) name: String,
    pub(super) granularity: Granularity,
    pub(super) place: Place,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    content: Content,
    /// Whether writes count.
    enabled: bool,
    /// How many exports show it, so that it must not change by command.
    exports: usize,
    /// It is to be removed by a transaction that is not over.
    leaving: bool,
    /// What it is made of in its node's store; without any it comes back all dirty.
    sets: Option<Sets>,
    /// Whether those lack something that a command added.
    stale: bool,
    /// Sets of which it is made no more, and that are still there.
    gone: Vec<SetId>,
}

/// What a bitmap held, to be put back.
#[derive(Debug)]
pub(super) struct Before {
    content: Box<Content>,
    sets: Option<Sets>,
}

impl Bitmap {
    /// One that holds this, and records from now on if it is enabled; in a store, if it is given a set there.
    pub(super) fn new(
        name: &str,
        bits: DirtyBitmap,
        enabled: bool,
        place: Place,
        fresh: Option<Fresh>,
        closed: &mut ClosedGate<'_>,
    ) -> Self {
        let granularity = bits.granularity();
        let view = View::new(bits);
        let state = State {
            sets: fresh.map(|fresh| fresh.begin(view.recorder())),
            content: Content::of(view),
            enabled,
            exports: 0,
            leaving: false,
            stale: false,
            gone: Vec::new(),
        };
        state.install(closed);
        Self {
            name: name.to_owned(),
            granularity,
            place,
            state: Mutex::new(state),
        }
    }

    /// Refuses while somebody has it, and what its place forbids.
    pub(super) fn check(&self, purpose: Purpose) -> Result<(), Error> {
        let busy = "currently in use by another operation and cannot be used";
        let busy = lock(&self.state).is_busy().then_some(busy);
        match busy.or(self.place.forbids(purpose)) {
            None => Ok(()),
            Some(why) => Err(Error::generic(format!("Bitmap '{}' is {why}", self.name))),
        }
    }

    /// What its node's image is to hold of it; nothing if that is nothing. A partial that it speaks of does not count: the
    /// image outlives the node that holds it.
    pub(super) fn to_save(&self) -> Option<Saved> {
        let state = lock(&self.state);
        let bits = match self.place {
            Place::Nowhere | Place::ReadOnlyImage => return None,
            Place::Inconsistent { .. } => None,
            Place::Image => Some(state.content.whole()),
        };
        Some(Saved {
            name: self.name.clone(),
            enabled: state.enabled,
            bits,
        })
    }

    /// Records into a set of a store, too, from now on. What it held until then is put in another when it is written down.
    pub(super) fn keep_in(&self, fresh: Fresh, closed: &mut ClosedGate<'_>) {
        let mut state = lock(&self.state);
        state.uninstall(closed);
        state.sets = Some(fresh.begin(&state.content.recorder()));
        state.stale = true;
        state.install(closed);
    }

    /// Whether its image brought it along, and no store has it as yet.
    pub(super) fn wants_sets(&self) -> bool {
        let state = lock(&self.state);
        self.place == Place::Image && !state.is_busy() && state.sets.is_none()
    }

    /// What is dirty now, as clients see it: frozen while a job has it.
    pub(super) fn snapshot(&self) -> DirtyBitmap {
        lock(&self.state).content.seen()
    }

    /// How many bytes of the disk are dirty now, as clients see it.
    pub(super) fn dirty_bytes(&self) -> u64 {
        self.snapshot().dirty_bytes()
    }

    /// What queries say of it.
    pub(super) fn info(&self) -> BitmapInfo {
        let count = self.snapshot().count();
        let state = lock(&self.state);
        BitmapInfo {
            name: Some(self.name.clone()),
            count,
            granularity: u32::try_from(self.granularity.bytes()).unwrap_or(u32::MAX),
            recording: state.enabled,
            busy: state.is_busy(),
            persistent: self.place != Place::Nowhere,
            inconsistent: self.place.is_inconsistent().then_some(true),
        }
    }

    /// Whether writes count.
    pub(super) fn is_enabled(&self) -> bool {
        lock(&self.state).enabled
    }

    /// Empties it; gives what it held.
    pub(super) fn clear(&self, fresh: Option<Fresh>, closed: &mut ClosedGate<'_>) -> Before {
        let mut state = lock(&self.state);
        let mut empty = state.content.whole();
        empty.clear();
        let view = View::new(empty);
        let sets = fresh.map(|fresh| fresh.begin(view.recorder()));
        self.put(&mut state, Content::of(view), sets, closed)
    }

    /// Adds what is dirty in these; gives what it held.
    pub(super) fn merge(&self, sources: &[DirtyBitmap]) -> Before {
        let mut state = lock(&self.state);
        let content = state.content.merged(sources);
        state.stale = true;
        Before {
            content: Box::new(std::mem::replace(&mut state.content, content)),
            sets: state.sets.clone(),
        }
    }

    /// What it held is needed no more.
    pub(super) fn forget(&self, before: Before) {
        let mut state = lock(&self.state);
        let left = before.sets.iter().flat_map(|sets| sets.all());
        let used = |set: &&SetId| {
            state
                .sets
                .as_ref()
                .is_some_and(|sets| sets.all().contains(set))
        };
        let left: Vec<_> = left.filter(|set| !used(set)).copied().collect();
        state.gone.extend(left);
    }

    /// Puts back what it held.
    pub(super) fn restore(&self, before: Before, closed: &mut ClosedGate<'_>) {
        let mut state = lock(&self.state);
        self.put(&mut state, *before.content, before.sets, closed);
    }

    /// Lets writes count from now on, or not.
    pub(super) fn set_enabled(&self, enabled: bool, closed: &mut ClosedGate<'_>) {
        let mut state = lock(&self.state);
        state.uninstall(closed);
        state.enabled = enabled;
        state.install(closed);
    }

    /// Marks it as to be removed, or not.
    pub(super) fn set_leaving(&self, leaving: bool) {
        lock(&self.state).leaving = leaving;
    }

    /// Records no more; it is not of its node any longer.
    pub(super) fn retire(&self, closed: &mut ClosedGate<'_>) {
        lock(&self.state).uninstall(closed);
    }

    /// Gives the view to a job; [`come_back`](Self::come_back) ends that. Nothing if it is lent already.
    pub(super) fn lend(&self) -> Option<View> {
        lock(&self.state).content.lend()
    }

    /// What was lent records here from now on, in a new set if there is one. Gives the sets that the job was lent.
    pub(super) fn record_since(
        &self,
        since: &Recorder,
        fresh: Option<Fresh>,
        closed: &mut ClosedGate<'_>,
    ) -> Vec<SetId> {
        let mut state = lock(&self.state);
        state.uninstall(closed);
        closed.remove_recorder(since);
        if let Content::Lent { since: known, .. } = &mut state.content {
            *known = since.clone();
        }
        let before = state.sets.take();
        let lent = before
            .as_ref()
            .map(|sets| sets.all().to_vec())
            .unwrap_or_default();
        match before.and(fresh) {
            Some(fresh) => {
                let mut sets = fresh.begin(since);
                lent.iter().for_each(|set| sets.add(*set));
                state.sets = Some(sets);
            }
            // Without those before, or without a new one, they would say too little.
            None => state.gone.extend(&lent),
        }
        state.install_as(since, closed);
        lent
    }

    /// Takes back what a job left, and remembers the target that a partial's view speaks of. With `durable` the job
    /// committed and clears the bitmap: these are its sets whose granules a target holds now.
    pub(super) fn come_back(
        &self,
        settled: Settled,
        target: &Arc<Node>,
        durable: Option<&[SetId]>,
    ) {
        let mut state = lock(&self.state);
        let beneath = state.content.take_beneath();
        state.content = Content::left(settled, target, beneath.filter(|_| durable.is_none()));
        let durable = durable.unwrap_or_default();
        let gone = state.sets.as_mut().map(|sets| sets.remove(durable));
        state.gone.extend(gone.into_iter().flatten());
    }

    /// It is made of this set, too.
    pub(super) fn add_set(&self, set: SetId) {
        if let Some(sets) = &mut lock(&self.state).sets {
            sets.add(set);
        }
    }

    /// Names a set in its row, into which it may record next.
    pub(super) fn name_next(&self, set: SetId) {
        if let Some(sets) = &mut lock(&self.state).sets {
            sets.add_next(set);
        }
    }

    /// What may have recorded next does, or never will.
    pub(super) fn forget_next(&self) {
        if let Some(sets) = &mut lock(&self.state).sets {
            sets.forget_next();
        }
    }

    /// Whether it is made of this set, among others.
    pub(super) fn is_made_of(&self, set: SetId) -> bool {
        let state = lock(&self.state);
        state
            .sets
            .as_ref()
            .is_some_and(|sets| sets.all().contains(&set))
    }

    /// How it is written down, and the sets that may be dropped once it is. Makes it of few sets first, and of some that
    /// lack nothing.
    pub(super) fn row(&self, node: &str, store: Option<&NodeStore>) -> (BitmapRow, Vec<SetId>) {
        let mut state = lock(&self.state);
        state.condense(&self.name, store);
        let row = BitmapRow {
            node: node.to_owned(),
            name: self.name.clone(),
            granularity: self.granularity.bytes(),
            enabled: state.enabled,
            persistent: self.place == Place::Image,
            sets: state.sets.as_ref().map(SetNames::of),
        };
        (row, std::mem::take(&mut state.gone))
    }

    /// Answers for a partial that waits for a word. An error if none does.
    pub(super) fn decide(&self, keep: bool) -> Result<(), Error> {
        if lock(&self.state).content.decide(keep) {
            return Ok(());
        }
        let name = &self.name;
        let text = format!("Bitmap '{name}' does not wait for an answer");
        Err(Error::generic(text))
    }

    /// Whether a partial waits for a word.
    pub(super) fn is_undecided(&self) -> bool {
        lock(&self.state).content.is_undecided()
    }

    /// Counts an export that shows it, or one less.
    pub(super) fn set_exported(&self, exported: bool) {
        let mut state = lock(&self.state);
        state.exports = match exported {
            true => state.exports + 1,
            false => state.exports.saturating_sub(1),
        };
    }

    /// Whether the byte at `start` is dirty now, and for how far, at most `length`, that stays so. Also while a job has it
    /// every write is in it.
    pub(super) fn status(&self, start: u64, length: u64) -> Option<Stretch> {
        lock(&self.state).content.status(start, length)
    }

    fn put(
        &self,
        state: &mut State,
        content: Content,
        sets: Option<Sets>,
        closed: &mut ClosedGate<'_>,
    ) -> Before {
        state.uninstall(closed);
        let before = Before {
            content: Box::new(std::mem::replace(&mut state.content, content)),
            sets: std::mem::replace(&mut state.sets, sets),
        };
        state.install(closed);
        before
    }
}

impl State {
    fn is_busy(&self) -> bool {
        self.content.is_lent() || self.exports > 0 || self.leaving
    }

    /// Lets writes count, if they do.
    fn install(&self, closed: &mut ClosedGate<'_>) {
        self.install_as(&self.content.recorder(), closed);
    }

    fn install_as(&self, recorder: &Recorder, closed: &mut ClosedGate<'_>) {
        match &self.sets {
            _ if !self.enabled => {}
            Some(sets) => closed.install_recording(sets.recording().clone()),
            None => closed.install_recorder(recorder.clone()),
        }
    }

    /// Lets no write count.
    fn uninstall(&self, closed: &mut ClosedGate<'_>) {
        closed.remove_recorder(&self.content.recorder());
        if let Some(sets) = &self.sets {
            closed.remove_recording(sets.recording());
        }
    }

    /// Has it be made of what it holds and what records, if that is less or more than its sets.
    fn condense(&mut self, name: &str, store: Option<&NodeStore>) {
        if self.content.is_lent() {
            return;
        }
        let Some(sets) = &mut self.sets else { return };
        if !self.stale && sets.all().len() <= MOST_SETS {
            return;
        }
        let now = self.content.whole();
        let Some(one) = store.and_then(|store| store.write(name, &now)) else {
            if self.stale {
                self.sets = None;
            }
            return;
        };
        let recording = sets.recording().set();
        let others: Vec<_> = sets
            .all()
            .iter()
            .copied()
            .filter(|set| *set != recording)
            .collect();
        self.gone.extend(sets.remove(&others));
        sets.add(one);
        self.stale = false;
    }
}
