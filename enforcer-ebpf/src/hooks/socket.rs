//! `socket()` of the IP families. Refuses the kinds of socket whose `connect()` no other hook sees: raw, UDP-Lite, SCTP,
//! DCCP, L2TP, and MPTCP, whose further subflows a kernel worker connects.

use aya_ebpf::{macros::cgroup_sock, programs::SockContext};
use enforcer_common::{decision::decide_socket, record::Operation};

use super::egress::{self, Attempt, PROCEED};
use crate::{session, task};

/// `cgroup/sock_create`, at the cgroup root. Fails closed. An allowed socket leaves no record: what it does will.
#[cgroup_sock(sock_create)]
pub(crate) fn egress_socket(ctx: SockContext) -> i32 {
    let Some(claim) = task::current_claim() else {
        return PROCEED;
    };
    // SAFETY: the context of the running program; the verifier checks each field that is read.
    let fields = unsafe { &*ctx.sock };
    let (socket_type, protocol) =
        (egress::context_field(&fields.type_), egress::context_field(&fields.protocol));
    let decision = decide_socket(&session::standing(claim), socket_type, protocol);
    if decision.verdict == enforcer_common::verdict::Verdict::Allow {
        return PROCEED;
    }
    let attempt = Attempt { operation: Operation::Socket, cookie: 0, socket_type, protocol, to: None };
    egress::conclude(claim, &decision, &attempt)
}
