//! A file in memory that remembers every write and sync, so that a loss of power can be replayed.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};

use cohort_block::File;

/// Bytes that are written together or not at all.
pub(crate) const SECTOR: usize = 512;

/// What the file below saw, in order.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    Write {
        offset: u64,
        data: Vec<u8>,
    },
    SetLen(u64),
    SyncBegun,
    /// The sync that began at this place of the log succeeded: all that is before it is durable.
    SyncEnded(usize),
}

/// Shared: clones are the same file.
#[derive(Debug, Clone, Default)]
pub(crate) struct LogFile(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    bytes: Vec<u8>,
    log: Vec<Op>,
    /// Writes and syncs that still succeed before the process is gone: nothing does afterwards.
    lives: Option<u64>,
    /// Writes that still succeed before one fails for want of space.
    full_after: Option<u64>,
    /// What somebody else does before the operation after so many more.
    interlude: Option<(u64, Interlude)>,
}

type Interlude = Box<dyn FnOnce() + Send>;

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} bytes, {} operations",
            self.bytes.len(),
            self.log.len()
        )
    }
}

impl LogFile {
    /// A file whose bytes are durable already.
    pub(crate) fn holding(bytes: Vec<u8>) -> Self {
        let inner = Inner {
            bytes,
            ..Inner::default()
        };
        Self(Arc::new(Mutex::new(inner)))
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.inner(|inner| inner.bytes.clone())
    }

    pub(crate) fn log(&self) -> Vec<Op> {
        self.inner(|inner| inner.log.clone())
    }

    /// How many header sectors were written: every one of them ends a seal.
    pub(crate) fn headers(&self) -> usize {
        self.inner(|inner| inner.log.iter().filter(|op| is_header(op)).count())
    }

    /// Lets so many more writes and syncs succeed, or all.
    pub(crate) fn live_for(&self, operations: Option<u64>) {
        self.inner(|inner| inner.lives = operations);
    }

    /// Lets so many more writes succeed, then fails one.
    pub(crate) fn fill_after(&self, writes: Option<u64>) {
        self.inner(|inner| inner.full_after = writes);
    }

    /// Lets somebody else act before the operation after so many more. The way to have two threads
    /// meet at a place of our choice, without threads.
    pub(crate) fn interrupt(&self, operations: u64, interlude: impl FnOnce() + Send + 'static) {
        self.inner(|inner| inner.interlude = Some((operations, Box::new(interlude))));
    }

    /// Forgets an interlude that has not come; whether there was one.
    pub(crate) fn never_mind(&self) -> bool {
        let interlude = self.inner(|inner| inner.interlude.take());
        interlude.is_some()
    }

    /// Runs the interlude if its time has come.
    fn begin(&self) {
        let due = self.inner(|inner| match &mut inner.interlude {
            Some((0, _)) => inner.interlude.take(),
            Some((operations, _)) => {
                *operations -= 1;
                None
            }
            None => None,
        });
        if let Some((_, interlude)) = due {
            interlude();
        }
    }

    fn inner<T>(&self, look: impl FnOnce(&mut Inner) -> T) -> T {
        look(&mut self.0.lock().unwrap())
    }
}

impl Inner {
    fn live(&mut self) -> io::Result<()> {
        match &mut self.lives {
            Some(0) => Err(io::Error::other("the process is gone")),
            Some(lives) => {
                *lives -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn find_room(&mut self) -> io::Result<()> {
        match self.full_after {
            Some(0) => {
                self.full_after = None;
                Err(io::ErrorKind::StorageFull.into())
            }
            Some(writes) => {
                self.full_after = Some(writes - 1);
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl File for LogFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.begin();
        self.inner(|inner| {
            let start = offset as usize;
            let bytes = inner.bytes.get(start..start + buf.len());
            buf.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.begin();
        self.inner(|inner| {
            inner.live()?;
            inner.find_room()?;
            inner.log.push(Op::Write {
                offset,
                data: buf.to_vec(),
            });
            put(&mut inner.bytes, offset as usize, buf);
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.begin();
        // Two steps, so that writes of other threads may come between.
        let begun = self.inner(|inner| {
            inner.live()?;
            inner.log.push(Op::SyncBegun);
            Ok::<_, io::Error>(inner.log.len() - 1)
        })?;
        self.inner(|inner| {
            inner.log.push(Op::SyncEnded(begun));
            Ok(())
        })
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.inner(|inner| inner.bytes.len() as u64))
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.begin();
        self.inner(|inner| {
            inner.live()?;
            inner.log.push(Op::SetLen(length));
            inner.bytes.resize(length as usize, 0);
            Ok(())
        })
    }
}

/// What becomes of one operation that no sync made durable.
#[derive(Debug, Clone)]
pub(crate) enum Fate {
    Done,
    Lost,
    /// Bit n, repeating, says whether the n-th sector touched was written.
    Torn(u64),
}

/// What the disk holds when power is lost after `log`, and which header it carries (counting from
/// one; zero if none). `fate` decides about what is not durable.
pub(crate) fn after_power_loss(
    start: &[u8],
    log: &[Op],
    mut fate: impl FnMut(usize) -> Fate,
) -> (Vec<u8>, usize) {
    let durable = log.iter().rev().find_map(|op| match op {
        Op::SyncEnded(begun) => Some(*begun),
        Op::Write { .. } | Op::SetLen(_) | Op::SyncBegun => None,
    });
    let (mut disk, mut headers, mut newest) = (start.to_vec(), 0, 0);
    for (at, op) in log.iter().enumerate() {
        let fate = if durable.is_some_and(|durable| at < durable) {
            Fate::Done
        } else {
            fate(at)
        };
        headers += usize::from(is_header(op));
        if is_header(op) && apply(&mut disk, op, &fate) {
            newest = headers;
        } else if !is_header(op) {
            apply(&mut disk, op, &fate);
        }
    }
    (disk, newest)
}

pub(crate) fn is_header(op: &Op) -> bool {
    matches!(op, Op::Write { offset: 0, data } if data.len() == SECTOR && data.starts_with(b"QFI\xfb"))
}

/// Applies an operation as far as its fate allows; whether its first sector was.
fn apply(disk: &mut Vec<u8>, op: &Op, fate: &Fate) -> bool {
    match (op, fate) {
        (_, Fate::Lost) | (Op::SyncBegun | Op::SyncEnded(_), _) => false,
        (Op::SetLen(length), Fate::Done | Fate::Torn(_)) => {
            disk.resize(*length as usize, 0);
            true
        }
        (Op::Write { offset, data }, Fate::Done) => {
            put(disk, *offset as usize, data);
            true
        }
        (Op::Write { offset, data }, Fate::Torn(mask)) => {
            assert!(offset.is_multiple_of(SECTOR as u64), "sectors are whole");
            for (sector, bytes) in data.chunks(SECTOR).enumerate() {
                if mask >> (sector % 64) & 1 == 1 {
                    put(disk, *offset as usize + sector * SECTOR, bytes);
                }
            }
            mask & 1 == 1
        }
    }
}

fn put(bytes: &mut Vec<u8>, at: usize, data: &[u8]) {
    let end = at + data.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[at..end].copy_from_slice(data);
}
