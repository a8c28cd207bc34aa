//! What passes is counted: datagrams here, TCP by the kernel.

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_get_socket_cookie};
use enforcer_common::{
    flow::FlowKey,
    net::{Family, Protocol},
    packet,
};

use super::{Facts, Judged, unpack};
use crate::{
    flow::{self, Datagram},
    task,
};

/// Adds a datagram that passes to its total. What TCP carries, the kernel counts.
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
    if facts.protocol == Protocol::Tcp.raw() {
        return 0;
    }
    // SAFETY: a helper on the context.
    let cookie = unsafe { bpf_get_socket_cookie(skb.cast()) };
    let address = facts.address();
    let headers = packet::DATAGRAM_HEADER
        + if facts.family == Family::V4.raw() { packet::IPV4_LEN } else { packet::IPV6_LEN };
    let mut datagram = Datagram {
        key: FlowKey::new(unpack(session), cookie, address, facts.remote_port, facts.protocol),
        bytes: u64::from(facts.len).saturating_sub(headers as u64),
        rule: judged.rule,
        envelope: judged.envelope,
        tgid: if facts.sent_by_current != 0 { task::current_tgid() } else { 0 },
        local_port: facts.local_port,
        is_out: facts.is_out() as u16,
    };
    flow::flow_count(&raw mut datagram);
    0
}
