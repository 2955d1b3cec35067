//! A process that backs up a group is killed at every durable operation and at every boundary of a hook, in every phase,
//! under every policy and ending; what it leaves is recomputed from the files alone, and the next run goes on from there.
//!
//! Every cell (point, phase, policy, ending) is hit, or has a reason never to be: see `cells.rs`. Groups have one to four
//! disks; `COHORT_TORTURE_CRASH=N` has every mix of policies, at N points each, and kills at every single operation of runs
//! that continue partials.
//!
//! What a verdict costs is counted from the same points: `syncs.rs`.
//!
//! The program's commands are killed, and have their files fail, in the same way: `commands`.

mod cells;
mod commands;
mod faults;
mod judge;
mod kills;
mod play;
mod syncs;
