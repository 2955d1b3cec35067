//! Actions that are launched together: all of them, or none.
//!
//! Every gate that they need is closed once, for all of them: so they share one instant. Inside, each action looks and
//! changes in the order of the list; the first that is refused undoes those before it, the last one first. What takes
//! its time (threads, target files, the search for what is allocated) is done before.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use cohort_bitmap::store::SetId;
use cohort_block::{ClosedGate, close_all};
use cohort_job::Txn;
use cohort_qmp::{
    ActionKind, Argument, Backup, BitmapAdd, BitmapMerge, BitmapRef, CompletionMode, Error,
    Transaction,
};

use super::backup::Early;
use super::bitmap_commands::{self, Undo, node_to_add_to};
use super::nodes::{Graph, Node};
use super::place::Purpose;
use super::state::{Fresh, JobRow};
use super::tally::Tally;
use super::{Answer, Daemon, GATE_WAIT, generic, lock, nothing};

/// A change of a bitmap.
pub(super) enum Change {
    Add(BitmapAdd),
    Remove(BitmapRef),
    Clear(BitmapRef),
    Enable(BitmapRef),
    Disable(BitmapRef),
    Merge(BitmapMerge),
}

impl Change {
    /// The node whose gate it needs.
    fn node(&self) -> &str {
        match self {
            Self::Add(add) => &add.node,
            Self::Remove(of) | Self::Clear(of) | Self::Enable(of) | Self::Disable(of) => &of.node,
            Self::Merge(merge) => &merge.node,
        }
    }

    /// Does it.
    fn apply(
        &self,
        graph: &Graph,
        gates: &mut Gates<'_>,
        fresh: Option<Fresh>,
    ) -> Result<Undo, Error> {
        let missing = || Error::generic(format!("Node '{}' not found", self.node()));
        match self {
            Self::Add(add) => {
                let node = node_to_add_to(graph, add)?;
                let closed = gates.of(&node).ok_or_else(missing)?;
                bitmap_commands::add(&node, add, fresh, closed)
            }
            Self::Remove(of) => bitmap_commands::remove(graph, of),
            Self::Merge(merge) => bitmap_commands::merge(graph, merge),
            Self::Clear(of) => {
                let closed = gates.named(graph, &of.node).ok_or_else(missing)?;
                bitmap_commands::clear(graph, of, fresh, closed)
            }
            Self::Enable(of) => {
                let closed = gates.named(graph, &of.node).ok_or_else(missing)?;
                bitmap_commands::set_enabled(graph, of, true, closed)
            }
            Self::Disable(of) => {
                let closed = gates.named(graph, &of.node).ok_or_else(missing)?;
                bitmap_commands::set_enabled(graph, of, false, closed)
            }
        }
    }
}

/// The gates that are closed, with their nodes. When they open, it is counted how long they were closed.
pub(super) struct Gates<'a> {
    /// Each node with the place of its gate, by its name.
    places: HashMap<&'a str, (&'a Arc<Node>, usize)>,
    closed: Vec<ClosedGate<'a>>,
    began: Instant,
    tally: &'a Tally,
}

impl<'a> Gates<'a> {
    /// Closes the gates of these nodes, each of which is named once.
    fn close(nodes: &'a [Arc<Node>], who: &str, tally: &'a Tally) -> Result<Self, Error> {
        let gated: Vec<_> = nodes.iter().map(|node| &*node.disk).collect();
        let began = Instant::now();
        let closed = close_all(&gated, who, began + GATE_WAIT);
        let closed = closed.map_err(|error| Error::generic(error.to_string()))?;
        let places = nodes.iter().enumerate();
        let places = places.map(|(place, node)| (&*node.name, (node, place)));
        Ok(Self {
            places: places.collect(),
            closed,
            began,
            tally,
        })
    }

    /// The gate of a node, if it is among them.
    pub(super) fn of(&mut self, node: &Arc<Node>) -> Option<&mut ClosedGate<'a>> {
        let (known, place) = self.places.get(&*node.name)?;
        let is_it = Arc::ptr_eq(known, node);
        self.closed.get_mut(*place).filter(|_| is_it)
    }

    /// The same, by name.
    fn named(&mut self, graph: &Graph, name: &str) -> Option<&mut ClosedGate<'a>> {
        self.of(graph.find(name)?)
    }

    fn settle(&mut self, undo: Undo, how: impl FnOnce(Undo, &mut ClosedGate<'_>)) {
        let node = match &undo {
            Undo::Added(node, _)
            | Undo::Removed(node, _)
            | Undo::Changed(node, ..)
            | Undo::Enabled(node, ..) => node.clone(),
        };
        if let Some(closed) = self.of(&node) {
            how(undo, closed);
        }
    }
}

impl Drop for Gates<'_> {
    fn drop(&mut self) {
        if !self.closed.is_empty() {
            self.closed.clear();
            self.tally.fenced(self.began.elapsed());
        }
    }
}

/// What is to be done, and for a backup what could be done early.
enum Task {
    Abort,
    Change(Change),
    Backup(Box<Backup>, Box<Early>),
}

impl Task {
    /// How a job is written down.
    fn row(&self) -> Option<JobRow> {
        let Task::Backup(backup, _) = self else {
            return None;
        };
        Some(JobRow {
            id: backup.common.job_id.clone().unwrap_or_default(),
            kind: "backup".to_owned(),
            command: "blockdev-backup".to_owned(),
            arguments: backup.write(),
            ended: None,
        })
    }
}

/// What was done.
pub(super) enum Done {
    Changed(Undo),
    /// A job, with its group if that is its own.
    Job(Option<Txn>),
}

impl Daemon {
    /// One change of a bitmap by itself.
    pub(super) fn change_bitmap(self: &Arc<Self>, change: Change) -> Answer {
        self.carry_out(vec![Task::Change(change)], false)
    }

    /// One backup by itself.
    pub(super) fn blockdev_backup(self: &Arc<Self>, backup: Backup) -> Answer {
        let early = self.prepare_backup(&backup, None);
        self.carry_out(vec![Task::Backup(Box::new(backup), Box::new(early))], false)
    }

    /// One backup into a file that is made for it.
    pub(super) fn drive_backup(self: &Arc<Self>, backup: cohort_qmp::DriveBackup) -> Answer {
        let (backup, target) = self.make_drive(backup)?;
        let early = self.prepare_backup(&backup, Some(target));
        self.carry_out(vec![Task::Backup(Box::new(backup), Box::new(early))], false)
    }

    pub(super) fn transaction(self: &Arc<Self>, transaction: Transaction) -> Answer {
        let mode = transaction
            .properties
            .and_then(|properties| properties.completion_mode);
        let grouped = mode == Some(CompletionMode::Grouped);
        let mut tasks = Vec::new();
        if grouped {
            for action in &transaction.actions {
                let may_be_grouped = matches!(
                    action.action,
                    ActionKind::BlockdevBackup(_) | ActionKind::DriveBackup(_)
                );
                if !may_be_grouped {
                    let kind = action.action.word();
                    return generic(format!(
                        "Action '{kind}' does not support transaction property completion-mode = grouped"
                    ));
                }
            }
        }
        for action in transaction.actions {
            tasks.push(match action.action {
                ActionKind::Abort(_) => Task::Abort,
                ActionKind::BitmapAdd(add) => Task::Change(Change::Add(add)),
                ActionKind::BitmapRemove(of) => Task::Change(Change::Remove(of)),
                ActionKind::BitmapClear(of) => Task::Change(Change::Clear(of)),
                ActionKind::BitmapEnable(of) => Task::Change(Change::Enable(of)),
                ActionKind::BitmapDisable(of) => Task::Change(Change::Disable(of)),
                ActionKind::BitmapMerge(merge) => Task::Change(Change::Merge(merge)),
                ActionKind::BlockdevBackup(backup) => {
                    let early = self.prepare_backup(&backup, None);
                    Task::Backup(Box::new(backup), Box::new(early))
                }
                ActionKind::DriveBackup(backup) => {
                    let (backup, target) = self.make_drive(backup)?;
                    let early = self.prepare_backup(&backup, Some(target));
                    Task::Backup(Box::new(backup), Box::new(early))
                }
            });
        }
        self.carry_out(tasks, grouped)
    }

    fn carry_out(self: &Arc<Self>, tasks: Vec<Task>, grouped: bool) -> Answer {
        let graph = self.graph();
        let nodes = nodes_of(&graph, &tasks);
        let fresh = self.prepare_sets(&graph, &nodes, &tasks)?;
        let prepared = fresh.iter().flatten();
        let prepared: Vec<_> = prepared.map(|fresh| (fresh.store(), fresh.set())).collect();
        let rows = tasks.iter().filter_map(Task::row).collect();
        let mut gates = Gates::close(&nodes, "a command", &self.tally)?;
        let mut group = grouped.then(|| self.engine.group(self.state.group_name()));
        let mut done = Vec::new();
        for (task, fresh) in tasks.into_iter().zip(fresh) {
            match self.do_one(&graph, &mut gates, task, fresh, &mut group) {
                Ok(one) => done.push(one),
                Err(error) => {
                    roll_back(done, group, &mut gates);
                    drop(gates);
                    // What was refused is what counts.
                    let _ = self.settle_sets(&nodes, &prepared, Vec::new());
                    return Err(error);
                }
            }
        }
        let mut groups: Vec<Txn> = group.into_iter().collect();
        for one in done {
            match one {
                Done::Changed(undo) => gates.settle(undo, Undo::forget),
                Done::Job(own) => groups.extend(own),
            }
        }
        drop(gates);
        let written = self.settle_sets(&nodes, &prepared, rows);
        launch(groups);
        written.and_then(|()| nothing())
    }

    /// Makes the sets durable into which bitmaps record once the gates were closed, one for each task that begins one, and
    /// names them in the rows of those bitmaps: whatever is written from then on is in a set that is named.
    fn prepare_sets(
        &self,
        graph: &Graph,
        nodes: &[Arc<Node>],
        tasks: &[Task],
    ) -> Result<Vec<Option<Fresh>>, Error> {
        let mut fresh = Vec::new();
        for (index, task) in tasks.iter().enumerate() {
            fresh.push(self.prepare_set(graph, task, &tasks[..index]));
        }
        if fresh.iter().any(Option::is_some) {
            self.write_down(nodes, Vec::new())?;
        }
        Ok(fresh)
    }

    fn prepare_set(&self, graph: &Graph, task: &Task, before: &[Task]) -> Option<Fresh> {
        let (node, name) = match task {
            Task::Change(Change::Add(add)) => {
                let node = graph.find(&add.node)?;
                let granularity = bitmap_commands::granularity(node, add).ok()?;
                return self.state.store_for(node)?.prepare(&add.name, granularity);
            }
            Task::Change(Change::Clear(of)) => (graph.find(&of.node)?, &of.name),
            Task::Backup(backup, _) => (
                graph.find(&backup.common.device)?,
                backup.common.bitmap.as_ref()?,
            ),
            Task::Abort | Task::Change(_) => return None,
        };
        let added = before.iter().find_map(|task| match task {
            Task::Change(Change::Add(add)) if add.node == node.name && add.name == *name => {
                bitmap_commands::granularity(node, add).ok()
            }
            Task::Abort | Task::Change(_) | Task::Backup(..) => None,
        });
        // Whoever has it goes on recording into the set that there is.
        let bitmap = node
            .bitmap(name)
            .filter(|bitmap| bitmap.check(Purpose::Change).is_ok());
        let granularity = added.or(bitmap.as_ref().map(|bitmap| bitmap.granularity))?;
        let fresh = self.state.store_for(node)?.prepare(name, granularity)?;
        if let Some(bitmap) = bitmap {
            bitmap.name_next(fresh.set());
        }
        Some(fresh)
    }

    /// Writes down what bitmaps are made of now, and drops those of the prepared sets that are of none.
    fn settle_sets(
        &self,
        nodes: &[Arc<Node>],
        prepared: &[([u8; 16], SetId)],
        jobs: Vec<JobRow>,
    ) -> Result<(), Error> {
        for node in nodes {
            lock(&node.bitmaps)
                .iter()
                .for_each(|bitmap| bitmap.forget_next());
        }
        self.write_down(nodes, jobs)?;
        for node in nodes {
            let Some(store) = self.state.store_of(&node.name) else {
                continue;
            };
            let bitmaps = lock(&node.bitmaps).clone();
            let is_used = |set: SetId| bitmaps.iter().any(|bitmap| bitmap.is_made_of(set));
            let of_node = prepared.iter().filter(|(id, _)| *id == store.id());
            let unused = of_node.map(|(_, set)| *set).filter(|set| !is_used(*set));
            store.drop_sets(&unused.collect::<Vec<_>>());
        }
        Ok(())
    }

    fn do_one(
        self: &Arc<Self>,
        graph: &Graph,
        gates: &mut Gates<'_>,
        task: Task,
        fresh: Option<Fresh>,
        group: &mut Option<Txn>,
    ) -> Result<Done, Error> {
        match task {
            Task::Abort => Err(Error::generic("Transaction aborted using Abort action")),
            Task::Change(change) => change.apply(graph, gates, fresh).map(Done::Changed),
            Task::Backup(backup, early) => {
                self.start_backup(graph, gates, &backup, *early, fresh, group)
            }
        }
    }
}

/// Every node that needs a closed gate, once.
fn nodes_of(graph: &Graph, tasks: &[Task]) -> Vec<Arc<Node>> {
    let mut named = HashSet::new();
    let names = tasks.iter().filter_map(|task| match task {
        Task::Abort => None,
        Task::Change(change) => Some(change.node()),
        Task::Backup(backup, _) => Some(&*backup.common.device),
    });
    let nodes = names.filter(|name| named.insert(*name));
    nodes.filter_map(|name| graph.find(name).cloned()).collect()
}

/// Undoes what was done, the last thing first.
fn roll_back(done: Vec<Done>, group: Option<Txn>, gates: &mut Gates<'_>) {
    // A group's jobs are undone together, before anything that came before them.
    if let Some(group) = group {
        abandon(group);
    }
    for one in done.into_iter().rev() {
        match one {
            Done::Changed(undo) => gates.settle(undo, Undo::undo),
            Done::Job(own) => own.into_iter().for_each(abandon),
        }
    }
}

/// Lets the jobs of a group settle without having run, and waits for that.
fn abandon(group: Txn) {
    let handle = group.handle();
    drop(group);
    handle.wait();
}

/// Starts every job. Each is held until all are started, as QEMU's are while it has the disks drained.
fn launch(groups: Vec<Txn>) {
    let holds: Vec<_> = groups
        .iter()
        .map(|group| group.handle().hold_all())
        .collect();
    for group in groups {
        group.launch();
    }
    drop(holds);
}
