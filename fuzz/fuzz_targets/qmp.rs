//! Any bytes from the other side of a QMP connection.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cohort_fuzz::qmp::check(bytes));
