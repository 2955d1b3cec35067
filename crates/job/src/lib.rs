//! Cohort's job room.
