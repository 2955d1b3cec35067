//! Cohort's backup room.
