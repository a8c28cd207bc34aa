//! TCP and UDP sockets of the attacker's own, and every way to name a destination.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::OwnedFd;

use crate::context::{self, Context, PORT, allowed4, target_mapped, target4, target6};
use crate::sys::{self, Attempt, name, name_as};

/// The loopback device is the first of every network namespace.
const LOOPBACK_INDEX: u32 = 1;

/// What the envelope allows, by both protocols.
pub(crate) fn allowed(context: &Context) -> Attempt {
    tcp(context, allowed4())?;
    udp_connected(context, context::allowed6(), &name(context::allowed6()))
}

pub(crate) fn tcp4(context: &Context) -> Attempt {
    tcp(context, target4())
}

pub(crate) fn tcp6(context: &Context) -> Attempt {
    tcp(context, target6())
}

pub(crate) fn tcp_mapped(context: &Context) -> Attempt {
    tcp(context, target_mapped())
}

/// The address that stands for this host.
pub(crate) fn tcp_unspecified4(context: &Context) -> Attempt {
    tcp(context, context::at(Ipv4Addr::UNSPECIFIED, PORT))
}

pub(crate) fn tcp_unspecified6(context: &Context) -> Attempt {
    tcp(context, context::at(Ipv6Addr::UNSPECIFIED, PORT))
}

pub(crate) fn tcp6_socket_name4(context: &Context) -> Attempt {
    let socket = sys::tcp(target6())?;
    sys::connect(&socket, &name(target4()))?;
    sys::send(&socket, context.magic())
}

/// Connects to what is allowed, dissolves that, and connects again with the same socket.
pub(crate) fn tcp_reconnect(context: &Context) -> Attempt {
    let socket = sys::tcp(target4())?;
    sys::connect(&socket, &name(allowed4()))?;
    sys::connect(&socket, &name_as(libc::AF_UNSPEC, allowed4()))?;
    sys::connect(&socket, &name(target4()))?;
    sys::send(&socket, context.magic())
}

pub(crate) fn tcp_fastopen(context: &Context) -> Attempt {
    let socket = sys::tcp(target4())?;
    sys::send_to(&socket, context.magic(), libc::MSG_FASTOPEN, &name(target4()))
}

/// `connect` returns at once, and the first write connects.
pub(crate) fn tcp_fastopen_connect(context: &Context) -> Attempt {
    let socket = sys::tcp(target6())?;
    sys::set_flag(&socket, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT)?;
    sys::connect(&socket, &name(target6()))?;
    sys::send(&socket, context.magic())
}

/// Makes the kernel believe that there is a connection, and sends on it.
pub(crate) fn tcp_repair(context: &Context) -> Attempt {
    const TCP_REPAIR: i32 = 19;
    const TCP_REPAIR_WINDOW: i32 = 29;
    // The other end would answer a probe that it knows nothing of this.
    const OFF_WITHOUT_PROBE: i32 = -1;
    let socket = sys::tcp(target4())?;
    sys::set_flag(&socket, libc::IPPROTO_TCP, TCP_REPAIR)?;
    sys::bind(&socket, &name(context::at(Ipv4Addr::LOCALHOST, 0)))?;
    sys::connect(&socket, &name(target4()))?;
    // Until when the other end's last word was; its window, now and at most; ours, and since when.
    let windows = [0, 65_535, 65_535, 65_535, 0_u32].map(u32::to_ne_bytes).concat();
    sys::set_option(&socket, libc::IPPROTO_TCP, TCP_REPAIR_WINDOW, &windows)?;
    sys::set_option(&socket, libc::IPPROTO_TCP, TCP_REPAIR, &OFF_WITHOUT_PROBE.to_ne_bytes())?;
    sys::send(&socket, context.magic())
}

pub(crate) fn mptcp(context: &Context) -> Attempt {
    let socket = sys::socket(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_MPTCP)?;
    sys::connect(&socket, &name(target4()))?;
    sys::send(&socket, context.magic())
}

pub(crate) fn udp_sendto4(context: &Context) -> Attempt {
    sys::send_to(sys::udp(target4())?, context.magic(), 0, &name(target4()))
}

pub(crate) fn udp_sendto6(context: &Context) -> Attempt {
    sys::send_to(sys::udp(target6())?, context.magic(), 0, &name(target6()))
}

pub(crate) fn udp_sendto_mapped(context: &Context) -> Attempt {
    sys::send_to(sys::udp(target6())?, context.magic(), 0, &name(target_mapped()))
}

pub(crate) fn udp6_socket_name4(context: &Context) -> Attempt {
    sys::send_to(sys::udp(target6())?, context.magic(), 0, &name(target4()))
}

/// UDP takes an address without a family for one of IPv4.
pub(crate) fn udp_unspec_family(context: &Context) -> Attempt {
    sys::send_to(sys::udp(target4())?, context.magic(), 0, &name_as(libc::AF_UNSPEC, target4()))
}

pub(crate) fn udp_connect4(context: &Context) -> Attempt {
    udp_connected(context, target4(), &name(target4()))
}

pub(crate) fn udp_connect6(context: &Context) -> Attempt {
    udp_connected(context, target6(), &name(target6()))
}

pub(crate) fn udp_connect_mapped(context: &Context) -> Attempt {
    udp_connected(context, target6(), &name(target_mapped()))
}

pub(crate) fn udp_elsewhere(context: &Context) -> Attempt {
    let socket = udp_to_allowed()?;
    sys::send_to(&socket, context.magic(), 0, &name(target4()))
}

pub(crate) fn udp_reconnect(context: &Context) -> Attempt {
    let socket = udp_to_allowed()?;
    sys::connect(&socket, &name_as(libc::AF_UNSPEC, allowed4()))?;
    sys::connect(&socket, &name(target4()))?;
    sys::send(&socket, context.magic())
}

/// One call, and the first datagram of it is allowed.
pub(crate) fn udp_sendmmsg(context: &Context) -> Attempt {
    let socket = sys::udp(target4())?;
    let names = [name(allowed4()), name(target4())];
    let mut vectors = [b"harmless", context.magic()]
        .map(|data| libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() });
    let mut messages: Vec<libc::mmsghdr> = names
        .iter()
        .zip(&mut vectors)
        .map(|(name, vector)| {
            // SAFETY: all zeros is a header that points to nothing.
            let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
            header.msg_name = name.as_ptr().cast_mut().cast();
            header.msg_namelen = name.len() as u32;
            header.msg_iov = vector;
            header.msg_iovlen = 1;
            libc::mmsghdr { msg_hdr: header, msg_len: 0 }
        })
        .collect();
    send_all(&socket, &mut messages)
}

/// The kernel reports only what became of the first datagram of a call, so the rest is asked for again.
fn send_all(socket: &OwnedFd, mut messages: &mut [libc::mmsghdr]) -> Attempt {
    use std::os::fd::AsRawFd as _;
    while !messages.is_empty() {
        let (at, len) = (messages.as_mut_ptr(), messages.len() as u32);
        // SAFETY: the headers point to names and data that outlive the call.
        let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), at, len, 0) };
        let sent = sys::check("sendmmsg", sent as isize)?;
        messages = &mut messages[sent..];
    }
    Ok(())
}

/// The first piece names the target, the second what is allowed; they leave as one datagram.
pub(crate) fn udp_more(context: &Context) -> Attempt {
    let socket = sys::udp(target4())?;
    sys::send_to(&socket, context.magic(), libc::MSG_MORE, &name(target4()))?;
    sys::send_to(&socket, b"harmless", 0, &name(allowed4()))
}

/// Large sends that the kernel cuts into datagrams late.
pub(crate) fn udp_segments(context: &Context) -> Attempt {
    const UDP_SEGMENT: i32 = 103;
    let socket = sys::udp(target4())?;
    sys::set_option(&socket, libc::SOL_UDP, UDP_SEGMENT, &64_i32.to_ne_bytes())?;
    let mut data = context.magic().to_vec();
    data.resize(256, b'.');
    sys::send_to(&socket, &data, 0, &name(target4()))
}

pub(crate) fn multicast4(context: &Context) -> Attempt {
    let socket = sys::udp(target4())?;
    sys::set_option(&socket, libc::IPPROTO_IP, libc::IP_MULTICAST_IF, &Ipv4Addr::LOCALHOST.octets())?;
    sys::send_to(&socket, context.magic(), 0, &name(context::at(Ipv4Addr::new(239, 1, 1, 1), PORT)))
}

pub(crate) fn multicast6(context: &Context) -> Attempt {
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let group = SocketAddr::V6(SocketAddrV6::new(group, PORT, 0, LOOPBACK_INDEX));
    sys::send_to(sys::udp(group)?, context.magic(), 0, &name(group))
}

pub(crate) fn broadcast(context: &Context) -> Attempt {
    let socket = sys::udp(target4())?;
    sys::set_flag(&socket, libc::SOL_SOCKET, libc::SO_BROADCAST)?;
    sys::send_to(&socket, context.magic(), 0, &name(context::at(Ipv4Addr::new(127, 255, 255, 255), PORT)))
}

pub(crate) fn bind_to_device(context: &Context) -> Attempt {
    let socket = sys::udp(target4())?;
    sys::set_option(&socket, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, b"lo\0")?;
    sys::send_to(&socket, context.magic(), 0, &name(target4()))
}

/// Another source address for one datagram, by a control message.
pub(crate) fn packet_info(context: &Context) -> Attempt {
    let socket = sys::udp(target4())?;
    let mut info = LOOPBACK_INDEX.to_ne_bytes().to_vec();
    info.extend(context::ALLOWED4.octets());
    info.extend(Ipv4Addr::UNSPECIFIED.octets());
    let control = (libc::IPPROTO_IP, libc::IP_PKTINFO, info.as_slice());
    sys::send_message(&socket, context.magic(), &name(target4()), control)
}

/// A source address that is not the host's.
pub(crate) fn transparent(context: &Context) -> Attempt {
    let socket = sys::udp(target4())?;
    sys::set_flag(&socket, libc::IPPROTO_IP, libc::IP_TRANSPARENT)?;
    sys::bind(&socket, &name(context::at(Ipv4Addr::new(203, 0, 113, 9), 1234)))?;
    sys::send_to(&socket, context.magic(), 0, &name(target4()))
}

/// The address changes while the kernel reads it: judged as one, and used as the other.
pub(crate) fn racing_address(context: &Context) -> Attempt {
    use std::os::fd::AsRawFd as _;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::{Duration, Instant};
    let addresses = [allowed4(), target4()].map(|address| {
        let bytes: [u8; 8] = name(address)[..8].try_into().expect("an address is longer");
        u64::from_ne_bytes(bytes)
    });
    // As the kernel's `sockaddr_in`: what matters of it is in the first word.
    let shared = [AtomicU64::new(addresses[0]), AtomicU64::new(0)];
    let socket = sys::udp(target4())?;
    let end = Instant::now() + Duration::from_millis(200);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while Instant::now() < end {
                addresses.iter().for_each(|address| shared[0].store(*address, Ordering::Relaxed));
            }
        });
        let mut last = Ok(());
        while Instant::now() < end {
            let (data, len) = (context.magic().as_ptr().cast(), context.magic.len());
            let to = shared.as_ptr().cast();
            // SAFETY: the data and the address outlive the call; the kernel copies the address before it uses it.
            let sent = unsafe { libc::sendto(socket.as_raw_fd(), data, len, 0, to, 16) };
            last = sys::check("sendto", sent).map(drop);
        }
        last
    })
}

/// A datagram to an allowed server that answers, in the name of somebody who is not allowed: the answer goes there.
pub(crate) fn reflection(context: &Context) -> Attempt {
    let elsewhere = Ipv4Addr::from(u32::from(context::ROUTED4) + 1);
    let socket = sys::udp(target4())?;
    sys::set_flag(&socket, libc::IPPROTO_IP, libc::IP_TRANSPARENT)?;
    sys::bind(&socket, &name(context::at(elsewhere, 1234)))?;
    sys::send_to(&socket, context.magic(), 0, &name(context::at(context::ALLOWED4, context::RELAY_PORT)))
}

/// Fills the memory that a socket has for options, so that nothing can be attached to it any more.
pub(crate) fn option_memory(context: &Context) -> Attempt {
    let socket = sys::udp(target4())?;
    // `ret 65535`, over and over: a filter that keeps every packet and is as large as one may be.
    let instruction = libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: 0xffff };
    let filter = vec![instruction; 4096];
    for len in (1..=12).rev().map(|bit| 1_u16 << bit) {
        let program = libc::sock_fprog { len, filter: filter.as_ptr().cast_mut() };
        let bytes = (&raw const program).cast::<[u8; size_of::<libc::sock_fprog>()]>();
        // SAFETY: the structure is as long as the array, and has been initialized; its padding comes from the stack.
        let bytes = unsafe { bytes.read() };
        // That one is refused, is when the memory is full.
        let _ = sys::set_option(&socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &bytes);
    }
    sys::send_to(&socket, context.magic(), 0, &name(target4()))
}

/// Names are data too: a question about one, to the resolver of this host.
pub(crate) fn dns_udp(context: &Context) -> Attempt {
    sys::send_to(sys::udp(target4())?, &question(context), 0, &name(resolver()))
}

pub(crate) fn dns_tcp(context: &Context) -> Attempt {
    let socket = sys::tcp(target4())?;
    sys::connect(&socket, &name(resolver()))?;
    let question = question(context);
    let mut data = (question.len() as u16).to_be_bytes().to_vec();
    data.extend(question);
    sys::send(&socket, &data)
}

/// Through a relay of somebody else's that a rule allows.
pub(crate) fn relay_allowed(context: &Context) -> Attempt {
    tcp(context, context::at(context::ALLOWED4, context::RELAY_PORT))
}

/// Through one that no rule allows, though it is on this host.
pub(crate) fn relay_refused(context: &Context) -> Attempt {
    tcp(context, context::at(context::TARGET4, context::RELAY_PORT))
}

fn tcp(context: &Context, address: SocketAddr) -> Attempt {
    let socket = sys::tcp(address)?;
    sys::connect(&socket, &name(address))?;
    sys::send(&socket, context.magic())
}

fn udp_connected(context: &Context, family_of: SocketAddr, name: &[u8]) -> Attempt {
    let socket = sys::udp(family_of)?;
    sys::connect(&socket, name)?;
    sys::send(&socket, context.magic())
}

fn udp_to_allowed() -> Attempt<OwnedFd> {
    let socket = sys::udp(allowed4())?;
    sys::connect(&socket, &name(allowed4()))?;
    Ok(socket)
}

fn resolver() -> SocketAddr {
    context::at(Ipv4Addr::new(127, 0, 0, 53), 53)
}

fn question(context: &Context) -> Vec<u8> {
    // An id, recursion desired, one question.
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in [context.magic(), b"example", b""] {
        query.push(label.len() as u8);
        query.extend(label);
    }
    // Of type TXT, of the class of the Internet.
    query.extend([0, 16, 0, 1]);
    query
}
