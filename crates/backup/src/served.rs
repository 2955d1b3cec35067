//! Served disks: everything durable before the fence, everything in memory inside it.

use std::sync::Arc;

use cohort_bitmap::{DirtyBitmap, Granularity, View};
use cohort_block::{BeforeWrite, ClosedGate, Ledger, Patience, Savers, Sink, Staging};

use crate::catalogue::RunId;
use crate::disk::{Disk, FencedDisk, Ready, Started, now_unix_ms};
use crate::error::DiskError;
use crate::plan::{Base, Changes, Rung, StepDown};
use crate::scan::{ScanError, allocated};
use crate::scratch::scratch_file;
use crate::settle::Settled;
use crate::stored::Stored;
use crate::survey::distrusted;
use crate::tracked::{AdoptError, Borrowed, Tracked, Views};
use crate::turns;

/// Threads that save old data for one disk. Writers wait for them, so more than one; the target is one file.
const SAVERS: usize = 4;

/// Finds the disk's views, makes its target, and leaves all of it in the disk for the fence.
pub(crate) fn prepare(disk: &Arc<Disk>, mut views: Borrowed) -> Result<(), DiskError> {
    let tracked = Arc::clone(views.tracked());
    let used = views
        .views()
        .and_then(|views| views.sets.as_ref())
        .map(|sets| sets.recording.clone());
    tracked.collect(&disk.catalogue, used.as_ref());
    let stale = views
        .views()
        .map(|views| views.settled.point().recorder().clone());
    let base = find_views(disk, &tracked, &mut views)?;
    let used = views
        .views()
        .map(|views| views.settled.point().recorder().clone());
    let stale = stale.filter(|stale| !used.is_some_and(|used| used.same(stale)));
    let candidate = &disk.decided.bases[base];
    let target = disk.make_target(candidate)?;
    let sink: Arc<dyn Sink> = target.clone();
    let staging = staging(disk, candidate.cluster)?;
    let savers = Savers::staging(sink, SAVERS, staging);
    let besides = match disk.decided.plan.changes {
        Changes::Everything => Some(tracked.all_dirty()),
        _ if candidate.base == Base::Nothing => Some(tracked.all_dirty()),
        Changes::Allocated => Some(top_layer(disk, candidate.cluster)?),
        Changes::View | Changes::Compare | Changes::ImageBitmap => None,
    };
    let turn = turns::prepare(disk, &tracked, &views)?;
    disk.state().ready = Some(Ready {
        turn,
        views,
        stale,
        parent: candidate.parent,
        continues: candidate.base == Base::Partial,
        cluster: candidate.cluster,
        savers,
        target,
        besides,
    });
    Ok(())
}

/// Where old data may wait for the target. That it is nearly full is a note at once, not only at the end.
fn staging(disk: &Arc<Disk>, cluster: Granularity) -> Result<Staging, DiskError> {
    let mut staging = Staging::in_memory(disk.decided.options.staging_memory);
    if let Some((folder, bytes)) = &disk.decided.options.staging_file {
        let what = || format!("a scratch file of {bytes} bytes in {}", folder.display());
        let file =
            scratch_file(folder, *bytes).map_err(|error| DiskError::system(what())(error))?;
        staging = staging.then_in(file, *bytes, cluster.bytes());
    }
    let disk = Arc::downgrade(disk);
    Ok(staging.notify(move |notice| {
        tracing::warn!(%notice, "the target is slower than the writers");
        if let Some(disk) = disk.upgrade() {
            disk.note(format!("the target is slower than the writers: {notice}"));
        }
    }))
}

/// Inside the fence: splits the views and puts recorder and filter in. Touches memory only.
pub(crate) fn start(disk: &Disk, closed: &mut ClosedGate<'_>) {
    let Some(ready) = disk.state().ready.take() else {
        return;
    };
    let Ready {
        views,
        stale,
        parent,
        continues,
        cluster,
        savers,
        target,
        besides,
        turn,
    } = ready;
    let tracked = Arc::clone(views.tracked());
    let views = views
        .take()
        .unwrap_or_else(|| nothing_known(disk, &tracked, None));
    let Views {
        anchor,
        partial,
        settled,
        sets,
        ..
    } = views;
    let (point, second) = match settled {
        Settled::Point(point) => (point, None),
        Settled::Both { point, partial } => (point, Some(partial)),
        Settled::Undecided(undecided) => {
            let (point, partial) = undecided.keep();
            (point, Some(partial))
        }
    };
    let old = point.recorder().clone();
    let split = match second {
        Some(second) if continues => point.split_continuing(second),
        Some(_) | None => point.split(),
    };
    let sets = turns::start(disk, closed, &split, turn, sets);
    if sets.is_none() {
        closed.install_recorder(split.successor().clone());
    }
    closed.remove_recorder(&old);
    if let Some(stale) = stale {
        closed.remove_recorder(&stale);
    }
    let mut manifest = split.to_copy().clone();
    if let Some(besides) = besides {
        manifest
            .merge(&besides.fitted_to(&manifest))
            .expect("fitted to the same disk");
    }
    let clusters = manifest
        .at_granularity(cluster)
        .expect("the size was checked before");
    let ledger = Arc::new(Ledger::new(clusters));
    let patience = Patience {
        bound: disk.decided.options.writer_wait,
        on_miss: disk.decided.options.on_miss,
    };
    let source = disk.decided.source.device.clone();
    let filter = Arc::new(BeforeWrite::new(ledger.clone(), source, savers, patience));
    closed.install_filter(filter.clone());
    closed.install_meter(disk.writes.clone());
    let partial = if continues { partial } else { None };
    let store = disk
        .decided
        .source
        .tracked()
        .and_then(|tracked| tracked.store());
    if store.is_some_and(Stored::outlives_power) {
        target.flush_first(disk.decided.source.device.clone());
    }
    disk.state().started = Some(Started {
        ledger,
        target,
        parent,
        created_unix_ms: now_unix_ms(),
        fenced: Some(FencedDisk {
            split,
            filter,
            manifest,
            anchor,
            partial,
            sets,
        }),
    });
}

/// Makes sure that the borrowed views speak of what the target will lie on; gives that base's index.
fn find_views(
    disk: &Disk,
    tracked: &Arc<Tracked>,
    views: &mut Borrowed,
) -> Result<usize, DiskError> {
    let anchor = disk.decided.anchor;
    let lost = distrusted(&*disk.catalogue.snapshot()?, &disk.decided.name).is_some();
    for (index, candidate) in disk.decided.bases.iter().enumerate() {
        let continued = candidate.target.as_ref().map(|target| target.name());
        let known = !lost
            && views.views().is_some_and(|views| {
                views.directory == disk.directory
                    && views.anchor == anchor
                    && (continued.is_none() || views.partial.as_ref() == continued)
            });
        if known {
            return Ok(index);
        }
        if candidate.base == Base::Nothing {
            views.set(Some(nothing_known(disk, tracked, anchor)));
            return Ok(index);
        }
        match adopt(disk, tracked, views, index) {
            Ok(()) => return Ok(index),
            Err(AdoptError::Scan(ScanError::Reference(error))) => {
                // Nothing records for the views from before any more: whoever has them next must not go by them.
                views.set(None);
                fall_back(disk, index, &error.to_string())?
            }
            Err(AdoptError::Scan(error @ ScanError::TooLarge(_))) => {
                return Err(DiskError::system(error.to_string())(
                    std::io::ErrorKind::Unsupported.into(),
                ));
            }
            Err(AdoptError::Gate(error)) => {
                return Err(DiskError::system(error.to_string())(
                    std::io::ErrorKind::TimedOut.into(),
                ));
            }
        }
    }
    Ok(disk.decided.bases.len() - 1)
}

/// Finds what changed since a base by comparing, while writes go on.
fn adopt(
    disk: &Disk,
    tracked: &Arc<Tracked>,
    views: &mut Borrowed,
    index: usize,
) -> Result<(), AdoptError> {
    let old = views
        .views()
        .map(|views| views.settled.point().recorder().clone());
    let point = disk
        .decided
        .bases
        .iter()
        .find(|base| base.base == Base::Point)
        .and_then(|base| base.reference.clone());
    let partial = &disk.decided.bases[index];
    let partial = (partial.base == Base::Partial).then_some(partial);
    let references = partial
        .and_then(|partial| partial.reference.clone())
        .into_iter()
        .chain(point.clone());
    let references: Vec<_> = references.collect();
    let references: Vec<_> = references.iter().map(|reference| &**reference).collect();
    disk.meter.begin(crate::DiskPhase::Scanning, disk.size());
    let prepared = turns::begin_search(disk, tracked);
    let (found, recording) = tracked.adopt(
        old.as_ref(),
        prepared,
        &references,
        disk.decided.options.writer_wait,
    )?;
    let sets = recording.and_then(|recording| {
        let (partial, point) = (partial.is_some(), point.is_some());
        turns::found(disk, tracked, recording, &found, partial, point)
    });
    let mut found = found.into_iter();
    let second = if partial.is_some() {
        found.next()
    } else {
        None
    };
    let first = if point.is_some() { found.next() } else { None };
    let first = first.unwrap_or_else(|| match &second {
        Some(second) => View::with_recorder(tracked.all_dirty(), second.recorder().clone()),
        None => tracked.everything(),
    });
    let settled = match second {
        Some(partial) => Settled::Both {
            point: first,
            partial,
        },
        None => Settled::Point(first),
    };
    let partial = partial
        .and_then(|partial| partial.target.as_ref())
        .map(|target| target.name().clone());
    views.set(Some(Views {
        directory: disk.directory,
        anchor: disk.decided.anchor,
        partial,
        settled,
        sets,
    }));
    Ok(())
}

/// A base that cannot be read is none.
fn fall_back(disk: &Disk, index: usize, reason: &str) -> Result<(), DiskError> {
    if disk.decided.bases[index].base == Base::Partial {
        disk.note(format!("the partial is not continued: {reason}"));
        return disk.drop_partial();
    }
    let step = StepDown {
        to: Rung::Everything,
        reason: reason.to_owned(),
    };
    if disk.decided.options.strict {
        return Err(DiskError::TooStrict {
            source_name: disk.decided.source.label.clone(),
            step,
        });
    }
    disk.state().stepped_down = Some(step);
    Ok(())
}

fn nothing_known(disk: &Disk, tracked: &Arc<Tracked>, anchor: Option<RunId>) -> Views {
    let settled = Settled::Point(tracked.everything());
    Views {
        directory: disk.directory,
        anchor,
        partial: None,
        settled,
        sets: None,
    }
}

/// What the top layer allocates; what it allocates from now on is written, so dirty.
fn top_layer(disk: &Disk, cluster: Granularity) -> Result<DirtyBitmap, DiskError> {
    let source = &*disk.decided.source.device;
    allocated(source, cluster).map_err(|_| DiskError::TooLarge {
        source_name: disk.decided.source.label.clone(),
        size: source.size(),
        cluster: disk.decided.options.cluster,
    })
}
