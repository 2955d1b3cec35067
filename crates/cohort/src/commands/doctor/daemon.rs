//! What a daemon has written down in its state directory: all that the next one makes again, and each may be forgotten.

use std::collections::BTreeMap;

use super::Finding;
use super::journal::Subject;
use crate::daemon::state::{Row, is_of_a_daemon};

/// Nothing if the notes are not a daemon's.
pub(super) fn findings(notes: &BTreeMap<String, Vec<u8>>) -> Vec<Finding<Subject>> {
    if !is_of_a_daemon(notes) {
        return Vec::new();
    }
    let numbered = notes.iter().filter(|(key, _)| key.parse::<u64>().is_ok());
    numbered.map(|(key, note)| row(key, note)).collect()
}

fn row(key: &str, note: &[u8]) -> Finding<Subject> {
    let subject = Subject::Note(key.to_owned());
    let row = match serde_json::from_slice::<Row>(note) {
        Ok(row) => row,
        Err(error) => {
            let number = key.trim_start_matches('0');
            let forget = "is removed: whatever it was, the next daemon cannot have it".to_owned();
            return Finding::new(
                format!("note:{number}"),
                format!("cannot be read ({error}), so what it stands for is not known"),
                "stays, holds up nothing else, and is told at every start; a newer program may read it",
                &[("forget", forget)],
                subject,
            );
        }
    };
    let (what, left, forget) = match &row {
        Row::Object(asked) | Row::Node(asked) | Row::Server(asked) | Row::Export(asked) => (
            format!("{} {}", asked.command, asked.arguments),
            "the next daemon makes it again",
            "the next daemon does not have it, nor what lies on it",
        ),
        Row::Bitmap(row) => (
            match &row.sets {
                Some(sets) => format!(
                    "a dirty bitmap of granularity {}, in {} sets of {}",
                    row.granularity,
                    sets.numbers.len(),
                    sets.store
                ),
                None => format!(
                    "a dirty bitmap of granularity {} that nothing kept: all of it counts as dirty",
                    row.granularity
                ),
            },
            "the next daemon has it again",
            "the next daemon does not have it: what was written since the last backup by it is forgotten",
        ),
        Row::Job(job) => (
            match job.ended.as_ref().map(|ended| &ended.error) {
                None => format!("was under way: {} {}", job.command, job.arguments),
                Some(None) => "ended well, and was not dismissed".to_owned(),
                Some(Some(error)) => format!("ended, and was not dismissed: {error}"),
            },
            "the next daemon tells what became of it, until it is dismissed",
            "the next daemon does not tell of it; bitmaps stay as they are",
        ),
    };
    let id = format!("{}:{}", row.kind(), row.name());
    Finding::new(id, what, left, &[("forget", forget.to_owned())], subject)
}
