//! What lies ready for one subscriber: what happened to spans of members, which it reads member by member.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use crate::core;
use crate::notice::{News, Notice, Subject, Update};
use crate::sync::{Condvar, Mutex};
use crate::{GroupName, JobId, MemberName, TxnId};

/// One subscriber's mail.
#[derive(Debug)]
pub(crate) struct Mailbox {
    pub(crate) mail: Mutex<Mail>,
    pub(crate) changed: Condvar,
}

impl Mailbox {
    /// One with room for so many notices.
    pub(crate) fn new(room: u64) -> Self {
        Self {
            mail: Mutex::new(Mail::new(room)),
            changed: Condvar::new(),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Mail {
    letters: VecDeque<Letter>,
    /// How many more notices may be in the letters.
    room: u64,
    /// Lost behind the last of them.
    missed: u64,
    /// Threads that wait for one.
    pub(crate) waiting: u32,
    pub(crate) closed: bool,
}

/// What was said of a span, and which of its notices are still to be read.
#[derive(Debug)]
struct Letter {
    said: Arc<Said>,
    unread: Range<u64>,
}

impl Mail {
    fn new(room: u64) -> Self {
        Self {
            letters: VecDeque::new(),
            room,
            missed: 0,
            waiting: 0,
            closed: false,
        }
    }

    /// The next update, if there is one.
    pub(crate) fn take(&mut self) -> Option<Update> {
        let Some(letter) = self.letters.front_mut() else {
            let missed = std::mem::take(&mut self.missed);
            return (missed > 0).then_some(Update::Lagged { missed });
        };
        let notice = letter.said.notice(letter.unread.start);
        letter.unread.start += 1;
        if letter.unread.is_empty() {
            self.letters.pop_front();
        }
        self.room += 1;
        Some(Update::Notice(notice))
    }

    /// Puts in what there is room for.
    pub(crate) fn put(&mut self, said: &Arc<Said>) {
        let count = said.count();
        // Once something was lost the subscriber must learn that first, so nothing goes in behind the gap.
        let fits = if self.missed > 0 {
            0
        } else {
            count.min(self.room)
        };
        if fits > 0 {
            self.letters.push_back(Letter {
                said: Arc::clone(said),
                unread: 0..fits,
            });
        }
        self.room -= fits;
        self.missed += count - fits;
    }
}

/// What happened to a span of members, told once for all subscribers: each reads it member by member.
#[derive(Debug)]
pub(crate) struct Said {
    /// The number of its first notice.
    pub(crate) seq: u64,
    pub(crate) txn: TxnId,
    pub(crate) group: GroupName,
    /// Of those members that have one, in creation order.
    pub(crate) names: Vec<(u32, MemberName)>,
    pub(crate) what: core::Notice,
}

impl Said {
    /// How many notices it makes.
    pub(crate) fn count(&self) -> u64 {
        match &self.what {
            core::Notice::Status(span, _) | core::Notice::Ended(span, _) => span.len() as u64,
            core::Notice::Failed(..)
            | core::Notice::Stuck(_)
            | core::Notice::GivenUp(_)
            | core::Notice::Decided(_)
            | core::Notice::InDoubt(_)
            | core::Notice::Owed(..) => 1,
        }
    }

    /// One of them, in creation order.
    fn notice(&self, at: u64) -> Notice {
        let news = match &self.what {
            core::Notice::Status(span, status) => {
                News::Status(self.subject(span.start + at as u32), *status)
            }
            core::Notice::Ended(span, outcome) => {
                News::Ended(self.subject(span.start + at as u32), outcome.clone())
            }
            core::Notice::Failed(member, error) => {
                News::Failed(self.subject(*member), error.clone())
            }
            core::Notice::Stuck(member) => News::Stuck(self.subject(*member)),
            core::Notice::GivenUp(member) => News::GivenUp(self.subject(*member)),
            core::Notice::Decided(verdict) => News::Decided(*verdict),
            core::Notice::InDoubt(error) => News::InDoubt(error.clone()),
            core::Notice::Owed(member, order, error) => {
                News::Owed(self.subject(*member), *order, error.clone())
            }
        };
        Notice {
            seq: self.seq + at,
            txn: self.txn,
            group: self.group.clone(),
            news,
        }
    }

    fn subject(&self, member: u32) -> Subject {
        let named = self
            .names
            .binary_search_by_key(&member, |(member, _)| *member);
        Subject {
            job: JobId {
                txn: self.txn,
                member,
            },
            name: named.ok().map(|at| self.names[at].1.clone()),
        }
    }
}
