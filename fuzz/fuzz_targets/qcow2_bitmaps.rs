//! Any bytes opened as a qcow2 image with QEMU's bitmaps.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cohort_fuzz::qcow2_bitmaps::check(bytes));
