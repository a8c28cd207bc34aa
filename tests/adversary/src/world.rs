//! A network of the harness's own: a namespace in which every address is this host's, and what hosts are usually careful
//! about is allowed, so that enforcement alone can stop an attempt.

use std::fs;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;

use nix::sched::{CloneFlags, unshare};

use crate::context::{self, ALLOWED6, ROUTED4, TARGET6};
use crate::sys::{self, At as _, Attempt};

const SIOCSIFADDR: libc::c_ulong = 0x8916;
const SIOCSIFFLAGS: libc::c_ulong = 0x8914;
const LOOPBACK_INDEX: i32 = 1;

const SETTINGS: &[(&str, &str)] = &[
    // Everybody may ping.
    ("ipv4/ping_group_range", "0 2147483647"),
    // Data with the first packet of a connection, to whom one has never spoken.
    ("ipv4/tcp_fastopen", "519"),
    ("ipv4/conf/all/accept_source_route", "1"),
    ("ipv4/conf/lo/accept_source_route", "1"),
    ("ipv6/conf/all/seg6_enabled", "1"),
    ("ipv6/conf/lo/seg6_enabled", "1"),
];

/// Moves this process, which has one thread yet, into a network namespace, and puts that up.
pub(crate) fn enter() -> Attempt {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC).at("unshare")?;
    loopback_up()?;
    route_multicast()?;
    for (name, value) in SETTINGS {
        // A kernel without one of them has not the technique that needs it, as the control will say.
        let _ = fs::write(format!("/proc/sys/net/{name}"), value);
    }
    Ok(())
}

/// Puts the loopback device of this network namespace up, with its addresses.
pub(crate) fn loopback_up() -> Attempt {
    let v4 = sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    let mut up = named("lo");
    up[16..18].copy_from_slice(&(libc::IFF_UP as u16).to_ne_bytes());
    // SAFETY: the request is an `ifreq`, 40 bytes, and outlives the call.
    let result = unsafe { libc::ioctl(v4.as_raw_fd(), SIOCSIFFLAGS, up.as_ptr()) };
    sys::check("SIOCSIFFLAGS", result as isize)?;
    let mut address = named("lo:1");
    address[16..32].copy_from_slice(&sys::name(context::at(ROUTED4, 0)));
    // SAFETY: as above.
    let result = unsafe { libc::ioctl(v4.as_raw_fd(), SIOCSIFADDR, address.as_ptr()) };
    sys::check("SIOCSIFADDR", result as isize)?;
    let v6 = sys::socket(libc::AF_INET6, libc::SOCK_DGRAM, 0)?;
    for ip in [ALLOWED6, TARGET6] {
        let mut request = ip.octets().to_vec();
        request.extend(128_u32.to_ne_bytes());
        request.extend(LOOPBACK_INDEX.to_ne_bytes());
        // SAFETY: the request is an `in6_ifreq`, 24 bytes, and outlives the call.
        let result = unsafe { libc::ioctl(v6.as_raw_fd(), SIOCSIFADDR, request.as_ptr()) };
        sys::check("SIOCSIFADDR", result as isize)?;
    }
    Ok(())
}

/// IPv6 multicast goes to the loopback device, which has no route for it by itself.
fn route_multicast() -> Attempt {
    const SIOCADDRT: libc::c_ulong = 0x890b;
    // Up, and local: any other route over this device refuses.
    const ROUTE_UP: u32 = 0x8000_0001;
    let socket = sys::socket(libc::AF_INET6, libc::SOCK_DGRAM, 0)?;
    // The kernel's `in6_rtmsg`: destination, source, gateway; type; lengths of the first two; metric; information; flags;
    // device.
    let mut request = vec![0xff];
    request.resize(3 * 16 + 4, 0);
    request.extend(8_u16.to_ne_bytes());
    request.extend(0_u16.to_ne_bytes());
    request.extend(1_u32.to_ne_bytes());
    request.resize(request.len().next_multiple_of(8) + 8, 0);
    request.extend(ROUTE_UP.to_ne_bytes());
    request.extend(LOOPBACK_INDEX.to_ne_bytes());
    // SAFETY: the request is as the kernel lays it out, and outlives the call.
    let added = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCADDRT, request.as_ptr()) };
    sys::check("SIOCADDRT", added as isize).map(drop)
}

/// The `ifreq` of a device.
fn named(device: &str) -> [u8; 40] {
    let mut request = [0; 40];
    request[..device.len()].copy_from_slice(device.as_bytes());
    request
}

/// As the kernel lists it.
pub(crate) fn has_route_to(destination: Ipv4Addr) -> bool {
    let wanted = format!("{:08X}", u32::from_ne_bytes(destination.octets()));
    let routes = fs::read_to_string("/proc/thread-self/net/route").unwrap_or_default();
    routes.lines().any(|line| line.split_whitespace().nth(1) == Some(&wanted))
}

/// Takes away what an attempt has added.
pub(crate) fn remove_route_to(destination: Ipv4Addr) -> Attempt {
    crate::techniques::families::change_route(SIOCDELRT, destination)
}

const SIOCDELRT: libc::c_ulong = 0x890c;
