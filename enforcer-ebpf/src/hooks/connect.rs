//! `connect()`, and the sends that connect (TCP Fast Open). Runs before the first packet, in the caller's context, with
//! the address the caller named.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};
use enforcer_common::{net::Family, record::Operation};

use super::egress;

/// `cgroup/connect4`, at the cgroup root. Fails closed: a process of a session that cannot be judged may not connect.
#[cgroup_sock_addr(connect4)]
pub(crate) fn egress_connect4(ctx: SockAddrContext) -> i32 {
    egress::decide_named(&ctx, Family::V4, Operation::Connect)
}

/// `cgroup/connect6`, at the cgroup root. Sees IPv4-mapped destinations too. Fails closed.
#[cgroup_sock_addr(connect6)]
pub(crate) fn egress_connect6(ctx: SockAddrContext) -> i32 {
    egress::decide_named(&ctx, Family::V6, Operation::Connect)
}
