//! Families of sockets that no cgroup hook sees.

use std::os::fd::{AsFd, OwnedFd};

use crate::context::{self, Context, MAILBOX, ROUTED4, TARGET4};
use crate::sys::{self, At as _, Attempt};

const LOOPBACK_INDEX: i32 = 1;
const ETH_P_IP: u16 = 0x0800;
/// This host, as vsock counts.
const VSOCK_LOCAL: u32 = 1;
const NETLINK_HEADER: usize = 16;

pub(crate) fn packet_datagram(context: &Context) -> Attempt {
    send_frame(sys::socket(libc::AF_PACKET, libc::SOCK_DGRAM, 0)?, context)
}

/// Past the queueing discipline, where a filter could see it.
pub(crate) fn packet_bypass(context: &Context) -> Attempt {
    const PACKET_QDISC_BYPASS: i32 = 20;
    let socket = sys::socket(libc::AF_PACKET, libc::SOCK_DGRAM, 0)?;
    sys::set_flag(&socket, libc::SOL_PACKET, PACKET_QDISC_BYPASS)?;
    send_frame(socket, context)
}

pub(crate) fn packet_raw(context: &Context) -> Attempt {
    let socket = sys::socket(libc::AF_PACKET, libc::SOCK_RAW, 0)?;
    sys::send_to(&socket, &frame(context), 0, &link_layer())
}

/// The old name of the family, under that of IPv4.
pub(crate) fn packet_old(context: &Context) -> Attempt {
    const SOCK_PACKET: i32 = 10;
    let socket = sys::socket(libc::AF_INET, SOCK_PACKET, 0)?;
    let mut device = (libc::AF_PACKET as u16).to_ne_bytes().to_vec();
    device.extend(b"lo\0\0\0\0\0\0\0\0\0\0\0\0");
    device.extend(ETH_P_IP.to_be_bytes());
    sys::send_to(&socket, &frame(context), 0, &device)
}

/// To a process that has made itself an address in the netlink family; every user may.
pub(crate) fn netlink_user(context: &Context) -> Attempt {
    netlink(context, libc::NETLINK_USERSOCK)
}

/// The same over the protocol that name look-ups need.
pub(crate) fn netlink_route(context: &Context) -> Attempt {
    netlink(context, libc::NETLINK_ROUTE)
}

pub(crate) fn vsock(context: &Context) -> Attempt {
    let socket = sys::socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0)?;
    sys::connect(&socket, &vsock_name(VSOCK_LOCAL))?;
    sys::send(&socket, context.magic())
}

pub(crate) fn vsock_name(cid: u32) -> Vec<u8> {
    let mut address = (libc::AF_VSOCK as u16).to_ne_bytes().to_vec();
    address.extend([0, 0]);
    address.extend(MAILBOX.to_ne_bytes());
    address.extend(cid.to_ne_bytes());
    address.extend([0; 4]);
    address
}

pub(crate) fn tipc(context: &Context) -> Attempt {
    let socket = sys::socket(libc::AF_TIPC, libc::SOCK_RDM, 0)?;
    sys::send_to(&socket, context.magic(), 0, &tipc_name())
}

/// A service of [`MAILBOX`]'s type, on any node of the cluster; the same bytes name a range of one where it is bound.
pub(crate) fn tipc_name() -> Vec<u8> {
    const SERVICE: u8 = 2;
    const NODE_SCOPE: u8 = 3;
    let mut address = (libc::AF_TIPC as u16).to_ne_bytes().to_vec();
    address.extend([SERVICE, NODE_SCOPE]);
    for word in [MAILBOX, 1, 0] {
        address.extend(word.to_ne_bytes());
    }
    address
}

/// A device that hands the kernel the packets that are written to it.
pub(crate) fn tun(context: &Context) -> Attempt {
    use std::io::Write as _;
    use std::os::fd::AsRawFd as _;
    const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
    const SIOCSIFFLAGS: libc::c_ulong = 0x8914;
    const TUN_WITHOUT_HEADER: u16 = 0x1001;
    let mut device = std::fs::File::options().read(true).write(true).open("/dev/net/tun").at("open")?;
    let mut request = [0_u8; 40];
    request[..4].copy_from_slice(b"adv0");
    request[16..18].copy_from_slice(&TUN_WITHOUT_HEADER.to_ne_bytes());
    // SAFETY: the request is an `ifreq`, 40 bytes, and outlives the call.
    let made = unsafe { libc::ioctl(device.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) };
    sys::check("TUNSETIFF", made as isize)?;
    request[16..18].copy_from_slice(&(libc::IFF_UP as u16).to_ne_bytes());
    let socket = sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    // SAFETY: as above.
    let up = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCSIFFLAGS, request.as_mut_ptr()) };
    sys::check("SIOCSIFFLAGS", up as isize)?;
    device.write_all(&super::raw::packet4(ROUTED4, context.magic())).at("write")
}

/// A route of the attacker's own, by the oldest of interfaces: any socket will do.
pub(crate) fn route(_: &Context) -> Attempt {
    const SIOCADDRT: libc::c_ulong = 0x890b;
    change_route(SIOCADDRT, crate::far_side::ROUTE_MARK)
}

/// Adds or removes a route to one address, over the loopback device.
pub(crate) fn change_route(request: libc::c_ulong, destination: std::net::Ipv4Addr) -> Attempt {
    use std::os::fd::AsRawFd as _;
    const UP_TO_HOST: u16 = 0x0001 | 0x0004;
    let socket = sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    let address = |ip| sys::name(context::at(ip, 0));
    // SAFETY: all zeros is a route to nowhere.
    let mut entry: libc::rtentry = unsafe { std::mem::zeroed() };
    let destination = address(destination);
    let mask = address(std::net::Ipv4Addr::BROADCAST);
    for (field, bytes) in [(&mut entry.rt_dst, &destination), (&mut entry.rt_genmask, &mask)] {
        field.sa_family = libc::AF_INET as u16;
        for (to, from) in field.sa_data.iter_mut().zip(&bytes[2..]) {
            *to = from.cast_signed();
        }
    }
    entry.rt_flags = UP_TO_HOST;
    let mut device = *b"lo\0";
    entry.rt_dev = device.as_mut_ptr().cast();
    // SAFETY: the entry and the name in it outlive the call.
    let changed = unsafe { libc::ioctl(socket.as_raw_fd(), request, &raw const entry) };
    sys::check("change a route", changed as isize).map(drop)
}

/// An IP packet to the target, without a link-layer header.
pub(crate) fn send_frame(socket: OwnedFd, context: &Context) -> Attempt {
    sys::send_to(&socket, &super::raw::packet4(TARGET4, context.magic()), 0, &link_layer())
}

/// The same, with one: of zeros.
pub(crate) fn frame(context: &Context) -> Vec<u8> {
    let mut frame = vec![0; 12];
    frame.extend(ETH_P_IP.to_be_bytes());
    frame.extend(super::raw::packet4(TARGET4, context.magic()));
    frame
}

fn link_layer() -> Vec<u8> {
    let mut address = (libc::AF_PACKET as u16).to_ne_bytes().to_vec();
    address.extend(ETH_P_IP.to_be_bytes());
    address.extend(LOOPBACK_INDEX.to_ne_bytes());
    // No kind of hardware, no kind of packet, a hardware address of six zeros.
    address.extend([0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 0]);
    address
}

fn netlink(context: &Context, protocol: i32) -> Attempt {
    let socket = sys::socket(libc::AF_NETLINK, libc::SOCK_RAW, protocol)?;
    let mut message = ((NETLINK_HEADER + context.magic.len()) as u32).to_ne_bytes().to_vec();
    message.resize(NETLINK_HEADER, 0);
    message.extend(context.magic());
    sys::send_to(socket.as_fd(), &message, 0, &netlink_name())
}

pub(crate) fn netlink_name() -> Vec<u8> {
    let mut address = (libc::AF_NETLINK as u16).to_ne_bytes().to_vec();
    address.extend([0, 0]);
    address.extend(MAILBOX.to_ne_bytes());
    address.extend([0; 4]);
    address
}
