//! A request and what comes of its answer, piece by piece.

use std::io;

use cohort_nbd::{Command, Content, Status};

/// A request, and what has come of its answer.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) command: Command,
    pub(super) answer: Answer,
    /// Bytes of a read that have come, holes among them.
    pub(super) filled: u64,
    pub(super) failure: Option<io::Error>,
    pub(super) done: bool,
}

/// The answer to a request that went well.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// Of a read.
    pub(super) bytes: Vec<u8>,
    /// Of a block status request.
    pub(super) runs: Vec<Status>,
}

impl Question {
    pub(super) fn take(&mut self, content: Content<'_>) -> Result<(), Nonsense> {
        match content {
            Content::Done => {}
            Content::Error { code, why } => {
                let why = if why.is_empty() {
                    code.to_string()
                } else {
                    why.replace(char::is_control, " ")
                };
                self.failure.get_or_insert(io::Error::new(
                    code.kind(),
                    format!("the server says: {why}"),
                ));
            }
            // The bytes are zero from the beginning.
            Content::Hole { offset, length } => {
                self.place(offset, length.into())?;
            }
            Content::Data { offset, bytes } => {
                let at = self.place(offset, bytes.len() as u64)?;
                self.answer.bytes[at..at + bytes.len()].copy_from_slice(bytes);
            }
            // One context was asked for.
            Content::Status { runs, .. } => self.answer.runs = runs,
        }
        Ok(())
    }

    /// Where in the answer a piece of a read belongs.
    fn place(&mut self, offset: u64, length: u64) -> Result<usize, Nonsense> {
        let Command::Read {
            offset: from,
            length: asked,
            ..
        } = self.command
        else {
            return Err(Nonsense("bytes that were not asked for"));
        };
        let at = offset.checked_sub(from);
        let inside = at.filter(|at| {
            at.checked_add(length)
                .is_some_and(|end| end <= asked.into())
        });
        let at = inside.ok_or(Nonsense("bytes from another place"))?;
        self.filled += length;
        usize::try_from(at).map_err(|_| Nonsense("bytes from another place"))
    }

    pub(super) fn end(&mut self) -> Result<(), Nonsense> {
        let asked = self.answer.bytes.len() as u64;
        let status = matches!(self.command, Command::BlockStatus { .. });
        let complete = self.filled == asked && !(status && self.answer.runs.is_empty());
        if !complete && self.failure.is_none() {
            return Err(Nonsense("less than was asked for"));
        }
        self.done = true;
        Ok(())
    }
}

/// An answer that does not fit to its question.
#[derive(Debug, thiserror::Error)]
#[error("the server answered {0}")]
pub(super) struct Nonsense(&'static str);
