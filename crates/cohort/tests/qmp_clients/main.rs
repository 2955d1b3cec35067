//! QEMU's own clients: the Python package `qemu.qmp` and its shell, against `cohort serve --qmp`.
//!
//! They are installed into `target/qmp-venv` once. Where that cannot be done the test says so; in CI it fails.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

#[test]
fn qemus_python_package_commands_a_grouped_backup() {
    let Some(tools) = tools() else { return };
    let daemon = Daemon::start();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/qmp_clients/session.py");
    let said = Command::new(tools.join("python"))
        .arg(script)
        .arg(daemon.socket())
        .output()
        .unwrap();
    let said = format!("{}{}", text(&said.stdout), text(&said.stderr));
    let expected = "greeting 10\n\
        j0 created running paused running waiting pending concluded\n\
        j1 concluded 1048576\n\
        j0 concluded 1048576\n\
        refused Job not found\n";
    assert_eq!(said, expected);
}

#[test]
fn qmp_shell_is_understood() {
    let Some(tools) = tools() else { return };
    let daemon = Daemon::start();
    let mut shell = Command::new(tools.join("qmp-shell"));
    shell
        .arg(daemon.socket())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut shell = shell.spawn().unwrap();
    let commands = "blockdev-add driver=null-co node-name=d0 size=1048576\n\
        block-dirty-bitmap-add node=d0 name=b granularity=4096\n\
        query-jobs\n\
        blockdev-del node-name=zz\n";
    shell
        .stdin
        .take()
        .unwrap()
        .write_all(commands.as_bytes())
        .unwrap();
    let said = shell.wait_with_output().unwrap();
    let said = text(&said.stdout);
    for answer in [
        "{\"return\": {}}",
        "{\"return\": []}",
        "Failed to find node with node-name='zz'",
    ] {
        assert!(said.contains(answer), "{said}");
    }
}

/// A daemon in a folder of its own, which ends with this.
struct Daemon {
    child: Child,
    folder: tempfile::TempDir,
}

impl Daemon {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_cohort"))
            .args(["serve", "--qmp", "qmp.sock"])
            .current_dir(folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        while lines.next().unwrap().unwrap() != "ready" {}
        Daemon { child, folder }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("qmp.sock")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The folder with the package's programs.
fn tools() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("qmp-venv");
    let tools = folder.join("bin");
    let installed = || tools.join("qmp-shell").exists();
    let lock = std::fs::File::create(folder.with_extension("lock")).unwrap();
    lock.lock().unwrap();
    if !installed() {
        let _ = Command::new("python3")
            .args(["-m", "venv"])
            .arg(&folder)
            .status();
        let _ = Command::new(tools.join("pip"))
            .args(["install", "--quiet", "qemu.qmp"])
            .status();
    }
    if installed() {
        return Some(tools);
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "this may not be skipped in CI"
    );
    eprintln!("SKIPPED: the package qemu.qmp could not be installed");
    None
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
