//! What a server says unasked.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::argument::{Argument, choices, record};
use crate::session::line;
use crate::shape::Entry;

record! {
    /// An event and when it happened.
    Told { timestamp: Timestamp } by event: Event
}

record! {
    /// Time since 1970.
    Timestamp { seconds: i64, microseconds: i64 }
}

record! {
    /// A job is in another status.
    JobStatusChange { id: String, status: String }
}

record! {
    /// Where a block job stands.
    BlockJobState { r#type: String, device: String, len: u64, offset: u64, speed: u64, error: Option<String> }
}

record! {
    /// A block job waits for a word.
    BlockJobPending { r#type: String, id: String }
}

record! {
    /// A request of a block job failed.
    BlockJobError { device: String, operation: String, action: String }
}

record! {
    /// An export is gone.
    ExportDeleted { id: String }
}

record! {
    /// The server ends.
    Shutdown { guest: bool, reason: String }
}

record! {
    /// So many events were not sent, because their receiver did not read.
    Lagged { missed: u64 }
}

choices! {
    /// What happened.
    Event by "event" in "data" {
        JobStatusChange(JobStatusChange) = "JOB_STATUS_CHANGE",
        BlockJobCompleted(BlockJobState) = "BLOCK_JOB_COMPLETED",
        BlockJobCancelled(BlockJobState) = "BLOCK_JOB_CANCELLED",
        BlockJobReady(BlockJobState) = "BLOCK_JOB_READY",
        BlockJobPending(BlockJobPending) = "BLOCK_JOB_PENDING",
        BlockJobError(BlockJobError) = "BLOCK_JOB_ERROR",
        BlockExportDeleted(ExportDeleted) = "BLOCK_EXPORT_DELETED",
        Shutdown(Shutdown) = "SHUTDOWN",
        Lagged(Lagged) = "x-cohort-lagged",
    }
}

/// For `query-qmp-schema`.
pub(crate) const ENTRIES: &[Entry] = &[
    entry("JOB_STATUS_CHANGE", JobStatusChange::shape),
    entry("BLOCK_JOB_COMPLETED", BlockJobState::shape),
    entry("BLOCK_JOB_CANCELLED", BlockJobState::shape),
    entry("BLOCK_JOB_READY", BlockJobState::shape),
    entry("BLOCK_JOB_PENDING", BlockJobPending::shape),
    entry("BLOCK_JOB_ERROR", BlockJobError::shape),
    entry("BLOCK_EXPORT_DELETED", ExportDeleted::shape),
    entry("SHUTDOWN", Shutdown::shape),
    entry("x-cohort-lagged", Lagged::shape),
];

const fn entry(name: &'static str, arguments: fn() -> crate::shape::Shape) -> Entry {
    Entry {
        name,
        arguments: Some(arguments),
        returns: None,
        is_event: true,
    }
}

impl Event {
    /// As it goes over the wire, a line, with the time it happened at.
    pub fn line_at(self, when: SystemTime) -> Vec<u8> {
        let since = when.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let timestamp = Timestamp {
            seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            microseconds: since.subsec_micros().into(),
        };
        let event = self;
        line(&Told { timestamp, event })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn schema_lists_every_event() {
        let listed: BTreeSet<_> = ENTRIES.iter().map(|entry| entry.name).collect();
        assert_eq!(listed, Event::WORDS.iter().copied().collect());
    }

    #[test]
    fn an_event_is_its_name_its_data_and_the_time() {
        let data = ExportDeleted { id: "e".to_owned() };
        let when = UNIX_EPOCH + Duration::from_micros(1_700_000_000_000_001);
        let line = Event::BlockExportDeleted(data).line_at(when);
        let told: serde_json::Value = serde_json::from_slice(&line).unwrap();
        let expected = serde_json::json!({
            "timestamp": { "seconds": 1_700_000_000, "microseconds": 1 },
            "event": "BLOCK_EXPORT_DELETED",
            "data": { "id": "e" },
        });
        assert_eq!(told, expected);
    }
}
