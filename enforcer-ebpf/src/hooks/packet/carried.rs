//! What has no record of its own is counted: datagrams and what is refused again here, what TCP carries by the kernel.

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_get_socket_cookie, programs::SkBuffContext};
use enforcer_common::{
    flow::FlowKey,
    net::{Family, Protocol},
    packet,
};

use super::{Facts, Judged, full_socket, unpack};
use crate::{
    flow::{self, Datagram},
    maps::SOCKETS,
    task,
};

/// Adds a packet to its total: a datagram that passes, or what is refused again.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn gate_count(
    skb: *mut __sk_buff,
    facts: *const Facts,
    judged: *const Judged,
    session: u64,
) -> u64 {
    // SAFETY: the callers' own.
    let (Some(facts), Some(judged)) = (unsafe { facts.as_ref() }, unsafe { judged.as_ref() }) else {
        return 0;
    };
    let decision = judged.decision();
    let refused = decision.is_refused();
    if facts.protocol == Protocol::Tcp.raw() && !refused {
        return 0;
    }
    // SAFETY: a helper on the context.
    let cookie = unsafe { bpf_get_socket_cookie(skb.cast()) };
    let mut key = FlowKey::new(unpack(session), cookie, facts.address(), facts.remote_port, facts.protocol);
    if refused {
        key.reason = decision.reason.raw();
        key.operation = facts.operation().raw();
    }
    let headers = packet::DATAGRAM_HEADER
        + if facts.family == Family::V4.raw() { packet::IPV4_LEN } else { packet::IPV6_LEN };
    let mut datagram = Datagram {
        key,
        bytes: u64::from(facts.len).saturating_sub(headers as u64),
        rule: judged.rule,
        envelope: judged.envelope,
        tgid: if facts.sent_by_current != 0 { task::current_tgid() } else { 0 },
        local_port: facts.local_port,
        is_out: facts.is_out() as u8,
        foreign: facts.foreign,
    };
    flow::flow_count(&raw mut datagram);
    0
}

/// Likewise a packet of a socket that nothing passes any more, for this session's sake. Why, was told of when that began.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn gate_count_barred(skb: *mut __sk_buff, facts: *const Facts, session: u64) -> u64 {
    let socket = full_socket(&SkBuffContext::new(skb));
    if socket.is_null() {
        return 0;
    }
    // SAFETY: a socket that the verifier knows as such, not null.
    let Some(tag) = (unsafe { SOCKETS.get(socket) }) else { return 0 };
    let judged = Judged::refusal(tag.told.control, tag.told.reason);
    gate_count(skb, facts, &raw const judged, session)
}
