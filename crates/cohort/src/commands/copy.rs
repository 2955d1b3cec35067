//! `cohort copy`: one disk, whole, into one file or pipe.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::atomic::Ordering;

use cohort_backup::{ErrorPolicy, FullCopy, FullCopyError, FullyCopied, Operator, Options, Outlet};
use cohort_block::Format;
use serde::Serialize;

use super::sources::Source;
use super::watched::{Operated, Shown, watched_with};
use crate::args;
use crate::exit::Exit;
use crate::failure::{Failure, Result, exit_of_disk};
use crate::human;
use crate::interrupt;
use crate::output::{eprint_line, print_line};

/// The result as JSON gives it.
#[derive(Debug, Serialize)]
struct JsonCopied<'a> {
    event: &'static str,
    disk: &'a str,
    out: &'a str,
    size_bytes: u64,
    data_bytes: u64,
    skipped: Vec<JsonRange>,
    changed: bool,
}

#[derive(Debug, Serialize)]
struct JsonRange {
    offset: u64,
    length: u64,
}

pub(super) fn run(args: &args::Copy) -> Result {
    let source = Source::parse(&args.source);
    let name = source.disk_name()?;
    let outlet = outlet(args)?;
    let (streams, out) = match &outlet {
        Outlet::Stream { name, .. } => (true, name.clone()),
        Outlet::File { path, .. } => (false, path.display().to_string()),
    };
    let (operator, continued) = (
        Operator::default(),
        interrupt::continued().map_err(|error| Failure::new(Exit::Other, error))?,
    );
    let copy = FullCopy::of(source.spec()?)
        .options(options(args)?)
        .operator(operator.clone());
    let shown = Shown {
        name: name.as_str(),
        phase: "copying",
        stopping: match streams {
            true => "Stopping. Once more, if nobody takes what was written.",
            false => "Stopping: nothing of the file will be left.",
        },
        // What goes to standard output is the disk.
        json: args.output.json && !streams,
    };
    let operated = Operated {
        look: || {
            if continued.swap(false, Ordering::Relaxed) {
                operator.resume();
            }
            operator.stopped()
        },
        insist: streams,
    };
    let copied = watched_with(shown, operated, |tell, cancel| {
        copy.run(outlet, tell, cancel)
    })?
    .map_err(failure)?;
    for hole in &copied.skipped {
        let (length, start) = (hole.end - hole.start, hole.start);
        eprint_line(&format!(
            "cohort: {name}: {length} bytes at byte {start} could not be read, and are zeroes in the copy"
        ));
    }
    if copied.changed {
        eprint_line(&format!(
            "cohort: {name}: changed while it was read: the copy shows no single instant"
        ));
    }
    told(&copied, name.as_str(), &out, args.output.json, streams);
    Ok(Exit::Done)
}

fn told(copied: &FullyCopied, disk: &str, out: &str, json: bool, streams: bool) {
    let line = if json {
        let copied = JsonCopied {
            event: "copied",
            disk,
            out,
            size_bytes: copied.size_bytes,
            data_bytes: copied.data_bytes,
            skipped: copied
                .skipped
                .iter()
                .map(|hole| JsonRange {
                    offset: hole.start,
                    length: hole.end - hole.start,
                })
                .collect(),
            changed: copied.changed,
        };
        serde_json::to_string(&copied).unwrap_or_default()
    } else {
        let (size, data) = (
            human::bytes(copied.size_bytes),
            human::bytes(copied.data_bytes),
        );
        format!("{disk} copied to {out}: {size}, {data} of it data")
    };
    if streams {
        eprint_line(&line);
    } else {
        print_line(&line);
    }
}

/// Where the copy goes: standard output, a pipe, or a file.
fn outlet(args: &args::Copy) -> Result<Outlet> {
    let only_raw = |what: &str| match args.format {
        Some(args::Format::Qcow2) => Err(Failure::say(
            Exit::Usage,
            format_args!(
                "{what} takes bytes in order, and a qcow2 image is not written so: copy to a file"
            ),
        )),
        Some(args::Format::Raw) | None => Ok(()),
    };
    if args.out == Path::new("-") {
        only_raw("standard output")?;
        if io::stdout().is_terminal() {
            let rule = "standard output is a terminal: send the disk to a pipe or a file";
            return Err(Failure::say(Exit::Usage, rule));
        }
        // Not through the buffer for lines of text that belongs to it.
        let stdout = io::stdout().as_fd().try_clone_to_owned();
        let stdout = stdout.map_err(|error| Failure::new(Exit::TargetFailed, error))?;
        return Ok(Outlet::Stream {
            name: "standard output".to_owned(),
            write: Box::new(File::from(stdout)),
        });
    }
    if args
        .out
        .metadata()
        .is_ok_and(|found| found.file_type().is_fifo())
    {
        only_raw("a pipe")?;
        let pipe = Outlet::pipe(&args.out);
        return pipe.map_err(|error| {
            let out = args.out.display();
            Failure::say(Exit::TargetFailed, format_args!("{out}: {error}"))
        });
    }
    let qcow2 = args.out.extension().is_some_and(|end| end == "qcow2");
    let format = match args.format {
        Some(args::Format::Raw) => Format::Raw,
        Some(args::Format::Qcow2) => Format::Qcow2,
        None if qcow2 => Format::Qcow2,
        None => Format::Raw,
    };
    if format == Format::Raw && args.cluster_size.is_some() {
        let rule = "a raw copy has no clusters: leave --cluster-size out, or copy to a qcow2 image";
        return Err(Failure::say(Exit::Usage, rule));
    }
    Ok(Outlet::File {
        path: args.out.clone(),
        format,
        overwrite: args.force,
    })
}

fn options(args: &args::Copy) -> Result<Options> {
    let mut options = Options::builder()
        .on_source_error(args.on_error.unwrap_or(ErrorPolicy::Report))
        .speed(args.speed.unwrap_or(0))
        .compress(args.compress.unwrap_or_default())
        .accept_changes(args.accept_changed);
    if let Some(cluster) = args.cluster_size {
        options = options.cluster(cluster);
    }
    options
        .build()
        .map_err(|error| Failure::new(Exit::Usage, error))
}

fn failure(error: FullCopyError) -> Failure {
    let exit = match &error {
        FullCopyError::Source(error) => exit_of_disk(error),
        FullCopyError::File(error) => super::restore::exit_of(error),
        FullCopyError::Cancelled => Exit::Cancelled,
        FullCopyError::OntoSource { .. } => Exit::SourceIsTarget,
        FullCopyError::Unfit(_) => Exit::Usage,
        FullCopyError::Stream { .. } | _ => Exit::TargetFailed,
    };
    Failure::new(exit, error)
}
