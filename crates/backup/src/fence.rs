//! The fence: one instant for many disks.
//!
//! ```text
//! durable preparation (the caller's) ─► freeze ─► gates closed ─► action ─► gates open ─► thaw
//!                                                 one deadline    memory only
//! ```
//!
//! Between the closing of the last gate and the opening of the first no write to any of the disks is
//! under way: that is the instant. Whatever goes wrong, gates open before anything else is done, and
//! whatever was asked to freeze is thawed.

use std::error::Error;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use cohort_block::{CloseError, ClosedGate, Gated, close_all};

/// What a freeze or a thaw answers; the error is for messages.
pub type HookResult = Result<(), Box<dyn Error + Send + Sync>>;

/// A bound beyond this is none; instants do not reach much further than some such time.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// A round of closing: which gates, under which name, for how long at most, frozen by whom.
///
/// ```
/// use std::sync::Arc;
/// use std::time::Duration;
/// use cohort_backup::Fence;
/// use cohort_block::{Gated, MemoryDevice};
///
/// let a = Gated::new(Arc::new(MemoryDevice::new("vda", 1 << 20)));
/// let b = Gated::new(Arc::new(MemoryDevice::new("vdb", 1 << 20)));
/// let fenced = Fence::new("nightly", Duration::from_secs(1))
///     .gate(&a)
///     .gate(&b)
///     .hook("guest", || Ok(()), || Ok(()))
///     .raise(|closed| closed.len())?;
/// assert_eq!(fenced.value, 2);
/// # Ok::<_, cohort_backup::FenceError>(())
/// ```
#[must_use = "nothing happens until it is raised"]
pub struct Fence<'a> {
    name: String,
    bound: Duration,
    gates: Vec<&'a Gated>,
    hooks: Vec<Hook<'a>>,
}

struct Hook<'a> {
    name: String,
    freeze: Box<dyn FnOnce() -> HookResult + 'a>,
    thaw: Thaw<'a>,
}

type Thaw<'a> = Box<dyn FnOnce() -> HookResult + 'a>;

impl<'a> Fence<'a> {
    /// A fence without gates. `name` is told to others who wait for the same gates; `bound` is how long
    /// closing all of them may take, and so about the longest that a write is kept waiting.
    pub fn new(name: impl Into<String>, bound: Duration) -> Self {
        Self {
            name: name.into(),
            bound,
            gates: Vec::new(),
            hooks: Vec::new(),
        }
    }

    /// One more disk.
    pub fn gate(mut self, gate: &'a Gated) -> Self {
        self.gates.push(gate);
        self
    }

    /// One more hook: `freeze` runs before any gate closes, `thaw` after all are open again, also if its
    /// freeze failed: part of it may be frozen. Freezes run in the order given, thaws in the reverse.
    /// Neither is stopped when it takes long; [`Hook`](crate::Hook) has deadlines.
    pub fn hook(
        mut self,
        name: impl Into<String>,
        freeze: impl FnOnce() -> HookResult + 'a,
        thaw: impl FnOnce() -> HookResult + 'a,
    ) -> Self {
        self.hooks.push(Hook {
            name: name.into(),
            freeze: Box::new(freeze),
            thaw: Box::new(thaw),
        });
        self
    }

    /// Closes all gates, has `action` done while they are closed, and opens them.
    ///
    /// `action` gets the gates in the order they were named. It may touch memory only: nothing is
    /// synced, allocated on disk or called out to while writers wait. If it panics, gates open and
    /// hooks thaw before the panic goes on.
    ///
    /// # Errors
    /// A hook did not freeze, or a gate did not close in time. `action` was not done, and all gates are
    /// open.
    pub fn raise<R>(
        self,
        action: impl FnOnce(&mut [ClosedGate<'a>]) -> R,
    ) -> Result<Fenced<R>, FenceError> {
        // Dropped last, so that also a panic opens the gates before it thaws.
        let mut frozen = Frozen { thaws: Vec::new() };
        let froze = Instant::now();
        for hook in self.hooks {
            frozen.thaws.push((hook.name.clone(), hook.thaw));
            if let Err(failure) = run(hook.name, hook.freeze) {
                return Err(FenceError {
                    cause: FenceCause::Freeze(failure),
                    thaw_failures: frozen.thaw(),
                });
            }
        }
        let began = Instant::now();
        let mut closed = match close_all(&self.gates, &self.name, began + self.bound.min(FOREVER)) {
            Ok(closed) => closed,
            Err(missed) => {
                return Err(FenceError {
                    cause: FenceCause::Close(missed),
                    thaw_failures: frozen.thaw(),
                });
            }
        };
        let value = action(&mut closed);
        drop(closed);
        let closed_for = began.elapsed();
        let thaw_failures = frozen.thaw();
        Ok(Fenced {
            value,
            closed_for,
            frozen_for: froze.elapsed(),
            thaw_failures,
        })
    }
}

impl fmt::Debug for Fence<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hooks: Vec<_> = self.hooks.iter().map(|hook| &hook.name).collect();
        f.debug_struct("Fence")
            .field("name", &self.name)
            .field("bound", &self.bound)
            .field("gates", &self.gates.len())
            .field("hooks", &hooks)
            .finish()
    }
}

/// A fence that stood.
#[derive(Debug)]
pub struct Fenced<R> {
    /// What the action gave.
    pub value: R,
    /// From the first gate's closing to the opening of all: no write waited longer for this fence.
    pub closed_for: Duration,
    /// From the begin of the first freeze to the end of the last thaw.
    pub frozen_for: Duration,
    /// Hooks that did not thaw; somebody must look after them.
    pub thaw_failures: Vec<HookFailure>,
}

/// A fence that did not stand: the round is void and nothing was changed.
#[derive(Debug, thiserror::Error)]
#[error("no instant for the group: {cause}{}", Listed(thaw_failures))]
pub struct FenceError {
    /// What went wrong first.
    #[source]
    pub cause: FenceCause,
    /// Hooks that did not thaw afterwards.
    pub thaw_failures: Vec<HookFailure>,
}

/// Why a fence did not stand.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FenceCause {
    /// A hook did not freeze; gates were not touched.
    #[error(transparent)]
    Freeze(HookFailure),
    /// A gate did not close in time, or was named twice.
    #[error(transparent)]
    Close(CloseError),
}

/// A hook that failed.
#[derive(Debug, thiserror::Error)]
#[error("hook {hook}: {message}")]
pub struct HookFailure {
    /// Which one.
    pub hook: String,
    /// What it said.
    pub message: String,
}

/// The hooks that were asked to freeze. Thaws them when dropped, if that was not done before.
struct Frozen<'a> {
    thaws: Vec<(String, Thaw<'a>)>,
}

impl Frozen<'_> {
    fn thaw(&mut self) -> Vec<HookFailure> {
        let mut failures = Vec::new();
        while let Some((name, thaw)) = self.thaws.pop() {
            failures.extend(run(name, thaw).err());
        }
        failures
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        for failure in self.thaw() {
            tracing::error!(%failure, "did not thaw");
        }
    }
}

/// One hook must not keep the others from running, so a panic is a failure like any.
fn run(name: String, hook: impl FnOnce() -> HookResult) -> Result<(), HookFailure> {
    let message = match catch_unwind(AssertUnwindSafe(hook)) {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "it panicked".to_owned(),
    };
    Err(HookFailure {
        hook: name,
        message,
    })
}

/// Failures to thaw, as the tail of a sentence.
struct Listed<'a>(&'a [HookFailure]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|failure| write!(f, "; and did not thaw: {failure}"))
    }
}

#[cfg(test)]
mod tests;
