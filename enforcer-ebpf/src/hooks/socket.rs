//! `socket()` of the IP families. Refuses the kinds of socket whose `connect()` no other hook sees: raw, UDP-Lite, SCTP,
//! DCCP, L2TP, and MPTCP, whose further subflows a kernel worker connects. Ping sockets are for sessions with a rule for ICMP.

use aya_ebpf::{macros::cgroup_sock, programs::SockContext};
use enforcer_common::{
    counter::Counter, decision::decide_socket, net::Address, record::Operation, verdict::Verdict,
};

use super::egress::{self, Attempt, PROCEED, Process};
use crate::{
    counters,
    kernel::task::Task,
    rules::KernelRules,
    session,
    task::{self, Actor},
};

/// `cgroup/sock_create`, at the cgroup root. Fails closed. An allowed socket leaves no record: what it does will.
#[cgroup_sock(sock_create)]
pub(crate) fn egress_socket(ctx: SockContext) -> i32 {
    let Some(Actor { claim, placement, image }) = task::current_actor() else {
        return PROCEED;
    };
    // SAFETY: the context of the running program; the verifier checks each field that is read.
    let fields = unsafe { &*ctx.sock };
    let (socket_type, protocol) =
        (egress::context_field(&fields.type_), egress::context_field(&fields.protocol));
    let decision =
        decide_socket(&session::standing(claim, placement, image), socket_type, protocol, &KernelRules);
    if decision.verdict == Verdict::Allow {
        return PROCEED;
    }
    let netns = Task::current().netns().unwrap_or_else(|| {
        counters::add(Counter::FaultKernelRead);
        0
    });
    let attempt = Attempt {
        operation: Operation::Socket,
        cookie: 0,
        netns,
        socket_type,
        protocol,
        address: Address::UNSPECIFIED_V4,
        port: 0,
        named: false,
        local_port: 0,
        foreign: false,
    };
    egress::conclude(claim.session(), &decision, &attempt, &Process::current(placement))
}
