//! Atomic addition. The BPF target of rustc declares no read-modify-write atomics, though the instruction set has had an
//! atomic add from the start.

/// Adds to a shared counter, wrapping.
///
/// # Safety
///
/// `counter` must be valid, aligned and only ever accessed atomically while programs run.
#[inline(always)]
pub(crate) unsafe fn add(counter: *mut u64, by: u64) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: the caller vouches for the pointer; the verifier checks it is a map value.
    unsafe {
        core::arch::asm!("lock *(u64 *)({counter} + 0) += {by}", counter = in(reg) counter, by = in(reg) by);
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: the caller vouches for the pointer.
    unsafe { core::sync::atomic::AtomicU64::from_ptr(counter) }
        .fetch_add(by, core::sync::atomic::Ordering::Relaxed);
}
