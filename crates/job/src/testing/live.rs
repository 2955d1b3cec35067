//! What a run has done so far, also to be read from outside when a call does not return.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::plan::Plan;
use super::{Breach, Broken, Rule};
use crate::driver::{ErasedDriver, panic_error};
use crate::shell::now;
use crate::sync::Mutex;

/// More lines than this nobody reads; what was in their middle is left out.
const LINES: usize = 40;

/// The run under way. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Live(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    plan: String,
    lines: Vec<(String, usize)>,
    call: Option<(&'static str, Instant)>,
}

impl Live {
    pub(crate) fn begin(&self, plan: Plan) {
        let mut inner = self.0.lock();
        inner.plan = plan.to_string();
        inner.lines.clear();
        inner.call = None;
    }

    /// Notes what happened; the same again and again is counted.
    pub(crate) fn note(&self, line: String) {
        let mut inner = self.0.lock();
        match inner.lines.last_mut() {
            Some((last, times)) if *last == line => *times += 1,
            _ => inner.lines.push((line, 1)),
        }
    }

    /// Makes a call to the driver, so that it is known which one does not return.
    pub(crate) fn call<R>(&self, name: &'static str, call: impl FnOnce() -> R) -> R {
        self.0.lock().call = Some((name, now()));
        let result = call();
        self.0.lock().call = None;
        result
    }

    /// Calls a hook and notes it; what to blame it for, if it panicked.
    pub(crate) fn hook(
        &self,
        name: &'static str,
        driver: &mut dyn ErasedDriver,
        call: impl FnOnce(&mut dyn ErasedDriver),
    ) -> Result<(), String> {
        let called = self.call(name, || catch_unwind(AssertUnwindSafe(|| call(driver))));
        let told = called.map_err(|panic| format!("{name} {}", panic_error(&*panic)));
        self.note(told.clone().err().unwrap_or_else(|| name.into()));
        told
    }

    /// Has the work done on a thread of its own, and gives up on a call that takes longer than `patience`.
    pub(crate) fn supervise<T: Send + 'static>(
        &self,
        patience: Duration,
        work: impl FnOnce() -> Result<T, Broken> + Send + 'static,
    ) -> Result<T, Broken> {
        let (done, wait) = channel();
        let worker = thread::Builder::new()
            .name("cohort-check".into())
            .spawn(move || {
                // Nobody waits any more if a call was found not to return, and then did.
                let _ = done.send(work());
            })
            .expect("a thread can be had");
        loop {
            match wait.recv_timeout(patience / 4) {
                Ok(result) => return result,
                Err(RecvTimeoutError::Timeout) => {
                    if let Some(breach) = self.blocked(patience) {
                        return Err(Broken::new(vec![breach]));
                    }
                }
                Err(RecvTimeoutError::Disconnected) => match worker.join() {
                    Err(panic) => resume_unwind(panic),
                    Ok(()) => unreachable!("the worker sends its result"),
                },
            }
        }
    }

    pub(crate) fn plan(&self) -> String {
        self.0.lock().plan.clone()
    }

    pub(crate) fn trace(&self) -> Vec<String> {
        self.0.lock().trace()
    }

    /// The call under way, if it takes longer than this.
    fn blocked(&self, patience: Duration) -> Option<Breach> {
        let inner = self.0.lock();
        let (name, since) = inner.call?;
        if now().saturating_duration_since(since) < patience {
            return None;
        }
        let mut trace = inner.trace();
        trace.push(format!("{name} …"));
        Some(Breach {
            rule: Rule::Blocks,
            what: format!("{name} has not returned after {patience:?}"),
            plan: inner.plan.clone(),
            trace,
        })
    }
}

impl Inner {
    fn trace(&self) -> Vec<String> {
        let text = |(line, times): &(String, usize)| match times {
            1 => line.clone(),
            _ => format!("{line}, {times} times"),
        };
        let mut lines: Vec<_> = self.lines.iter().map(text).collect();
        if lines.len() > LINES {
            let left_out = lines.len() - LINES;
            let middle = LINES / 2..LINES / 2 + left_out;
            lines.splice(middle, [format!("… {left_out} more …")]);
        }
        lines
    }
}
