//! Holds of a program's own: they nest, beside the one pause that a user has.

use std::ops::Range;

use crate::core::Request;
use crate::{JobHandle, TxnHandle, VerbError};

/// Keeps a job from running until it is dropped. Any number may be on one job, and the user's pause is counted
/// beside them: the job runs when there is none left. A group that stops passes through all of them.
///
/// ```
/// use cohort_job::{Engine, JobSpec, Status, Step, from_fn};
///
/// let engine = Engine::new()?;
/// let mut group = engine.group("g");
/// let job = group.add(JobSpec::new("j"), from_fn(|_| Step::done()))?;
/// let hold = job.hold()?;
/// group.launch();
/// assert_eq!((job.status(), job.why().as_str()), (Status::Paused, "paused: it is held once by the engine"));
/// drop(hold);
/// job.wait();
/// assert_eq!(job.why(), "committed");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "the job is held only as long as this is kept"]
pub struct Hold(JobHandle);

impl JobHandle {
    /// Holds the job at its next pause point, for a program's own reasons; in every status, and as often as
    /// need be.
    ///
    /// # Errors
    /// If it was dismissed.
    pub fn hold(&self) -> Result<Hold, VerbError> {
        self.ask(Request::Hold(self.member()))?;
        Ok(Hold(self.clone()))
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // Refused if it was dismissed meanwhile: then nothing is held any more.
        let _ = self.0.ask(Request::Release(self.0.member()));
    }
}

/// A [`Hold`] on each member of a group, taken and given back in one go: for thousands much cheaper than as many holds.
///
/// ```
/// use cohort_job::{Engine, JobSpec, Status, Step, from_fn};
///
/// let engine = Engine::new()?;
/// let mut open = engine.group("g");
/// let jobs = open.add_all(&JobSpec::unnamed(), (0..3).map(|_| from_fn(|_| Step::done())))?;
/// let holds = open.handle().hold_all();
/// let group = open.launch();
/// assert!(jobs.clone().all(|member| group.job(member).is_some_and(|job| job.status() == Status::Paused)));
/// drop(holds);
/// group.wait();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "the jobs are held only as long as this is kept"]
pub struct HoldAll {
    txn: TxnHandle,
    members: Vec<Range<u32>>,
}

impl TxnHandle {
    /// Holds every member that the group has now, and was not dismissed, at its next pause point.
    pub fn hold_all(&self) -> HoldAll {
        let mut members: Vec<Range<u32>> = Vec::new();
        let count = self.group.lock().core.len();
        self.group
            .ask_each((0..count).map(Request::Hold), |request, accepted| {
                let Request::Hold(member) = *request else {
                    return;
                };
                match members.last_mut() {
                    _ if !accepted => {}
                    Some(span) if span.end == member => span.end += 1,
                    Some(_) | None => members.push(member..member + 1),
                }
            });
        HoldAll {
            txn: self.clone(),
            members,
        }
    }
}

impl Drop for HoldAll {
    fn drop(&mut self) {
        let members = std::mem::take(&mut self.members);
        let requests = members.into_iter().flatten().map(Request::Release);
        // Refused by those that were dismissed meanwhile: then nothing is held any more.
        self.txn.group.ask_each(requests, |_, _| ());
    }
}
