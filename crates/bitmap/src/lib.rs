//! Cohort's bitmap room.
