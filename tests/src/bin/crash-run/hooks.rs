//! Tells the watch where a run is, from what the engine traces.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use cohort_tests::crash::Phase;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::watch;

/// Members of the group whose hooks have prepared so far, and how many there are.
static PREPARED: AtomicU32 = AtomicU32::new(0);
static MEMBERS: AtomicU32 = AtomicU32::new(0);

/// Whether the guests have written what they write while a run copies: nobody prepares before, so that it is known in
/// which phases they write.
static GUESTS_WROTE: Mutex<bool> = Mutex::new(false);
static TOLD: Condvar = Condvar::new();

thread_local! {
    /// The disks whose jobs this thread is in.
    static INSIDE: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Follows the phases of the one group that runs while the watch is armed.
#[derive(Default)]
pub(crate) struct Hooks {
    next: AtomicU64,
    spans: Mutex<HashMap<u64, Span>>,
}

struct Span {
    kind: Kind,
    handles: usize,
}

#[derive(Clone)]
enum Kind {
    Transaction,
    Job(String),
    Hook(String),
    Other,
}

/// The values that matter here.
#[derive(Default)]
struct Values {
    name: String,
    hook: String,
    status: String,
    verdict: String,
}

impl Visit for Values {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let text = format!("{value:?}");
        let text = text.trim_matches('"').to_owned();
        match field.name() {
            "name" => self.name = text,
            "hook" => self.hook = text,
            "status" => self.status = text,
            "verdict" => self.verdict = text,
            _ => {}
        }
    }
}

/// A group of so many members comes next.
pub(crate) fn expect(members: usize) {
    MEMBERS.store(members as u32, Ordering::SeqCst);
    PREPARED.store(0, Ordering::SeqCst);
    *guests_wrote() = false;
    watch::enter(Phase::Starting);
}

/// The guests write no more in this run.
pub(crate) fn guests_are_done() {
    *guests_wrote() = true;
    TOLD.notify_all();
}

fn guests_wrote() -> MutexGuard<'static, bool> {
    GUESTS_WROTE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wait_for_guests() {
    let wrote = TOLD.wait_while(guests_wrote(), |wrote| !*wrote);
    drop(wrote.unwrap_or_else(PoisonError::into_inner));
}

impl Hooks {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Span>> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kind(&self, id: &Id) -> Kind {
        let spans = self.lock();
        spans
            .get(&id.into_u64())
            .map_or(Kind::Other, |span| span.kind.clone())
    }
}

impl Subscriber for Hooks {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("cohort_job")
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut values = Values::default();
        span.record(&mut values);
        let kind = match span.metadata().name() {
            "transaction" => {
                watch::enter(Phase::Running);
                Kind::Transaction
            }
            "job" => Kind::Job(values.name),
            "hook" => Kind::Hook(values.hook),
            _ => Kind::Other,
        };
        let id = self.next.fetch_add(1, Ordering::SeqCst) + 1;
        self.lock().insert(id, Span { kind, handles: 1 });
        Id::from_u64(id)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut values = Values::default();
        event.record(&mut values);
        match (watch::phase(), &*values.status, &*values.verdict) {
            (Phase::Running | Phase::Preparing, "aborting", _) => watch::enter(Phase::Stopping),
            (Phase::Deciding, _, "Commit") => watch::enter(Phase::Committing),
            (Phase::Stopping, _, verdict) if !verdict.is_empty() => watch::enter(Phase::Aborting),
            _ => {}
        }
    }

    fn enter(&self, id: &Id) {
        match self.kind(id) {
            Kind::Job(name) => INSIDE.with_borrow_mut(|inside| inside.push(name)),
            Kind::Hook(hook) => {
                if hook == "prepare" {
                    wait_for_guests();
                }
                watch::enter(match &*hook {
                    "prepare" => Phase::Preparing,
                    "commit" => Phase::Committing,
                    "abort" => Phase::Aborting,
                    _ => Phase::Cleaning,
                });
                boundary(&hook, "begins");
            }
            Kind::Transaction | Kind::Other => {}
        }
    }

    fn exit(&self, id: &Id) {
        match self.kind(id) {
            Kind::Job(_) => INSIDE.with_borrow_mut(|inside| _ = inside.pop()),
            Kind::Hook(hook) => {
                boundary(&hook, "ended");
                if hook == "prepare"
                    && PREPARED.fetch_add(1, Ordering::SeqCst) + 1 == MEMBERS.load(Ordering::SeqCst)
                {
                    watch::enter(Phase::Deciding);
                }
            }
            Kind::Transaction | Kind::Other => {}
        }
    }

    fn clone_span(&self, id: &Id) -> Id {
        if let Some(span) = self.lock().get_mut(&id.into_u64()) {
            span.handles += 1;
        }
        id.clone()
    }

    fn try_close(&self, id: Id) -> bool {
        let mut spans = self.lock();
        let Some(span) = spans.get_mut(&id.into_u64()) else {
            return false;
        };
        span.handles -= 1;
        let over = span.handles == 0;
        if over && let Some(Kind::Transaction) = spans.remove(&id.into_u64()).map(|span| span.kind)
        {
            drop(spans);
            watch::enter(Phase::Closing);
        }
        over
    }
}

fn boundary(hook: &str, which: &str) {
    let disk = INSIDE.with_borrow(|inside| inside.last().cloned());
    watch::hook(&disk.unwrap_or_default(), &format!("{hook}.{which}"));
}
