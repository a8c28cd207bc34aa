//! What a session uses of its limits, and of its ancestors': the only code that spends. Every step is one atomic operation, so that of any
//! number of threads exactly as many get something as there is of it.

use enforcer_common::{
    counter::Counter,
    decision::limits_of_envelope,
    limits::Limits,
    rules::Broken,
    session::{MAX_DEPTH, Usage},
};

use crate::{
    atomic, counters,
    maps::{SESSIONS, USAGE},
    rules::KernelRules,
    session,
};

/// What there is to spend.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Item {
    Connection = 0,
    BytesOut = 1,
    BytesIn = 2,
}

const PAID: u64 = 0;
const REFUSED: u64 = 1;
const BROKEN: u64 = 2;

/// Takes one connection, or bytes of a packet, from a session that is held to this envelope, and from each of its ancestors;
/// false if one of them has none left, and then nothing is taken.
#[inline(always)]
pub(crate) fn take(slot: u32, envelope: u32, item: Item, amount: u64) -> Result<bool, Broken> {
    match spend(slot, envelope, item as u32, amount) {
        PAID => Ok(true),
        REFUSED => Ok(false),
        _ => Err(Broken),
    }
}

/// Verified by itself, and on a stack frame of its own.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn usage_spend(slot: u32, envelope: u32, item: u32, amount: u64) -> u64 {
    let Some(row) = SESSIONS.get(slot) else { return BROKEN };
    let (mut payer, mut held_to) = (slot, envelope);
    // The session itself, then its ancestors.
    for step in 0..=MAX_DEPTH {
        let paid = charge(payer, held_to, item, amount);
        if paid != PAID {
            give_back(slot, step, item, amount);
            return paid;
        }
        let Some(ancestor) = session::ancestor_at(row, step) else { break };
        payer = ancestor.slot;
        held_to = match session::control_of(ancestor) {
            Some(control) => control.envelope(),
            // It has no envelope: its limits are not known, so nothing may be spent.
            None => 0,
        };
    }
    PAID
}
use usage_spend as spend;

/// Gives back what was taken from a session and its ancestors, from so many of them all together.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn usage_give_back(slot: u32, payers: usize, item: u32, amount: u64) -> u64 {
    let Some(row) = SESSIONS.get(slot) else { return 0 };
    let mut payer = slot;
    for step in 0..=MAX_DEPTH {
        if step >= payers {
            break;
        }
        refund(payer, item, amount);
        let Some(ancestor) = session::ancestor_at(row, step) else { break };
        payer = ancestor.slot;
    }
    0
}
use usage_give_back as give_back;

/// Takes from one session alone.
#[inline(always)]
fn charge(slot: u32, envelope: u32, item: u32, amount: u64) -> u64 {
    let Ok(limits) = limits_of_envelope(envelope, &KernelRules) else { return BROKEN };
    let Some(usage) = USAGE.get_ptr_mut(slot) else {
        counters::add(Counter::FaultNoSession);
        return REFUSED;
    };
    let limit = match item {
        item if item == Item::Connection as u32 => limits.connections,
        item if item == Item::BytesOut as u32 => limits.bytes_out,
        _ => limits.bytes_in,
    };
    let used = place(usage, item);
    // SAFETY: a live array value that is accessed atomically only.
    let before = unsafe { atomic::fetch_add(used, amount) };
    let fits = limit == Limits::NONE || before.saturating_add(amount) <= limit;
    let in_time = fits
        && (item != Item::Connection as u32 || limits.rate_interval_ns == 0 || {
            // SAFETY: a field of a live array value.
            let due = unsafe { &raw mut (*usage).rate_due_ns };
            // SAFETY: a live array value that is accessed atomically only.
            unsafe { take_turn(due, &limits) }
        });
    if in_time {
        return PAID;
    }
    // Something smaller, or later, may still fit.
    // SAFETY: as above.
    unsafe { atomic::add(used, amount.wrapping_neg()) };
    REFUSED
}
/// Gives back what [`charge`] took, but for the turn: who waits for one may wait longer than he would have to.
#[inline(always)]
fn refund(slot: u32, item: u32, amount: u64) {
    let Some(usage) = USAGE.get_ptr_mut(slot) else { return };
    // SAFETY: a live array value that is accessed atomically only.
    unsafe { atomic::add(place(usage, item), amount.wrapping_neg()) };
}

/// Where it is counted.
#[inline(always)]
fn place(usage: *mut Usage, item: u32) -> *mut u64 {
    match item {
        // SAFETY: a field of a live array value, here and below.
        item if item == Item::Connection as u32 => unsafe { &raw mut (*usage).connections },
        // SAFETY: as above.
        item if item == Item::BytesOut as u32 => unsafe { &raw mut (*usage).bytes_out },
        // SAFETY: as above.
        _ => unsafe { &raw mut (*usage).bytes_in },
    }
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
