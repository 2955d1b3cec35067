//! A disk as a stream of bytes: one thread reads ahead while the other waits for whoever takes them.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread;

use cohort_block::{Device, DeviceError, ExtentKind};

use super::FullCopyError;
use crate::error::DiskError;

/// What is read and written at once.
const PIECE: u64 = 1 << 20;

/// Pieces that are read ahead.
const AHEAD: usize = 4;

/// A stretch of the disk.
enum Piece {
    Data(Vec<u8>),
    Zeroes(u64),
}

/// Writes all bytes of a device, and gives how many of them were data.
pub(super) fn write(
    source: &dyn Device,
    name: String,
    mut to: Box<dyn Write + Send>,
    progress: &(dyn Fn(u64, u64) + Sync),
    cancel: &AtomicBool,
) -> Result<u64, FullCopyError> {
    let size = source.size();
    let (send, receive) = sync_channel::<Result<Piece, DeviceError>>(AHEAD);
    thread::scope(|scope| {
        scope.spawn(move || {
            let (mut at, mut data_until) = (0, 0);
            while at < size {
                let read = read(source, at, &mut data_until);
                let failed = read.is_err();
                if let Ok(piece) = &read {
                    at += piece.length();
                }
                // Nobody receives any more, or nothing more is to be had.
                if send.send(read).is_err() || failed {
                    return;
                }
            }
        });
        let zeroes = vec![0; PIECE as usize];
        let (mut at, mut data) = (0, 0);
        progress(0, size);
        for piece in receive {
            if cancel.load(Ordering::Relaxed) {
                return Err(FullCopyError::Cancelled);
            }
            let piece = piece.map_err(|error| FullCopyError::Source(DiskError::Read(error)))?;
            let failed = |error| FullCopyError::Stream {
                name: name.clone(),
                offset: at,
                error,
            };
            let length = piece.length();
            match piece {
                Piece::Data(bytes) => {
                    to.write_all(&bytes).map_err(failed)?;
                    data += length;
                }
                Piece::Zeroes(mut left) => {
                    while left > 0 {
                        if cancel.load(Ordering::Relaxed) {
                            return Err(FullCopyError::Cancelled);
                        }
                        let now = left.min(PIECE);
                        to.write_all(&zeroes[..now as usize]).map_err(failed)?;
                        left -= now;
                    }
                }
            }
            at += length;
            progress(at, size);
        }
        to.flush().map_err(|error| FullCopyError::Stream {
            name: name.clone(),
            offset: at,
            error,
        })?;
        Ok(data)
    })
}

/// The next stretch, which is all zeroes or read. The source has said that all is data up to `data_until`.
fn read(source: &dyn Device, at: u64, data_until: &mut u64) -> Result<Piece, DeviceError> {
    if at >= *data_until {
        let rest = source.size() - at;
        *data_until = match source.extent(at, rest) {
            Ok(extent) if extent.kind == ExtentKind::Zero => {
                return Ok(Piece::Zeroes(extent.length));
            }
            Ok(extent) => at + extent.length,
            Err(_) => at + PIECE.min(rest), // Reading says why.
        };
    }
    let left = PIECE.min(*data_until - at);
    let mut bytes = vec![0; left as usize];
    source.read_at(&mut bytes, at)?;
    Ok(Piece::Data(bytes))
}

impl Piece {
    fn length(&self) -> u64 {
        match self {
            Piece::Data(bytes) => bytes.len() as u64,
            Piece::Zeroes(length) => *length,
        }
    }
}
