//! Any envelope: it compiles within bounds, and the table, the explanation and the rules as written agree.

#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| enforcer_fuzz::compile(text));
