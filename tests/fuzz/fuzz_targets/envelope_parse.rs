//! Any file: it is read, or refused with places that are in it.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| enforcer_fuzz::parse(bytes));
