//! Any text: it is read, or refused with places that are in the text.

#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| enforcer_fuzz::parse(text));
