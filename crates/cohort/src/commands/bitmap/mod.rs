//! `cohort bitmap …`: what is known of the changes of a disk, looked at, brought out and in; and answers for partials.

mod decide;
mod export;
mod file;
mod found;
mod import;
mod list;
mod machine;
mod merge;
mod picture;
mod ranges;
mod show;
mod state;
mod svg;
mod terminal;

use std::path::Path;
use std::sync::Arc;

use cohort_bitmap::store::qcow2::{Bitmaps, Qcow2Error};
use cohort_block::{ImageFile, OpenOptions, OsFile, Vouched};

use crate::args;
use crate::failure::{Failure, Result, exit_of_bitmap, exit_of_open};
use crate::output::eprint_line;

/// Carries out one of the commands.
pub(super) fn run(command: &args::Bitmap) -> Result {
    match command {
        args::Bitmap::Decide(args) => decide::run(args),
        args::Bitmap::List(args) => list::run(args),
        args::Bitmap::Show(args) => show::run(args),
        args::Bitmap::Export(args) => export::run(args),
        args::Bitmap::Import(args) => import::run(args),
        args::Bitmap::Merge(args) => merge::run(args),
    }
}

/// Whether the command was asked for JSON.
pub(super) fn wants_json(command: &args::Bitmap) -> bool {
    match command {
        args::Bitmap::Decide(args) => args.output.json,
        args::Bitmap::List(args) => args.output.json,
        args::Bitmap::Show(args) => args.output.json,
        // What it prints is the map and nothing else.
        args::Bitmap::Export(_) => false,
        args::Bitmap::Import(args) => args.output.json,
        args::Bitmap::Merge(args) => args.output.json,
    }
}

/// A name as people are shown it: what could move a terminal's cursor is escaped.
fn shown(name: &str) -> String {
    let mut text = String::new();
    for letter in name.chars() {
        if letter.is_control() {
            text.extend(letter.escape_default());
        } else {
            text.push(letter);
        }
    }
    text
}

/// An image that nobody else has open, and its bitmaps, to be changed.
struct Changing {
    image: ImageFile,
    bitmaps: Bitmaps<Arc<OsFile>>,
}

impl Changing {
    fn open(path: &Path) -> Result<Changing> {
        let image = ImageFile::open(path, OpenOptions::read_write())
            .map_err(|error| Failure::new(exit_of_open(&error), error))?;
        let bitmaps =
            Bitmaps::open(Arc::clone(image.file())).map_err(|error| wrong(path, error))?;
        Ok(Changing { image, bitmaps })
    }

    /// Makes a change. The tracking store beside the image is kept in step: the disk stays what it is.
    fn make<T>(
        mut self,
        change: impl FnOnce(&mut Bitmaps<Arc<OsFile>>) -> std::result::Result<T, Qcow2Error>,
    ) -> Result<T> {
        let path = self.image.path();
        let vouched = Vouched::before(path, self.bitmaps.disk_size()).map_err(found::unreadable)?;
        let changed = change(&mut self.bitmaps);
        if let Err(error) = vouched.after() {
            eprint_line(&format!("cohort: what it tracks is unproven now: {error}"));
        }
        changed.map_err(|error| wrong(path, error))
    }
}

/// What is wrong with the bitmaps of the image at `path`.
fn wrong(path: &Path, error: Qcow2Error) -> Failure {
    Failure {
        exit: exit_of_bitmap(&error),
        error: anyhow::Error::new(error).context(path.display().to_string()),
    }
}
