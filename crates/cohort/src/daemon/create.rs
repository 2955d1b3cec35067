//! `blockdev-create`: image files, made by a job.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use cohort_backup::{Backing, CreateOptions as ImageOptions, Qcow2Builder};
use cohort_block::{File as _, ImageFile, OpenError, OpenOptions};
use cohort_job::{Error as JobError, JobSpec, blocking};
use cohort_qmp::{
    Argument, CreateDriver, CreateFile, CreateJob, CreateQcow2, Error, NodeRef, Preallocation,
    Qcow2Version,
};

use super::drivers::errno;
use super::jobs::{Entry, SharedIoStatus};
use super::nodes::{Node, UseKind};
use super::sharing::refuse_making;
use super::state::{JobRow, Row};
use super::{Answer, Daemon, generic, nothing};

impl Daemon {
    pub(super) fn blockdev_create(&self, create: CreateJob) -> Answer {
        let CreateJob { job_id, options } = create;
        let row = JobRow {
            id: job_id.clone(),
            kind: "create".to_owned(),
            command: "blockdev-create".to_owned(),
            arguments: options.write(),
            ended: None,
        };
        let driver = options.driver;
        let make: Box<dyn FnOnce() -> Result<(), Error> + Send> = match driver {
            CreateDriver::File(file) => {
                self.look_at_id(&job_id)?;
                let path = self.restrict.check(&file.filename)?;
                Box::new(move || make_file(&path, &file))
            }
            CreateDriver::Qcow2(image) => {
                self.look_at_id(&job_id)?;
                let NodeRef::Name(name) = &image.file else {
                    return generic("'file' must name a node: add one first");
                };
                let graph = self.graph();
                let node = graph.either(name)?;
                // Nobody comes to use it while the image is made.
                let free = refuse_making(&node).map(|()| node.claim(UseKind::Target));
                Box::new(move || {
                    let _claim = free?;
                    make_image(&node, &image)
                })
            }
            CreateDriver::Blkdebug(_)
            | CreateDriver::HostDevice(_)
            | CreateDriver::Nbd(_)
            | CreateDriver::NullCo(_)
            | CreateDriver::Raw(_)
            | CreateDriver::Throttle(_) => {
                return generic("Driver does not support blockdev-create");
            }
        };
        let work = move |reins: &cohort_job::Reins| {
            reins.progress().set_remaining(1);
            let made = make().map_err(|error| JobError::new(error.text));
            reins.progress().advance(1);
            made
        };
        let mut group = self.engine.group(job_id.clone());
        let spec = JobSpec::new(&job_id).kind("create").manual_dismiss();
        let job = group.add(spec, blocking(work));
        let handle = job.map_err(|error| Error::generic(error.to_string()))?;
        self.jobs.add(Entry {
            id: job_id,
            handle,
            kind: "create",
            auto_finalize: true,
            auto_dismiss: false,
            started: false,
            before: false,
            outside: false,
            error: None,
            io_status: Arc::new(SharedIoStatus::default()),
        });
        self.state.change(|rows| rows.add(Row::Job(row)))?;
        group.launch();
        nothing()
    }
}

/// Makes a file of so many zero bytes, or makes one that is there such a file, unless somebody has it: a node, a job, or
/// another process.
pub(super) fn make_file(path: &Path, options: &CreateFile) -> Result<(), Error> {
    only_sparse(options.preallocation)?;
    let name = &options.filename;
    let failed =
        |error: &io::Error| Error::generic(format!("Could not create '{name}': {}", errno(error)));
    let mut is_there = File::options();
    let is_there = is_there.read(true).write(true).create(true).truncate(false);
    is_there.open(path).map_err(|error| failed(&error))?;
    // Nothing in it is touched before it is ours.
    let file = ImageFile::open(path, OpenOptions::read_write()).map_err(|error| {
        if matches!(error, OpenError::Locked { .. }) {
            return Error::generic("Failed to get \"resize\" lock");
        }
        Error::generic(format!("Could not create '{name}': {error}"))
    })?;
    let emptied = file.file().set_len(0);
    let made = emptied.and_then(|()| file.file().set_len(options.size));
    made.map_err(|error| failed(&error))
}

fn only_sparse(preallocation: Option<Preallocation>) -> Result<(), Error> {
    match preallocation {
        None | Some(Preallocation::Off) => Ok(()),
        Some(other) => generic(format!(
            "files are made sparse: preallocation '{other}' is not supported"
        )),
    }
}

fn make_image(node: &Arc<Node>, options: &CreateQcow2) -> Result<(), Error> {
    only_sparse(options.preallocation)?;
    if options.version == Some(Qcow2Version::V2) {
        return generic("images are made in version 3: 'v2' is not supported");
    }
    if options.refcount_bits.is_some_and(|bits| bits != 16) {
        return generic("images are made with refcounts of 16 bits");
    }
    let mut image = ImageOptions::new(options.size);
    if let Some(cluster) = options.cluster_size {
        image = image.cluster_size(cluster);
    }
    if let Some(file) = &options.backing_file {
        let format = options
            .backing_fmt
            .clone()
            .unwrap_or_else(|| "raw".to_owned());
        let file = file.clone();
        image = image.backing(Backing { file, format });
    }
    write_image(node, &image)
}

/// Makes an empty qcow2 image of a disk of so many bytes in the file of a node.
pub(super) fn make_qcow2(
    node: &Arc<Node>,
    size: u64,
    backing: Option<Backing>,
) -> Result<(), Error> {
    let image = ImageOptions::new(size);
    let image = match backing {
        Some(backing) => image.backing(backing),
        None => image,
    };
    write_image(node, &image)
}

fn write_image(node: &Arc<Node>, options: &ImageOptions) -> Result<(), Error> {
    let Some(top) = &node.beneath else {
        let (name, driver) = (&node.name, node.driver);
        return generic(format!(
            "an image is made in a file; node '{name}' is '{driver}'"
        ));
    };
    let file = (top.wrap)(top.file.file().clone());
    let failed = |error: &dyn std::fmt::Display| {
        Error::generic(format!(
            "Could not create an image in '{}': {error}",
            node.filename
        ))
    };
    file.set_len(0).map_err(|error| failed(&errno(&error)))?;
    let builder = Qcow2Builder::create(file, options).map_err(|error| failed(&error))?;
    builder.finish().map_err(|error| failed(&error))
}
