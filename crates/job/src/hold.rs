//! Holds of a program's own: they nest, beside the one pause that a user has.

use crate::core::Request;
use crate::{JobHandle, VerbError};

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
