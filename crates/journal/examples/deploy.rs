//! Several files are replaced together, or none of them: `deploy DIR NAME=TEXT ..`.
//!
//! `prepare` writes the new text beside the old one, `commit` renames it over it, `abort` removes it. The verdict is in the
//! journal before the first rename, so whatever kills the program, the next start finishes what was decided, and sweeps
//! away what never was. `DEPLOY_DIE_AT=N` kills it at the Nth step that matters; the tests try every one.

use std::error::Error;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cohort_job::{Abort, Commit, Context, Driver, Engine, JobSpec, Record, Step};
use cohort_journal::FileJournal;

/// One file's part: what it is to become, or, at the second time, only where it lies.
struct Replace {
    file: PathBuf,
    text: Option<String>,
}

impl Replace {
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

    fn prepare(&mut self, _: &mut Context<'_>) -> Result<Record, cohort_job::Error> {
        sync_folder(&self.file).map_err(|error| cohort_job::Error::new(error.to_string()))?;
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

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().ok_or("usage: deploy DIR NAME=TEXT ..")?);
    let journal = Arc::new(FileJournal::open(folder.join("verdicts"))?);
    let engine = Engine::builder().journal(journal).build()?;
    let recovered = engine.recover(|_, _, kind, record| {
        let file = PathBuf::from(String::from_utf8_lossy(&record.0).into_owned());
        (kind.as_str() == "replace").then(|| Box::new(Replace { file, text: None }) as _)
    })?;
    recovered.groups.iter().for_each(|group| _ = group.wait());
    sweep(&folder)?;

    let mut group = engine.group("deploy");
    for argument in arguments {
        let (name, text) = argument.split_once('=').ok_or("NAME=TEXT is expected")?;
        let (file, text) = (folder.join(name), Some(text.to_owned()));
        group.add(JobSpec::new(name).kind("replace"), Replace { file, text })?;
    }
    println!("{:?}", group.launch().wait());
    moment();
    Ok(())
}

/// What no verdict speaks of was never decided.
fn sweep(folder: &Path) -> std::io::Result<()> {
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
fn moment() {
    static PASSED: AtomicUsize = AtomicUsize::new(0);
    let now = PASSED.fetch_add(1, Ordering::SeqCst) + 1;
    if std::env::var("DEPLOY_DIE_AT").is_ok_and(|at| at == now.to_string()) {
        std::process::abort();
    }
}
