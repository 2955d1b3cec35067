//! The start of a daemon that has a state directory: what the one before had is made again, each thing by itself.

use std::sync::Arc;
use std::time::Instant;

use cohort_bitmap::store::{Away, Excess, Inspection};
use cohort_bitmap::{DirtyBitmap, Granularity};
use cohort_block::Device;
use cohort_job::{Cause, DriverExt, JobSpec, Step, from_fn};
use cohort_qmp::{Command, Error, Kept};
use serde_json::Value;

use super::rows::Asked;
use super::stores::NodeStore;
use super::{BitmapRow, Clears, JobEnd, JobRow, Row};
use crate::daemon::bitmaps::Bitmap;
use crate::daemon::jobs::{Entry, SharedIoStatus};
use crate::daemon::nodes::Node;
use crate::daemon::place::Place;
use crate::daemon::{Daemon, GATE_WAIT, complain, stored};

impl Daemon {
    /// Makes again what nobody writes through: to be called when the disks of the command line are there, and before
    /// anything is exported.
    pub(crate) fn restore_nodes(self: &Arc<Self>) {
        if !self.state.is_kept() {
            return;
        }
        self.run_owed_hooks();
        let rows = self.state.rows();
        for row in &rows {
            if let Row::Object(asked) | Row::Node(asked) = row {
                self.tell_of(row, self.ask_again(asked));
            }
        }
        self.restore_bitmaps(&rows);
        for name in self.names_of_nodes() {
            complain_of(self.keep_found_bitmaps(&name));
        }
        for row in rows {
            if let Row::Job(job) = row {
                self.tell_job(job);
            }
        }
        self.state.flush();
    }

    /// Makes the server and the exports again: to be called last.
    pub(crate) fn restore_exports(self: &Arc<Self>) {
        for row in self.state.rows() {
            if let Row::Server(asked) | Row::Export(asked) = &row {
                self.tell_of(&row, self.ask_again(asked));
            }
        }
    }

    /// Of those that somebody asked for, here or on the command line.
    fn names_of_nodes(&self) -> Vec<String> {
        let graph = self.graph();
        let nodes = graph.newest_first().filter(|node| node.has_name());
        nodes.map(|node| node.name.clone()).collect()
    }

    fn ask_again(self: &Arc<Self>, asked: &Asked) -> Result<(), Error> {
        let Value::Object(arguments) = asked.arguments.clone() else {
            return Err(Error::generic("its row has no arguments"));
        };
        self.dispatch(Command::read(&asked.command, arguments)?)?;
        Ok(())
    }

    fn tell_of(&self, row: &Row, made: Result<(), Error>) {
        let (kind, name) = (row.kind(), row.name());
        let text = match &made {
            Ok(()) => String::new(),
            Err(_) if kind == Kept::Server && self.exports.is_served() => {
                "the command line says where to listen now".to_owned()
            }
            Err(error) => error.text.clone(),
        };
        self.state.tell(kind, name, made.is_ok(), text);
    }

    /// Groups that were decided: what their verdict means is done in the rows, perhaps for the second time.
    fn run_owed_hooks(&self) {
        let recovered = self.engine.recover(|_, member, _, record| {
            let (state, id) = (self.state.clone(), member.as_str().to_owned());
            let clears = serde_json::from_slice::<Clears>(&record.0).ok();
            let (aborted, of_aborted) = (state.clone(), id.clone());
            let hooks = from_fn(|_| Step::done())
                .on_commit(move |_| {
                    let done = state.change(|rows| {
                        rows.end_job(&id, JobEnd { error: None });
                        if let Some(clears) = &clears {
                            rows.clear(clears);
                        }
                    });
                    complain_of(done);
                })
                .on_abort(move |why| {
                    let error = Some(aborted_by(why.cause).to_owned());
                    complain_of(aborted.change(|rows| rows.end_job(&of_aborted, JobEnd { error })));
                });
            Some(Box::new(hooks) as _)
        });
        match recovered {
            Ok(recovered) => recovered.groups.iter().for_each(|group| _ = group.wait()),
            Err(error) => complain(&format!("what was decided cannot be read: {error}")),
        }
    }

    fn restore_bitmaps(self: &Arc<Self>, rows: &[Row]) {
        let bitmaps = rows.iter().filter_map(|row| match row {
            Row::Bitmap(bitmap) => Some(bitmap),
            Row::Object(_) | Row::Node(_) | Row::Job(_) | Row::Server(_) | Row::Export(_) => None,
        });
        let mut rest: Vec<&BitmapRow> = bitmaps.collect();
        while let Some(first) = rest.first() {
            let (of_node, others): (Vec<_>, Vec<_>) =
                rest.iter().partition(|row| row.node == first.node);
            let node = self.graph().find(&first.node).cloned();
            match node {
                Some(node) => self.restore_bitmaps_of(&node, &of_node),
                None => of_node.iter().for_each(|row| {
                    let text = format!("there is no node '{}'", row.node);
                    self.state.tell(Kept::Bitmap, name(row), false, text);
                }),
            }
            rest = others;
        }
    }

    /// Makes the bitmaps of a node again. Each begins a set of its own; what it was is in another.
    fn restore_bitmaps_of(&self, node: &Arc<Node>, rows: &[&BitmapRow]) {
        let opened = self.state.reopen_store(node);
        let known = |row: &BitmapRow| {
            let found = opened.as_ref().map_err(Clone::clone);
            known(node, row, found.map(|(store, found)| (&**store, found)))
        };
        let known: Vec<_> = rows.iter().map(|row| known(row)).collect();
        let store = match &opened {
            Ok((store, _)) => Some(store.clone()),
            Err(_) => self.state.store_for(node),
        };
        let prepare = |row: &BitmapRow, found: &Found| {
            let granularity = found.bits.as_ref()?.granularity();
            store.as_ref()?.prepare(&row.name, granularity)
        };
        let mut fresh: Vec<_> = rows
            .iter()
            .zip(&known)
            .map(|(row, found)| prepare(row, found))
            .collect();
        let closed = node.disk.close("bitmaps", Instant::now() + GATE_WAIT);
        let Ok(mut closed) = closed else {
            // Nobody writes yet.
            return complain(&format!("bitmaps of node {} are not back", node.name));
        };
        let mut named = Vec::new();
        for (index, (row, found)) in rows.iter().zip(known).enumerate() {
            let Some(bits) = found.bits else {
                self.state.tell(Kept::Bitmap, name(row), false, found.text);
                continue;
            };
            let before = store
                .as_ref()
                .and_then(|store| store.write(&row.name, &bits));
            // A set that lacks what was is of no use.
            let fresh = before.and(fresh[index].take());
            named.extend(before);
            named.extend(fresh.as_ref().map(|fresh| fresh.set()));
            let (enabled, place) = (found.enabled, found.place);
            let bitmap = Bitmap::new(&row.name, bits, enabled, place, fresh, &mut closed);
            before.into_iter().for_each(|set| bitmap.add_set(set));
            node.put_bitmap(bitmap, &mut closed);
            self.state.tell(Kept::Bitmap, name(row), true, found.text);
        }
        drop(closed);
        complain_of(self.write_down(std::slice::from_ref(node), Vec::new()));
        if let Some(store) = store {
            store.keep_only(&named);
        }
    }

    /// Shows what became of a job: as one that is concluded, until it is dismissed.
    fn tell_job(&self, row: JobRow) {
        let cut_short = || {
            let mut said = "the daemon ended before there was a verdict".to_owned();
            let argument = |name: &str| row.arguments[name].as_str();
            if let Some(directory) = argument("directory") {
                said += &format!("; the next run into {directory} goes on from what is there");
            }
            if let Some((node, bitmap)) = argument("device").zip(argument("bitmap")) {
                said += &format!(
                    "; bitmap '{bitmap}' of node '{node}' has what it had, and what was written since"
                );
            }
            JobEnd { error: Some(said) }
        };
        let text = match &row.ended {
            Some(_) => String::new(),
            None => "it was cut short, and is shown as one that failed".to_owned(),
        };
        let back = row.ended.is_some();
        let ended = row.ended.clone().unwrap_or_else(cut_short);
        let kind = match &*row.kind {
            "create" => "create",
            _ => "backup",
        };
        let error = ended.error.clone();
        let tells = from_fn(move |_| match &error {
            None => Step::done(),
            Some(error) => Step::failed(error.clone()),
        });
        let mut group = self.engine.group(format!("ended-{}", row.id));
        let spec = JobSpec::new(&row.id).kind(kind).manual_dismiss();
        let Ok(handle) = group.add(spec, tells) else {
            return self
                .state
                .tell(Kept::Job, row.id, false, "its id is taken".to_owned());
        };
        self.jobs.add(Entry {
            id: row.id.clone(),
            handle: handle.clone(),
            kind,
            auto_finalize: true,
            auto_dismiss: false,
            started: false,
            before: true,
            outside: false,
            error: ended.error.clone(),
            io_status: Arc::new(SharedIoStatus::default()),
        });
        group.launch();
        handle.wait();
        complain_of(self.state.change(|rows| rows.end_job(&row.id, ended)));
        self.state.tell(Kept::Job, row.id, back, text);
    }
}

/// What a bitmap is, and what is to be said of that.
struct Found {
    /// Nothing if it cannot be.
    bits: Option<DirtyBitmap>,
    enabled: bool,
    place: Place,
    text: String,
}

/// What a bitmap is. What its node's image says of it is true if that was closed in order, whoever did it; a store knows
/// more than an image that was not.
fn known(node: &Node, row: &BitmapRow, store: Result<(&NodeStore, &Inspection), String>) -> Found {
    let in_image = node.bitmap(&row.name);
    let place = match &in_image {
        Some(bitmap) if bitmap.place == Place::Image => {
            return Found {
                bits: Some(bitmap.snapshot()),
                enabled: bitmap.is_enabled(),
                place: Place::Image,
                text: String::new(),
            };
        }
        Some(bitmap) if !bitmap.place.is_read_only() => Place::Image,
        Some(bitmap) => {
            return Found {
                bits: None,
                enabled: false,
                place: bitmap.place,
                text: "its image has it, and is only read now".to_owned(),
            };
        }
        None if row.persistent && stored::check_new(node, &row.name, granularity(row)).is_ok() => {
            Place::Image
        }
        None => Place::Nowhere,
    };
    let (bits, text) = match store.and_then(|(store, found)| union(node, row, store, found)) {
        Ok((bits, text)) => (Ok(bits), text),
        Err(why) => (
            DirtyBitmap::all_dirty(node.disk.size(), granularity(row)),
            format!("all of it counts as dirty: {why}"),
        ),
    };
    let (bits, text) = match bits {
        Ok(bits) => (Some(bits), text),
        Err(error) => (None, error.to_string()),
    };
    Found {
        bits,
        enabled: row.enabled,
        place,
        text,
    }
}

/// The union of its sets; or why that would say too little.
fn union(
    node: &Node,
    row: &BitmapRow,
    store: &NodeStore,
    found: &Inspection,
) -> Result<(DirtyBitmap, String), String> {
    if let Away::Refuted(why) = &found.away {
        return Err(why.clone());
    }
    let sets = row.sets.as_ref().ok_or("nothing kept what it held")?;
    let sets = sets
        .in_store(store.id())
        .ok_or("its sets are of another store")?;
    let mut whole =
        DirtyBitmap::new(node.disk.size(), granularity(row)).map_err(|e| e.to_string())?;
    let mut excess = 0;
    for set in sets {
        let report = found
            .set(set)
            .ok_or_else(|| format!("set {set} is missing"))?;
        if let Some(lost) = &report.lost {
            return Err(lost.why.clone());
        }
        excess += report.excess_bytes;
        let fitted = report.dirty.fitted_to(&whole);
        whole.merge(&fitted).map_err(|error| error.to_string())?;
    }
    let text = match &found.away {
        Away::Unknown(_) => format!(
            "{}, if nobody else wrote to the disk meanwhile",
            Excess(excess)
        ),
        Away::Unrefuted | Away::Refuted(_) => String::new(),
    };
    Ok((whole, text))
}

/// What ended a group whose own words are lost.
fn aborted_by(cause: Cause) -> &'static str {
    match cause {
        Cause::Failed(_) => "a job of its group failed",
        Cause::Cancelled(_) | Cause::User | Cause::Rollback | Cause::Shutdown => {
            "Operation canceled"
        }
        Cause::ProcessEnded => "the daemon ended before there was a verdict",
    }
}

fn granularity(row: &BitmapRow) -> Granularity {
    Granularity::new(row.granularity).unwrap_or(Granularity::DEFAULT)
}

fn name(row: &BitmapRow) -> String {
    Row::Bitmap(row.clone()).name()
}

fn complain_of(done: Result<(), Error>) {
    if let Err(error) = done {
        complain(&error.text);
    }
}
