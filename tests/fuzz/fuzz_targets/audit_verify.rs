//! Any audit log: it is read within bounds, and is not taken for one that a trusted key signed.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| enforcer_fuzz::verify_audit(bytes));
