//! The locks that QEMU's tools take and honour on image files.
//!
//! Single bytes of the file stand for permissions, locked (shared) per open file description: the
//! byte at 100 + n by who uses permission n, the byte at 200 + n by who does not let others use it. A
//! newcomer first takes its own, then looks for the opposite byte of each in other hands. As taking
//! comes before looking, of two newcomers at least one sees the other. The kernel drops the locks with
//! the file description, so a killed process leaves none behind.
//!
//! Observed on QEMU 10 with strace; nothing of it is promised anywhere, but other versions must agree
//! with each other, so it has not changed since QEMU 2.10.

use std::fs;
use std::io;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

/// Reading bytes that somebody has written for good.
const CONSISTENT_READ: libc::off_t = 0;
/// Writing.
const WRITE: libc::off_t = 1;
/// Changing the length.
const RESIZE: libc::off_t = 3;

/// First byte of those that say "I use".
const USED: libc::off_t = 100;
/// First byte of those that say "nobody else may use".
const DENIED: libc::off_t = 200;

/// What a lock lets its holder do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// Read, while nobody writes.
    Read,
    /// Read and write, while nobody else writes, nor reads what must not change.
    Write,
}

/// Why a lock was not granted.
#[derive(Debug)]
pub(crate) enum LockError {
    /// Somebody else uses the file in a way that does not go together with the claim.
    Held(&'static str),
    /// The operating system failed.
    Io(io::Error),
}

/// Takes the locks of `claim` on `file`, for as long as its description is open.
///
/// A file system without such locks lets everybody in; that is said in the log.
pub(crate) fn lock(file: &fs::File, claim: Claim) -> Result<(), LockError> {
    let used: &[_] = match claim {
        Claim::Read => &[CONSISTENT_READ],
        Claim::Write => &[CONSISTENT_READ, WRITE, RESIZE],
    };
    let denied = [WRITE, RESIZE];
    let own = used
        .iter()
        .map(|n| USED + n)
        .chain(denied.map(|n| DENIED + n));
    for byte in own {
        match share(file, byte) {
            Ok(()) => {}
            Err(Errno::EAGAIN | Errno::EACCES) => {
                return Err(LockError::Held(
                    "another process has locked it for itself alone",
                ));
            }
            Err(error @ (Errno::ENOLCK | Errno::EOPNOTSUPP | Errno::EINVAL | Errno::ENOSYS)) => {
                tracing::warn!(%error, "this file system has no locks: other writers go unnoticed");
                return Ok(());
            }
            Err(error) => return Err(LockError::Io(error.into())),
        }
    }
    for permission in denied {
        if is_shared_by_others(file, USED + permission)? {
            return Err(LockError::Held(
                "another process, such as QEMU, has it open for writing",
            ));
        }
    }
    for &permission in used {
        if is_shared_by_others(file, DENIED + permission)? {
            return Err(LockError::Held(match claim {
                Claim::Read => "another process does not let anybody else read it",
                Claim::Write => "another process reads it and does not let anybody write to it",
            }));
        }
    }
    Ok(())
}

/// Whether somebody else reads `file` and counts on nobody writing to it. Where there are no locks, nobody says so.
pub(crate) fn is_read(file: &fs::File) -> bool {
    is_shared_by_others(file, DENIED + WRITE).unwrap_or(false)
}

/// Gives back every lock on `file`, of whatever kind: from here on anybody may write to it.
pub(crate) fn release(file: &fs::File) -> io::Result<()> {
    let mut everything = one_byte(libc::F_UNLCK, 0);
    // To the end, wherever that is.
    everything.l_len = 0;
    fcntl(file, FcntlArg::F_OFD_SETLK(&everything))?;
    Ok(())
}

fn share(file: &fs::File, byte: libc::off_t) -> Result<(), Errno> {
    let lock = one_byte(libc::F_RDLCK, byte);
    fcntl(file, FcntlArg::F_OFD_SETLK(&lock)).map(drop)
}

fn is_shared_by_others(file: &fs::File, byte: libc::off_t) -> Result<bool, LockError> {
    let mut lock = one_byte(libc::F_WRLCK, byte);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock)).map_err(|e| LockError::Io(e.into()))?;
    Ok(libc::c_int::from(lock.l_type) != libc::F_UNLCK)
}

fn one_byte(kind: libc::c_int, byte: libc::off_t) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: byte,
        l_len: 1,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(path: &std::path::Path) -> fs::File {
        fs::File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .unwrap()
    }

    #[test]
    fn readers_share_and_a_writer_is_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let is_held = |r: Result<(), LockError>| matches!(r, Err(LockError::Held(_)));

        let (one, two) = (opened(&path), opened(&path));
        lock(&one, Claim::Read).unwrap();
        lock(&two, Claim::Read).unwrap();
        assert!(is_held(lock(&opened(&path), Claim::Write)));
        assert!(is_read(&one) && is_read(&opened(&path)));
        drop(two);
        assert!(!is_read(&one) && is_read(&opened(&path)));
        drop(one);
        assert!(!is_read(&opened(&path)));

        let writer = opened(&path);
        lock(&writer, Claim::Write).unwrap();
        assert!(is_held(lock(&opened(&path), Claim::Read)));
        assert!(is_held(lock(&opened(&path), Claim::Write)));
        drop(writer);
        lock(&opened(&path), Claim::Write).unwrap();
    }

    #[test]
    fn locks_end_with_their_owner_although_a_child_still_has_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let file = opened(&path);
        lock(&file, Claim::Write).unwrap();
        // What a child has between fork and exec.
        let inherited = file.try_clone().unwrap();
        drop(crate::OsFile::locked(file).unwrap());
        lock(&opened(&path), Claim::Write).unwrap();
        drop(inherited);
    }

    #[test]
    fn own_locks_are_no_conflict() {
        let dir = tempfile::tempdir().unwrap();
        let file = opened(&dir.path().join("f"));
        lock(&file, Claim::Read).unwrap();
        lock(&file, Claim::Write).unwrap();
    }
}
