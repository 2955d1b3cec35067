//! Notices: what happened, numbered, to whoever listens, without ever waiting for them.
//!
//! A subscriber that does not keep up loses the newest and next learns how many it missed; a snapshot
//! then brings it up to date. Nothing in the engine depends on being heard. What happened to a span of members is
//! published once, and read member by member by whoever reads it.

use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::core::{self, Order};
use crate::mailbox::{Mailbox, Said};
use crate::names::Names;
use crate::shell::now;
use crate::sync::{AtomicU64, Mutex, Ordering};
use crate::{Error, GroupName, JobId, MemberName, Outcome, Status, TxnId, Verdict};

/// Something that happened.
///
/// Example: [`Subscription`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Notice {
    /// Counts the notices of an engine since somebody listens; without gaps.
    pub seq: u64,
    /// The transaction it happened to.
    pub txn: TxnId,
    /// And its name.
    pub group: GroupName,
    /// What happened.
    pub news: News,
}

/// A job as notices name it.
///
/// Example: [`Subscription`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// Its id.
    pub job: JobId,
    /// Its name, if it has one.
    pub name: Option<MemberName>,
}

/// What may happen.
///
/// Example: [`Subscription`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum News {
    /// This job entered this status.
    Status(Subject, Status),
    /// This is how the job ended; its `concluded` follows.
    Ended(Subject, Outcome),
    /// This job failed: its group will not commit.
    Failed(Subject, Error),
    /// A step, hook or task of this job does not come back.
    Stuck(Subject),
    /// The group goes on without this job.
    GivenUp(Subject),
    /// The group's verdict, written down.
    Decided(Verdict),
    /// It could not be written; whether it was, the next start will see.
    InDoubt(Error),
    /// This hook of the job did not return: it is owed and will be run again at the next start.
    Owed(Subject, Order, Error),
}

/// What a subscriber receives.
///
/// Example: [`Subscription`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update {
    /// The next notice.
    Notice(Notice),
    /// So many notices were lost here, for want of room.
    Lagged {
        /// How many.
        missed: u64,
    },
}

/// One subscriber's end. Dropping it ends the subscription.
///
/// ```
/// use std::time::Duration;
/// use cohort_job::{Engine, JobSpec, News, Step, Update, from_fn};
///
/// let engine = Engine::new()?;
/// let news = engine.subscribe(100);
/// assert_eq!(news.try_recv(), None);
/// engine.run(JobSpec::new("disk0"), from_fn(|_| Step::failed("no luck")))?;
/// let mut told = Vec::new();
/// while let Some(Update::Notice(notice)) = news.recv_timeout(Duration::from_secs(10)) {
///     match notice.news {
///         News::Status(subject, status) => {
///             assert_eq!(subject.name.as_ref().map(|name| name.as_str()), Some("disk0"));
///             told.push(status.to_string());
///             if status == cohort_job::Status::Null {
///                 break;
///             }
///         }
///         News::Failed(_, error) => told.push(error.to_string()),
///         _ => {}
///     }
/// }
/// assert_eq!(told, ["created", "running", "no luck", "aborting", "concluded", "null"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Subscription(Arc<Mailbox>);

impl Subscription {
    /// The next update, waiting for it; `None` once the engine is gone and all was read.
    pub fn recv(&self) -> Option<Update> {
        let mut mail = self.0.mail.lock();
        loop {
            if let Some(update) = mail.take() {
                return Some(update);
            }
            if mail.closed {
                return None;
            }
            mail.waiting += 1;
            mail = self.0.changed.wait(mail);
            mail.waiting -= 1;
        }
    }

    /// The next update, if there is one.
    pub fn try_recv(&self) -> Option<Update> {
        self.0.mail.lock().take()
    }

    /// The next update, if there is one within this time.
    pub fn recv_timeout(&self, timeout: Duration) -> Option<Update> {
        let deadline = now().checked_add(timeout);
        let mut mail = self.0.mail.lock();
        loop {
            if let Some(update) = mail.take() {
                return Some(update);
            }
            let left = deadline.map_or(Duration::MAX, |deadline| {
                deadline.saturating_duration_since(now())
            });
            if mail.closed || left.is_zero() {
                return None;
            }
            mail.waiting += 1;
            mail = self.0.changed.wait_timeout(mail, left);
            mail.waiting -= 1;
        }
    }
}

impl Iterator for Subscription {
    type Item = Update;

    fn next(&mut self) -> Option<Update> {
        self.recv()
    }
}

/// Everybody who listens to one engine.
#[derive(Debug)]
pub(crate) struct Hub {
    /// Read without the lock: nobody listening must cost nothing.
    listeners: AtomicU64,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    seq: u64,
    boxes: Vec<Weak<Mailbox>>,
}

impl Hub {
    pub(crate) fn new() -> Self {
        Self {
            listeners: AtomicU64::new(0),
            inner: Mutex::new(Inner {
                seq: 0,
                boxes: Vec::new(),
            }),
        }
    }

    /// A subscription with room for so many notices, at least one.
    pub(crate) fn subscribe(&self, capacity: usize) -> Subscription {
        let mailbox = Arc::new(Mailbox::new(capacity.max(1) as u64));
        let mut inner = self.inner.lock();
        inner.boxes.push(Arc::downgrade(&mailbox));
        self.listeners
            .store(inner.boxes.len() as u64, Ordering::Release);
        Subscription(mailbox)
    }

    /// The number of the last notice.
    pub(crate) fn last_seq(&self) -> u64 {
        self.inner.lock().seq
    }

    /// Tells everybody, under the lock of the group, so that its notices are in order.
    pub(crate) fn publish(&self, txn: TxnId, group: &GroupName, names: &Names, what: core::Notice) {
        if self.listeners.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut inner = self.inner.lock();
        let boxes: Vec<_> = inner.boxes.iter().filter_map(Weak::upgrade).collect();
        if boxes.len() < inner.boxes.len() {
            inner.boxes.retain(|mailbox| mailbox.strong_count() > 0);
            self.listeners
                .store(inner.boxes.len() as u64, Ordering::Release);
        }
        if boxes.is_empty() {
            return;
        }
        let members = what.members();
        let named = names.within(&members);
        let said = Arc::new(Said {
            seq: inner.seq + 1,
            txn,
            group: group.clone(),
            names: named.map(|(member, name)| (member, name.clone())).collect(),
            what,
        });
        inner.seq += said.count();
        for mailbox in &boxes {
            let mut mail = mailbox.mail.lock();
            mail.put(&said);
            // Waking costs more than all the rest: only who sleeps is woken.
            let waiting = mail.waiting > 0;
            drop(mail);
            if waiting {
                mailbox.changed.notify_all();
            }
        }
    }

    /// Ends every subscription once it has been read.
    pub(crate) fn close(&self) {
        for mailbox in self
            .inner
            .lock()
            .boxes
            .drain(..)
            .filter_map(|mailbox| mailbox.upgrade())
        {
            mailbox.mail.lock().closed = true;
            mailbox.changed.notify_all();
        }
    }
}
