//! Whole runs over real files: what is committed, kept and dropped, and what restores to what.

mod cancelled;
mod cases;
mod checkpoints;
mod compressed;
mod example;
mod failing;
mod fenced;
mod geometry;
mod grouped;
mod image_bitmap;
mod kept;
mod modes;
mod pruned;
mod random;
mod refused;
mod served;
mod staged;
mod stored;
mod stored_kills;
mod stored_offline;
mod undecided;
mod verified;
mod world;
