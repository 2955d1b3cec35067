//! What a subscriber is told: spans and events, with the names and fields that the guide promises. It has a
//! program of its own, since a subscriber that every thread sees is set once.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use cohort_job::{Engine, JobSpec, Step, from_fn};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Writes everything down.
#[derive(Clone, Default)]
struct Scribe {
    next: Arc<AtomicU64>,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    /// Open spans, with how often they are held.
    open: BTreeMap<u64, (String, usize)>,
    lines: Vec<String>,
    entered: Vec<u64>,
}

#[derive(Default)]
struct Fields(String);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0 += &format!(" {}={value:?}", field.name());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0 += &format!(" {}={value}", field.name());
    }
}

impl Subscriber for Scribe {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let id = 1 + self.next.fetch_add(1, Ordering::SeqCst);
        let mut fields = Fields::default();
        span.record(&mut fields);
        let mut seen = self.seen.lock().unwrap();
        let within = match span.parent() {
            Some(parent) => format!(" in {}", seen.open[&parent.into_u64()].0),
            None => String::new(),
        };
        let text = format!("{}{}", span.metadata().name(), fields.0);
        seen.lines.push(format!("open {text}{within}"));
        seen.open.insert(id, (text, 1));
        Id::from_u64(id)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let mut seen = self.seen.lock().unwrap();
        let parent = event.parent().map(Id::into_u64);
        let within = parent.or(seen.entered.last().copied());
        let within = within.map_or("nothing", |id| &seen.open[&id].0);
        let line = format!("{within}:{}", fields.0);
        seen.lines.push(line);
    }

    fn enter(&self, id: &Id) {
        self.seen.lock().unwrap().entered.push(id.into_u64());
    }

    fn exit(&self, id: &Id) {
        assert_eq!(self.seen.lock().unwrap().entered.pop(), Some(id.into_u64()));
    }

    fn clone_span(&self, id: &Id) -> Id {
        self.seen
            .lock()
            .unwrap()
            .open
            .get_mut(&id.into_u64())
            .unwrap()
            .1 += 1;
        id.clone()
    }

    fn try_close(&self, id: Id) -> bool {
        let mut seen = self.seen.lock().unwrap();
        let (_, holds) = seen.open.get_mut(&id.into_u64()).unwrap();
        *holds -= 1;
        let last = *holds == 0;
        if last {
            seen.open.remove(&id.into_u64());
        }
        last
    }
}

#[test]
fn a_group_is_told_in_spans_that_close() {
    let scribe = Scribe::default();
    tracing::subscriber::set_global_default(scribe.clone()).unwrap();
    // One thread, so that what is entered is entered in order.
    let engine = Engine::builder().threads(1).build().unwrap();
    let mut txn = engine.group("night");
    let driver = from_fn(|_| {
        tracing::info!("from inside the step");
        Step::failed("no luck")
    });
    let job = txn.add(JobSpec::new("disk0").kind("backup"), driver);
    let group = txn.launch();
    group.wait();
    let id = job.unwrap().id();
    let seen = scribe.seen.lock().unwrap();
    let job = format!("job job={id} name=disk0 kind=backup");
    let txn = format!("transaction txn={} group=night", group.id());
    for expected in [
        format!("open {txn}"),
        format!("open {job} in {txn}"),
        format!("{job}: status=created"),
        format!("{job}: message=from inside the step"),
        format!("{job}: message=failed error=no luck"),
        format!("{txn}: verdict=Abort {{ cause: Failed(0), disposition: Keep }}"),
        format!("{job}: outcome=failed error=no luck"),
        format!("{job}: status=concluded"),
    ] {
        assert!(
            seen.lines.contains(&expected),
            "{expected}\n{:#?}",
            seen.lines
        );
    }
    assert!(seen.open.is_empty(), "{:?}", seen.open);
}
