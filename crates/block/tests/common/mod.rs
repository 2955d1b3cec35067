//! What the tests of this folder share: QEMU's tools as peers, and bytes to tell apart.
#![allow(dead_code, reason = "each test program uses its part of it")]

use std::path::Path;
use std::process::{Command, Output};

use cohort_block::Device;

/// Whether QEMU's tools are here. Says so loudly when they are not, and fails where they must be.
pub(crate) fn have_qemu() -> bool {
    let found = Command::new("qemu-img").arg("--version").output().is_ok()
        && Command::new("qemu-io").arg("--version").output().is_ok();
    if !found {
        assert!(
            std::env::var_os("CI").is_none(),
            "qemu-img and qemu-io must be installed here"
        );
        eprintln!("SKIPPED: qemu-img not found");
    }
    found
}

/// Runs a tool in `dir` and gives what it printed; the words of `line` are split at spaces.
pub(crate) fn run(dir: &Path, line: &str) -> String {
    let output = attempt(dir, &line.split_whitespace().collect::<Vec<_>>());
    assert!(output.status.success(), "{line}: {}", text(&output));
    String::from_utf8(output.stdout).expect("tools print text")
}

/// Runs a tool in `dir`, whatever comes of it.
pub(crate) fn attempt(dir: &Path, words: &[&str]) -> Output {
    let (tool, rest) = words.split_first().expect("a tool's name");
    Command::new(tool)
        .args(rest)
        .current_dir(dir)
        .output()
        .expect("the tool runs")
}

/// Runs commands of qemu-io on an image. It exits with success even when one fails, so the text counts.
pub(crate) fn qemu_io(dir: &Path, image: &str, format: &str, commands: &[String]) {
    // Nothing here survives the test, so nobody waits for the disk.
    let mut words = vec!["qemu-io", "-t", "unsafe", "-f", format];
    for command in commands {
        words.extend(["-c", command]);
    }
    words.push(image);
    let output = attempt(dir, &words);
    let told = text(&output);
    assert!(
        output.status.success() && !told.contains("failed"),
        "{commands:?}: {told}"
    );
}

/// All that a tool said.
pub(crate) fn text(output: &Output) -> String {
    let Output { stdout, stderr, .. } = output;
    format!(
        "{}{}",
        String::from_utf8_lossy(stdout),
        String::from_utf8_lossy(stderr)
    )
}

/// All bytes of a device, read in uneven pieces.
pub(crate) fn content(device: &dyn Device) -> Vec<u8> {
    let mut bytes = vec![0xee; device.size() as usize];
    let mut rest = &mut bytes[..];
    let mut at = 0;
    while !rest.is_empty() {
        let length = rest.len().min(100_003);
        let (now, later) = rest.split_at_mut(length);
        device.read_at(now, at).expect("the device reads");
        at += length as u64;
        rest = later;
    }
    bytes
}

/// Numbers that look random and are the same in every run.
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    /// The next one, below `limit`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        // Constants of splitmix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}
