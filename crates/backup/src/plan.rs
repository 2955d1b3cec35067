//! Decides, before anything is touched, what a disk's backup starts from and how it learns what to copy.
//!
//! Pure: facts in, plan out. The ladder is *changed* (a view or a comparison with the anchor), *allocated*,
//! *everything*; a disk that must take a lower rung than it was asked for says why.

use std::fmt;

use crate::options::{OnUndecided, Options, SyncMode};

/// What is known about a disk when a run begins.
#[derive(Clone, Debug)]
pub(crate) struct Situation<'a> {
    pub(crate) options: &'a Options,
    /// The last point, if there is one: whether its whole chain can be opened, or why not.
    pub(crate) point: Option<Result<(), String>>,
    /// The partial, if there is one.
    pub(crate) partial: Option<PartialFound>,
    /// Where changes are known from.
    pub(crate) tracking: Tracking,
}

/// A partial that an earlier run left.
#[derive(Clone, Debug)]
pub(crate) struct PartialFound {
    /// Whether someone (or a plan) has still to say keep or discard.
    pub(crate) undecided: bool,
    /// Whether it lies on a point.
    pub(crate) anchored: bool,
    /// Whether it can be continued, or why not.
    pub(crate) usable: Result<(), String>,
}

/// Where the changes of a disk are known from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tracking {
    /// Nobody tracked the disk: it is compared with its anchor.
    Scan,
    /// A view against the last point.
    View,
    /// A bitmap in the image, which the user named and the last verdict speaks of.
    ImageBitmap,
}

/// What to do with a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Its partial waits for an answer: leave the disk alone.
    Refuse,
    /// It would have to step down, and was told not to.
    TooStrict(StepDown),
    /// Copy.
    Copy(CopyPlan),
}

/// How a disk is copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CopyPlan {
    pub(crate) base: Base,
    pub(crate) changes: Changes,
    /// Why more is copied than was asked for.
    pub(crate) stepped_down: Option<StepDown>,
    /// Why an existing partial is not continued.
    pub(crate) partial_left: Option<String>,
}

/// What the target lies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Base {
    /// A new file that stands alone.
    Nothing,
    /// A new file on the last point.
    Point,
    /// The partial's own file, continued.
    Partial,
}

/// How the clusters to copy are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Changes {
    /// The view against what the target lies on.
    View,
    /// A comparison with what the target lies on.
    Compare,
    /// The bitmap in the image; the target lies on the last point.
    ImageBitmap,
    /// As the two above, and whatever the top layer allocates besides.
    Allocated,
    /// Everything that is not known to be zero.
    Everything,
}

/// A disk that had to copy more than it was asked to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepDown {
    /// The rung it took.
    pub to: Rung,
    /// Why the better one was out of reach.
    pub reason: String,
}

impl fmt::Display for StepDown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.to, self.reason)
    }
}

/// How a disk learns what to copy, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rung {
    /// What changed since the anchor.
    Changed,
    /// What the top layer allocates.
    Allocated,
    /// Everything.
    Everything,
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Rung::Changed => "copies what changed",
            Rung::Allocated => "copies what is allocated",
            Rung::Everything => "copies everything",
        })
    }
}

impl Situation<'_> {
    /// What to do with the disk.
    pub(crate) fn plan(&self) -> Plan {
        let mut partial_left = None;
        if let Some(partial) = &self.partial {
            let keep = !partial.undecided || self.options.undecided == OnUndecided::Keep;
            if partial.undecided && self.options.undecided == OnUndecided::Refuse {
                return Plan::Refuse;
            }
            match self.continuing(partial) {
                Ok(()) if keep => {
                    let changes = match self.changes() {
                        // It speaks of the last point, not of what the partial holds.
                        Changes::ImageBitmap => Changes::Compare,
                        other @ (Changes::View
                        | Changes::Compare
                        | Changes::Allocated
                        | Changes::Everything) => other,
                    };
                    return Plan::Copy(CopyPlan {
                        base: Base::Partial,
                        changes,
                        stepped_down: None,
                        partial_left: None,
                    });
                }
                Ok(()) => partial_left = Some("it was to be discarded".to_owned()),
                Err(reason) => partial_left = Some(reason),
            }
        }
        let (base, changes, stepped_down) = self.without_partial();
        match stepped_down {
            Some(step) if self.options.strict => Plan::TooStrict(step),
            stepped_down => Plan::Copy(CopyPlan {
                base,
                changes,
                stepped_down,
                partial_left,
            }),
        }
    }

    fn continuing(&self, partial: &PartialFound) -> Result<(), String> {
        partial.usable.clone()?;
        if self.stands_alone() && partial.anchored {
            return Err(format!(
                "a {} backup stands alone, and it lies on a point",
                self.options.mode
            ));
        }
        if let (true, Some(Err(reason))) = (partial.anchored, &self.point) {
            return Err(reason.clone());
        }
        Ok(())
    }

    fn without_partial(&self) -> (Base, Changes, Option<StepDown>) {
        if self.stands_alone() {
            return (Base::Nothing, Changes::Everything, None);
        }
        match &self.point {
            None => (Base::Nothing, Changes::Everything, None),
            Some(Ok(())) => (Base::Point, self.changes(), None),
            Some(Err(reason)) => {
                let step = StepDown {
                    to: Rung::Everything,
                    reason: reason.clone(),
                };
                (Base::Nothing, Changes::Everything, Some(step))
            }
        }
    }

    /// Whether its point is to need no other.
    fn stands_alone(&self) -> bool {
        match self.options.mode {
            SyncMode::Full | SyncMode::None => true,
            SyncMode::Top | SyncMode::Incremental | SyncMode::Bitmap => false,
        }
    }

    fn changes(&self) -> Changes {
        match (self.options.mode, self.tracking) {
            (SyncMode::Top, _) => Changes::Allocated,
            (_, Tracking::View) => Changes::View,
            (_, Tracking::Scan) => Changes::Compare,
            (_, Tracking::ImageBitmap) => Changes::ImageBitmap,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn situation(options: &Options) -> Situation<'_> {
        Situation {
            options,
            point: Some(Ok(())),
            partial: None,
            tracking: Tracking::Scan,
        }
    }
    fn found(undecided: bool) -> Option<PartialFound> {
        Some(PartialFound {
            undecided,
            anchored: true,
            usable: Ok(()),
        })
    }
    fn copy(plan: Plan) -> CopyPlan {
        match plan {
            Plan::Copy(plan) => plan,
            other @ (Plan::Refuse | Plan::TooStrict(_)) => panic!("not a copy: {other:?}"),
        }
    }
    fn with(change: impl FnOnce(crate::OptionsBuilder) -> crate::OptionsBuilder) -> Options {
        change(Options::builder()).build().unwrap()
    }

    #[test]
    fn first_backup_copies_everything_and_is_no_step_down() {
        for mode in [
            SyncMode::Full,
            SyncMode::Top,
            SyncMode::Incremental,
            SyncMode::Bitmap,
        ] {
            let options = with(|o| o.mode(mode).strict(true));
            let plan = copy(
                Situation {
                    point: None,
                    ..situation(&options)
                }
                .plan(),
            );
            assert_eq!(
                (plan.base, plan.changes),
                (Base::Nothing, Changes::Everything)
            );
            assert_eq!(plan.stepped_down, None);
        }
    }

    #[test]
    fn damaged_chain_steps_down_and_strict_refuses_that() {
        let damaged = Some(Err("vda.1.qcow2 is missing".to_owned()));
        let options = with(|o| o);
        let plan = copy(
            Situation {
                point: damaged.clone(),
                ..situation(&options)
            }
            .plan(),
        );
        assert_eq!(
            (plan.base, plan.changes),
            (Base::Nothing, Changes::Everything)
        );
        let step = StepDown {
            to: Rung::Everything,
            reason: "vda.1.qcow2 is missing".to_owned(),
        };
        assert_eq!(plan.stepped_down, Some(step.clone()));
        let strict = with(|o| o.strict(true));
        assert_eq!(
            Situation {
                point: damaged,
                ..situation(&strict)
            }
            .plan(),
            Plan::TooStrict(step)
        );
    }

    #[test]
    fn undecided_partial_follows_the_plan() {
        for (answer, base) in [
            (OnUndecided::Refuse, None),
            (OnUndecided::Keep, Some(Base::Partial)),
            (OnUndecided::Discard, Some(Base::Point)),
        ] {
            let options = with(|o| o.undecided(answer));
            let plan = Situation {
                partial: found(true),
                ..situation(&options)
            }
            .plan();
            match base {
                None => assert_eq!(plan, Plan::Refuse),
                Some(base) => assert_eq!(copy(plan).base, base),
            }
        }
    }

    #[test]
    fn decided_partial_is_continued_whatever_undecided_says() {
        for answer in [OnUndecided::Refuse, OnUndecided::Keep, OnUndecided::Discard] {
            let options = with(|o| o.undecided(answer));
            let plan = copy(
                Situation {
                    partial: found(false),
                    ..situation(&options)
                }
                .plan(),
            );
            assert_eq!((plan.base, plan.changes), (Base::Partial, Changes::Compare));
        }
    }

    #[test]
    fn a_bitmap_in_the_image_speaks_of_the_point_and_never_of_the_partial() {
        let options = with(|o| o);
        let plan = |partial| {
            let tracking = Tracking::ImageBitmap;
            let situation = Situation {
                partial,
                tracking,
                ..situation(&options)
            };
            let plan = copy(situation.plan());
            (plan.base, plan.changes)
        };
        assert_eq!(plan(None), (Base::Point, Changes::ImageBitmap));
        assert_eq!(plan(found(false)), (Base::Partial, Changes::Compare));
    }

    #[test]
    fn lost_partial_costs_only_the_partial() {
        let options = with(|o| o.strict(true));
        let lost = PartialFound {
            undecided: false,
            anchored: true,
            usable: Err("gone".to_owned()),
        };
        for tracking in [Tracking::Scan, Tracking::View] {
            let plan = copy(
                Situation {
                    partial: Some(lost.clone()),
                    tracking,
                    ..situation(&options)
                }
                .plan(),
            );
            assert_eq!(plan.base, Base::Point);
            assert_eq!(plan.partial_left.as_deref(), Some("gone"));
            assert_eq!(plan.stepped_down, None);
        }
    }

    #[test]
    fn full_continues_only_a_partial_that_stands_alone() {
        let options = with(|o| o.mode(SyncMode::Full));
        let plan = copy(
            Situation {
                partial: found(false),
                ..situation(&options)
            }
            .plan(),
        );
        assert_eq!(plan.base, Base::Nothing);
        let alone = PartialFound {
            undecided: false,
            anchored: false,
            usable: Ok(()),
        };
        let plan = copy(
            Situation {
                partial: Some(alone),
                ..situation(&options)
            }
            .plan(),
        );
        assert_eq!(plan.base, Base::Partial);
    }
}
