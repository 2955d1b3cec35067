//! Notices: what happened, numbered, to whoever listens, without ever waiting for them.
//!
//! A subscriber that does not keep up loses the newest and next learns how many it missed; a snapshot
//! then brings it up to date. Nothing in the engine depends on being heard.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::core::{self, Order};
use crate::names::Names;
use crate::shell::now;
use crate::sync::{AtomicU64, Condvar, Mutex, Ordering};
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
            mail = self.0.changed.wait(mail);
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
            mail = self.0.changed.wait_timeout(mail, left);
        }
    }
}

impl Iterator for Subscription {
    type Item = Update;

    fn next(&mut self) -> Option<Update> {
        self.recv()
    }
}

#[derive(Debug)]
struct Mailbox {
    mail: Mutex<Mail>,
    changed: Condvar,
}

#[derive(Debug)]
struct Mail {
    notices: VecDeque<Notice>,
    room: usize,
    /// Lost behind the last of `notices`.
    missed: u64,
    closed: bool,
}

impl Mail {
    fn take(&mut self) -> Option<Update> {
        if let Some(notice) = self.notices.pop_front() {
            return Some(Update::Notice(notice));
        }
        let missed = std::mem::take(&mut self.missed);
        (missed > 0).then_some(Update::Lagged { missed })
    }

    fn put(&mut self, notice: &Notice) {
        // Once something was lost the subscriber must learn that first, so nothing goes in behind the gap.
        if self.missed > 0 || self.notices.len() >= self.room {
            self.missed += 1;
        } else {
            self.notices.push_back(notice.clone());
        }
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
        let mail = Mail {
            notices: VecDeque::new(),
            room: capacity.max(1),
            missed: 0,
            closed: false,
        };
        let mailbox = Arc::new(Mailbox {
            mail: Mutex::new(mail),
            changed: Condvar::new(),
        });
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
    pub(crate) fn publish(
        &self,
        txn: TxnId,
        group: &GroupName,
        names: &Names,
        notice: core::Notice,
    ) {
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
        for_each_news(txn, names, notice, |news| {
            inner.seq += 1;
            let notice = Notice {
                seq: inner.seq,
                txn,
                group: group.clone(),
                news,
            };
            for mailbox in &boxes {
                mailbox.mail.lock().put(&notice);
            }
        });
        for mailbox in &boxes {
            mailbox.changed.notify_one();
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

/// One piece of news per job of a span, in creation order.
fn for_each_news(txn: TxnId, names: &Names, notice: core::Notice, mut tell: impl FnMut(News)) {
    let subject = |member| Subject {
        job: JobId { txn, member },
        name: names.of(member).cloned(),
    };
    match notice {
        core::Notice::Status(span, status) => {
            span.for_each(|member| tell(News::Status(subject(member), status)));
        }
        core::Notice::Ended(span, outcome) => {
            span.for_each(|member| tell(News::Ended(subject(member), outcome.clone())));
        }
        core::Notice::Failed(member, error) => tell(News::Failed(subject(member), error)),
        core::Notice::Stuck(member) => tell(News::Stuck(subject(member))),
        core::Notice::GivenUp(member) => tell(News::GivenUp(subject(member))),
        core::Notice::Decided(verdict) => tell(News::Decided(verdict)),
        core::Notice::InDoubt(error) => tell(News::InDoubt(error)),
        core::Notice::Owed(member, order, error) => tell(News::Owed(subject(member), order, error)),
    }
}
