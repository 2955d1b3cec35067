//! Any bytes from the other side of an NBD connection.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cohort_fuzz::nbd::check(bytes));
