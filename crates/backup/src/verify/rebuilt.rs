//! Points rebuilt in a scratch place, and compared with what they have to be.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use cohort_block::{Format, OpenOptions, OsFile, RawDevice};

use super::damage::Finding;
use super::layer::{Subject, compare, read};
use super::{Damage, PointState, PointVerdict, VerifyError, Watch};
use crate::catalogue::Contents;
use crate::expected::{Says, of_point};
use crate::restore::{RestoreError, RestoreOptions, restore};

/// Rebuilds every point that is not known to be damaged.
pub(super) fn rebuild_all(
    directory: &Path,
    contents: &Contents,
    scratch: &Path,
    points: &mut [PointVerdict],
    damage: &mut Vec<Damage>,
    watch: &Watch<'_>,
) -> Result<(), VerifyError> {
    let failed = |point: &PointVerdict, error| VerifyError::Scratch {
        disk: point.disk.clone(),
        run: point.run,
        error,
    };
    for point in points {
        if point.state == PointState::Damaged {
            continue;
        }
        let Some(subject) = Subject::of_point(contents, &point.disk, point.run) else {
            continue;
        };
        let findings = match rebuild(directory, contents, scratch, &subject, watch) {
            Ok(findings) => findings,
            Err(RestoreError::Cancelled) => return Err(VerifyError::Cancelled),
            Err(error) => return Err(failed(point, error)),
        };
        point.rebuilt = true;
        if !findings.is_empty() {
            point.state = PointState::Damaged;
        }
        let found = findings
            .into_iter()
            .map(|finding| finding.into_damage(&subject, vec![point.run]));
        damage.extend(found);
    }
    Ok(())
}

/// Restores a point to a scratch file, and reads that file.
fn rebuild(
    directory: &Path,
    contents: &Contents,
    scratch: &Path,
    subject: &Subject<'_>,
    watch: &Watch<'_>,
) -> Result<Vec<Finding>, RestoreError> {
    let Some(run) = subject.run else {
        return Ok(Vec::new());
    };
    let place = |source| RestoreError::Directory {
        path: scratch.to_owned(),
        source,
    };
    let room = tempfile::Builder::new()
        .prefix("cohort-verify-")
        .tempdir_in(scratch)
        .map_err(place)?;
    let out = room.path().join(format!("{}@{run}", subject.disk));
    let path = directory.join(subject.layer.file.to_string());
    let options = OpenOptions::read_only()
        .format(Format::Qcow2)
        .without_lock();
    let chain = match cohort_block::open(&path, options) {
        Ok(chain) => chain,
        Err(error) => return Ok(vec![Finding::whole(error.to_string())]),
    };
    let how = RestoreOptions::new(Format::Raw).length_bytes(subject.layer.size);
    match restore(&*chain, &out, &how, &|_, _| {}, watch.cancel) {
        Ok(_) => {}
        Err(RestoreError::Read(error)) => return Ok(vec![Finding::whole(error.to_string())]),
        Err(error) => return Err(error),
    }
    let expected = match of_point(directory, contents, &subject.disk, run) {
        Ok(expected) => expected,
        Err(error) => return Ok(vec![Finding::whole(error.to_string())]),
    };
    let raw = OsFile::open(&out, false).map_err(place)?;
    let raw = RawDevice::new("rebuilt", Arc::new(raw), false).map_err(place)?;
    let (unknown, known) = expected
        .into_iter()
        .partition(|piece| matches!(piece.says, Says::Nothing));
    let mut findings = read(&raw, known, watch);
    findings.extend(compare(&raw, &*chain, unknown, watch));
    if watch.cancel.load(Ordering::Relaxed) {
        return Err(RestoreError::Cancelled);
    }
    Ok(findings)
}
