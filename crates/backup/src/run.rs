//! A run: some disks, one instant, all or none of them with a new point. What happens once it has a number is in
//! `run/launch.rs`.

mod launch;

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use cohort_block::File;
use cohort_job::{Engine, Journal};

use crate::catalogue::{self, Catalogue, DiskName, ImageName};
use crate::error::{DiskError, StartError};
use crate::governor::Governor;
use crate::hook::Hook;
use crate::image_bitmap::clear_all_owed;
use crate::lent::Lent;
use crate::options::Options;
use crate::report::{DiskOutcome, DiskReport, Unanswered};
use crate::running::{Place, Running};
use crate::source::{DiskSpec, Source};
use crate::survey::{Survey, Surveyed, survey};
use crate::target::Through;
use launch::Launch;

/// A backup to be run: disks, and the directory that they go to.
///
/// ```no_run
/// use cohort_backup::{Backup, DiskSpec};
///
/// let running = Backup::to("/backup/vm")
///     .disk(DiskSpec::file("/vm/root.qcow2"))
///     .disk(DiskSpec::file("/vm/data.raw"))
///     .start()?;
/// let report = running.wait();
/// assert!(report.succeeded());
/// # Ok::<_, cohort_backup::StartError>(())
/// ```
#[must_use = "nothing happens until it is started"]
pub struct Backup {
    directory: PathBuf,
    catalogue: Option<Catalogue>,
    disks: Vec<DiskSpec>,
    options: Options,
    individual: bool,
    hooks: Vec<Hook>,
    yields: bool,
    inside_fence: Option<Box<dyn FnOnce() + Send>>,
    through: Option<Through>,
}

impl Backup {
    /// A backup into this directory, which is made if it is not there.
    pub fn to(directory: impl Into<PathBuf>) -> Self {
        Backup {
            directory: directory.into(),
            catalogue: None,
            disks: Vec::new(),
            options: Options::default(),
            individual: false,
            hooks: Vec::new(),
            yields: true,
            inside_fence: None,
            through: None,
        }
    }

    /// A backup into a directory that the caller has open already, so that no other run came in between: for who had to
    /// know its next run before.
    pub fn into_open(catalogue: Catalogue) -> Self {
        let directory = catalogue.directory().to_owned();
        Backup {
            catalogue: Some(catalogue),
            ..Backup::to(directory)
        }
    }

    /// Adds a disk.
    pub fn disk(mut self, disk: DiskSpec) -> Self {
        self.disks.push(disk);
        self
    }

    /// The options of all disks that have none of their own.
    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// Gives each disk a transaction of its own: one that fails takes no other with it. Served disks still
    /// share one fence.
    pub fn individual(mut self, individual: bool) -> Self {
        self.individual = individual;
        self
    }

    /// Freezes and thaws this around the common instant. Hooks freeze in the order given and thaw in the reverse.
    /// None is called if no served disk takes part: there is no fence then.
    pub fn hook(mut self, hook: Hook) -> Self {
        self.hooks.push(hook);
        self
    }

    /// Whether copies yield to the writers of served disks (default: yes): while writes take longer than they do alone,
    /// fewer copies are in flight, of all disks together. A speed limit holds besides. May be changed while it runs:
    /// [`Running::set_yields`].
    pub fn yields(mut self, yields: bool) -> Self {
        self.yields = yields;
        self
    }

    /// Calls `look` while the gates of all served disks are closed: for copies to compare with. Writers wait for
    /// it, so it is for tests and demonstrations. Not called if no served disk takes part.
    pub fn inside_fence(mut self, look: impl FnOnce() + Send + 'static) -> Self {
        self.inside_fence = Some(Box::new(look));
        self
    }

    /// Writes target files through what `wrap` makes of them: the place for faults in tests.
    pub fn target_files(
        mut self,
        wrap: impl Fn(&ImageName, Arc<dyn File>) -> Arc<dyn File> + Send + Sync + 'static,
    ) -> Self {
        self.through = Some(Arc::new(wrap));
        self
    }

    /// Opens everything, answers what was undecided, takes the common instant, and starts to copy.
    ///
    /// A disk whose partial waits for an answer is left out and reported as refused; the others go on.
    ///
    /// # Errors
    /// [`StartError`]: nothing was copied and no disk was touched. A disk that cannot take part is an error here
    /// if the run is grouped, and a line of the report if it is not.
    pub fn start(mut self) -> Result<Running, StartError> {
        if self.disks.is_empty() {
            return Err(StartError::NoDisks);
        }
        let names = self.names()?;
        let existing = self.open_existing()?;
        // Before the directory is made: a mistyped source leaves no empty one behind.
        let opened = self.open_all(&names)?;
        let catalogue = match existing {
            Some(catalogue) => catalogue,
            None => Catalogue::open_or_create(&self.directory)?,
        };
        let catalogue = Arc::new(catalogue);
        forget_owed(&catalogue);
        let (surveys, places) = self.survey_all(&names, opened, &catalogue)?;
        let sources: Vec<_> = surveys
            .iter()
            .map(|s| (s.decided.name.clone(), s.decided.source.label.clone()))
            .collect();
        if sources.is_empty() {
            return Ok(Running::nothing(places));
        }
        let run = catalogue.begin_run(&sources)?;
        if let Err(error) = catalogue.sweep() {
            tracing::warn!(%error, "not all garbage of earlier runs could be removed");
        }
        let journal = Lent::new(catalogue.clone());
        let engine = Engine::builder().journal(journal.clone()).build();
        let engine = engine.map_err(|error| StartError::Engine(error.to_string()))?;
        let launch = Launch {
            catalogue,
            engine,
            journal: journal.clone(),
            run,
            hurry: Arc::default(),
            governor: Governor::new(self.yields),
            plan: self,
        };
        let started = launch.start(surveys, places);
        if started.is_err() {
            drop(journal.take_back());
        }
        started
    }

    /// The directory, if there is one, with what an earlier run owes to the bitmaps in its images: that is
    /// done before any image is opened here, because it writes to them.
    fn open_existing(&mut self) -> Result<Option<Catalogue>, StartError> {
        if let Some(catalogue) = self.catalogue.take() {
            clear_all_owed(&catalogue);
            return Ok(Some(catalogue));
        }
        match Catalogue::open(&self.directory) {
            Ok(catalogue) => {
                clear_all_owed(&catalogue);
                Ok(Some(catalogue))
            }
            Err(catalogue::OpenError::NoDirectory(_) | catalogue::OpenError::NoCatalogue(_)) => {
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The names of all disks, all different.
    fn names(&self) -> Result<Vec<DiskName>, StartError> {
        let mut taken: HashMap<DiskName, String> = HashMap::new();
        let mut names = Vec::new();
        for spec in &self.disks {
            let name = spec.disk_name()?;
            if let Some(first) = taken.insert(name.clone(), spec.label()) {
                return Err(StartError::NameTaken {
                    name,
                    first,
                    second: spec.label(),
                });
            }
            names.push(name);
        }
        Ok(names)
    }

    /// Opens and looks at every disk: those that can take part, and a place in the report for each.
    fn survey_all(
        &self,
        names: &[DiskName],
        opened: Vec<Result<Source, DiskError>>,
        catalogue: &Arc<Catalogue>,
    ) -> Result<(Vec<Survey>, Vec<Place>), StartError> {
        let contents = catalogue.snapshot()?;
        let (mut surveys, mut places): (Vec<Survey>, Vec<Place>) = (Vec::new(), Vec::new());
        for ((name, spec), source) in names.iter().zip(&self.disks).zip(opened) {
            let options = spec.own_options().unwrap_or(&self.options).clone();
            let surveyed = source
                .and_then(|source| admit(source, &surveys, catalogue))
                .and_then(|source| {
                    survey(
                        name.clone(),
                        options,
                        source,
                        catalogue,
                        &contents,
                        self.through.as_ref(),
                    )
                });
            let out =
                |outcome| Place::Out(Box::new(DiskReport::absent(name, &spec.label(), outcome)));
            places.push(match surveyed {
                Ok(Surveyed::Ready(survey)) => {
                    surveys.push(*survey);
                    Place::Pending(name.clone())
                }
                Ok(Surveyed::Refused(partial)) => {
                    let directory = catalogue.directory().to_owned();
                    out(DiskOutcome::Refused(Unanswered {
                        disk: name.clone(),
                        directory,
                        partial: *partial,
                    }))
                }
                Err(error) if self.individual => out(DiskOutcome::NotStarted(error)),
                Err(error) => {
                    return Err(StartError::Disk {
                        name: name.clone(),
                        error: Box::new(error),
                    });
                }
            });
        }
        Ok((surveys, places))
    }

    /// Opens every source. In a group one that cannot be opened is the end; alone it has its own report.
    fn open_all(&self, names: &[DiskName]) -> Result<Vec<Result<Source, DiskError>>, StartError> {
        let opened = names
            .iter()
            .zip(&self.disks)
            .map(|(name, spec)| match spec.open() {
                Err(error) if !self.individual => Err(StartError::Disk {
                    name: name.clone(),
                    error: Box::new(error),
                }),
                source => Ok(source),
            });
        opened.collect()
    }
}

impl fmt::Debug for Backup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backup")
            .field("directory", &self.directory)
            .field("disks", &self.disks)
            .field("individual", &self.individual)
            .finish_non_exhaustive()
    }
}

/// Refuses a disk that is in the run already, or in the backup directory.
fn admit(source: Source, before: &[Survey], catalogue: &Catalogue) -> Result<Source, DiskError> {
    let source_name = source.label.clone();
    if let Some(other) = before
        .iter()
        .find(|other| other.decided.source.is_same(&source))
    {
        let other = other.decided.source.label.clone();
        return Err(DiskError::SameDisk { source_name, other });
    }
    if source.is_in(catalogue.directory()) {
        let directory = catalogue.directory().to_owned();
        return Err(DiskError::InsideTarget {
            source_name,
            directory,
        });
    }
    Ok(source)
}

/// Groups that were decided and not finished when an earlier process ended: their points are in the catalogue
/// already, what they did not commit is garbage, and what was in memory went with that process.
fn forget_owed(catalogue: &Catalogue) {
    let journal: &dyn Journal = catalogue;
    let owed = match journal.owed() {
        Ok(owed) => owed,
        Err(error) => return tracing::warn!(%error, "verdicts of earlier runs could not be read"),
    };
    for owed in owed {
        if let Err(error) = journal.done(&owed) {
            tracing::warn!(%error, group = %owed.group, "a verdict could not be marked as done");
        }
    }
}
