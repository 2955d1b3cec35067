//! The terminal: taken, drawn on, listened to, and given back however this ends.

use std::io;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::ask::{Asker, Told};
use super::model::{Key, Model, Order};
use super::view;
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::interrupt::Interrupt;

/// How long a key may keep signals and news waiting.
const LOOK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// The terminal as long as this lives; a panic gives it back, too.
struct Screen(ratatui::DefaultTerminal);

impl Screen {
    fn take() -> io::Result<Self> {
        ratatui::try_init().map(Self)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // What is wrong with the terminal then, the shell will find out.
        let _ = ratatui::try_restore();
    }
}

/// Shows the model, which learns what the asker tells, until the user or a signal says that it is enough.
pub(super) fn run(mut model: Model, asker: &Asker, interrupts: &Receiver<Interrupt>) -> Result {
    let failed = |error| Failure::new(Exit::Other, error);
    let mut screen = Screen::take().map_err(failed)?;
    loop {
        screen
            .0
            .draw(|frame| view::draw(&model, frame))
            .map_err(failed)?;
        if is_gone().map_err(failed)? {
            return Ok(Exit::Done);
        }
        while event::poll(Duration::ZERO).map_err(failed)? {
            let key = key(&event::read().map_err(failed)?);
            if let Some(order) = key.and_then(|key| model.press(key)) {
                match order {
                    Order::Leave => return Ok(Exit::Done),
                    Order::Ask(wish) => asker.wish(wish),
                }
            }
        }
        if interrupts.try_recv().is_ok() {
            return Ok(Exit::Done);
        }
        for told in asker.told() {
            match told {
                Told::Seen(sample) => model.see(*sample),
                Told::Said(said) => model.said = said,
                Told::Lost(failure) => return Err(failure),
            }
        }
    }
}

/// Waits a moment for a key. Says whether the terminal is gone, from which crossterm would read for ever.
fn is_gone() -> io::Result<bool> {
    let stdin = io::stdin();
    let mut keys = [PollFd::new(&stdin, PollFlags::IN)];
    match poll(&mut keys, Some(&LOOK)) {
        Ok(_) => Ok(keys[0]
            .revents()
            .intersects(PollFlags::HUP | PollFlags::ERR)),
        // A signal, as when the size changes.
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// What a key means, if it means something.
fn key(event: &Event) -> Option<Key> {
    let Event::Key(KeyEvent {
        code,
        modifiers,
        kind: KeyEventKind::Press | KeyEventKind::Repeat,
        ..
    }) = event
    else {
        return None;
    };
    let with_control = modifiers.contains(KeyModifiers::CONTROL);
    if let (KeyCode::Char(letter), true) = (code, with_control) {
        return (*letter == 'c').then_some(Key::Interrupt);
    }
    if let KeyCode::Char(letter) = code {
        return Some(Key::Char(*letter));
    }
    let named = NAMED_KEYS.iter().find(|(named, _)| named == code);
    named.map(|(_, key)| *key)
}

/// The keys that have names.
const NAMED_KEYS: [(KeyCode, Key); 5] = [
    (KeyCode::Up, Key::Up),
    (KeyCode::Down, Key::Down),
    (KeyCode::Home, Key::First),
    (KeyCode::End, Key::Last),
    (KeyCode::Esc, Key::Escape),
];

#[cfg(test)]
#[path = "../../tests/top/terminal.rs"]
mod terminal;

#[cfg(test)]
mod tests {
    use pty_process::blocking::Command;

    use super::*;

    /// Has the test below do what it is about, in a process of its own.
    const PANICS: &str = "COHORT_TEST_PANICS";

    #[test]
    fn a_panic_gives_the_terminal_back_and_is_read() {
        if std::env::var_os(PANICS).is_some() {
            let mut screen = Screen::take().unwrap();
            screen
                .0
                .draw(|frame| frame.render_widget("in front", frame.area()))
                .unwrap();
            panic!("on purpose");
        }
        let name = "top::screen::tests::a_panic_gives_the_terminal_back_and_is_read";
        let command = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture", "--test-threads", "1"])
            .env(PANICS, "1")
            .env("TERM", "xterm-256color");
        let terminal = terminal::Terminal::run(command, 24, 80);
        let (status, screen, is_restored) = terminal.end();
        assert_eq!(status.code(), Some(101), "{screen}");
        assert!(is_restored && screen.contains("on purpose"), "{screen}");
    }

    #[test]
    fn keys_mean_what_they_do() {
        let press = |code, modifiers| key(&Event::Key(KeyEvent::new(code, modifiers)));
        let none = KeyModifiers::NONE;
        assert_eq!(press(KeyCode::Up, none), Some(Key::Up));
        assert_eq!(press(KeyCode::Esc, none), Some(Key::Escape));
        assert_eq!(press(KeyCode::Char('c'), none), Some(Key::Char('c')));
        let with = KeyModifiers::CONTROL;
        assert_eq!(press(KeyCode::Char('c'), with), Some(Key::Interrupt));
        assert_eq!(press(KeyCode::Char('q'), with), None);
        assert_eq!(press(KeyCode::F(1), none), None);
        assert_eq!(key(&Event::Resize(80, 24)), None);
    }
}
