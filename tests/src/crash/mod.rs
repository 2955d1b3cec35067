//! Groups of disks whose process dies, or whose files fail, at a named point: what `crash-run` plays, what it writes down
//! of each point, and what the disks held at each fence.

mod disks;
mod point;
mod script;

pub use disks::{
    GRANULE, Refused, SIZE, Write, after_fence, at_fence, before_fence, disk_path, make,
    repository, serve,
};
pub use point::{How, Phase, Point, Reached};
pub use script::{Ending, NAMES, Script, Word};
