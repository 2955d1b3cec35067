//! Spans and events for whoever traces: one span per transaction, one per job in it. Without a subscriber a
//! transaction costs one look at a flag, a call one at a pointer.
//!
//! Names and fields are part of the crate's promises; see the guide's page on tracing.

use std::collections::BTreeMap;

use tracing::Span;
use tracing::span::EnteredSpan;

use crate::core::{Notice, Order};
use crate::group::Group;
use crate::sync::Mutex;
use crate::{GroupName, JobId, Outcome, TxnId};

/// The spans of one transaction; nothing if nobody traced when it was opened.
#[derive(Debug, Default)]
pub(crate) struct Trace(Option<Box<Mutex<Spans>>>);

#[derive(Debug)]
struct Spans {
    txn: Span,
    /// Of those jobs that were called or spoken of so far.
    jobs: BTreeMap<u32, Span>,
    /// It is over: what is said of it later is said to subscribers of the engine only.
    closed: bool,
}

impl Trace {
    pub(crate) fn new(id: TxnId, group: &GroupName) -> Self {
        let txn = tracing::info_span!(parent: None, "transaction", txn = %id, group = %group);
        if txn.is_disabled() {
            return Self(None);
        }
        Self(Some(Box::new(Mutex::new(Spans {
            txn,
            jobs: BTreeMap::new(),
            closed: false,
        }))))
    }

    pub(crate) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Enters the job's span, for a call of its driver or one of its tasks; a hook gets one of its own
    /// inside it.
    #[inline]
    pub(crate) fn enter(
        &self,
        group: &Group,
        member: u32,
        order: Option<Order>,
    ) -> Option<Entered> {
        let spans = self.0.as_ref()?;
        Some(Entered::new(spans, group, member, order))
    }

    /// Tells what happened. Called with no lock held: what a subscriber does is not ours to know.
    pub(crate) fn tell(&self, group: &Group, notices: Vec<Notice>) {
        let Some(spans) = &self.0 else {
            return;
        };
        for notice in notices {
            if spans.lock().closed {
                return;
            }
            tell(spans, group, notice);
        }
    }

    /// The transaction is over: its spans close.
    pub(crate) fn close(&self) {
        if let Some(spans) = &self.0 {
            let mut spans = spans.lock();
            spans.closed = true;
            let txn = std::mem::replace(&mut spans.txn, Span::none());
            let jobs = std::mem::take(&mut spans.jobs);
            drop(spans);
            // Closed after the lock, and the jobs before what they are in.
            drop(jobs);
            drop(txn);
        }
    }
}

/// Left in this order when it is dropped: the hook, then the job.
#[derive(Debug)]
pub(crate) struct Entered {
    _hook: Option<EnteredSpan>,
    _job: EnteredSpan,
}

impl Entered {
    #[cold]
    fn new(spans: &Mutex<Spans>, group: &Group, member: u32, order: Option<Order>) -> Self {
        let job = job_span(spans, group, member).entered();
        let hook = match order {
            Some(order @ (Order::Prepare | Order::Commit | Order::Abort | Order::Clean)) => {
                Some(tracing::debug_span!("hook", hook = %order).entered())
            }
            Some(Order::Step) | None => None,
        };
        Self {
            _hook: hook,
            _job: job,
        }
    }
}

/// A job's span, made at its first call.
fn job_span(spans: &Mutex<Spans>, group: &Group, member: u32) -> Span {
    let known = spans.lock();
    if known.closed {
        return Span::none();
    }
    if let Some(span) = known.jobs.get(&member) {
        return span.clone();
    }
    let txn = known.txn.clone();
    drop(known);
    let id = JobId {
        txn: group.id,
        member,
    };
    let (name, kind) = group.lock().names.name_and_kind(member);
    let span = tracing::info_span!(parent: &txn, "job", job = %id, name, kind);
    let mut known = spans.lock();
    // A job is called by one thread at a time, but its tasks run beside each other.
    known.jobs.entry(member).or_insert(span).clone()
}

fn tell(spans: &Mutex<Spans>, group: &Group, notice: Notice) {
    let in_job = |member| job_span(spans, group, member);
    match notice {
        Notice::Status(span, status) => span.for_each(|member| {
            tracing::debug!(parent: &in_job(member), status = %status);
        }),
        Notice::Ended(span, outcome) => span.for_each(|member| {
            let job = in_job(member);
            match &outcome {
                Outcome::Committed { short } => {
                    tracing::info!(parent: &job, outcome = "committed", short);
                }
                Outcome::Failed { error, .. } => {
                    tracing::warn!(parent: &job, outcome = "failed", %error);
                }
                Outcome::Cancelled { cause, disposition } => {
                    tracing::info!(parent: &job, outcome = "cancelled", ?cause, ?disposition);
                }
            }
        }),
        Notice::Failed(member, error) => tracing::warn!(parent: &in_job(member), %error, "failed"),
        Notice::Stuck(member) => tracing::warn!(parent: &in_job(member), "stuck"),
        Notice::GivenUp(member) => tracing::warn!(parent: &in_job(member), "given up"),
        Notice::Owed(member, hook, error) => {
            tracing::warn!(parent: &in_job(member), %hook, %error, "owed");
        }
        Notice::Decided(verdict) => {
            let txn = spans.lock().txn.clone();
            tracing::info!(parent: &txn, verdict = ?verdict);
        }
        Notice::InDoubt(error) => {
            let txn = spans.lock().txn.clone();
            tracing::error!(parent: &txn, %error, "in doubt");
        }
    }
}
