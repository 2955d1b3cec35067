//! A real terminal that is none: the program runs in a pseudo-terminal, and what it draws is kept as a screen.
#![allow(
    dead_code,
    unreachable_pub,
    missing_debug_implementations,
    reason = "two test programs use it, each its own part"
)]

use std::io::{Read, Write};
use std::num::NonZero;
use std::process::{Child, ExitStatus};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use pty_process::blocking::{Command, Pty, open};
use rustix::termios::{LocalModes, tcgetattr};

/// How long a picture is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// The program in its terminal. Killed when dropped.
pub struct Terminal {
    child: Child,
    pty: Arc<Pty>,
    screen: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// What was drawn, and whether more may come.
    drawn: Mutex<(Option<vt100::Parser>, bool)>,
    changed: Condvar,
}

impl Terminal {
    /// Runs the command in a terminal of this size.
    pub fn run(command: Command, rows: u16, columns: u16) -> Terminal {
        let (pty, inside) = open().expect("a terminal");
        pty.resize(pty_process::Size::new(rows, columns))
            .expect("its size");
        let child = command.spawn(inside).expect("the program starts");
        let pty = Arc::new(pty);
        let output = pty.clone();
        let screen = Arc::new(Shared::default());
        screen.drawn.lock().unwrap().0 = Some(vt100::Parser::new(size(rows), size(columns), 0));
        let drawn = screen.clone();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // The other side of a terminal that nobody has any more fails.
            while let Ok(read @ 1..) = (&*output).read(&mut bytes) {
                let mut state = drawn.drawn.lock().unwrap();
                state.0.as_mut().unwrap().process(&bytes[..read]);
                drop(state);
                drawn.changed.notify_all();
            }
            drawn.drawn.lock().unwrap().1 = true;
            drawn.changed.notify_all();
        });
        Terminal { child, pty, screen }
    }

    /// Types.
    pub fn press(&self, keys: &str) {
        (&*self.pty).write_all(keys.as_bytes()).expect("it listens");
    }

    /// The program.
    pub fn child(&self) -> &Child {
        &self.child
    }

    /// Waits for a picture that is so, and gives it.
    #[track_caller]
    pub fn wait_for(&self, is: impl Fn(&vt100::Screen) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.screen.drawn.lock().unwrap();
        loop {
            let screen = state.0.as_ref().unwrap().screen();
            if is(screen) {
                return screen.contents();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero() && !state.1,
                "it does not come to that:\n{}",
                screen.contents()
            );
            state = self.screen.changed.wait_timeout(state, left).unwrap().0;
        }
    }

    /// Waits for a picture in which all of these stand.
    #[track_caller]
    pub fn shows(&self, parts: &[&str]) -> String {
        self.wait_for(|screen| {
            let contents = screen.contents();
            parts.iter().all(|part| contents.contains(part))
        })
    }

    /// Waits until it has ended and all that it wrote was read; gives how it ended, what is on the screen now, and
    /// whether the terminal is as it was: nothing in front, cursor shown, lines edited and echoed.
    pub fn end(mut self) -> (ExitStatus, String, bool) {
        let status = self.child.wait().expect("it ends");
        let mut state = self.screen.drawn.lock().unwrap();
        while !state.1 {
            state = self.screen.changed.wait(state).unwrap();
        }
        let screen = state.0.as_ref().unwrap().screen();
        let modes = tcgetattr(&*self.pty).expect("its modes").local_modes;
        let is_restored = !screen.alternate_screen()
            && !screen.hide_cursor()
            && modes.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG);
        (status, screen.contents(), is_restored)
    }
}

fn size(cells: u16) -> NonZero<u16> {
    NonZero::new(cells).expect("room")
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
