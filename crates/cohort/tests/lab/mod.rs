//! What the tests of the program share: a scratch directory, real disks in it, the program itself and the tools that
//! judge its work.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test program uses its own part"
)]

pub mod machine;
pub mod server;
pub mod slow;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

/// A scratch directory with disks, a backup directory `R` and copies kept aside.
pub struct Lab {
    dir: tempfile::TempDir,
}

/// What a run of the program did.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// Asserts the exit code, showing everything that was printed if it is another one.
    #[track_caller]
    pub fn exits(self, code: i32) -> Ran {
        assert_eq!(
            self.code,
            Some(code),
            "stdout:\n{}\nstderr:\n{}",
            self.stdout,
            self.stderr
        );
        self
    }

    /// Asserts that the messages for people hold each of `parts`.
    #[track_caller]
    pub fn says(self, parts: &[&str]) -> Ran {
        for part in parts {
            assert!(
                self.stderr.contains(part),
                "'{part}' is missing in:\n{}",
                self.stderr
            );
        }
        self
    }

    /// The last line of standard output, as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        let line = self.stdout.lines().last().unwrap_or_default();
        serde_json::from_str(line)
            .unwrap_or_else(|e| panic!("{e} in {line:?}\nstderr:\n{}", self.stderr))
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Ran {
        Ran {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Sends a signal to a child that runs.
pub fn signal(child: &Child, name: &str) {
    let kill = format!("kill -s {name} {}", child.id());
    let status = Command::new("sh").args(["-c", &kill]).status();
    assert!(status.expect("a shell").success());
}

impl Lab {
    pub fn new() -> Lab {
        Lab {
            dir: tempfile::Builder::new()
                .prefix("cohort-lab-")
                .tempdir()
                .expect("a scratch directory"),
        }
    }

    /// A path in the lab.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The program, to be run in the lab.
    pub fn program(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cohort"));
        command.current_dir(self.dir.path()).stdin(Stdio::null());
        command
    }

    /// Runs the program in the lab.
    pub fn cohort<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ran {
        self.program()
            .args(args)
            .output()
            .expect("the program starts")
            .into()
    }

    /// Runs a tool in the lab; it must succeed.
    #[track_caller]
    pub fn tool(&self, program: &str, args: &[&str]) -> String {
        let output = Command::new(program)
            .args(args)
            .current_dir(self.dir.path())
            .env("PATH", path_with_sbin())
            .output()
            .unwrap_or_else(|e| panic!("{program}: {e}"));
        let (out, err) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(
            output.status.success(),
            "{program} {args:?}: {}\n{out}\n{err}",
            output.status
        );
        out.into_owned()
    }

    /// Runs a tool in the lab, told in one line whose words are split at spaces; it must succeed.
    #[track_caller]
    pub fn run(&self, line: &str) -> String {
        let words: Vec<_> = line.split_whitespace().collect();
        let (program, args) = words.split_first().expect("a tool's name");
        self.tool(program, args)
    }

    /// Runs commands of qemu-io on an image in the lab. It exits with success even when one fails, so the text counts.
    #[track_caller]
    pub fn qemu_io(&self, format: &str, image: &str, commands: &[&str]) {
        // Nothing here survives the test, so nobody waits for the disk.
        let mut args = vec!["-t", "unsafe", "-f", format];
        args.extend(commands.iter().flat_map(|command| ["-c", *command]));
        args.push(image);
        let said = self.tool("qemu-io", &args);
        assert!(!said.contains("failed"), "{commands:?}: {said}");
    }

    /// Makes the file `name` of so many bytes of [`noise`].
    pub fn noise(&self, name: &str, seed: u64, length: usize) {
        fs::write(self.path(name), noise(seed, length)).expect("a file");
    }

    /// Writes over a part of the file `name`.
    pub fn overwrite(&self, name: &str, bytes: &[u8], offset: u64) {
        let file = fs::File::options().write(true).open(self.path(name));
        let file = file.expect("the file");
        file.write_all_at(bytes, offset).expect("a write");
    }

    /// Makes the raw disk `name` of `mib` MiB with an ext4 file system that holds `files`.
    pub fn ext4(&self, name: &str, mib: u64, files: &[(&str, &[u8])]) {
        let tree = self.path(&format!("{name}.tree"));
        fs::create_dir_all(&tree).expect("a directory");
        for (file, content) in files {
            fs::write(tree.join(file), content).expect("a file");
        }
        let disk = fs::File::create(self.path(name)).expect("a disk");
        disk.set_len(mib << 20).expect("room for the disk");
        self.tool(
            "mkfs.ext4",
            &["-q", "-F", "-d", &tree.to_string_lossy(), name],
        );
    }

    /// Writes `content` as `file` into the ext4 of the raw disk `disk`.
    pub fn put(&self, disk: &str, file: &str, content: &[u8]) {
        fs::write(self.path("put.tmp"), content).expect("a file");
        self.tool("debugfs", &["-w", "-R", &format!("rm {file}"), disk]);
        self.tool(
            "debugfs",
            &["-w", "-R", &format!("write put.tmp {file}"), disk],
        );
    }

    /// Every image in the backup directory `dir` is clean.
    #[track_caller]
    pub fn images_are_clean(&self, dir: &str) {
        for image in self.images(dir) {
            self.tool("qemu-img", &["check", "-q", &image.to_string_lossy()]);
        }
    }

    /// The images in the backup directory `dir`, sorted by name.
    pub fn images(&self, dir: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path(dir)).expect("the backup directory");
        let mut images: Vec<_> = entries
            .map(|entry| entry.expect("an entry").path())
            .collect();
        images.retain(|path| path.extension().is_some_and(|e| e == "qcow2"));
        images.sort();
        images
    }

    /// The images of one disk in the backup directory `dir`, in the order of their runs.
    pub fn images_of(&self, dir: &str, disk: &str) -> Vec<PathBuf> {
        let run = |path: &PathBuf| -> Option<u64> {
            let name = path
                .file_name()?
                .to_str()?
                .strip_prefix(disk)?
                .strip_prefix('.')?;
            name.split('-').next()?.parse().ok()
        };
        let mut images = self.images(dir);
        images.retain(|path| run(path).is_some());
        images.sort_by_key(run);
        images
    }

    /// How many images the chain from `image` down has.
    pub fn depth(&self, image: &Path) -> usize {
        let info = self.tool(
            "qemu-img",
            &[
                "info",
                "--backing-chain",
                "--output=json",
                &image.to_string_lossy(),
            ],
        );
        serde_json::from_str::<Value>(&info)
            .expect("JSON")
            .as_array()
            .expect("a chain")
            .len()
    }

    /// Asserts that two disks, each a format and a path or address, read the same.
    #[track_caller]
    pub fn same(&self, one: (&str, &str), other: (&str, &str)) {
        let formats = ["compare", "-q", "-f", one.0, "-F", other.0];
        self.tool("qemu-img", &[&formats[..], &[one.1, other.1]].concat());
    }

    /// Restores `point` from `dir` and asserts that it reads the same as the disk `copy` kept aside.
    #[track_caller]
    pub fn restores_to(&self, dir: &str, point: &str, copy: &str) {
        let out = self.path("restored");
        let _ = fs::remove_file(&out);
        self.cohort(["restore", "--from", dir, point, "restored"])
            .exits(0);
        self.tool(
            "qemu-img",
            &["compare", "-q", "-f", "raw", "restored", copy],
        );
        fs::remove_file(out).expect("the restored disk");
    }

    /// A copy of the raw content of `disk`, kept aside as `name`.
    pub fn keep(&self, disk: &str, name: &str) {
        self.tool("qemu-img", &["convert", "-O", "raw", disk, name]);
    }
}

/// Whether the tools are there; says so loudly if not, and fails where nothing may be skipped.
pub fn have(tools: &[&str]) -> bool {
    let path = path_with_sbin();
    let found = |tool: &&&str| std::env::split_paths(&path).any(|dir| dir.join(tool).exists());
    let missing: Vec<_> = tools.iter().filter(|tool| !found(tool)).collect();
    assert!(
        missing.is_empty() || std::env::var_os("CI").is_none(),
        "missing here, where nothing may be skipped: {missing:?}"
    );
    if !missing.is_empty() {
        eprintln!("SKIPPED: not installed: {missing:?}");
    }
    missing.is_empty()
}

/// `mkfs.ext4` and `debugfs` live where not everybody looks.
fn path_with_sbin() -> std::ffi::OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    path
}

/// Bytes that compress badly and repeat nowhere, the same for the same seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    std::iter::repeat_with(|| next().to_le_bytes())
        .flatten()
        .take(length)
        .collect()
}

/// The length of the file at `path`.
pub fn length(path: &Path) -> u64 {
    fs::metadata(path).expect("the file").len()
}
