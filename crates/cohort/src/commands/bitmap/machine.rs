//! `cohort bitmap list qmp:SOCKET`: the bitmaps in a running machine, and which of them are checkpoints.

use std::path::Path;

use serde::Serialize;

use crate::exit::Exit;
use crate::failure::Result;
use crate::human;
use crate::machine::{Checkpoint, checkpoints};
use crate::output::{self, json_line, print_line};

/// All bitmaps of a machine, as JSON gives them.
#[derive(Debug, Serialize)]
struct JsonMachine<'a> {
    event: &'static str,
    path: String,
    bitmaps: Vec<JsonCheckpoint<'a>>,
}

#[derive(Debug, Serialize)]
struct JsonCheckpoint<'a> {
    node: &'a str,
    name: &'a str,
    granularity_bytes: u64,
    /// Nothing where it does not say the truth.
    dirty_bytes: Option<u64>,
    state: &'static str,
    /// Of a checkpoint: the run at whose instant it began, and the begin of its directory's id.
    run: Option<u64>,
    directory: Option<&'a str>,
}

pub(super) fn list(monitor: &Path, json: bool) -> Result {
    let found = checkpoints(monitor)?;
    if json {
        json_line(&JsonMachine {
            event: "bitmaps",
            path: format!("qmp:{}", monitor.display()),
            bitmaps: found.iter().map(json_checkpoint).collect(),
        });
    } else if found.is_empty() {
        print_line("no bitmaps");
    } else {
        print(&found);
    }
    Ok(Exit::Done)
}

fn json_checkpoint(found: &Checkpoint) -> JsonCheckpoint<'_> {
    JsonCheckpoint {
        node: &found.node,
        name: &found.name,
        granularity_bytes: found.granularity,
        dirty_bytes: found.dirty_bytes,
        state: found.state,
        run: found.of.as_ref().map(|(_, run)| *run),
        directory: found.of.as_ref().map(|(directory, _)| directory.as_str()),
    }
}

fn print(found: &[Checkpoint]) {
    let mut table = output::table(&["NODE", "NAME", "GRANULE", "DIRTY", "STATE", "CHECKPOINT"]);
    for one in found {
        let dirty = one.dirty_bytes.map_or_else(|| "-".to_owned(), human::bytes);
        let of = one.of.as_ref();
        table.add_row([
            one.node.clone(),
            one.name.clone(),
            human::bytes(one.granularity),
            dirty,
            one.state.to_owned(),
            of.map_or_else(String::new, |(directory, run)| {
                format!("run {run} into {directory}…")
            }),
        ]);
    }
    print_line(&table.trim_fmt());
}
