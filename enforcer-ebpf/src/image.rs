//! What stands against a process because of what it executes. `enforcer_common::image` says how that comes about.

use enforcer_common::{
    counter::Counter,
    identity::SessionRef,
    image::{
        CLEAR, ImageId, ImagePolicy, LISTED, NO_ANSWER, NOT_LISTED, NOT_MEASURED, Ticket, UNLISTED,
        answer_about,
    },
    rules::{EnvelopeRules as _, RuleTables as _},
    verdict::Reason,
};

use crate::{
    atomic, counters,
    maps::{LAST_TICKET, TICKETS},
    rules::KernelRules,
    session, task,
};

/// Why a process that has this ticket is refused everything, as a number; 0 if it is not.
#[inline(always)]
pub(crate) fn refusal(ticket: u64) -> u8 {
    // Most have none, and pay for no call.
    if ticket == CLEAR { 0 } else { ticket_refusal(ticket) as u8 }
}

/// Likewise of the process that runs.
#[inline(always)]
pub(crate) fn current_refusal() -> u8 {
    task::current_tag().map_or(0, |tag| refusal(tag.image))
}

/// Verified by itself, and on a stack frame of its own.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn ticket_refusal(ticket: u64) -> u64 {
    let reason = match answer_to(ticket) {
        LISTED => return 0,
        UNLISTED => Reason::ImageNotListed,
        _ => Reason::ImageNotMeasured,
    };
    reason.raw().into()
}

#[inline(always)]
fn answer_to(ticket: u64) -> u64 {
    if ticket == NOT_LISTED {
        return UNLISTED;
    }
    TICKETS.get_ptr(ticket).map_or(NO_ANSWER, |found| read_answer(ticket, found))
}

/// What a ticket says, if it still is the one of this number.
#[inline(always)]
fn read_answer(number: u64, found: *const Ticket) -> u64 {
    // SAFETY: a field of a live map value.
    let word = unsafe { &raw const (*found).answer };
    // SAFETY: as above; volatile, because the daemon replaces it from outside.
    answer_about(number, unsafe { word.read_volatile() })
}

/// The ticket of a child: its parent's, if that is not answered yet, or what stands for the answer.
#[inline(always)]
pub(crate) fn inherited(ticket: u64) -> u64 {
    const UNLISTED: u8 = Reason::ImageNotListed as u8;
    match refusal(ticket) {
        0 => CLEAR,
        UNLISTED => NOT_LISTED,
        _ => ticket,
    }
}

/// Takes away the ticket of a process that ends, or executes something else. One that was not answered may be its children's, too: the
/// daemon finds out.
#[inline(always)]
pub(crate) fn retire(ticket: u64) {
    if ticket != CLEAR {
        retire_ticket(ticket);
    }
}

/// Verified by itself, and on a stack frame of its own.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn retire_ticket(ticket: u64) -> u64 {
    if answer_to(ticket) != NO_ANSWER {
        // It may be gone.
        let _removed = TICKETS.remove(ticket);
    }
    0
}

/// What stands against whatever a process executes next, in the place of a ticket; [`CLEAR`] if nothing does. A process that came into its
/// session with what it executed before, has not executed anything there yet.
#[inline(always)]
pub(crate) fn taint(ticket: u64) -> u64 {
    if ticket == CLEAR { CLEAR } else { ticket_taint(ticket) }
}

/// Verified by itself, and on a stack frame of its own.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn ticket_taint(ticket: u64) -> u64 {
    if ticket == NOT_MEASURED || ticket == NOT_LISTED {
        return ticket;
    }
    // One that is gone cannot be told.
    let Some(found) = TICKETS.get_ptr(ticket) else { return NOT_MEASURED };
    // SAFETY: a field of a live map value.
    let stopped = unsafe { (*found).stopped };
    match read_answer(ticket, found) {
        LISTED => CLEAR,
        UNLISTED => NOT_LISTED,
        _ if stopped == 0 => CLEAR,
        _ => NOT_MEASURED,
    }
}

/// The ticket of a process that comes into a session with what it executes already.
#[inline(always)]
pub(crate) fn at_enrolment(session: SessionRef, tgid: u32, start_ns: u64) -> u64 {
    match policy(session) {
        (policy, _) if policy == ImagePolicy::Any.raw() || policy == ImagePolicy::Audit.raw() => CLEAR,
        _ => {
            let ticket = Ticket {
                image: ImageId::default(),
                session,
                start_ns,
                tgid,
                answer: NO_ANSWER,
                stopped: 0,
                script: 0,
            };
            give(&ticket)
        }
    }
}

/// What a session's envelope says of images, as a number, and the name of its list. Where there is no envelope, or a broken one, no
/// image is listed; it lets nothing through either.
#[inline(always)]
pub(crate) fn policy(session: SessionRef) -> (u32, [u32; 4]) {
    const NOTHING: (u32, [u32; 4]) = (ImagePolicy::DenyEgress as u32, [0; 4]);
    let Some(control) = session::control_of(session) else { return NOTHING };
    match KernelRules.envelope(control.envelope()) {
        Some(rules) => rules.images().unwrap_or(NOTHING),
        None => NOTHING,
    }
}

/// A ticket that nobody had before; [`NOT_MEASURED`] if there is no room for it.
#[inline(always)]
pub(crate) fn give(ticket: &Ticket) -> u64 {
    let Some(last) = LAST_TICKET.get_ptr_mut(0) else { return NOT_MEASURED };
    // SAFETY: a live array value that is accessed atomically only.
    let number = unsafe { atomic::fetch_add(last, 1) }.wrapping_add(1);
    if TICKETS.insert(number, ticket, 0).is_err() {
        counters::add(Counter::FaultImageStore);
        return NOT_MEASURED;
    }
    number
}
