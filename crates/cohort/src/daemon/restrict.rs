//! What files a client may have opened: those in one folder, if so told.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use cohort_qmp::Error;

/// The folder, with its symbolic links resolved; or none.
#[derive(Debug)]
pub(super) struct Restrict(Option<PathBuf>);

impl Restrict {
    /// Restricts to a folder, or not at all.
    ///
    /// # Errors
    /// There is no such folder.
    pub(super) fn to(folder: Option<&Path>) -> io::Result<Self> {
        let real = |folder: &Path| {
            let real = folder.canonicalize();
            real.map_err(|error| {
                io::Error::new(error.kind(), format!("{}: {error}", folder.display()))
            })
        };
        folder.map(real).transpose().map(Self)
    }

    /// From where relative paths are taken.
    pub(super) fn folder(&self) -> PathBuf {
        let folder = self.0.clone().map_or_else(std::env::current_dir, Ok);
        folder.unwrap_or_default()
    }

    /// The path to use for this one, which lies in the folder also when all its symbolic links are followed.
    ///
    /// # Errors
    /// It does not.
    pub(super) fn check(&self, path: impl AsRef<Path>) -> Result<PathBuf, Error> {
        let asked = path.as_ref();
        let Some(folder) = &self.0 else {
            return Ok(asked.to_owned());
        };
        match resolve(&folder.join(asked)) {
            Ok(real) if real.starts_with(folder) => Ok(real),
            Ok(_) | Err(_) => Err(Error::generic(format!(
                "'{}' does not lie in '{}', and this server was told to open nothing else",
                asked.display(),
                folder.display()
            ))),
        }
    }
}

/// The real path of a file that is there, or that is to be made in a folder that is there.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    match path.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound && !path.is_symlink() => {
            let name = path.file_name().filter(|name| *name != OsStr::new(".."));
            let name = name.ok_or(io::ErrorKind::InvalidInput)?;
            let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
            Ok(folder.canonicalize()?.join(name))
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_what_lies_in_the_folder_may_be_opened() {
        let outside = tempfile::tempdir().unwrap();
        let inside = outside.path().join("disks");
        fs::create_dir(&inside).unwrap();
        fs::write(inside.join("a"), "").unwrap();
        fs::write(outside.path().join("b"), "").unwrap();
        symlink("../b", inside.join("link")).unwrap();
        symlink("../new", inside.join("dangling")).unwrap();
        let restrict = Restrict::to(Some(&inside)).unwrap();
        let absolute = inside.join("a").display().to_string();
        for path in ["a", "new", &absolute, "../disks/a"] {
            assert!(restrict.check(path).is_ok(), "{path}");
        }
        for path in ["../b", "link", "dangling", "..", "/etc/passwd", "no/such"] {
            assert!(restrict.check(path).is_err(), "{path}");
        }
        assert!(Restrict::to(None).unwrap().check("/etc/passwd").is_ok());
    }
}
