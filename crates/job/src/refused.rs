//! Why a request was refused: matchable, and said in a sentence.

use std::fmt;

use crate::outcome::{Cause, Disposition, Verdict};
use crate::status::{Status, Verb};

/// Why a request was refused. A refusal changed nothing.
///
/// Example: [`VerbError`], and [each verb where it is not accepted](crate::guide::lifecycle).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refused {
    /// No such job, or it was dismissed.
    Gone,
    /// This status does not accept this verb.
    Status {
        /// What was asked.
        verb: Verb,
        /// Where the job is.
        status: Status,
    },
    /// Pause: the user's hold is on it already.
    AlreadyPaused {
        /// Where the job is.
        status: Status,
    },
    /// Resume: the user did not pause it.
    NotPaused {
        /// Where the job is.
        status: Status,
    },
    /// Its group does not commit and is coming to rest; only cancel and what ends it still count.
    Stopping {
        /// What was asked.
        verb: Verb,
        /// Where the job is.
        status: Status,
        /// Why the group stops.
        cause: Cause,
    },
    /// Complete: a soft cancel already made it finish without the switch-over.
    Finishing {
        /// Where the job is.
        status: Status,
    },
    /// Finalize: its group is being finalized already.
    Finalizing {
        /// Where the job is.
        status: Status,
    },
    /// Cancel or finalize: the verdict is fixed.
    Decided {
        /// What was asked.
        verb: Verb,
        /// Where the job is.
        status: Status,
        /// What was decided.
        verdict: Verdict,
        /// Whether it was written down is not known.
        in_doubt: bool,
    },
    /// Cancel of a group whose verdict is fixed.
    GroupDecided {
        /// What was decided.
        verdict: Verdict,
        /// Whether it was written down is not known.
        in_doubt: bool,
    },
    /// Add, launch, rollback, replay: the membership is sealed.
    Sealed,
    /// Replay: the group was cancelled.
    Cancelled,
    /// Add: a group holds at most `u32::MAX` members.
    Full,
    /// Release: the engine does not hold it.
    NotHeld,
    /// Give up: it is not known to be stuck.
    NotStuck {
        /// Where the job is.
        status: Status,
    },
}

/// Follows the name of the job or group: "job 'a' " + "cannot …".
impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Gone => write!(f, "does not exist, or was dismissed: it accepts nothing"),
            Self::Status { verb, status } => {
                write!(
                    f,
                    "cannot {verb} in status '{status}': {verb} is accepted in "
                )?;
                list(f, verb.accepted_in())
            }
            Self::AlreadyPaused { status } => write!(
                f,
                "cannot pause in status '{status}': it is already paused; resume is accepted"
            ),
            Self::NotPaused { status } => {
                write!(
                    f,
                    "cannot resume in status '{status}': it was not paused by a user"
                )?;
                if !Verb::Pause.accepted_in().contains(&status) {
                    write!(f, ", and pause is accepted only in ")?;
                    list(f, Verb::Pause.accepted_in())?;
                }
                Ok(())
            }
            Self::Stopping {
                verb,
                status,
                cause,
            } => {
                write!(
                    f,
                    "cannot {verb} in status '{status}': its group is stopping ("
                )?;
                write_cause(f, cause)?;
                write!(f, "); cancel is accepted until the verdict")
            }
            Self::Finishing { status } => write!(
                f,
                "cannot complete in status '{status}': it was cancelled and finishes without the \
                 switch-over; a forced cancel is accepted"
            ),
            Self::Finalizing { status } => write!(
                f,
                "cannot finalize in status '{status}': its group is already being finalized; \
                 cancel is accepted until the verdict"
            ),
            Self::Decided {
                verb,
                status,
                verdict,
                in_doubt,
            } => {
                write!(f, "cannot {verb} in status '{status}': ")?;
                write_verdict(f, verdict, in_doubt)?;
                write_end(f, in_doubt)
            }
            Self::GroupDecided { verdict, in_doubt } => {
                write!(f, "cannot be cancelled: ")?;
                write_verdict(f, verdict, in_doubt)?;
                write_end(f, in_doubt)
            }
            Self::Sealed => write!(f, "was launched or rolled back; its membership is sealed"),
            Self::Cancelled => write!(f, "was cancelled; it cannot be replayed"),
            Self::Full => write!(f, "cannot hold more members"),
            Self::NotHeld => write!(f, "is not held by the engine"),
            Self::NotStuck { status } => {
                write!(
                    f,
                    "cannot be given up in status '{status}': it is not known to be stuck"
                )?;
                if Verb::Cancel.accepted_in().contains(&status) {
                    write!(f, "; cancel is accepted until the verdict")?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for Refused {}

/// A refusal with the name of whom it concerns.
///
/// ```
/// use cohort_job::{Engine, JobSpec, Refused, Status, Step, from_fn};
///
/// let engine = Engine::new()?;
/// let job = engine.launch(JobSpec::new("disk0"), from_fn(|_| Step::done()))?;
/// job.wait();
/// let refused = job.pause().unwrap_err();
/// assert_eq!((refused.job.as_str(), refused.refused), ("disk0", Refused::Gone));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerbError {
    /// The name of the job, as the user knows it.
    pub job: String,
    /// Why.
    pub refused: Refused,
}

impl fmt::Display for VerbError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "job '{}' {}", self.job, self.refused)
    }
}

impl std::error::Error for VerbError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.refused)
    }
}

fn list(f: &mut fmt::Formatter<'_>, statuses: &[Status]) -> fmt::Result {
    for (at, status) in statuses.iter().enumerate() {
        let before = match at {
            0 => "",
            _ if at + 1 == statuses.len() => " and ",
            _ => ", ",
        };
        write!(f, "{before}{status}")?;
    }
    Ok(())
}

fn write_cause(f: &mut fmt::Formatter<'_>, cause: Cause) -> fmt::Result {
    match cause {
        Cause::Failed(member) => write!(f, "member {member} failed"),
        Cause::Cancelled(member) => write!(f, "member {member} was cancelled"),
        Cause::User => write!(f, "cancelled"),
        Cause::Rollback => write!(f, "rolled back before its launch"),
        Cause::Shutdown => write!(f, "shutdown"),
        Cause::ProcessEnded => write!(f, "the process ended"),
    }
}

/// What is accepted once the verdict is fixed.
fn write_end(f: &mut fmt::Formatter<'_>, in_doubt: bool) -> fmt::Result {
    match in_doubt {
        true => Ok(()),
        false => write!(f, "; dismiss is accepted once it is concluded"),
    }
}

fn write_verdict(f: &mut fmt::Formatter<'_>, verdict: Verdict, in_doubt: bool) -> fmt::Result {
    match verdict {
        Verdict::Commit => write!(f, "its group is decided: commit")?,
        Verdict::Abort { cause, disposition } => {
            write!(f, "its group is decided: abort (")?;
            write_cause(f, cause)?;
            match disposition {
                Disposition::Keep => write!(f, "), keep")?,
                Disposition::Discard => write!(f, "), discard")?,
            }
        }
    }
    if in_doubt {
        write!(
            f,
            "; whether that was written is not known before the next start"
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_job_verb_status_and_what_is_accepted() {
        let refused = Refused::Status {
            verb: Verb::Pause,
            status: Status::Waiting,
        };
        let error = VerbError {
            job: "disk0".into(),
            refused,
        };
        assert_eq!(
            error.to_string(),
            "job 'disk0' cannot pause in status 'waiting': pause is accepted in created, running, \
             paused, ready and standby"
        );
    }

    #[test]
    fn a_late_cancel_is_told_the_verdict() {
        let verdict = Verdict::Abort {
            cause: Cause::Failed(2),
            disposition: Disposition::Keep,
        };
        let status = Status::Aborting;
        let refused = Refused::Decided {
            verb: Verb::Cancel,
            status,
            verdict,
            in_doubt: false,
        };
        assert_eq!(
            refused.to_string(),
            "cannot cancel in status 'aborting': its group is decided: abort (member 2 failed), keep; \
             dismiss is accepted once it is concluded"
        );
    }

    /// One row per refusal of a verb: each says the verb, the status, and what is accepted instead, or that
    /// nothing is.
    #[test]
    fn every_refusal_says_what_would_be_accepted() {
        let status = Status::Ready;
        let verdict = Verdict::Commit;
        let in_doubt = false;
        let (verb, cause) = (Verb::Complete, Cause::User);
        for (refused, words, accepted) in [
            (Refused::Gone, "does not exist", "it accepts nothing"),
            (
                Refused::Status { verb, status },
                "cannot complete",
                "accepted in ready and standby",
            ),
            (
                Refused::AlreadyPaused { status },
                "cannot pause",
                "resume is accepted",
            ),
            (
                Refused::Stopping {
                    verb,
                    status,
                    cause,
                },
                "cannot complete",
                "cancel is accepted",
            ),
            (
                Refused::Finishing { status },
                "cannot complete",
                "a forced cancel is accepted",
            ),
            (
                Refused::Finalizing { status },
                "cannot finalize",
                "cancel is accepted",
            ),
            (
                Refused::Decided {
                    verb,
                    status,
                    verdict,
                    in_doubt,
                },
                "cannot complete",
                "dismiss is accepted",
            ),
            (
                Refused::GroupDecided { verdict, in_doubt },
                "cannot be cancelled",
                "dismiss is accepted",
            ),
            (
                Refused::NotStuck { status },
                "cannot be given up",
                "cancel is accepted",
            ),
            (
                Refused::NotPaused {
                    status: Status::Waiting,
                },
                "cannot resume in status 'waiting'",
                "pause is accepted only in created, running, paused, ready and standby",
            ),
        ] {
            let text = refused.to_string();
            assert!(text.contains(words) && text.contains(accepted), "{text}");
        }
    }
}
