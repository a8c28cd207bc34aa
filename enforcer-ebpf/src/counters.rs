//! The only code that counts.

use enforcer_common::counter::Counter;

use crate::{atomic, maps::COUNTERS};

/// This CPU's counter.
#[inline(always)]
pub(crate) fn read(counter: Counter) -> u64 {
    // SAFETY: a live map value of this CPU; volatile, because another program may add to it meanwhile.
    COUNTERS.get_ptr(counter.raw()).map_or(0, |value| unsafe { value.read_volatile() })
}

/// Adds one to this CPU's counter.
#[inline(always)]
pub(crate) fn add(counter: Counter) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter.raw()) {
        // SAFETY: a live map value of this CPU. A program on this CPU may be interrupted by another that adds to the same
        // counter, hence atomic.
        unsafe { atomic::add(value, 1) };
    }
}
