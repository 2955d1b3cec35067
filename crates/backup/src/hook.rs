//! Freeze hooks: what a guest or an application must do around the instant, under deadlines.
//!
//! A hook has a thread of its own, which freezes, waits for the order, and thaws. So a freeze that
//! does not come back holds up the round until its deadline and no longer, and is followed by its
//! thaw whenever it does come back.

mod command;

use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use crate::fence::{Fence, HookResult};

/// Something to be frozen before the gates of a run close, and thawed after they are open again.
///
/// Thawing is never left out: not if the freeze failed, panicked or missed its deadline, nor if the
/// round was void. A hook whose freeze is late is thawed as soon as that has ended.
///
/// ```
/// use std::time::Duration;
/// use cohort_backup::Hook;
///
/// let database = Hook::new("database", Duration::from_secs(5), || Ok(()), || Ok(()));
/// let guest = Hook::command("/usr/local/bin/qga-hook /run/vm.sock", Duration::from_secs(10));
/// # let _ = (database, guest);
/// ```
#[must_use = "a hook does nothing until a backup has it"]
pub struct Hook {
    name: String,
    wait: Duration,
    freeze: Action,
    thaw: Action,
}

type Action = Box<dyn FnOnce() -> HookResult + Send>;

impl Hook {
    /// A hook made of two functions, each of which may take `wait`. They run on a thread of their own.
    pub fn new(
        name: impl Into<String>,
        wait: Duration,
        freeze: impl FnOnce() -> HookResult + Send + 'static,
        thaw: impl FnOnce() -> HookResult + Send + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            wait,
            freeze: Box::new(freeze),
            thaw: Box::new(thaw),
        }
    }

    /// A command for `/bin/sh`, called with one more argument: `freeze`, and later `thaw`. Exit status 0
    /// is success. After `wait` it is killed with all that it started and stayed in its process group;
    /// of what it prints the first 4 KiB are kept for the message of a failure.
    pub fn command(command: impl Into<String>, wait: Duration) -> Self {
        let command = command.into();
        let call = |argument: &'static str| {
            let command = command.clone();
            move || command::run(&command, argument, wait)
        };
        let (freeze, thaw) = (call("freeze"), call("thaw"));
        // It kills itself in time; the thread's own deadline is for a kill that does not help.
        Self::new(command, wait + KILLING, freeze, thaw)
    }

    /// Starts its thread and makes it a hook of a fence. A backup does this with its own.
    ///
    /// # Errors
    /// The operating system gives no thread.
    pub fn join<'a>(self, fence: Fence<'a>) -> io::Result<Fence<'a>> {
        let Hook {
            name,
            wait,
            freeze,
            thaw,
        } = self;
        let (order, ordered) = channel();
        let (answer, freezes) = channel();
        let (thawed, thaws) = channel();
        let thread = thread::Builder::new().name("cohort-hook".to_owned());
        thread.spawn(move || serve(&ordered, freeze, &answer, thaw, &thawed))?;
        let orders: Sender<Order> = order.clone();
        let freeze = move || ask(&orders, Order::Freeze, &freezes, wait, "freeze");
        let thaw = move || ask(&order, Order::Thaw, &thaws, wait, "thaw");
        Ok(fence.hook(name, freeze, thaw))
    }
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hook")
            .field("name", &self.name)
            .field("wait", &self.wait)
            .finish_non_exhaustive()
    }
}

/// What a killed command gets on top to be gone.
const KILLING: Duration = Duration::from_secs(1);

enum Order {
    Freeze,
    Thaw,
}

/// The life of a hook's thread. Without a word it ends: the round was void before the hook's turn.
fn serve(
    ordered: &Receiver<Order>,
    freeze: Action,
    frozen: &Sender<HookResult>,
    thaw: Action,
    thawed: &Sender<HookResult>,
) {
    let Ok(Order::Freeze) = ordered.recv() else {
        return;
    };
    // Whoever asked may have given up: nobody hears the answer then.
    let _ = frozen.send(unless_it_panics(freeze));
    // Also if the fence was lost on the way: what froze is thawed.
    let _ = ordered.recv();
    let _ = thawed.send(unless_it_panics(thaw));
}

fn unless_it_panics(action: Action) -> HookResult {
    catch_unwind(AssertUnwindSafe(action)).unwrap_or_else(|_| Err("it panicked".into()))
}

fn ask(
    orders: &Sender<Order>,
    order: Order,
    answers: &Receiver<HookResult>,
    wait: Duration,
    what: &str,
) -> HookResult {
    let _ = orders.send(order);
    let late = |_| format!("did not {what} within {wait:?}");
    answers.recv_timeout(wait).map_err(late)?
}

#[cfg(test)]
mod tests;
