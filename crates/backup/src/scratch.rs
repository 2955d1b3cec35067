//! The scratch file that old data waits in: without a name, and with its space taken beforehand.

use std::io;
use std::path::Path;
use std::sync::Arc;

use cohort_block::{File, OsFile};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

/// Makes one in `folder`. Nobody else can open it, and it is gone when the process is.
///
/// # Errors
/// The folder does not take it, or has no room for all of it.
pub(crate) fn scratch_file(folder: &Path, bytes: u64) -> io::Result<Arc<dyn File>> {
    let file = tempfile::tempfile_in(folder)?;
    if bytes > 0 {
        match fallocate(&file, FallocateFlags::empty(), 0, bytes) {
            // Where nothing can be reserved, a full file system is found out when it is written.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Arc::new(OsFile::new(file)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scratch_file_has_no_name_and_all_of_its_space() {
        let folder = tempfile::tempdir().unwrap();
        let file = scratch_file(folder.path(), 1 << 20).unwrap();
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
        file.write_at(&[7; 4096], (1 << 20) - 4096).unwrap();
        let absurd = scratch_file(folder.path(), 1 << 60).unwrap_err();
        assert_ne!(absurd.kind(), io::ErrorKind::NotFound);
    }
}
