//! Contenders in processes of their own: none pays for what another left behind in the allocator, or for its threads.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

/// The word before a contender's own, on the command line of its process.
const WORD: &str = "--apart";

/// This program again, as one contender: runs a round whenever it is asked to.
#[derive(Debug)]
pub struct Apart {
    process: Child,
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Apart {
    /// Starts it; `words` tell it which contender it is.
    ///
    /// # Panics
    /// If the process cannot be started.
    pub fn start(words: &[&str]) -> Self {
        let program = std::env::current_exe().expect("this program has a path");
        let mut process = Command::new(program)
            .arg(WORD)
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process");
        let asks = process.stdin.take().expect("a pipe");
        let answers = BufReader::new(process.stdout.take().expect("a pipe"));
        Self {
            process,
            asks,
            answers,
        }
    }

    /// Has it run one round; how long that took, as it measured it.
    ///
    /// # Panics
    /// If it has ended.
    pub fn round(&mut self) -> Duration {
        self.asks.write_all(b"\n").expect("it listens");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("it answers");
        Duration::from_nanos(answer.trim().parse().expect("nanoseconds"))
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The words this process was started with, if it is a contender.
pub fn words() -> Option<Vec<String>> {
    let mut words = std::env::args().skip(1);
    (words.next()? == WORD).then(|| words.collect())
}

/// What a contender's process does: a round whenever it is asked to, until nobody asks any more.
pub fn serve(mut round: impl FnMut() -> Duration) {
    for ask in std::io::stdin().lines() {
        if ask.is_err() {
            return;
        }
        println!("{}", round().as_nanos());
    }
}
