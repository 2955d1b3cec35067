//! Files that appear under their name only when they are whole.

use std::fs::{self, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::exit::Exit;
use crate::failure::{Failure, Result};

/// Has `write` write the file `out`, which must not exist unless `force`; then it must be a file, and not `disk`.
pub(super) fn whole(
    out: &Path,
    force: bool,
    disk: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<()> {
    let shown = out.display();
    let failed = |error: io::Error| {
        let is = |kind| error.kind() == kind;
        let exit = if is(io::ErrorKind::StorageFull) {
            Exit::TargetFull
        } else if is(io::ErrorKind::AlreadyExists) {
            Exit::OutputExists
        } else {
            Exit::TargetFailed
        };
        Failure {
            exit,
            error: anyhow::Error::new(error).context(format!("{shown} cannot be written")),
        }
    };
    match fs::metadata(out) {
        Err(_) => {}
        Ok(_) if !force => {
            let message = format!("{shown} exists already: choose another name, or say --force");
            return Err(Failure::say(Exit::OutputExists, message));
        }
        Ok(there) if !there.is_file() => {
            let message = format!("{shown} is no file, and is not replaced");
            return Err(Failure::say(Exit::TargetFailed, message));
        }
        Ok(_) if fs::canonicalize(out).ok() == fs::canonicalize(disk).ok() => {
            let message = format!("{shown} is the disk itself");
            return Err(Failure::say(Exit::SourceIsTarget, message));
        }
        Ok(_) => {}
    }
    let folder = out
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let mut draft = tempfile::Builder::new()
        .prefix(".cohort-")
        // The umask takes its part of it.
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder)
        .map_err(failed)?;
    let mut buffer = BufWriter::new(draft.as_file_mut());
    write(&mut buffer)
        .and_then(|()| buffer.flush())
        .map_err(failed)?;
    drop(buffer);
    let kept = if force {
        draft.persist(out)
    } else {
        draft.persist_noclobber(out)
    };
    kept.map_err(|error| failed(error.error))?;
    Ok(())
}
