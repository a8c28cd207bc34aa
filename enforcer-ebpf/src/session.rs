//! What the session tables say about a claim.

use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use enforcer_common::{
    counter::Counter,
    decision::{Claim, Standing},
    identity::SessionRef,
    record::Placement,
    session::{ControlWord, MAX_DEPTH, SessionRow, SessionState},
    verdict::Reason,
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

/// Everything `decide` needs to know of the session; `image` is why the process is refused for what it executes, 0 if it is not. A slot that no table has reads as a session that is over.
#[inline(always)]
pub(crate) fn standing(claim: Claim, placement: Placement, image: u8) -> Standing {
    let slot = claim.session().slot;
    let (control, expires_ns, depth) = match (CONTROL.get_ptr(slot), SESSIONS.get(slot)) {
        // SAFETY: a live array value; volatile, because the daemon stores to it from outside.
        (Some(word), Some(row)) => (ControlWord(unsafe { word.read_volatile() }), row.expires_ns, row.depth),
        _ => {
            if matches!(claim, Claim::Tagged(_)) {
                counters::add(Counter::FaultNoSession);
            }
            (ControlWord(0), 0, 0)
        }
    };
    let ancestor = if depth == 0 { 0 } else { fallen_ancestor(slot) as u8 };
    Standing { claim, control, expires_ns, now_ns: now_ns(), placement, ancestor, image }
}

/// Why an ancestor of a session refuses everything: [`Reason`] as a number, 0 if none does. That one expires before its descendants
/// is not looked at: the daemon gives none a later end.
///
/// Verified by itself, and on a stack frame of its own.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn session_fallen_ancestor(slot: u32) -> u64 {
    let Some(row) = SESSIONS.get(slot) else {
        return Reason::Fault.raw().into();
    };
    for step in 0..MAX_DEPTH {
        let Some(ancestor) = ancestor_at(row, step) else { break };
        let reason = match control_of(ancestor) {
            None => Reason::SessionOver,
            Some(control) => match control.0 as u8 {
                state if state == SessionState::Active.raw() => continue,
                state if state == SessionState::Revoked.raw() => Reason::Revoked,
                state if state == SessionState::Quarantined.raw() => Reason::Quarantined,
                _ => Reason::SessionOver,
            },
        };
        return reason.raw().into();
    }
    0
}
use session_fallen_ancestor as fallen_ancestor;

/// The ancestor so many steps above the parent.
#[inline(always)]
pub(crate) fn ancestor_at(row: &SessionRow, step: usize) -> Option<SessionRef> {
    if step >= row.depth as usize {
        return None;
    }
    row.ancestors.get(step).copied()
}

/// A session's control word; `None` if its slot is another one's by now.
#[inline(always)]
pub(crate) fn control_of(session: SessionRef) -> Option<ControlWord> {
    let word = CONTROL.get_ptr(session.slot)?;
    // SAFETY: a live array value; volatile, because the daemon stores to it from outside.
    let control = ControlWord(unsafe { word.read_volatile() });
    (control.generation() == session.generation).then_some(control)
}

/// Whether the session still has its slot.
#[inline(always)]
pub(crate) fn holds(session: SessionRef) -> bool {
    control_of(session).is_some()
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
