//! Datagrams that name their destination: one decision each. Sends on a connected socket are not seen here; `connect`
//! has judged them.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};
use enforcer_common::{net::Family, record::Operation};

use super::egress;

/// `cgroup/sendmsg4`, at the cgroup root. Sees IPv4-mapped destinations of IPv6 sockets too. Fails closed.
#[cgroup_sock_addr(sendmsg4)]
pub(crate) fn egress_sendmsg4(ctx: SockAddrContext) -> i32 {
    egress::decide_named(&ctx, Family::V4, Operation::Send)
}

/// `cgroup/sendmsg6`, at the cgroup root. Fails closed.
#[cgroup_sock_addr(sendmsg6)]
pub(crate) fn egress_sendmsg6(ctx: SockAddrContext) -> i32 {
    egress::decide_named(&ctx, Family::V6, Operation::Send)
}
