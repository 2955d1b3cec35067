//! Looks at a disk and at what its directory holds of it, and decides how it is backed up.

use std::sync::Arc;

use cohort_bitmap::Granularity;
use cohort_block::{Device, Format, Image, OpenOptions};

use crate::catalogue::{Catalogue, Contents, Decision, DiskName, ImageName, Partial, RunId};
use crate::disk::{Candidate, Decided};
use crate::error::DiskError;
use crate::image_bitmap;
use crate::keeper;
use crate::offline_store::{KnownChanges, named_store};
use crate::options::{Options, SyncMode};
use crate::plan::{Base, Changes, PartialFound, Plan, Situation, Tracking};
use crate::source::Source;
use crate::target::{Target, TargetError, Through};
use crate::tracked::Borrowed;

/// What a look at a disk gave.
pub(crate) enum Surveyed {
    /// Its partial waits for an answer.
    Refused(Box<Partial>),
    /// It can be backed up.
    Ready(Box<Survey>),
}

/// A disk that can be backed up, before the run has a number.
pub(crate) struct Survey {
    pub(crate) decided: Decided,
    /// What the user should know before the run.
    pub(crate) notes: Vec<String>,
    /// Of a served disk.
    pub(crate) views: Option<Borrowed>,
}

/// Looks at one disk. Nothing is changed.
pub(crate) fn survey(
    name: DiskName,
    options: Options,
    mut source: Source,
    catalogue: &Catalogue,
    contents: &Contents,
    through: Option<&Through>,
) -> Result<Surveyed, DiskError> {
    if options.mode == SyncMode::None && source.tracked().is_none() {
        return Err(DiskError::NobodyWrites(source.label));
    }
    check_size(&source, &options)?;
    let mut views = match source.tracked() {
        Some(tracked) => Some(
            tracked
                .borrow()
                .ok_or_else(|| DiskError::Busy(source.label.clone()))?,
        ),
        None => None,
    };
    let anchor = contents.anchor(&name);
    let cluster = unit(&options);
    let point = anchor.and_then(|run| contents.point(&name, run).map(|point| (run, point)));
    let point = point.map(|(run, point)| {
        let reference = open_chain(catalogue, &point.file)?;
        Ok(Candidate {
            base: Base::Point,
            reference: Some(reference),
            parent: Some(run),
            backing: Some(point.file.clone()),
            target: None,
            cluster,
        })
    });
    let partial = contents.partials.get(&name).cloned();
    let continued = partial
        .as_ref()
        .map(|partial| open_partial(catalogue, partial, &source, &options, through));
    let found = partial
        .as_ref()
        .zip(continued.as_ref())
        .map(|(partial, continued)| PartialFound {
            undecided: partial.decision == Decision::Undecided,
            anchored: partial.parent.is_some(),
            usable: continued.as_ref().map(drop).map_err(String::clone),
        });
    let (mut notes, mut known) = (Vec::new(), None);
    if let Some(why) = distrusted(contents, &name) {
        notes.push(format!("all of the disk is compared: {why}"));
    }
    if let Some(borrowed) = &mut views {
        look_into_store(borrowed, contents, &name, anchor, &mut notes);
    }
    let tracking = match &views {
        Some(borrowed)
            if knows(borrowed, contents, anchor) && distrusted(contents, &name).is_none() =>
        {
            Tracking::View
        }
        Some(_) => Tracking::Scan,
        None if distrusted(contents, &name).is_some() => Tracking::Scan,
        None if source.keeper().is_some() => {
            let (found, tracking) = kept(&source, contents, &name, anchor, &mut notes);
            known = found;
            tracking
        }
        None if source.store.is_some() => {
            let (found, tracking) = offline(&source, contents, &name, anchor, &mut notes);
            known = found;
            tracking
        }
        None if source.store_unfit.is_some() && source.bitmap.is_none() => {
            let why = source.store_unfit.take().unwrap_or_default();
            notes.push(format!(
                "the tracking store beside it cannot be opened, so it does not say what changed: {why}"
            ));
            Tracking::Scan
        }
        None => image_bitmap(&mut source, contents, &name, anchor, &mut notes),
    };
    let healthy = point
        .as_ref()
        .map(|point| point.as_ref().map(drop).map_err(String::clone));
    let plan = match (Situation {
        options: &options,
        point: healthy,
        partial: found,
        tracking,
    })
    .plan()
    {
        Plan::Copy(plan) => plan,
        Plan::Refuse => {
            return Ok(partial.map_or_else(
                || unreachable_refusal(&name),
                |partial| Surveyed::Refused(Box::new(partial)),
            ));
        }
        Plan::TooStrict(step) => {
            return Err(DiskError::TooStrict {
                source_name: source.label,
                step,
            });
        }
    };
    if let (Some(known), Some(store), Changes::ImageBitmap) = (&known, &source.store, plan.changes)
    {
        let excess = known.excess;
        notes.push(format!(
            "what changed is known from tracking store {store}: {excess}"
        ));
    }
    let mut bases = Vec::new();
    if plan.base == Base::Partial {
        bases.extend(continued.and_then(Result::ok));
    }
    if plan.base != Base::Nothing && !matches!(options.mode, SyncMode::Full | SyncMode::None) {
        bases.extend(point.and_then(Result::ok));
    }
    let (reference, parent, backing, target) = (None, None, None, None);
    bases.push(Candidate {
        base: Base::Nothing,
        reference,
        parent,
        backing,
        target,
        cluster,
    });
    let decided = Decided {
        name,
        options,
        source,
        plan,
        bases,
        partial,
        anchor,
        known,
    };
    Ok(Surveyed::Ready(Box::new(Survey {
        decided,
        notes,
        views,
    })))
}

/// Whether the bitmap that the user named says what changed since the anchor; if not, or if he named none and
/// there is one that might, he is told.
fn image_bitmap(
    source: &mut Source,
    contents: &Contents,
    disk: &DiskName,
    anchor: Option<RunId>,
    notes: &mut Vec<String>,
) -> Tracking {
    match &mut source.bitmap {
        Some(bitmap) => match bitmap.recognise(contents, disk, anchor) {
            Ok(()) => Tracking::ImageBitmap,
            Err(why) => {
                notes.push(format!("its bitmap is not gone by yet: {why}"));
                Tracking::Scan
            }
        },
        None => {
            if let Some(name) = image_bitmap::known_name(contents, disk, anchor) {
                notes.push(format!(
                    "bitmap \"{name}\" may say what changed: if nobody else cleared it, go by it with --bitmap \
                     {disk}={name}"
                ));
            }
            if let Some(store) = named_store(contents, disk, anchor)
                .filter(|store| std::path::Path::new(store).exists())
            {
                notes.push(format!(
                    "tracking store {store} may say what changed: if nobody wrote to the disk past it, go by it with \
                     --bitmap {disk}={store}"
                ));
            }
            Tracking::Scan
        }
    }
}

/// What the tracking store that the user named, or that lies beside the disk, says of the changes since the anchor.
fn offline(
    source: &Source,
    contents: &Contents,
    disk: &DiskName,
    anchor: Option<RunId>,
    notes: &mut Vec<String>,
) -> (Option<KnownChanges>, Tracking) {
    let Some(store) = &source.store else {
        return (None, Tracking::Scan);
    };
    match store.changes(contents, disk, anchor) {
        Ok(KnownChanges {
            unproven: Some(why),
            excess,
            ..
        }) if !store.is_named() => {
            let path = store.path().display();
            notes.push(format!(
                "compared with its last backup, because nobody can show that tracking store {path} has every write ({why}); \
                 what it says is {excess}: if nobody wrote to the disk past it, go by it with --bitmap {disk}={path}"
            ));
            (None, Tracking::Scan)
        }
        Ok(known) => (Some(known), Tracking::ImageBitmap),
        // The first backup has nothing to go by, and needs nothing.
        Err(_) if !store.is_named() && !contents.views.contains_key(disk) => (None, Tracking::Scan),
        Err(why) => {
            notes.push(format!("tracking store {store} is not gone by yet: {why}"));
            (None, Tracking::Scan)
        }
    }
}

/// What the keeper of the disk's instant says of the changes since the anchor.
fn kept(
    source: &Source,
    contents: &Contents,
    disk: &DiskName,
    anchor: Option<RunId>,
    notes: &mut Vec<String>,
) -> (Option<KnownChanges>, Tracking) {
    let size = source.device.size();
    let found = source
        .keeper()
        .map(|keeper| keeper::changes(keeper, contents, disk, size, anchor));
    match found {
        Some(Ok(known)) => (Some(known), Tracking::ImageBitmap),
        Some(Err(why)) if anchor.is_some() => {
            notes.push(format!("compared with its last backup: {why}"));
            (None, Tracking::Scan)
        }
        Some(Err(_)) | None => (None, Tracking::Scan),
    }
}

/// Takes the views of a served disk out of its tracking store, if they are not known in this process.
fn look_into_store(
    borrowed: &mut Borrowed,
    contents: &Contents,
    disk: &DiskName,
    anchor: Option<RunId>,
    notes: &mut Vec<String>,
) {
    let tracked = borrowed.tracked().clone();
    let Some(stored) = tracked
        .store()
        .filter(|_| !knows(borrowed, contents, anchor))
    else {
        return;
    };
    match tracked.stored_views(stored, contents, disk) {
        Ok((views, excess)) => {
            notes.push(format!("what changed is known from tracking store {stored}: {excess}"));
            borrowed.set(Some(views));
        }
        // The first backup has nothing to go by, and needs nothing.
        Err(_) if !contents.views.contains_key(disk) => {}
        Err(why) => notes.push(format!(
            "compared with its last backup, because tracking store {stored} does not say what changed: {why}"
        )),
    }
}

/// Whether borrowed views speak of what the catalogue says they should.
fn knows(borrowed: &Borrowed, contents: &Contents, anchor: Option<RunId>) -> bool {
    borrowed
        .views()
        .is_some_and(|views| views.directory == contents.meta.directory && views.anchor == anchor)
}

/// Why what is known of the disk's changes is of no use, if the catalogue says that it is not.
pub(crate) fn distrusted(contents: &Contents, disk: &DiskName) -> Option<&'static str> {
    let views = contents.views.get(disk);
    let view = views.and_then(|views| views.point.as_ref());
    view.and_then(|view| view.tracking.proof.distrust())
}

fn open_chain(catalogue: &Catalogue, image: &ImageName) -> Result<Arc<dyn Device>, String> {
    // The catalogue's lock guards the directory; a builder may have the file open in this process.
    let options = OpenOptions::read_only()
        .format(Format::Qcow2)
        .without_lock();
    let image =
        Image::open(catalogue.path_of(image), options).map_err(|error| error.to_string())?;
    Ok(image.device().clone())
}

fn open_partial(
    catalogue: &Catalogue,
    partial: &Partial,
    source: &Source,
    options: &Options,
    through: Option<&Through>,
) -> Result<Candidate, String> {
    if partial.size != source.device.size() {
        return Err(format!(
            "the disk had {} bytes then, and has {} now",
            partial.size,
            source.device.size()
        ));
    }
    let target = Target::continue_partial(
        catalogue.directory(),
        partial.file.clone(),
        (options.min_cluster, options.compress),
        through,
    );
    let target = target.map_err(|error| match error {
        TargetError::File(path, error) => format!("{}: {error}", path.display()),
        TargetError::Build(path, error) => format!("{}: {error}", path.display()),
    })?;
    let reference = open_chain(catalogue, &partial.file)?;
    Ok(Candidate {
        base: Base::Partial,
        reference: Some(reference),
        parent: partial.parent,
        backing: None,
        cluster: target.unit(),
        target: Some(Arc::new(target)),
    })
}

/// A refusal comes only from a partial.
fn unreachable_refusal(name: &DiskName) -> Surveyed {
    unreachable!("disk {name} was refused for a partial that it does not have")
}

fn check_size(source: &Source, options: &Options) -> Result<(), DiskError> {
    let size = source.device.size();
    let cluster = unit(options);
    match cohort_bitmap::DirtyBitmap::new(size, cluster) {
        Ok(_) => Ok(()),
        Err(_) => Err(DiskError::TooLarge {
            source_name: source.label.clone(),
            size,
            cluster: cluster.bytes(),
        }),
    }
}

/// What is copied at once into a new target.
fn unit(options: &Options) -> Granularity {
    Granularity::new(options.cluster.max(options.min_cluster)).unwrap_or_default()
}
