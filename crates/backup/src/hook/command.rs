//! One call of a hook's command: killed at its deadline, what it prints bounded, its exit status checked.

use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::retry_on_intr;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use crate::fence::HookResult;

/// Bytes of output that are kept: a message, not a log. The rest is read and dropped, so that a command
/// that prints much is not held up by it.
const KEPT: usize = 4 << 10;

/// How long output is waited for that may be missing because somebody else holds the pipe open.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Runs `command` with one more argument.
pub(super) fn run(command: &str, argument: &str, wait: Duration) -> HookResult {
    let deadline = Instant::now() + wait;
    let mut child = Command::new("/bin/sh")
        .arg("-c")
        // The shell puts the argument behind the command as it was written.
        .arg(format!("{command} \"$@\""))
        .args(["cohort-hook", argument])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|error| format!("cannot be started: {error}"))?;
    let texts = [
        child.stdout.take().map(keep_some),
        child.stderr.take().map(keep_some),
    ];
    let pid = Pid::from_child(&child);
    let (tell, ended) = channel();
    // Waits without reaping: until `child.wait` below the number stays this child's. A signal of ours is not its end.
    let wait_for_it = move || retry_on_intr(|| waitid(WaitId::Pid(pid), ended_only())).map(drop);
    thread::spawn(move || tell.send(wait_for_it()));
    let left = deadline.saturating_duration_since(Instant::now());
    let in_time = ended.recv_timeout(left) != Err(RecvTimeoutError::Timeout);
    // In any case: nothing that it started in its group outlives it.
    let _ = kill_process_group(pid, Signal::KILL);
    let status = child.wait()?;
    let said = texts.into_iter().flatten().map(last_words);
    let said = said.collect::<Vec<_>>().join(" ");
    judge(in_time, status, wait, said.trim())
}

fn ended_only() -> WaitIdOptions {
    WaitIdOptions::EXITED | WaitIdOptions::NOWAIT
}

fn judge(in_time: bool, status: ExitStatus, wait: Duration, said: &str) -> HookResult {
    let problem = match (in_time, status.success()) {
        (true, true) => return Ok(()),
        (true, false) => status.to_string(),
        (false, _) => format!("did not end within {wait:?} and was killed"),
    };
    Err(match said {
        "" => problem.into(),
        said => format!("{problem}: {said}").into(),
    })
}

/// Reads to the end on a thread of its own and gives the beginning.
fn keep_some(mut pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (tell, told) = channel();
    thread::spawn(move || {
        let mut kept = Vec::new();
        let _ = pipe.by_ref().take(KEPT as u64).read_to_end(&mut kept);
        let _ = tell.send(String::from_utf8_lossy(&kept).into_owned());
        let _ = io::copy(&mut pipe, &mut io::sink());
    });
    told
}

fn last_words(told: Receiver<String>) -> String {
    told.recv_timeout(LAST_WORDS).unwrap_or_default()
}
