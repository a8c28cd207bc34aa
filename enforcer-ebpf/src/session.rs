//! What the session tables say about a claim.

use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use enforcer_common::{
    counter::Counter,
    decision::{Claim, Standing},
    identity::SessionRef,
    record::Placement,
    session::ControlWord,
};

use crate::{
    atomic, counters,
    maps::{CONTROL, PROCS, SESSIONS},
};

/// Now, ns on the boot clock.
#[inline(always)]
pub(crate) fn now_ns() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// Everything `decide` needs to know of the session. A slot that no table has reads as a session that is over.
#[inline(always)]
pub(crate) fn standing(claim: Claim, placement: Placement) -> Standing {
    let slot = claim.session().slot;
    let (control, expires_ns) = match (CONTROL.get_ptr(slot), SESSIONS.get(slot)) {
        // SAFETY: a live array value; volatile, because the daemon stores to it from outside.
        (Some(word), Some(row)) => (ControlWord(unsafe { word.read_volatile() }), row.expires_ns),
        _ => {
            if matches!(claim, Claim::Tagged(_)) {
                counters::add(Counter::FaultNoSession);
            }
            (ControlWord(0), 0)
        }
    };
    Standing { claim, control, expires_ns, now_ns: now_ns(), placement }
}

/// Whether the session still has its slot.
#[inline(always)]
pub(crate) fn holds(session: SessionRef) -> bool {
    let Some(word) = CONTROL.get_ptr(session.slot) else {
        return false;
    };
    // SAFETY: a live array value; volatile, because the daemon stores to it from outside.
    ControlWord(unsafe { word.read_volatile() }).generation() == session.generation
}

/// Adds to the number of a session's live processes; `by` may be negative one.
#[inline(always)]
pub(crate) fn count_processes(slot: u32, by: i64) {
    match PROCS.get_ptr_mut(slot) {
        Some(count) => {
            // SAFETY: a live array value; several CPUs add to it, hence atomic.
            unsafe { atomic::add(count, by as u64) };
        }
        None => counters::add(Counter::FaultNoSession),
    }
}
