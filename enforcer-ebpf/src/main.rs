//! The kernel programs, in reading order: what they know, who is asking, what they emit, and the hooks.

#![no_std]
#![no_main]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

mod atomic;
mod config;
mod counters;
mod emit;
mod kernel;
mod maps;

mod cgroup;
mod flow;
mod image;
mod rules;
mod session;
mod task;
mod usage;

mod hooks;

/// Several helpers are open to GPL-compatible programs only.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Loops, so that a panic the verifier can reach fails verification.
#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
