//! Sockets of other protocols over IP, whose `connect` no hook sees, and those to which the attacker brings the header.

use crate::context::{self, Context, target4, target6};
use crate::sys::{self, Attempt, name};

/// A number for experiments, so that nothing on this host answers.
const EXPERIMENT: i32 = 253;
const L2TP: i32 = 115;
const SMC: i32 = 43;

pub(crate) fn raw4(context: &Context) -> Attempt {
    let socket = sys::socket(libc::AF_INET, libc::SOCK_RAW, EXPERIMENT)?;
    sys::send_to(&socket, context.magic(), 0, &name(context::at(context::TARGET4, 0)))
}

pub(crate) fn raw6(context: &Context) -> Attempt {
    let socket = sys::socket(libc::AF_INET6, libc::SOCK_RAW, EXPERIMENT)?;
    sys::send_to(&socket, context.magic(), 0, &name(context::at(context::TARGET6, 0)))
}

/// The header names the target, the socket address what is allowed.
pub(crate) fn own_header(context: &Context) -> Attempt {
    let socket = sys::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_RAW)?;
    let packet = packet4(context::TARGET4, context.magic());
    sys::send_to(&socket, &packet, 0, &name(context::at(context::ALLOWED4, 0)))
}

pub(crate) fn own_header6(context: &Context) -> Attempt {
    let socket = sys::socket(libc::AF_INET6, libc::SOCK_RAW, libc::IPPROTO_RAW)?;
    let payload = context.magic();
    let mut packet = vec![0x60, 0, 0, 0, 0, payload.len() as u8, EXPERIMENT as u8, 64];
    packet.extend(context::ALLOWED6.octets());
    packet.extend(context::TARGET6.octets());
    packet.extend(payload);
    sys::send_to(&socket, &packet, 0, &name(context::at(context::ALLOWED6, 0)))
}

pub(crate) fn raw_icmp(context: &Context) -> Attempt {
    let socket = sys::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP)?;
    sys::send_to(&socket, &echo_request(8, context), 0, &name(context::at(context::TARGET4, 0)))
}

pub(crate) fn ping4(context: &Context) -> Attempt {
    let socket = sys::socket(libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_ICMP)?;
    sys::send_to(&socket, &echo_request(8, context), 0, &name(context::at(context::TARGET4, 0)))
}

pub(crate) fn ping6(context: &Context) -> Attempt {
    let socket = sys::socket(libc::AF_INET6, libc::SOCK_DGRAM, libc::IPPROTO_ICMPV6)?;
    sys::connect(&socket, &name(context::at(context::TARGET6, 0)))?;
    sys::send(&socket, &echo_request(128, context))
}

pub(crate) fn udp_lite(context: &Context) -> Attempt {
    let socket = sys::socket(libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_UDPLITE)?;
    sys::send_to(&socket, context.magic(), 0, &name(target4()))
}

pub(crate) fn udp_lite_connect(context: &Context) -> Attempt {
    let socket = sys::socket(libc::AF_INET6, libc::SOCK_DGRAM, libc::IPPROTO_UDPLITE)?;
    sys::connect(&socket, &name(target6()))?;
    sys::send(&socket, context.magic())
}

pub(crate) fn sctp(context: &Context) -> Attempt {
    let socket = sys::socket(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_SCTP)?;
    sys::connect(&socket, &name(target4()))?;
    sys::send(&socket, context.magic())
}

/// The name is an IPv4 address, and one word for the connection.
pub(crate) fn l2tp(context: &Context) -> Attempt {
    let socket = sys::socket(libc::AF_INET, libc::SOCK_DGRAM, L2TP)?;
    let mut address = name(context::at(context::TARGET4, 0));
    address[8..12].copy_from_slice(&1_u32.to_ne_bytes());
    sys::send_to(&socket, context.magic(), 0, &address)
}

/// Shared memory communication: falls back to TCP by a socket that the kernel makes.
pub(crate) fn smc(context: &Context) -> Attempt {
    let socket = sys::socket(SMC, libc::SOCK_STREAM, 0)?;
    sys::connect(&socket, &name(target4()))?;
    sys::send(&socket, context.magic())
}

/// An IPv4 packet for `target`.
pub(crate) fn packet4(target: std::net::Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let len = 20 + payload.len() as u16;
    let mut packet = vec![0x45, 0];
    packet.extend(len.to_be_bytes());
    packet.extend([0, 1, 0, 0, 64, EXPERIMENT as u8, 0, 0]);
    packet.extend(context::ROUTED_FROM.octets());
    packet.extend(target.octets());
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(payload);
    packet
}

fn echo_request(kind: u8, context: &Context) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, 0, 1, 0, 1];
    message.extend(context.magic());
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}
