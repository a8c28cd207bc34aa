//! The header of the packet says otherwise than the socket address: a route through an address that was never named.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::context::{ALLOWED4, ALLOWED6, Context, TARGET4, TARGET6, allowed4, allowed6};
use crate::sys::{self, Attempt, name};

const LOOSE: u8 = 131;
const STRICT: u8 = 137;

pub(crate) fn loose_source_route(context: &Context) -> Attempt {
    let socket = sys::udp(allowed4())?;
    sys::set_option(&socket, libc::IPPROTO_IP, libc::IP_OPTIONS, &source_route(LOOSE))?;
    sys::send_to(&socket, context.magic(), 0, &name(allowed4()))
}

/// The same by a control message, which no hook on `setsockopt` sees.
pub(crate) fn strict_source_route_message(context: &Context) -> Attempt {
    let socket = sys::udp(allowed4())?;
    let route = source_route(STRICT);
    let control = (libc::IPPROTO_IP, libc::IP_RETOPTS, route.as_slice());
    sys::send_message(&socket, context.magic(), &name(allowed4()), control)
}

pub(crate) fn tcp_source_route(context: &Context) -> Attempt {
    let socket = sys::tcp(allowed4())?;
    sys::set_option(&socket, libc::IPPROTO_IP, libc::IP_OPTIONS, &source_route(LOOSE))?;
    // The packet that opens the connection carries the data; nobody answers it, so it is not waited for.
    let flags = libc::MSG_FASTOPEN | libc::MSG_DONTWAIT;
    match sys::send_to(&socket, context.magic(), flags, &name(allowed4())) {
        Err(stop) if stop.error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(()),
        outcome => outcome,
    }
}

/// A segment routing header, which any user may ask for.
pub(crate) fn segment_routing(context: &Context) -> Attempt {
    let socket = sys::udp(allowed6())?;
    sys::set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_RTHDR, &segments())?;
    sys::send_to(&socket, context.magic(), 0, &name(allowed6()))
}

pub(crate) fn segment_routing_message(context: &Context) -> Attempt {
    let socket = sys::udp(allowed6())?;
    let segments = segments();
    let control = (libc::IPPROTO_IPV6, libc::IPV6_RTHDR, segments.as_slice());
    sys::send_message(&socket, context.magic(), &name(allowed6()), control)
}

/// On a socket that was connected, and judged, before.
pub(crate) fn segment_routing_connected(context: &Context) -> Attempt {
    let socket = sys::udp(allowed6())?;
    sys::connect(&socket, &name(allowed6()))?;
    sys::set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_RTHDR, &segments())?;
    sys::send(&socket, context.magic())
}

/// On a TCP connection that is open.
pub(crate) fn segment_routing_tcp(context: &Context) -> Attempt {
    let socket = sys::tcp(allowed6())?;
    sys::connect(&socket, &name(allowed6()))?;
    sys::set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_RTHDR, &segments())?;
    sys::send(&socket, context.magic())
}

/// The header of Mobile IPv6, by a control message.
pub(crate) fn home_address_route(context: &Context) -> Attempt {
    let socket = sys::udp(allowed6())?;
    // Next header, length, type 2, segments left; reserved; the address behind the first hop.
    let mut route = vec![0, 2, 2, 1, 0, 0, 0, 0];
    route.extend(TARGET6.octets());
    let control = (libc::IPPROTO_IPV6, libc::IPV6_RTHDR, route.as_slice());
    sys::send_message(&socket, context.magic(), &name(allowed6()), control)
}

/// The target first; the address that the socket names, last.
fn source_route(kind: u8) -> Vec<u8> {
    let hops: [Ipv4Addr; 2] = [TARGET4, ALLOWED4];
    let mut option = vec![1, kind, 3 + 4 * hops.len() as u8, 4];
    option.extend(hops.iter().flat_map(Ipv4Addr::octets));
    option
}

/// Next header, length, type 4, segments left, last entry, flags, tag; then the segments, the last one first.
fn segments() -> Vec<u8> {
    let segments: [Ipv6Addr; 2] = [ALLOWED6, TARGET6];
    let mut header = vec![0, 2 * segments.len() as u8, 4, 1, 1, 0, 0, 0];
    header.extend(segments.iter().flat_map(Ipv6Addr::octets));
    header
}
