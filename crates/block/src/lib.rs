//! Cohort's block room.
