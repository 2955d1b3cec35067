//! A file that fails at any operation: writers go on, and nobody is told that a write is there which is not.

use super::*;

/// What a process did with its store while the file failed.
struct Story {
    /// The set, once it exists.
    set: Option<SetId>,
    /// Granules whose writes went out.
    written: Vec<u64>,
    lost: Option<Lost>,
}

fn story(file: &Arc<Memory>) -> Story {
    let mut story = Story {
        set: None,
        written: Vec::new(),
        lost: None,
    };
    let Ok(store) = Store::create(file.clone(), [7; 16], disk(), Mode::PowerLoss) else {
        return story;
    };
    let Ok(since) = store.begin(label("since"), Granularity::DEFAULT) else {
        return story;
    };
    story.set = Some(since.set());
    for (at, granule) in [5, 900, 6, 7, 901, 4000, 30, 31].into_iter().enumerate() {
        since.record(granule * GRANULE, 1);
        story.written.push(granule);
        if at == 3 {
            let checkpointed = store.checkpoint();
            assert_eq!(checkpointed.is_err(), store.lost().is_some());
        }
    }
    let closed = store.close(disk());
    assert_eq!(closed.is_err(), store.lost().is_some());
    story.lost = store.lost();
    story
}

#[test]
fn a_failure_of_any_operation_loses_the_set_from_then_on_and_stops_nobody() {
    let whole = Arc::new(Memory::default());
    story(&whole);
    let mut lost = 0;
    for after in 0..whole.operations() {
        let file = Arc::new(Memory::default());
        file.fail(after, 1);
        let story = story(&file);
        let Some(set) = story.set else { continue };
        lost += u64::from(story.lost.is_some());
        assert_eq!(story.written.len(), 8, "operation {after}");
        let found = inspect(&*file, Some(&disk())).unwrap();
        let report = found.set(set).unwrap();
        assert_eq!(report.lost, story.lost, "operation {after}");
        for granule in story.written {
            assert!(report.dirty.get(granule * GRANULE), "operation {after}");
        }
    }
    assert!(lost > 15, "{lost}");
}

/// A file that never recovers cannot be told so; a process that reads it finds what was safe before.
#[test]
fn a_file_that_never_recovers_is_lost_to_its_process() {
    let whole = Arc::new(Memory::default());
    story(&whole);
    for after in 0..whole.operations() {
        let file = Arc::new(Memory::default());
        file.fail(after, u64::MAX);
        let story = story(&file);
        if story.set.is_some() {
            assert!(story.lost.is_some(), "operation {after}");
        }
    }
}
