//! Unix sockets, where an envelope says which: whoever listens at one may do anything for whoever asks, as somebody else.
//!
//! A socket is known by the name that it was bound to. Those of the session itself, and those without a name, which only come in
//! pairs, are nobody else's.

use aya_ebpf::{cty::c_void, macros::lsm, programs::LsmContext};
use enforcer_common::{
    counter::Counter,
    decision::{Decision, decide_unix},
    guard::{GuardHook, UnixKey},
    record::{GuardRecord, NAME_LEN},
    rules::NO_RULE,
    verdict::{Reason, Verdict},
};

use super::{PASS, REFUSE, begin, member};
use crate::{
    counters, emit,
    hooks::{
        egress, enrol,
        packet::{pack, unpack},
    },
    kernel::{
        Place,
        sock::{Sock, Socket},
        unix,
    },
    maps::UNIX_RULES,
    rules::KernelRules,
    session,
    task::{self, Actor},
};

/// `lsm/unix_stream_connect` (`sock`, `other`, `newsk`), also of `SOCK_SEQPACKET`. Fails closed.
#[lsm(hook = "unix_stream_connect")]
pub(crate) fn guard_connect(ctx: LsmContext) -> i32 {
    let session = member();
    if session == 0 {
        return PASS;
    }
    let other: *const c_void = ctx.arg(1);
    let address = Place::of(other).map_or(0, Place::address);
    answer(guard_unix(address, session, GuardHook::UnixStreamConnect.raw().into()))
}

/// `lsm/unix_may_send` (`sock`, `other`): each datagram, and `connect()` of a datagram socket. Fails closed.
#[lsm(hook = "unix_may_send")]
pub(crate) fn guard_dgram(ctx: LsmContext) -> i32 {
    let session = member();
    if session == 0 {
        return PASS;
    }
    // SAFETY: the second argument of this hook.
    let other = unsafe { Socket::from_argument(ctx.arg::<*const c_void>(1)) };
    let sk: *const c_void = other.sk();
    let address = Place::of(sk).map_or(0, Place::address);
    answer(guard_unix(address, session, GuardHook::UnixMaySend.raw().into()))
}

/// The compiler knows that [`guard_unix`] gives 0 or 1, and would calculate with it instead of branching: see [`REFUSE`].
#[inline(always)]
fn answer(refused: u64) -> i32 {
    if core::hint::black_box(refused) != 0 {
        return REFUSE;
    }
    PASS
}

/// 1 if the session may not reach the Unix socket at this address, else 0. A function of its own, for the stack that it has.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn guard_unix(address: u64, session: u64, hook: u64) -> u64 {
    let other = Sock::at(Place::at_address(address));
    if enrol::is_native(other, unpack(session)) {
        return 0;
    }
    let Some(Actor { claim, placement, image }) = task::current_actor() else {
        return 1;
    };
    let mut key = UnixKey { envelope: 0, kind: 0, len: 0, name: [0; UnixKey::NAME_LEN] };
    let read = unix::read_name(other, &mut key);
    if matches!(read, Some(false)) {
        return 0;
    }
    let standing = session::standing(claim, placement, image);
    let decision = decide_unix(&standing, |envelope| named(&mut key, envelope), &KernelRules);
    let decision = if read.is_none() {
        counters::add(Counter::FaultKernelRead);
        Decision::refusal(Reason::Fault)
    } else {
        decision
    };
    let refused = decision.is_refused();
    // Of what is allowed, a connection that a rule names is recorded.
    let is_connect = hook == GuardHook::UnixStreamConnect.raw() as u64;
    if decision.verdict == Verdict::Deny || (is_connect && decision.rule != NO_RULE) {
        egress::count(&decision);
        if refused {
            counters::add(Counter::GuardRefused);
        }
        record(&decision, &key, pack(claim.session()), hook);
    }
    refused as u64
}

/// The rule of the envelope that names the socket, or [`NO_RULE`].
#[inline(always)]
fn named(key: &mut UnixKey, envelope: u32) -> u32 {
    key.envelope = envelope;
    let key: &UnixKey = key;
    match UNIX_RULES.get_ptr(key) {
        // SAFETY: a live map value, which does not change while it is there.
        Some(rule) => unsafe { *rule },
        None => NO_RULE,
    }
}

#[inline(always)]
fn record(decision: &Decision, key: &UnixKey, session: u64, hook: u64) {
    const AF_UNIX: u32 = 1;
    emit::submit_in_place::<GuardRecord>(|record| {
        begin(record, session);
        record.hook = hook as u8;
        record.family = AF_UNIX;
        record.rule = decision.rule;
        record.envelope = decision.envelope;
        record.verdict = decision.verdict.raw();
        record.reason = decision.reason.raw();
        record.refused = decision.is_refused() as u8;
        record.name_kind = key.kind as u8;
        record.name_len = key.len as u8;
        if let Some(name) = key.name.first_chunk::<NAME_LEN>() {
            record.name = *name;
        }
    });
}
