//! Any bytes read as a bitmap's serialised form.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cohort_fuzz::serialised::check(bytes));
