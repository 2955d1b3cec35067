//! The point-in-time checker: whole backups, of the rooms as they are, one request at a time.
//!
//! Disks of numbered blocks are written to while they are backed up; reads, writes and syncs fail, stall and are cut off
//! by kills; people cancel, hurry, pause. After every round: each point is its disk at the fence, each partial is what its
//! map and its view say, no view lacks a write, none has one too many, and at the end every point is still what it was.
//!
//! Every request to a disk or to a target file waits on a stage until the schedule lets it go on, and
//! nothing else is let go on before all threads sleep. So one seed is one run on an idle machine, but for what time decides: whether
//! a writer without patience has waited too long, and whether a hook has kept its worker so long that another one takes the
//! next disk's.

mod book;
mod cells;
mod generate;
mod judge;
mod round;
mod run;
mod script;
mod shrink;
mod stage;
mod still;
mod watched;
mod world;

pub use cells::{Cell, Cells, End};
pub use generate::generate;
pub use round::Strike;
pub use run::{Report, Wrong, run};
pub use script::{Deed, DiskScript, Fault, Kind, Member, Round, Script, Write};
pub use shrink::{Failure, check};
