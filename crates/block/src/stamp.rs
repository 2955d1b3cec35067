//! Which file is it, and is it still as it was: identity and stamp of a file.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Which file a path leads to, however it is called: equal for hard links, symbolic links and every
/// other spelling of one file, and for all nodes of one block device.
///
/// Holds while the file exists; an inode may come back as another file after that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileId {
    /// A file: the number of its file system, and its inode there.
    File {
        /// The file system's device number.
        filesystem: u64,
        /// The inode's number.
        inode: u64,
    },
    /// A block device: its own number.
    BlockDevice {
        /// Major and minor number in one.
        number: u64,
    },
}

impl FileId {
    /// What holds its bytes: of a loop device, and of its partitions, the file behind it; of anything else itself.
    #[must_use]
    pub fn beneath(self) -> FileId {
        let FileId::BlockDevice { number } = self else {
            return self;
        };
        let behind = loop_file(number).and_then(|path| FileId::of_path(path).ok());
        behind.map_or(self, FileId::beneath)
    }

    /// The identity of what `path` leads to, symbolic links followed.
    ///
    /// # Errors
    /// What the operating system says, such as that there is nothing.
    pub fn of_path(path: impl AsRef<Path>) -> io::Result<Self> {
        Ok(Self::of_metadata(&fs::metadata(path)?))
    }

    /// The identity of an open file.
    ///
    /// # Errors
    /// What the operating system says.
    pub(crate) fn of_file(file: &fs::File) -> io::Result<Self> {
        Ok(Self::of_metadata(&file.metadata()?))
    }

    fn of_metadata(metadata: &Metadata) -> Self {
        if metadata.file_type().is_block_device() {
            Self::BlockDevice {
                number: metadata.rdev(),
            }
        } else {
            Self::File {
                filesystem: metadata.dev(),
                inode: metadata.ino(),
            }
        }
    }
}

/// The file behind a loop device, or behind the one that a partition is of.
fn loop_file(number: u64) -> Option<PathBuf> {
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let device = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    let whole = match device.join("partition").exists() {
        true => device.parent()?,
        false => &device,
    };
    let behind = fs::read_to_string(whole.join("loop/backing_file")).ok()?;
    Some(behind.strip_suffix('\n').unwrap_or(&behind).into())
}

/// What changes when somebody changes a file: two unequal stamps prove a change between them.
///
/// Equal stamps prove little: kernels advance these times in steps of some milliseconds, and whoever
/// writes through a memory map changes them late. A block device has no stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stamp {
    /// Which file.
    pub file: FileId,
    /// Its length in bytes.
    pub size: u64,
    /// When its bytes last changed: seconds and nanoseconds since 1970.
    pub modified: (i64, i64),
    /// When anything about it last changed; nobody can set this one back.
    pub changed: (i64, i64),
}

impl Stamp {
    /// The stamp of an open file, or nothing for a block device.
    ///
    /// # Errors
    /// What the operating system says.
    pub(crate) fn of_file(file: &fs::File) -> io::Result<Option<Self>> {
        let metadata = file.metadata()?;
        if metadata.file_type().is_block_device() {
            return Ok(None);
        }
        Ok(Some(Self {
            file: FileId::of_metadata(&metadata),
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn a_file_is_the_same_by_every_name() {
        let dir = tempfile::tempdir().unwrap();
        let [one, other, hard, soft] = ["one", "other", "hard", "soft"].map(|n| dir.path().join(n));
        fs::write(&one, "same bytes").unwrap();
        fs::write(&other, "same bytes").unwrap();
        fs::hard_link(&one, &hard).unwrap();
        std::os::unix::fs::symlink("one", &soft).unwrap();
        let id = |path: &Path| FileId::of_path(path).unwrap();
        for same in [&hard, &soft, &dir.path().join("./one")] {
            assert_eq!(id(same), id(&one));
        }
        assert_ne!(id(&one), id(&other));
        assert!(FileId::of_path(dir.path().join("none")).is_err());
    }

    #[test]
    fn growing_and_touching_change_the_stamp_and_reading_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = fs::File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(dir.path().join("f"))
            .unwrap();
        file.write_all_at(b"abc", 0).unwrap();
        let before = Stamp::of_file(&file).unwrap().unwrap();
        file.read_exact_at(&mut [0; 3], 0).unwrap();
        assert_eq!(Stamp::of_file(&file).unwrap().unwrap(), before);
        // Two writes may fall into one tick of the file system's clock, so the time is set by hand.
        let long_ago = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(5);
        file.set_modified(long_ago).unwrap();
        let touched = Stamp::of_file(&file).unwrap().unwrap();
        assert_eq!(touched.modified, (5, 0));
        assert_ne!(touched, before);
        file.set_len(4).unwrap();
        assert_ne!(Stamp::of_file(&file).unwrap().unwrap(), touched);
    }
}
