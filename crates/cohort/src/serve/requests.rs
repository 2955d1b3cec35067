//! Carrying requests out: from the disk to the client, and back, in bounded memory.
//!
//! Up to [`SMALL_BYTES`] a request is carried out in one go. A larger one is in pieces of what the budget lends, so that
//! its size does not matter to anybody else.

use std::io;
use std::sync::{Arc, MutexGuard};
use std::time::Instant;

use cohort_block::{DeviceError, ExtentKind};
use cohort_nbd::{Command, ErrorCode, Reply, Request};

use super::connection::Connection;
use super::input::Input;
use super::memory::SMALL_BYTES;

/// Zeroes, for those that must be written.
static ZEROES: [u8; SMALL_BYTES] = [0; SMALL_BYTES];

impl Connection {
    /// Carries a request out and answers it. `scratch` is the thread's own memory.
    pub(super) fn perform(
        self: &Arc<Self>,
        request: &Request,
        mut input: MutexGuard<'_, Input>,
        scratch: &mut Vec<u8>,
    ) -> io::Result<()> {
        let reply = self.session.reply(request);
        let command = &request.command;
        match *command {
            Command::Read {
                offset,
                length,
                whole,
            } => {
                let later = self.release(input, command)?;
                let begin = Instant::now();
                if length as usize <= SMALL_BYTES {
                    self.read_small(&reply, command, (offset, length), later, scratch)?;
                } else {
                    self.read_large(&reply, command, (offset, length), whole)?;
                }
                self.took(begin);
                Ok(())
            }
            Command::Write {
                offset,
                length,
                fua,
            } if length as usize <= SMALL_BYTES => {
                let bytes = grown(scratch, length as usize);
                input.fill(&self.socket, bytes)?;
                let later = self.release(input, command)?;
                let begin = Instant::now();
                let mut done = self.disk.device.write_at(bytes, offset);
                if fua && done.is_ok() {
                    done = self.disk.device.flush();
                }
                self.took(begin);
                self.answer(&reply, command, done, later)
            }
            Command::Write {
                offset,
                length,
                fua,
            } => self.write_large(&reply, input, command, offset, length, fua),
            Command::BlockStatus {
                offset,
                length,
                one,
            } => {
                let later = self.release(input, command)?;
                self.status(&reply, command, (offset, length), one, later)
            }
            Command::Flush
            | Command::Trim { .. }
            | Command::WriteZeroes { .. }
            | Command::Cache { .. } => {
                let later = self.release(input, command)?;
                let begin = Instant::now();
                let done = self.change(command);
                self.took(begin);
                self.answer(&reply, command, done, later)
            }
        }
    }

    /// The requests that have no data either way.
    fn change(&self, command: &Command) -> Result<(), DeviceError> {
        let disk = &self.disk.device;
        let durable = match *command {
            Command::Flush => true,
            Command::Trim {
                offset,
                length,
                fua,
            } => {
                disk.discard(offset, length)?;
                fua
            }
            Command::WriteZeroes {
                offset,
                length,
                no_hole: false,
                fua,
                ..
            } => {
                disk.write_zeroes(offset, length)?;
                fua
            }
            // What must stay allocated is written, which is never faster than writing.
            Command::WriteZeroes {
                offset,
                length,
                fast: true,
                ..
            } => {
                let operation = cohort_block::Operation::WriteZeroes;
                let cause = io::Error::from(io::ErrorKind::Unsupported);
                return Err(DeviceError::new(
                    disk.name(),
                    operation,
                    offset,
                    length,
                    cause,
                ));
            }
            Command::WriteZeroes {
                offset,
                length,
                fua,
                ..
            } => {
                let mut at = 0;
                while at < length {
                    let now = (length - at).min(SMALL_BYTES as u64);
                    disk.write_at(&ZEROES[..now as usize], offset + at)?;
                    at += now;
                }
                fua
            }
            // The system reads ahead by itself. The others are carried out elsewhere.
            Command::Cache { .. }
            | Command::Read { .. }
            | Command::Write { .. }
            | Command::BlockStatus { .. } => false,
        };
        if durable { disk.flush() } else { Ok(()) }
    }

    fn answer(
        &self,
        reply: &Reply,
        command: &Command,
        done: Result<(), DeviceError>,
        later: bool,
    ) -> io::Result<()> {
        self.disk.traffic.count(command, done.is_ok());
        let mut head = Vec::with_capacity(32);
        match done {
            Ok(()) => reply.done(&mut head),
            Err(error) => failed(reply, &error, &mut head),
        }
        self.reply(&head, &[], later)
    }

    fn read_small(
        &self,
        reply: &Reply,
        command: &Command,
        (offset, length): (u64, u32),
        later: bool,
        scratch: &mut Vec<u8>,
    ) -> io::Result<()> {
        let bytes = grown(scratch, length as usize);
        let mut head = Vec::with_capacity(48);
        let read = self.disk.device.read_at(bytes, offset);
        self.disk.traffic.count(command, read.is_ok());
        match read {
            Ok(()) if length == 0 => reply.done(&mut head),
            Ok(()) => {
                reply.data(offset, length, true, &mut head);
                return self.reply(&head, bytes, later);
            }
            Err(error) => failed(reply, &error, &mut head),
        }
        self.reply(&head, &[], later)
    }

    /// A read in pieces, holes as such where the client understands them. The first piece is read before the client
    /// is told anything; after that an error is told in the way that is left.
    fn read_large(
        &self,
        reply: &Reply,
        command: &Command,
        (offset, length): (u64, u32),
        whole: bool,
    ) -> io::Result<()> {
        let in_pieces = reply.in_pieces() && !whole;
        let mut lease = self.house.budget.lend(length as usize);
        let end = offset + u64::from(length);
        let (mut at, mut output) = (offset, None);
        while at < end {
            let mut head = Vec::with_capacity(64);
            let piece = self.read_piece(lease.bytes(), at, end, in_pieces);
            let read = piece.as_ref().map_or(0, |piece| piece.length);
            let last = at + u64::from(read) == end;
            if last || piece.is_err() {
                self.disk.traffic.count(command, piece.is_ok());
            }
            match &piece {
                Err(error) if output.is_none() || in_pieces => failed(reply, error, &mut head),
                // The client waits for the rest of what was announced, and no error would be heard.
                Err(error) => return Err(io::Error::other(error.to_string())),
                Ok(piece) if piece.zero => reply.hole(at, read, last, &mut head),
                Ok(_) if in_pieces => reply.data(at, read, last, &mut head),
                Ok(_) if output.is_none() => reply.data(offset, length, true, &mut head),
                Ok(_) => {}
            }
            let data = match &piece {
                Ok(Piece {
                    zero: false,
                    length,
                }) => &lease.bytes()[..*length as usize],
                _ => &[],
            };
            let output = output.get_or_insert_with(|| self.begin_reply());
            self.send_in_turn(output, &head, data)?;
            if piece.is_err() {
                return Ok(());
            }
            at += u64::from(read);
        }
        Ok(())
    }

    /// As much of `at..end` as fits and is of one kind. Zeroes are not read where `holes` may be told.
    fn read_piece(
        &self,
        bytes: &mut [u8],
        at: u64,
        end: u64,
        holes: bool,
    ) -> Result<Piece, DeviceError> {
        let mut length = end - at;
        if holes {
            let extent = self.disk.device.extent(at, length)?;
            length = extent.length;
            if extent.kind == ExtentKind::Zero {
                return Ok(Piece {
                    zero: true,
                    length: length as u32,
                });
            }
        }
        let length = length.min(bytes.len() as u64);
        self.disk
            .device
            .read_at(&mut bytes[..length as usize], at)?;
        Ok(Piece {
            zero: false,
            length: length as u32,
        })
    }

    /// A write in pieces. After an error the rest of its data is taken and dropped.
    fn write_large(
        self: &Arc<Self>,
        reply: &Reply,
        mut input: MutexGuard<'_, Input>,
        command: &Command,
        offset: u64,
        length: u32,
        fua: bool,
    ) -> io::Result<()> {
        let mut lease = self.house.budget.lend(length as usize);
        let end = offset + u64::from(length);
        let (mut at, mut done) = (offset, Ok(()));
        loop {
            let now = (end - at).min(lease.bytes().len() as u64);
            let bytes = &mut lease.bytes()[..now as usize];
            input.fill(&self.socket, bytes)?;
            if at + now == end {
                break;
            }
            if done.is_ok() {
                done = self.disk.device.write_at(bytes, at);
            }
            at += now;
        }
        // All has come: the input is free while the last piece is written.
        let later = self.release(input, command)?;
        let begin = Instant::now();
        if done.is_ok() {
            done = self
                .disk
                .device
                .write_at(&lease.bytes()[..(end - at) as usize], at);
        }
        if fua && done.is_ok() {
            done = self.disk.device.flush();
        }
        self.took(begin);
        drop(lease);
        self.answer(reply, command, done, later)
    }

    fn status(
        &self,
        reply: &Reply,
        command: &Command,
        (offset, length): (u64, u64),
        one: bool,
        later: bool,
    ) -> io::Result<()> {
        let begin = Instant::now();
        let contexts = self.session.contexts();
        let told: Result<Vec<_>, _> = contexts
            .map(|(id, context)| Ok((id, self.disk.status(context, offset, length, one)?)))
            .collect();
        self.took(begin);
        self.disk.traffic.count(command, told.is_ok());
        let mut head = Vec::new();
        match told {
            Ok(told) => {
                for (at, (id, runs)) in told.iter().enumerate() {
                    reply.status(*id, runs, at + 1 == told.len(), &mut head);
                }
            }
            Err(error) => failed(reply, &error, &mut head),
        }
        self.reply(&head, &[], later)
    }
}

/// What a piece of a read is.
struct Piece {
    zero: bool,
    length: u32,
}

/// The first `length` bytes of memory that only grows.
fn grown(scratch: &mut Vec<u8>, length: usize) -> &mut [u8] {
    if scratch.len() < length {
        scratch.resize(length, 0);
    }
    &mut scratch[..length]
}

/// Tells a client what went wrong: the kind, and in words the cause. Paths of this host are none of its business.
fn failed(reply: &Reply, error: &DeviceError, head: &mut Vec<u8>) {
    let cause = error.cause();
    reply.error(ErrorCode::of_io(cause), &cause.to_string(), head);
}
