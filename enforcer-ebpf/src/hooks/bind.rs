//! `bind()`: taking a port of one's choice, which is how a program comes to be reached. What arrives is judged by the packet gate; here
//! the program is told at once that nothing would.

use aya_ebpf::{
    EbpfContext as _, helpers::generated::bpf_get_socket_cookie, macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use enforcer_common::{
    decision::decide_bind,
    net::{Family, Protocol},
    record::Operation,
    verdict::Verdict,
};

use super::egress::{self, Attempt, PROCEED, Process};
use crate::{
    rules::KernelRules,
    session,
    task::{self, Actor},
};

/// `cgroup/bind4`, at the cgroup root. Fails closed.
#[cgroup_sock_addr(bind4)]
pub(crate) fn listen_bind4(ctx: SockAddrContext) -> i32 {
    decide(&ctx, Family::V4)
}

/// `cgroup/bind6`, at the cgroup root. Fails closed.
#[cgroup_sock_addr(bind6)]
pub(crate) fn listen_bind6(ctx: SockAddrContext) -> i32 {
    decide(&ctx, Family::V6)
}

/// A port of the kernel's choice may always be taken: that is what every client does.
#[inline(always)]
fn decide(ctx: &SockAddrContext, family: Family) -> i32 {
    let Some(Actor { claim, placement, image }) = task::current_actor() else {
        return PROCEED;
    };
    // SAFETY: the context of the running program; the verifier checks each field that is read.
    let fields = unsafe { &*ctx.sock_addr };
    let (address, port) = egress::named_address(fields, family);
    let protocol = egress::context_field(&fields.protocol);
    // What stands for a port with ping sockets numbers their questions.
    if port == 0 || Protocol::of_ip(protocol) == Some(Protocol::Icmp) {
        return PROCEED;
    }
    let standing = session::standing(claim, placement, image);
    let decision = decide_bind(&standing, Protocol::of_ip(protocol), port, &KernelRules);
    // An allowed one leaves no record: whoever comes will.
    if decision.verdict == Verdict::Allow {
        return PROCEED;
    }
    let attempt = Attempt {
        operation: Operation::Bind,
        // SAFETY: a helper on the context.
        cookie: unsafe { bpf_get_socket_cookie(ctx.as_ptr()) },
        netns: egress::netns(egress::socket_of(fields)),
        socket_type: egress::context_field(&fields.type_),
        protocol,
        address,
        port,
        named: true,
        local_port: port,
        foreign: false,
    };
    egress::conclude(claim.session(), &decision, &attempt, &Process::current(placement))
}
