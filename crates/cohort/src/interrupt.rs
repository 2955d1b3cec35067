//! Ctrl-C, and what else asks a process to end: heard on a thread of its own, told as plain values.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, Sender};
use std::thread;

use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

/// One wish to stop. What the first means, and the second, is for whoever hears it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Interrupt;

/// Starts to listen for the signals that ask us to stop.
///
/// # Errors
/// The system refused to install a handler.
pub(crate) fn listen() -> io::Result<Receiver<Interrupt>> {
    let (tell, heard) = std::sync::mpsc::channel();
    listen_beside(tell)?;
    Ok(heard)
}

/// The same, told where others may also say that we are to stop.
///
/// # Errors
/// As [`listen`].
pub(crate) fn listen_beside(tell: Sender<Interrupt>) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    thread::Builder::new()
        .name("interrupt".into())
        .spawn(move || {
            for _ in signals.forever() {
                if tell.send(Interrupt).is_err() {
                    return;
                }
            }
        })?;
    Ok(())
}

/// Whether somebody has said, since it was last looked at, that what waits for the operator shall try again: SIGCONT, which a
/// shell's `fg` sends too.
///
/// # Errors
/// The system refused to install a handler.
pub(crate) fn continued() -> io::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(SIGCONT, flag.clone())?;
    Ok(flag)
}

/// Lets a write beyond the process's file size limit fail like any other write, instead of ending the process.
///
/// # Errors
/// The system refused to install a handler.
pub(crate) fn let_full_files_fail() -> io::Result<()> {
    // The flag is never read: that a handler is there is what changes the default.
    signal_hook::flag::register(SIGXFSZ, Arc::default()).map(|_| ())
}
