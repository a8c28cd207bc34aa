//! Any record of the kernel: what decodes is a line, which is read back as it was written and has all forms that events are exported in.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| enforcer_fuzz::decode_record(bytes));
