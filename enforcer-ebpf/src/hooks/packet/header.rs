//! Reading a packet's headers.

use aya_ebpf::{bindings::__sk_buff, programs::SkBuffContext};
use enforcer_common::{
    net::{Direction, Protocol},
    packet::{self, Packet},
    verdict::Reason,
};

use super::Facts;

/// Reads the headers. The packet begins with its IP header here (v6.1/kernel/bpf/cgroup.c, __cgroup_bpf_run_filter_skb).
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn gate_read(skb: *mut __sk_buff, facts: *mut Facts) -> u64 {
    // SAFETY: as in `gate_decide`.
    let Some(facts) = (unsafe { facts.as_mut() }) else {
        return 0;
    };
    let direction = if facts.is_out() { Direction::Out } else { Direction::In };
    match read_packet(&SkBuffContext::new(skb), direction) {
        Ok(packet) => {
            facts.remote = packet.remote.octets();
            facts.remote_port = packet.remote_port;
            facts.local_port = packet.local_port;
            facts.protocol = packet.protocol.raw();
            facts.family = packet.remote.family().raw();
            facts.opens = packet.opens as u8;
            facts.resets = packet.resets as u8;
            facts.unread = 0;
        }
        Err(reason) => facts.unread = reason.raw(),
    }
    0
}
#[inline(always)]
fn read_packet(ctx: &SkBuffContext, direction: Direction) -> Result<Packet, Reason> {
    let unreadable = |_| Reason::Header;
    let first: u8 = ctx.load(0).map_err(unreadable)?;
    let (ip, at) = match packet::version(first) {
        4 => (packet::ipv4(&ctx.load(0).map_err(unreadable)?)?, packet::IPV4_LEN),
        6 => (packet::ipv6(&ctx.load(0).map_err(unreadable)?)?, packet::IPV6_LEN),
        _ => return Err(Reason::Header),
    };
    match ip.protocol {
        Protocol::Tcp => Ok(Packet::segment(direction, &ip, &ctx.load(at).map_err(unreadable)?)),
        Protocol::Udp | Protocol::Icmp => {
            Ok(Packet::datagram(direction, &ip, &ctx.load(at).map_err(unreadable)?))
        }
    }
}
