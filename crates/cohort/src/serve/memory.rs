//! The memory of all connections together: a number of buffers for large requests, and no more.
//!
//! Nobody waits for one. Who finds none free works in small pieces instead, so a client that keeps its buffer for long
//! slows others down and never stops them.

use std::sync::{Mutex, PoisonError};

/// Bytes of one buffer: more than most clients ask for at once.
pub(super) const PIECE_BYTES: usize = 512 << 10;

/// Bytes that every thread has for itself.
pub(super) const SMALL_BYTES: usize = 64 << 10;

/// Buffers that are kept when nobody uses them.
const KEPT: usize = 4;

/// All buffers.
#[derive(Debug)]
pub(super) struct Budget {
    most: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// How many more may be made.
    left: usize,
    free: Vec<Vec<u8>>,
}

/// A buffer of [`PIECE_BYTES`], or of [`SMALL_BYTES`] if there was none; goes back when dropped.
#[derive(Debug)]
pub(super) struct Lease<'a> {
    budget: Option<&'a Budget>,
    buffer: Vec<u8>,
}

impl Budget {
    /// Of that many bytes, in whole buffers.
    pub(super) fn new(bytes: u64) -> Self {
        let left = usize::try_from(bytes / PIECE_BYTES as u64).unwrap_or(usize::MAX);
        let free = Vec::new();
        Self {
            most: left,
            state: Mutex::new(State { left, free }),
        }
    }

    /// The bytes of all buffers that somebody has, and the most that there may be.
    pub(super) fn bytes(&self) -> (u64, u64) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = |buffers: usize| (buffers as u64).saturating_mul(PIECE_BYTES as u64);
        let lent = self.most - state.left - state.free.len();
        (bytes(lent), bytes(self.most))
    }

    /// A buffer for a request of that many bytes.
    pub(super) fn lend(&self, wanted: usize) -> Lease<'_> {
        if wanted > SMALL_BYTES {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(buffer) = state.free.pop() {
                return Lease {
                    budget: Some(self),
                    buffer,
                };
            }
            if state.left > 0 {
                state.left -= 1;
                drop(state);
                let buffer = vec![0; PIECE_BYTES];
                return Lease {
                    budget: Some(self),
                    buffer,
                };
            }
        }
        let buffer = vec![0; wanted.min(SMALL_BYTES)];
        Lease {
            budget: None,
            buffer,
        }
    }
}

impl Lease<'_> {
    pub(super) fn bytes(&mut self) -> &mut [u8] {
        &mut self.buffer
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let Some(budget) = self.budget else { return };
        let mut state = budget.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.free.len() < KEPT {
            state.free.push(std::mem::take(&mut self.buffer));
        } else {
            state.left += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_buffers_are_as_many_as_the_budget_and_nobody_waits() {
        let budget = Budget::new(6 * PIECE_BYTES as u64 + 1);
        let mut leases: Vec<_> = (0..8).map(|_| budget.lend(PIECE_BYTES)).collect();
        let sizes: Vec<_> = leases.iter_mut().map(|lease| lease.bytes().len()).collect();
        assert_eq!(sizes[..6], [PIECE_BYTES; 6]);
        assert_eq!(sizes[6..], [SMALL_BYTES; 2]);
        assert_eq!(budget.lend(512).bytes().len(), 512);
        let piece = PIECE_BYTES as u64;
        assert_eq!(budget.bytes(), (6 * piece, 6 * piece));
        drop(leases);
        assert_eq!(budget.bytes(), (0, 6 * piece));
        assert_eq!(budget.state.lock().unwrap().free.len(), KEPT);
        let mut again: Vec<_> = (0..7).map(|_| budget.lend(PIECE_BYTES)).collect();
        let large = again
            .iter_mut()
            .map(|lease| lease.bytes().len())
            .filter(|size| *size == PIECE_BYTES);
        assert_eq!(large.count(), 6);
    }
}
