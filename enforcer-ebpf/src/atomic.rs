//! Atomic operations. The BPF target of rustc declares no read-modify-write atomics, though the instruction set has them: an
//! addition from the start, one that gives the old value and a compare-and-exchange since Linux 5.12. The compiler's assembler knows
//! the latter two only for a later processor version than it compiles for, so they are written as the bytes that they are
//! (Documentation/bpf/standardization/instruction-set.rst, "Atomic operations").

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

/// Adds to a shared counter, wrapping, and gives what it was before.
///
/// # Safety
///
/// As [`add`].
#[inline(always)]
pub(crate) unsafe fn fetch_add(counter: *mut u64, by: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let mut value = by;
        // r2 = atomic_fetch_add((u64 *)(r1 + 0), r2)
        // SAFETY: as in `add`.
        unsafe {
            core::arch::asm!(
                ".byte 0xdb, 0x21, 0, 0, 1, 0, 0, 0",
                in("r1") counter,
                inout("r2") value,
            );
        }
        value
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: the caller vouches for the pointer.
    unsafe { core::sync::atomic::AtomicU64::from_ptr(counter) }
        .fetch_add(by, core::sync::atomic::Ordering::Relaxed)
}

/// Puts `new` in the place of `expected`; does nothing if something else is there.
///
/// # Safety
///
/// As [`add`].
#[inline(always)]
pub(crate) unsafe fn replace(word: *mut u64, expected: u64, new: u64) {
    #[cfg(target_arch = "bpf")]
    // r0 = cmpxchg_64(r1 + 0, r0, r2)
    // SAFETY: as in `add`.
    unsafe {
        core::arch::asm!(
            ".byte 0xdb, 0x21, 0, 0, 0xf1, 0, 0, 0",
            in("r1") word,
            in("r2") new,
            inout("r0") expected => _,
        );
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
        // SAFETY: the caller vouches for the pointer.
        let word = unsafe { AtomicU64::from_ptr(word) };
        let _other = word.compare_exchange(expected, new, Relaxed, Relaxed);
    }
}
