//! Whole runs over real files: what is committed, kept and dropped, and what restores to what.

mod grouped;
mod world;
