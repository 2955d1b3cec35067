//! A disk of eight granules whose contents are version numbers.

use super::*;

const GRANULES: u64 = 8;
type Image = [u32; GRANULES as usize];

/// One run: writes before it, writes during it, granules durable at its end (the others were skipped,
/// if it commits), how it ends, the policy, and whether it continues a partial.
type Run = (u8, u8, u8, usize, usize, bool);

pub(super) fn check(runs: &[Run]) -> Result<(), TestCaseError> {
    let (mut disk, mut point) = ([0; 8], [0; 8]);
    let mut partial: Option<Image> = None;
    let mut views = (View::new(row("00000000")), None::<View>);
    let mut version = 0;
    for &(before, during, durable, ended, policy, continues) in runs {
        write(&mut disk, before, &mut version, views.0.recorder());
        let (ended, policy) = (Ended::ALL[ended], POLICIES[policy]);
        let instant = disk;
        let split = match views.1.take() {
            Some(view) if continues => views.0.split_continuing(view),
            // A partial that is not continued is given up.
            Some(_) | None => {
                partial = None;
                views.0.split()
            }
        };
        let mut target = partial.unwrap_or(point);
        let asked = split.to_copy().clone();
        let kept = match ended {
            Ended::Committed | Ended::Kept => durable,
            Ended::FlushFailed | Ended::Discarded | Ended::NothingDurable | Ended::NeverStarted => {
                0
            }
        };
        for granule in each(kept).filter(|&granule| asked.get(granule << 16)) {
            target[granule as usize] = instant[granule as usize];
        }
        write(&mut disk, during, &mut version, split.successor());
        let left = remaining(&asked, granularity(16), |cluster| kept >> cluster & 1 == 1);
        let earlier = partial.take();
        // What a committed point lacks was skipped.
        views = match settle(split, fate(ended, policy), &left, &left) {
            Settled::Point(point) => (point, None),
            Settled::Both { point, partial } => (point, Some(partial)),
            Settled::Undecided(undecided) => {
                let (point, partial) = undecided.keep();
                (point, Some(partial))
            }
        };
        match fate(ended, policy) {
            Fate::Abdicate => {
                prop_assert_eq!(ended, Ended::Committed, "only a commit moves the anchor");
                let shown = |&granule: &u64| target[granule as usize] == instant[granule as usize];
                prop_assert!(
                    (0..GRANULES).all(|granule| left.get(granule << 16) || shown(&granule))
                );
                point = target;
            }
            Fate::Reclaim => {}
            Fate::ReclaimBoth => partial = earlier.map(|_| target),
            Fate::KeepPartial | Fate::LeaveUndecided => partial = Some(target),
        }
        covers(&views.0, &disk, &point)?;
        prop_assert_eq!(partial.is_some(), views.1.is_some());
        if let (Some(view), Some(partial)) = (&views.1, &partial) {
            covers(view, &disk, partial)?;
        }
    }
    Ok(())
}

fn write(disk: &mut Image, granules: u8, version: &mut u32, recorder: &cohort_bitmap::Recorder) {
    for granule in each(granules) {
        *version += 1;
        disk[granule as usize] = *version;
        recorder.mark((granule << 16) + 5, 1);
    }
}

fn covers(view: &View, disk: &Image, anchor: &Image) -> Result<(), TestCaseError> {
    for granule in 0..GRANULES {
        let differs = disk[granule as usize] != anchor[granule as usize];
        prop_assert!(
            !differs || view.get(granule << 16),
            "granule {} was forgotten",
            granule
        );
    }
    Ok(())
}

fn each(set: u8) -> impl Iterator<Item = u64> {
    (0..GRANULES).filter(move |granule| set >> granule & 1 == 1)
}
