//! The simulator: hundreds of groups of jobs on a virtual clock, driven by the cores that the engine uses.
//!
//! A seed gives a [`Script`], the script gives a run, bit for bit the same every time. `docs/simulator.md` tells
//! what is simulated, what is checked, and how to read a failure.

mod agenda;
mod cells;
mod contain;
mod generate;
mod group;
mod laws;
mod onlooker;
mod orders;
pub(crate) mod random;
mod replay;
mod run;
mod script;
mod seat;
mod shrink;
mod worker;

pub use cells::{Cell, Cells};
pub use generate::generate;
pub use replay::{Replayed, replay};
pub use run::{Report, Wrong, run};
pub use script::{
    Act, Decision, End, HookAct, HookEnd, MemberSpec, Micros, NEVER, Script, ShellSpec, What, When,
};
pub use shrink::{Failure, simulate};
