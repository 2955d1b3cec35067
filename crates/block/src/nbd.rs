//! A disk that an NBD server serves: requests with a deadline, and another connection when one is lost.

mod answer;
mod connect;
mod wire;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cohort_bitmap::{DirtyBitmap, Granularity};
use cohort_nbd::{BitmapName, Command, Context, Uri};

use crate::device::{Device, DeviceError, Extent, ExtentKind, Operation, check_range};
use crate::open::Access;
use crate::open_error::OpenError;
use crate::raw::read_only;
use answer::Answer;
use wire::{Unanswered, Wire, lock};

/// The pause before the second attempt to connect; doubled for each one after it.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Most bytes to be zeroed at once, where the protocol has 32 bits for them; a multiple of any block.
const ZEROES_AT_ONCE: u64 = 1 << 30;

/// A disk at an NBD server.
///
/// Many threads may use it; their requests are in flight at the same time, on one connection. When that is lost, the
/// next request connects again and every request under way is sent again, until its deadline.
///
/// What was written and not flushed when a connection is lost may be lost with it, as the server may have died. So the
/// next [`flush`](Device::flush) fails once, whatever happened to the writes since, and so does every one under way.
#[derive(Debug)]
pub struct NbdDevice {
    uri: Uri,
    name: String,
    size: u64,
    writable: bool,
    patience: Duration,
    link: Mutex<Link>,
    changed: Condvar,
}

#[derive(Debug)]
struct Link {
    wire: Option<Arc<Wire>>,
    /// Somebody is connecting.
    connecting: bool,
    /// Changes begun and ended, and of the latter those that a flush covers.
    begun: u64,
    ended: u64,
    flushed: u64,
    /// How often what was written may have been lost, and of how many of those a flush has told.
    losses: u64,
    told: u64,
    /// Why it may have been, the last time.
    why: String,
}

impl NbdDevice {
    /// Connects to the export at `uri`. Every request, connecting again included, takes at most `patience`.
    ///
    /// # Errors
    /// [`OpenError::Io`]: nobody listens there, or not in time, or there is no such export. [`OpenError::Permission`]:
    /// it is to be written to, and may only be read.
    pub fn connect(uri: &Uri, access: Access, patience: Duration) -> Result<Self, OpenError> {
        let name = uri.to_string();
        let path = || PathBuf::from(&name);
        let wire = Wire::open(uri, contexts(), Instant::now() + patience).map_err(|cause| {
            OpenError::Io {
                path: path(),
                cause,
            }
        })?;
        let writable = access == Access::ReadWrite;
        if writable && wire.client.flags().read_only() {
            wire.close();
            return Err(OpenError::Permission {
                path: path(),
                access,
            });
        }
        Ok(Self {
            uri: uri.clone(),
            size: wire.client.size(),
            name,
            writable,
            patience,
            link: Mutex::new(Link {
                wire: Some(wire),
                connecting: false,
                begun: 0,
                ended: 0,
                flushed: 0,
                losses: 0,
                told: 0,
                why: String::new(),
            }),
            changed: Condvar::new(),
        })
    }

    /// Has every request take at most `patience` from now on.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Has messages call it so, instead of by its address.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// What `qemu:dirty-bitmap:NAME` says of the whole disk, in bits of `granularity` bytes; through a connection of its own.
    ///
    /// # Errors
    /// The server has no such bitmap, or does not answer in time. It says more or less than the disk has.
    pub fn dirty_bitmap(
        &self,
        name: &BitmapName,
        granularity: Granularity,
    ) -> io::Result<DirtyBitmap> {
        let wanted = Context::DirtyBitmap(name.clone());
        let wire = Wire::open(
            &self.uri,
            vec![wanted.clone()],
            Instant::now() + self.patience,
        )?;
        let read = self.read_bitmap(&wire, &wanted, granularity);
        wire.close();
        read
    }

    fn read_bitmap(
        &self,
        wire: &Wire,
        wanted: &Context,
        granularity: Granularity,
    ) -> io::Result<DirtyBitmap> {
        if !wire
            .client
            .contexts()
            .iter()
            .any(|(_, context)| context == wanted)
        {
            let message = format!("the server does not have {wanted}");
            return Err(io::Error::new(io::ErrorKind::NotFound, message));
        }
        let mut dirty = DirtyBitmap::new(self.size, granularity).map_err(io::Error::other)?;
        let mut at = 0;
        while at < self.size {
            let length = (self.size - at).min(ZEROES_AT_ONCE);
            let status = Command::BlockStatus {
                offset: at,
                length,
                one: false,
            };
            let answer = wire.ask(status, &[], Instant::now() + self.patience);
            let answer = answer.map_err(|error| match error {
                Unanswered::Lost(why) => io::Error::new(io::ErrorKind::ConnectionReset, why),
                Unanswered::Refused(error) => error,
            })?;
            for run in answer.runs {
                let run_length = run.length.min(self.size - at);
                if run.flags & Context::DIRTY != 0 {
                    dirty.set(at, run_length).map_err(io::Error::other)?;
                }
                at += run_length;
            }
        }
        Ok(dirty)
    }

    /// Where it is.
    pub fn uri(&self) -> &Uri {
        &self.uri
    }

    /// Asks, on as many connections as it takes until the deadline. `give_up` may say after a loss that asking again
    /// has no use.
    fn ask(
        &self,
        command: impl Fn(&Wire) -> Command,
        data: &[u8],
        give_up: impl Fn() -> io::Result<()>,
    ) -> io::Result<Answer> {
        let deadline = Instant::now() + self.patience;
        loop {
            let wire = self.wire(deadline)?;
            match wire.ask(command(&wire), data, deadline) {
                Ok(answer) => return Ok(answer),
                Err(Unanswered::Refused(error)) => return Err(error),
                Err(Unanswered::Lost(why)) => {
                    self.lose(&wire, &why);
                    give_up()?;
                    if Instant::now() >= deadline {
                        return Err(io::Error::new(io::ErrorKind::TimedOut, why));
                    }
                }
            }
        }
    }

    /// The connection, or a new one.
    fn wire(&self, deadline: Instant) -> io::Result<Arc<Wire>> {
        let mut link = lock(&self.link);
        loop {
            if let Some(wire) = &link.wire {
                return Ok(wire.clone());
            }
            if !link.connecting {
                break;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let wait = self.changed.wait_timeout(link, left);
            link = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
        link.connecting = true;
        drop(link);
        let connected = self.reconnect(deadline);
        let mut link = lock(&self.link);
        link.connecting = false;
        link.wire = connected.as_ref().ok().cloned();
        self.changed.notify_all();
        connected
    }

    fn reconnect(&self, deadline: Instant) -> io::Result<Arc<Wire>> {
        let mut pause = FIRST_PAUSE;
        loop {
            let error = match Wire::open(&self.uri, contexts(), deadline) {
                Ok(wire) if wire.client.size() == self.size => return Ok(wire),
                Ok(wire) => {
                    let (now, before) = (wire.client.size(), self.size);
                    wire.close();
                    return Err(io::Error::other(format!(
                        "it had {before} bytes, and has {now} now"
                    )));
                }
                Err(error) => error,
            };
            if Instant::now() + pause >= deadline {
                return Err(error);
            }
            // Nobody rings for this: a pause that others who want the connection share.
            let link = lock(&self.link);
            drop(self.changed.wait_timeout(link, pause));
            pause = (2 * pause).min(LONGEST_PAUSE);
        }
    }

    /// Forgets a connection. What was written through it and not flushed is owed.
    fn lose(&self, lost: &Arc<Wire>, why: &str) {
        let mut link = lock(&self.link);
        if link
            .wire
            .as_ref()
            .is_some_and(|wire| Arc::ptr_eq(wire, lost))
        {
            link.wire = None;
            tracing::warn!("{}: connection lost: {why}", self.name);
            if link.begun > link.flushed {
                link.losses += 1;
                link.why = why.to_owned();
                link.flushed = link.ended;
            }
        }
    }

    /// Runs a change of bytes, counted so that a flush knows what it covers.
    fn change(
        &self,
        operation: Operation,
        offset: u64,
        length: u64,
        work: impl FnOnce() -> io::Result<()>,
    ) -> Result<(), DeviceError> {
        check_range(self, operation, offset, length)?;
        if !self.writable {
            return Err(read_only(&self.name, operation, offset, length));
        }
        lock(&self.link).begun += 1;
        let done = work();
        lock(&self.link).ended += 1;
        done.map_err(|error| DeviceError::new(&self.name, operation, offset, length, error))
    }

    fn zero(&self, offset: u64, length: u64) -> io::Result<()> {
        let mut done = 0;
        while done < length {
            let (at, now) = (offset + done, (length - done).min(ZEROES_AT_ONCE));
            let zeroes = Command::WriteZeroes {
                offset: at,
                length: now,
                fua: false,
                no_hole: false,
                fast: false,
            };
            self.ask(|_| zeroes, &[], || Ok(()))?;
            done += now;
        }
        Ok(())
    }

    fn write(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let longest = self.look(|wire| wire.client.longest())?;
        let mut at = offset;
        for piece in buf.chunks(longest as usize) {
            let length = piece.len() as u32;
            self.ask(
                |_| Command::Write {
                    offset: at,
                    length,
                    fua: false,
                },
                piece,
                || Ok(()),
            )?;
            at += u64::from(length);
        }
        Ok(())
    }

    /// Fails if more may have been lost than these `told` losses: whoever asks is telling of it.
    fn owed(&self, told: u64) -> io::Result<()> {
        let mut link = lock(&self.link);
        if link.losses == told {
            return Ok(());
        }
        link.told = link.losses;
        let message = format!(
            "the connection was lost, and with it perhaps what was written: {}",
            link.why
        );
        Err(io::Error::new(io::ErrorKind::ConnectionReset, message))
    }

    /// What the server of the present connection can do.
    fn look<T>(&self, look: impl FnOnce(&Wire) -> T) -> io::Result<T> {
        self.wire(Instant::now() + self.patience)
            .map(|wire| look(&wire))
    }
}

impl Device for NbdDevice {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), DeviceError> {
        check_range(self, Operation::Read, offset, buf.len() as u64)?;
        let wanted = buf.len() as u64;
        let failed = |e| DeviceError::new(&self.name, Operation::Read, offset, wanted, e);
        let longest = self.look(|wire| wire.client.longest()).map_err(failed)?;
        let mut at = offset;
        for piece in buf.chunks_mut(longest as usize) {
            let length = piece.len() as u32;
            let read = Command::Read {
                offset: at,
                length,
                whole: false,
            };
            let answer = self.ask(|_| read, &[], || Ok(())).map_err(failed)?;
            piece.copy_from_slice(&answer.bytes);
            at += u64::from(length);
        }
        Ok(())
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<(), DeviceError> {
        self.change(Operation::Write, offset, buf.len() as u64, || {
            self.write(buf, offset)
        })
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> Result<(), DeviceError> {
        self.change(Operation::WriteZeroes, offset, length, || {
            if self.look(|wire| wire.client.flags().write_zeroes())? {
                return self.zero(offset, length);
            }
            let zeroes = vec![0; length.min(1 << 20) as usize];
            let mut done = 0;
            while done < length {
                let now = (length - done).min(zeroes.len() as u64);
                self.write(&zeroes[..now as usize], offset + done)?;
                done += now;
            }
            Ok(())
        })
    }

    fn discard(&self, offset: u64, length: u64) -> Result<(), DeviceError> {
        // The protocol's own discard leaves behind what it likes. Zeroes may free space, too, and are known.
        self.change(Operation::Discard, offset, length, || {
            if self.look(|wire| wire.client.flags().write_zeroes())? {
                self.zero(offset, length)
            } else {
                Ok(())
            }
        })
    }

    fn flush(&self) -> Result<(), DeviceError> {
        if !self.writable {
            return Ok(());
        }
        let flush = || -> io::Result<()> {
            let (covers, told) = {
                let link = lock(&self.link);
                (link.ended, link.told)
            };
            self.owed(told)?;
            if self.look(|wire| wire.client.flags().flush())? {
                self.ask(|_| Command::Flush, &[], || self.owed(told))?;
            }
            // Somebody else may have found the connection lost, before this flush went through the next one.
            self.owed(told)?;
            let mut link = lock(&self.link);
            link.flushed = link.flushed.max(covers);
            Ok(())
        };
        flush().map_err(|error| DeviceError::new(&self.name, Operation::Flush, 0, 0, error))
    }

    fn extent(&self, offset: u64, length: u64) -> Result<Extent, DeviceError> {
        check_range(self, Operation::Extent, offset, length)?;
        let failed = |e| DeviceError::new(&self.name, Operation::Extent, offset, length, e);
        let unknown = Extent {
            length,
            kind: ExtentKind::Data,
            allocated: true,
        };
        if !self
            .look(|wire| !wire.client.contexts().is_empty())
            .map_err(failed)?
        {
            return Ok(unknown);
        }
        let asked = length.min(ZEROES_AT_ONCE);
        let status = Command::BlockStatus {
            offset,
            length: asked,
            one: true,
        };
        let answer = self.ask(|_| status, &[], || Ok(())).map_err(failed)?;
        let Some(first) = answer.runs.first() else {
            return Ok(unknown);
        };
        let zero = first.flags & Context::ZERO != 0;
        Ok(Extent {
            length: first.length.min(asked),
            kind: if zero {
                ExtentKind::Zero
            } else {
                ExtentKind::Data
            },
            allocated: true,
        })
    }
}

/// What is asked of ranges while a disk is read.
fn contexts() -> Vec<Context> {
    vec![Context::Allocation]
}

impl Drop for NbdDevice {
    fn drop(&mut self) {
        if let Some(wire) = lock(&self.link).wire.take() {
            wire.close();
        }
    }
}
