//! Any changes to a tracking store that a kill left.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cohort_fuzz::store::check(bytes));
