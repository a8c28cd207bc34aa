//! What a session uses of its limits: the only code that spends. Every step is one atomic operation, so that of any number of
//! threads exactly as many get something as there is of it.

use enforcer_common::limits::Limits;

use crate::{atomic, counters, maps::USAGE, session};
use enforcer_common::counter::Counter;

/// Takes one connection; false if there is none left, or not yet.
///
/// What is asked for beyond the limit is counted as well, which changes nothing: it only ever grows.
#[inline(always)]
pub(crate) fn take_connection(slot: u32, limits: &Limits) -> bool {
    if limits.connections == Limits::NONE && limits.rate_interval_ns == 0 {
        return true;
    }
    let Some(usage) = USAGE.get_ptr_mut(slot) else {
        counters::add(Counter::FaultNoSession);
        return false;
    };
    if limits.rate_interval_ns != 0 {
        // SAFETY: a field of a live array value.
        let due = unsafe { &raw mut (*usage).rate_due_ns };
        // SAFETY: a live array value that is accessed atomically only.
        if !unsafe { take_turn(due, limits) } {
            return false;
        }
    }
    // SAFETY: a field of a live array value.
    let connections = unsafe { &raw mut (*usage).connections };
    // SAFETY: a live array value that is accessed atomically only.
    unsafe { atomic::fetch_add(connections, 1) < limits.connections }
}

/// A token bucket, as the time at which it will be full again: each connection moves it on by an interval, and it may not get
/// further ahead of now than the burst.
///
/// Who finds it too far ahead takes the interval back. Meanwhile others may find it too far ahead as well, though it is not quite:
/// near the limit, fewer may pass at one moment, never more.
///
/// # Safety
///
/// As [`atomic::add`].
#[inline(always)]
unsafe fn take_turn(due_ns: *mut u64, limits: &Limits) -> bool {
    let now_ns = session::now_ns();
    // SAFETY: the caller vouches for it; volatile, because others write to it.
    let seen_ns = unsafe { due_ns.read_volatile() };
    if seen_ns < now_ns {
        // A bucket that is full does not get fuller. If another one was faster, it has done this.
        // SAFETY: the caller vouches for it.
        unsafe { atomic::replace(due_ns, seen_ns, now_ns) };
    }
    // SAFETY: the caller vouches for it.
    let before_ns = unsafe { atomic::fetch_add(due_ns, limits.rate_interval_ns) };
    if before_ns + limits.rate_interval_ns <= now_ns + limits.rate_burst_ns {
        return true;
    }
    // SAFETY: the caller vouches for it.
    unsafe { atomic::add(due_ns, limits.rate_interval_ns.wrapping_neg()) };
    false
}

/// Takes bytes for a packet that leaves, or arrives; false if there are not as many left.
#[inline(always)]
pub(crate) fn take_bytes(slot: u32, out: bool, bytes: u64, limits: &Limits) -> bool {
    let Some(usage) = USAGE.get_ptr_mut(slot) else {
        counters::add(Counter::FaultNoSession);
        return false;
    };
    let (used, limit) = if out {
        // SAFETY: a field of a live array value.
        (unsafe { &raw mut (*usage).bytes_out }, limits.bytes_out)
    } else {
        // SAFETY: as above.
        (unsafe { &raw mut (*usage).bytes_in }, limits.bytes_in)
    };
    // SAFETY: a live array value that is accessed atomically only.
    let before = unsafe { atomic::fetch_add(used, bytes) };
    if limit == Limits::NONE || before.saturating_add(bytes) <= limit {
        return true;
    }
    // A smaller packet may still fit.
    // SAFETY: as above.
    unsafe { atomic::add(used, bytes.wrapping_neg()) };
    false
}
