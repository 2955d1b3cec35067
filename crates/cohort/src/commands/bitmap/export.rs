//! `cohort bitmap export`: a bitmap's dirty ranges as text.

use std::io::{self, BufWriter, Write};

use super::file;
use super::found::Found;
use super::ranges::{write_list, write_map};
use crate::args;
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::output::eprint_line;

pub(super) fn run(args: &args::BitmapExport) -> Result {
    let path = &args.bitmap.path;
    let found = Found::at(path)?;
    let tracked = found.choose(args.bitmap.name.as_deref())?;
    let bits = found.read(tracked)?;
    let write = |out: &mut dyn Write| {
        if args.json {
            write_map(&bits, out)
        } else {
            write_list(&bits, out)
        }
    };
    match &args.out {
        Some(out) => file::whole(out, args.force, path, write)?,
        None => {
            let mut out = BufWriter::new(io::stdout().lock());
            match write(&mut out).and_then(|()| out.flush()) {
                // Who closed his end has seen enough.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
                Err(error) => return Err(Failure::new(Exit::TargetFailed, error)),
                Ok(()) => {}
            }
        }
    }
    // The ranges do not tell what they are worth.
    if let Some(caveat) = found.state(tracked).caveat() {
        eprint_line(&format!("cohort: {}: {caveat}", tracked.name()));
    }
    Ok(Exit::Done)
}
