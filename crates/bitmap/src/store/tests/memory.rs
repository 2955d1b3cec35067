//! A file in memory that fails when told to.

use std::io;
use std::sync::Mutex;

use crate::store::File;

#[derive(Debug, Default)]
pub(super) struct Memory(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    bytes: Vec<u8>,
    /// Writes and syncs so far.
    operations: u64,
    /// The operations that fail, from the first to before the second.
    fails: Option<(u64, u64)>,
}

impl Memory {
    pub(super) fn holding(bytes: Vec<u8>) -> Self {
        let inner = Inner {
            bytes,
            ..Inner::default()
        };
        Self(Mutex::new(inner))
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().bytes.clone()
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Vec<u8>)) {
        change(&mut self.0.lock().unwrap().bytes);
    }

    pub(super) fn operations(&self) -> u64 {
        self.0.lock().unwrap().operations
    }

    /// Fails `count` operations after the next `after`.
    pub(super) fn fail(&self, after: u64, count: u64) {
        let mut inner = self.0.lock().unwrap();
        let first = inner.operations + after;
        inner.fails = Some((first, first.saturating_add(count)));
    }

    fn operate<T>(&self, work: impl FnOnce(&mut Vec<u8>) -> T) -> io::Result<T> {
        let mut inner = self.0.lock().unwrap();
        let number = inner.operations;
        inner.operations += 1;
        match inner.fails {
            Some((from, to)) if (from..to).contains(&number) => {
                Err(io::ErrorKind::StorageFull.into())
            }
            _ => Ok(work(&mut inner.bytes)),
        }
    }
}

impl File for Memory {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let inner = self.0.lock().unwrap();
        let from = offset as usize;
        let bytes = inner.bytes.get(from..from + buf.len());
        buf.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.operate(|bytes| {
            let (from, to) = (offset as usize, offset as usize + buf.len());
            if bytes.len() < to {
                bytes.resize(to, 0);
            }
            bytes[from..to].copy_from_slice(buf);
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.operate(|_| ())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().bytes.len() as u64)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.operate(|bytes| bytes.resize(length as usize, 0))
    }
}
