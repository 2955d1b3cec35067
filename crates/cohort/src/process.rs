//! What the system says of this process.

use std::fs;

/// The memory that it has, in bytes; nothing where the system does not say.
pub(crate) fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1024)
}

/// How many files it has open.
pub(crate) fn open_files() -> Option<u64> {
    let open = fs::read_dir("/proc/self/fd").ok()?.count();
    // The directory itself was open meanwhile.
    u64::try_from(open).ok()?.checked_sub(1)
}
