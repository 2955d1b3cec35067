use std::sync::mpsc::{self, RecvTimeoutError};

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::*;
use crate::fence::{FenceCause, Fenced};

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(30);

#[test]
fn both_halves_run_in_order_around_the_fence() {
    let (say, said) = mpsc::channel();
    let (freeze, thaw) = (say.clone(), say.clone());
    let hook = Hook::new("app", LONG, sends(freeze, "freeze"), sends(thaw, "thaw"));
    let fenced = raise(hook, || say.send("closed").unwrap());
    assert!(fenced.unwrap().thaw_failures.is_empty());
    assert_eq!(
        said.try_iter().collect::<Vec<_>>(),
        ["freeze", "closed", "thaw"]
    );
}

#[test]
fn freeze_that_hangs_voids_the_round_at_its_deadline_and_is_thawed_when_it_ends() {
    let (let_go, hangs) = mpsc::channel::<()>();
    let (say, said) = mpsc::channel();
    let freeze = move || {
        let _ = hangs.recv();
        Ok(())
    };
    let hook = Hook::new("guest", SHORT, freeze, sends(say, "thaw"));
    let error = raise(hook, || panic!("the round is void")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no instant for the group: hook guest: did not freeze within 30ms; and did not thaw: hook guest: did not thaw within 30ms"
    );
    assert_eq!(said.recv_timeout(SHORT), Err(RecvTimeoutError::Timeout));
    drop(let_go);
    assert_eq!(said.recv_timeout(LONG), Ok("thaw"));
}

#[test]
fn freeze_that_fails_or_panics_is_thawed_too() {
    let bad: [Action; 2] = [
        Box::new(|| Err("two of three file systems".into())),
        Box::new(|| panic!("freeze")),
    ];
    for freeze in bad {
        let (say, said) = mpsc::channel();
        let hook = Hook::new("guest", LONG, freeze, sends(say, "thaw"));
        let error = raise(hook, || panic!("the round is void")).unwrap_err();
        assert!(matches!(error.cause, FenceCause::Freeze(_)));
        assert_eq!(said.try_recv(), Ok("thaw"));
    }
}

#[test]
fn thaw_that_hangs_is_reported_and_not_waited_for() {
    let (let_go, hangs) = mpsc::channel::<()>();
    let thaw = move || {
        let _ = hangs.recv();
        Ok(())
    };
    let fenced = raise(Hook::new("guest", SHORT, || Ok(()), thaw), || ()).unwrap();
    let failures: Vec<_> = fenced
        .thaw_failures
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(failures, ["hook guest: did not thaw within 30ms"]);
    drop(let_go);
}

#[test]
fn command_is_called_with_freeze_and_then_thaw() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    // With an argument of its own, and a name that needs quoting.
    let command = format!(
        "'{}' one",
        script(
            dir.path(),
            "my hook",
            &format!("echo $1 $2 >> '{}'", log.display())
        )
    );
    let fenced = raise(Hook::command(command, LONG), || ()).unwrap();
    assert!(
        fenced.thaw_failures.is_empty(),
        "{:?}",
        fenced.thaw_failures
    );
    assert_eq!(
        std::fs::read_to_string(log).unwrap(),
        "one freeze\none thaw\n"
    );
}

#[test]
fn command_that_fails_says_its_status_and_what_it_printed() {
    let said = command::run("echo no agent >&2; exit 3 #", "freeze", LONG).unwrap_err();
    assert_eq!(said.to_string(), "exit status: 3: no agent");
    let missing = command::run("/nonexistent/hook", "freeze", LONG).unwrap_err();
    assert!(
        missing.to_string().starts_with("exit status: 127"),
        "{missing}"
    );
}

/// Children and grandchildren hold a pipe open: it ends when the last of them is gone. How soon they begin is the machine's
/// to say, so the deadline grows until it finds them there.
#[test]
fn command_that_hangs_is_killed_with_all_it_started() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("alive");
    let (mode, fifo) = (Mode::RUSR | Mode::WUSR, FileType::Fifo);
    mknodat(CWD, &path, fifo, mode, 0).unwrap();
    let family = "echo begun; sleep 1000; echo lived";
    let command = format!("({family}) > '{}' & sleep 1000; true", path.display());
    let mut wait = Duration::from_millis(100);
    loop {
        let alive = reader(&path);
        let said = command::run(&command, "freeze", wait).unwrap_err();
        let late = format!("did not end within {wait:?} and was killed");
        assert_eq!(said.to_string(), late);
        let (tell, told) = mpsc::channel();
        thread::spawn(move || tell.send(std::io::read_to_string(alive)));
        let words = told.recv_timeout(LONG).expect("none of them lives on");
        match &*words.unwrap() {
            "" => wait *= 2,
            words => return assert_eq!(words, "begun\n"),
        }
    }
}

/// The end of a pipe that nobody writes to yet, without waiting for a writer.
fn reader(path: &std::path::Path) -> std::fs::File {
    let mut both = std::fs::File::options();
    let writer = both.read(true).write(true).open(path).unwrap();
    let reader = std::fs::File::open(path).unwrap();
    drop(writer);
    reader
}

#[test]
fn command_that_prints_megabytes_is_cut_short_and_not_held_up() {
    let said = command::run("yes | head -c 20000000; exit 1 #", "freeze", LONG).unwrap_err();
    assert!(said.to_string().len() < 5000);
    command::run("yes | head -c 20000000 #", "freeze", LONG).unwrap();
}

fn raise(hook: Hook, closed: impl FnOnce()) -> Result<Fenced<()>, crate::fence::FenceError> {
    let fence = Fence::new("group", LONG);
    hook.join(fence).unwrap().raise(|_| closed())
}

fn sends(to: Sender<&'static str>, word: &'static str) -> impl FnOnce() -> HookResult + Send {
    move || Ok(to.send(word)?)
}

fn script(dir: &std::path::Path, name: &str, body: &str) -> String {
    use std::os::unix::fs::PermissionsExt;
    let path = dir.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}
