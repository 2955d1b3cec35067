//! Members to be run, as they wait in the ready queue, and how they are shared out.

use std::ops::Range;
use std::sync::Arc;

use crate::core::Order;
use crate::group::Group;
use crate::queue::Cut;

/// Members to be run, as they wait in the ready queue.
#[derive(Debug)]
pub(crate) struct Span {
    pub(crate) group: Arc<Group>,
    pub(crate) order: Order,
    pub(crate) members: Range<u32>,
    /// Pieces are not made smaller than this.
    piece: u32,
}

/// So many pieces for each worker: they shrink with what is left, so that workers finish together.
const PIECES: u32 = 2;
/// A piece costs a turn of its group, which some microseconds of calls outweigh.
const PIECE_MIN: u32 = 16;
/// Where a piece of this size is too much, it may be a small group of long steps.
const PIECES_MAX: u32 = 64;

impl Span {
    pub(crate) fn new(group: &Arc<Group>, order: Order, members: Range<u32>) -> Self {
        let length = members.end - members.start;
        Self {
            group: Arc::clone(group),
            order,
            members,
            piece: (length / PIECES_MAX).clamp(1, PIECE_MIN),
        }
    }

    /// Whether it is work that its group does in order, and none of it beside it.
    pub(crate) fn is_hook(&self) -> bool {
        self.order != Order::Step
    }
}

impl Cut for Span {
    /// Steps are shared out, unless there is enough for everybody as it is; hooks run in order, so one worker takes the
    /// whole span.
    fn cut(self, others: usize) -> (Self, Option<Self>) {
        let Range { start, end } = self.members;
        let workers = self.group.shell.threads();
        let piece = ((end - start) / (PIECES * workers as u32)).max(self.piece);
        if self.is_hook() || others >= workers || end - start <= piece {
            return (self, None);
        }
        let middle = start + piece;
        let rest = Self {
            group: Arc::clone(&self.group),
            members: middle..end,
            ..self
        };
        (
            Self {
                members: start..middle,
                ..self
            },
            Some(rest),
        )
    }
}
