//! The calls by which a program changes files, taken before the operating system carries them out.
//!
//! A program that holds this module has these names instead of the C library's. So every durable write is a point at
//! which it may die or fail, whoever makes it, and the code that is tried has no hooks for that.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::os::fd::{BorrowedFd, IntoRawFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::libc::{c_char, c_int, c_void, mode_t, off64_t, size_t, ssize_t};
use rustix::fs::{Mode, OFlags};

use crate::watch::{self, Operation};

/// What the operating system answers: the kernel itself, without a C library between.
fn answer<T>(result: rustix::io::Result<T>, good: impl FnOnce(T) -> ssize_t) -> ssize_t {
    match result {
        Ok(value) => good(value),
        Err(error) => refuse(Errno::from_raw(error.raw_os_error())),
    }
}

fn refuse(errno: Errno) -> ssize_t {
    errno.set();
    -1
}

/// A file that the caller holds open as long as the call lasts.
fn file(fd: c_int) -> BorrowedFd<'static> {
    // SAFETY: the caller of the C function vouches for it, as to the C library.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

fn path_of(fd: c_int) -> Option<PathBuf> {
    let link = rustix::fs::readlink(format!("/proc/self/fd/{fd}"), Vec::new()).ok()?;
    Some(PathBuf::from(link.into_string().ok()?))
}

fn text<'a>(path: *const c_char) -> &'a CStr {
    // SAFETY: the caller vouches for a string with an end, as to the C library.
    unsafe { CStr::from_ptr(path) }
}

fn bytes<'a>(from: *const c_void, length: size_t) -> &'a [u8] {
    // SAFETY: the caller vouches for so many bytes, as to the C library.
    unsafe { std::slice::from_raw_parts(from.cast(), length) }
}

fn named(path: &CStr) -> Option<PathBuf> {
    let path = PathBuf::from(path.to_str().ok()?);
    std::path::absolute(path).ok()
}

/// What the watch says of an operation on an open file.
fn on(fd: c_int, operation: Operation<'_>) -> Result<(), Errno> {
    if !watch::is_armed() {
        return Ok(());
    }
    path_of(fd).map_or(Ok(()), |path| watch::reach(&path, operation))
}

/// What the watch says of an operation on a name.
fn at(path: &CStr, operation: Operation<'_>) -> Result<(), Errno> {
    if !watch::is_armed() {
        return Ok(());
    }
    named(path).map_or(Ok(()), |path| watch::reach(&path, operation))
}

#[unsafe(no_mangle)]
extern "C" fn pwrite64(fd: c_int, from: *const c_void, length: size_t, offset: off64_t) -> ssize_t {
    let data = bytes(from, length);
    let offset = offset as u64;
    match on(fd, Operation::Write(offset, data.len() as u64)) {
        Ok(()) => answer(rustix::io::pwrite(file(fd), data, offset), |n| n as ssize_t),
        Err(errno) => refuse(errno),
    }
}

#[unsafe(no_mangle)]
extern "C" fn write(fd: c_int, from: *const c_void, length: size_t) -> ssize_t {
    let data = bytes(from, length);
    let offset = match watch::is_armed() {
        true => rustix::fs::tell(file(fd)).unwrap_or(0),
        false => 0,
    };
    match on(fd, Operation::Write(offset, data.len() as u64)) {
        Ok(()) => answer(rustix::io::write(file(fd), data), |n| n as ssize_t),
        Err(errno) => refuse(errno),
    }
}

#[unsafe(no_mangle)]
extern "C" fn ftruncate64(fd: c_int, length: off64_t) -> c_int {
    let length = length as u64;
    let call = on(fd, Operation::Cut(length));
    short(call, || rustix::fs::ftruncate(file(fd), length))
}

#[unsafe(no_mangle)]
extern "C" fn fsync(fd: c_int) -> c_int {
    let synced = || rustix::fs::fsync(file(fd));
    short(on(fd, Operation::Sync), synced)
}

#[unsafe(no_mangle)]
extern "C" fn fdatasync(fd: c_int) -> c_int {
    let synced = || rustix::fs::fdatasync(file(fd));
    short(on(fd, Operation::Sync), synced)
}

#[unsafe(no_mangle)]
extern "C" fn unlink(path: *const c_char) -> c_int {
    let path = text(path);
    short(at(path, Operation::Remove), || rustix::fs::unlink(path))
}

#[unsafe(no_mangle)]
extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    let (from, to) = (text(from), text(to));
    let renamed = || rustix::fs::rename(from, to);
    short(at(from, Operation::Rename), renamed)
}

#[unsafe(no_mangle)]
extern "C" fn mkdir(path: *const c_char, mode: mode_t) -> c_int {
    let path = text(path);
    let made = || rustix::fs::mkdir(path, Mode::from_raw_mode(mode));
    short(at(path, Operation::Make), made)
}

/// The third argument is there only if the flags ask for it; else it is not looked at.
#[unsafe(no_mangle)]
extern "C" fn open64(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    let (path, flags) = (text(path), OFlags::from_bits_retain(flags as u32));
    let creates = flags.contains(OFlags::CREATE);
    let makes = creates && (flags.contains(OFlags::EXCL) || !watch::exists(path));
    let writes = flags.intersects(OFlags::WRONLY | OFlags::RDWR);
    let call = match (makes, writes) {
        (true, _) => at(path, Operation::Make),
        (false, true) => at(path, Operation::Open),
        (false, false) => Ok(()),
    };
    if let Err(errno) = call {
        return refuse(errno) as c_int;
    }
    let moded = creates || flags.contains(OFlags::TMPFILE);
    let mode = Mode::from_raw_mode(if moded { mode } else { 0 });
    let opened = rustix::fs::open(path, flags, mode);
    answer(opened, |fd| fd.into_raw_fd() as ssize_t) as c_int
}

fn short(call: Result<(), Errno>, carry_out: impl FnOnce() -> rustix::io::Result<()>) -> c_int {
    let answered = match call {
        Ok(()) => answer(carry_out(), |()| 0),
        Err(errno) => refuse(errno),
    };
    answered as c_int
}
