//! One file's part: `prepare` writes the new text beside the old one, `commit` renames it over it, `abort` removes it.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use cohort_job::{
    Abort, Commit, Context, Driver, ErasedDriver, Error, GroupName, Kind, MemberName, Record, Step,
};

/// What such a job is called in the journal.
pub(crate) const KIND: &str = "replace";

/// The job that replaces a file.
pub(crate) struct Replace {
    file: PathBuf,
    /// What it is to become; not known, and not needed, when the job is rebuilt.
    text: Option<String>,
}

impl Replace {
    pub(crate) fn new(file: PathBuf, text: &str) -> Self {
        let text = Some(text.to_owned());
        Self { file, text }
    }

    fn beside(&self) -> PathBuf {
        self.file.with_extension("new")
    }
}

impl Driver for Replace {
    fn step(&mut self, _: &mut Context<'_>) -> Step {
        let text = self.text.clone().unwrap_or_default();
        let written = File::create(self.beside()).and_then(|mut file| {
            moment();
            file.write_all(text.as_bytes())?;
            file.sync_all()
        });
        moment();
        match written {
            Ok(()) => Step::done(),
            Err(error) => Step::failed(format!("{}: {error}", self.file.display())),
        }
    }

    fn prepare(&mut self, _: &mut Context<'_>) -> Result<Record, Error> {
        sync_folder(&self.file).map_err(|error| Error::new(error.to_string()))?;
        moment();
        Ok(Record(
            self.file.to_string_lossy().into_owned().into_bytes(),
        ))
    }

    fn commit(&mut self, _: &Commit) {
        moment();
        match fs::rename(self.beside(), &self.file) {
            // The process that died had renamed it already.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            // A panic is the way to say that a hook is still owed: the next start runs it again.
            other => other.expect("the renaming"),
        }
        moment();
        sync_folder(&self.file).expect("the folder is synced");
    }

    fn abort(&mut self, _: &Abort) {
        let _ = fs::remove_file(self.beside());
    }
}

/// Makes the job again from what it left in the journal.
pub(crate) fn rebuild(
    _group: &GroupName,
    _member: &MemberName,
    kind: &Kind,
    record: &Record,
) -> Option<Box<dyn ErasedDriver>> {
    let file = PathBuf::from(String::from_utf8_lossy(&record.0).into_owned());
    (kind.as_str() == KIND).then(|| Box::new(Replace { file, text: None }) as _)
}

/// What no verdict speaks of was never decided.
pub(crate) fn sweep(folder: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "new") {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

fn sync_folder(file: &Path) -> std::io::Result<()> {
    File::open(file.parent().unwrap_or(Path::new(".")))?.sync_all()
}

/// A step at which the process may be made to die.
pub(crate) fn moment() {
    static PASSED: AtomicUsize = AtomicUsize::new(0);
    let now = PASSED.fetch_add(1, Ordering::SeqCst) + 1;
    if std::env::var("DEPLOY_DIE_AT").is_ok_and(|at| at == now.to_string()) {
        std::process::abort();
    }
}
