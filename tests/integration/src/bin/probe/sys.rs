//! Sockets as the kernel has them, without what a library would correct: families that do not match, flags, protocols
//! of which libraries know nothing.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

/// A socket address in the kernel's form.
#[derive(Clone, Copy)]
pub(crate) enum Name {
    V4(libc::sockaddr_in),
    V6(libc::sockaddr_in6),
}

impl Name {
    /// The same address under `AF_UNSPEC`, which UDP over IPv4 takes for `AF_INET`.
    pub(crate) fn without_family(self) -> Self {
        match self {
            Self::V4(name) => {
                Self::V4(libc::sockaddr_in { sin_family: libc::AF_UNSPEC as libc::sa_family_t, ..name })
            }
            Self::V6(name) => {
                Self::V6(libc::sockaddr_in6 { sin6_family: libc::AF_UNSPEC as libc::sa_family_t, ..name })
            }
        }
    }

    pub(crate) fn as_ptr(&self) -> *const libc::sockaddr {
        match self {
            Self::V4(name) => ptr::from_ref(name).cast(),
            Self::V6(name) => ptr::from_ref(name).cast(),
        }
    }

    pub(crate) fn len(&self) -> libc::socklen_t {
        let bytes = match self {
            Self::V4(name) => size_of_val(name),
            Self::V6(name) => size_of_val(name),
        };
        bytes as libc::socklen_t
    }
}

impl From<SocketAddr> for Name {
    fn from(address: SocketAddr) -> Self {
        match address {
            SocketAddr::V4(v4) => Self::V4(libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            }),
            SocketAddr::V6(v6) => Self::V6(libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            }),
        }
    }
}

/// The family a socket needs to reach an address as it is written: `::ffff:127.0.0.1` takes an IPv6 socket.
pub(crate) fn family_of(address: SocketAddr) -> i32 {
    match address {
        SocketAddr::V4(_) => libc::AF_INET,
        SocketAddr::V6(_) => libc::AF_INET6,
    }
}

pub(crate) fn socket(family: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes no pointer.
    let fd = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) };
    check(fd as isize)?;
    // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(crate) fn connect(socket: &OwnedFd, name: Name) -> io::Result<()> {
    // SAFETY: `name` outlives the call and `len` is its size.
    check(unsafe { libc::connect(socket.as_raw_fd(), name.as_ptr(), name.len()) } as isize)
}

/// [`connect`] that gives up when the socket's time for a send has passed, with `ETIMEDOUT`.
pub(crate) fn connect_in_time(socket: &OwnedFd, name: Name) -> io::Result<()> {
    connect(socket, name).map_err(|error| match error.raw_os_error() {
        Some(libc::EINPROGRESS) => io::Error::from_raw_os_error(libc::ETIMEDOUT),
        _ => error,
    })
}

pub(crate) fn bind(socket: &OwnedFd, name: Name) -> io::Result<()> {
    // SAFETY: `name` outlives the call and `len` is its size.
    check(unsafe { libc::bind(socket.as_raw_fd(), name.as_ptr(), name.len()) } as isize)
}

pub(crate) fn accept(socket: &OwnedFd) -> io::Result<OwnedFd> {
    // SAFETY: null pointers: the peer's address is not asked for.
    let fd =
        unsafe { libc::accept4(socket.as_raw_fd(), ptr::null_mut(), ptr::null_mut(), libc::SOCK_CLOEXEC) };
    check(fd as isize)?;
    // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `setsockopt` with a level and a number.
pub(crate) fn set_option(socket: &OwnedFd, [level, number]: [i32; 2], value: &[u8]) -> io::Result<()> {
    let (fd, len) = (socket.as_raw_fd(), value.len() as libc::socklen_t);
    // SAFETY: `value` outlives the call, and the length is its own.
    check(unsafe { libc::setsockopt(fd, level, number, value.as_ptr().cast(), len) } as isize)
}

pub(crate) fn local_address(socket: &OwnedFd) -> io::Result<SocketAddr> {
    // What it is asked for is the same for each kind of socket.
    UdpSocket::from(socket.try_clone()?).local_addr()
}

/// Switches on the loopback device of the network namespace that this thread is in.
pub(crate) fn loopback_up() -> io::Result<()> {
    let any = socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    // SAFETY: all zeros is a valid value of this structure.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: `request` outlives the call, and is what this request takes.
    check(unsafe { libc::ioctl(any.as_raw_fd(), libc::SIOCSIFFLAGS, &request) } as isize)
}

/// `sendmsg` with one control message, of this level and type.
pub(crate) fn sendmsg_with(
    socket: &OwnedFd,
    data: &[u8],
    name: Name,
    [level, kind]: [i32; 2],
    value: &[u8],
) -> io::Result<()> {
    // In whole words: a control message is aligned as its header is.
    // SAFETY: computes a size.
    let space = unsafe { libc::CMSG_SPACE(value.len() as u32) } as usize;
    let mut control = vec![0u64; space.div_ceil(size_of::<u64>())];
    let mut vector = vector_of(data);
    let mut message = header_of(&name, &mut vector);
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = space;
    // SAFETY: the message has room for one control message of this size.
    let header = unsafe { libc::CMSG_FIRSTHDR(&message) };
    // SAFETY: as above, and it is aligned.
    unsafe { (*header).cmsg_level = level };
    // SAFETY: as above.
    unsafe { (*header).cmsg_type = kind };
    // SAFETY: as above.
    let length = unsafe { libc::CMSG_LEN(value.len() as u32) };
    // SAFETY: as above: it is the buffer's, and not null.
    unsafe { (*header).cmsg_len = length as usize };
    // SAFETY: the data of the control message, which has room for the value.
    let data = unsafe { libc::CMSG_DATA(header) };
    // SAFETY: the buffer has room for the value behind the header, and they do not overlap.
    unsafe { ptr::copy_nonoverlapping(value.as_ptr(), data, value.len()) };
    // SAFETY: `message` points to `name`, `control` and `vector`, which points to `data`; all outlive the call.
    check(unsafe { libc::sendmsg(socket.as_raw_fd(), &message, 0) })
}

pub(crate) fn sendto(socket: &OwnedFd, data: &[u8], flags: i32, name: Name) -> io::Result<()> {
    let data_ptr = data.as_ptr().cast();
    // SAFETY: `data` and `name` outlive the call, and the lengths are theirs.
    let sent =
        unsafe { libc::sendto(socket.as_raw_fd(), data_ptr, data.len(), flags, name.as_ptr(), name.len()) };
    check(sent)
}

/// One `sendmsg` or, for several, one `sendmmsg` after another: after a datagram that fails, it goes on with the next.
/// One result per datagram.
pub(crate) fn sendmmsg(socket: &OwnedFd, datagrams: &[(Name, &[u8])]) -> Vec<io::Result<()>> {
    let mut results = Vec::new();
    while let Some(rest) = datagrams.get(results.len()..).filter(|rest| !rest.is_empty()) {
        match sendmmsg_once(socket, rest) {
            // The kernel reports an error only when it is the first datagram of a call that fails.
            Ok(sent) => results.extend((0..sent).map(|_| Ok(()))),
            Err(error) => results.push(Err(error)),
        }
    }
    results
}

pub(crate) fn sendmsg(socket: &OwnedFd, data: &[u8], name: Name) -> io::Result<()> {
    let mut vector = vector_of(data);
    let message = header_of(&name, &mut vector);
    // SAFETY: `message` points to `name` and `vector`, which points to `data`; all outlive the call.
    check(unsafe { libc::sendmsg(socket.as_raw_fd(), &message, 0) })
}

fn sendmmsg_once(socket: &OwnedFd, datagrams: &[(Name, &[u8])]) -> io::Result<usize> {
    let mut vectors: Vec<libc::iovec> = datagrams.iter().map(|(_, data)| vector_of(data)).collect();
    let mut messages: Vec<libc::mmsghdr> = datagrams
        .iter()
        .zip(&mut vectors)
        .map(|((name, _), vector)| libc::mmsghdr { msg_hdr: header_of(name, vector), msg_len: 0 })
        .collect();
    // SAFETY: the headers point into `datagrams` and `vectors`, which outlive the call.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), messages.len() as u32, 0) };
    check(sent as isize)?;
    Ok(sent as usize)
}

fn vector_of(data: &[u8]) -> libc::iovec {
    // The kernel only reads from a vector that is sent.
    libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() }
}

fn header_of(name: &Name, vector: &mut libc::iovec) -> libc::msghdr {
    libc::msghdr {
        msg_name: name.as_ptr().cast_mut().cast(),
        msg_namelen: name.len(),
        msg_iov: vector,
        msg_iovlen: 1,
        msg_control: ptr::null_mut(),
        msg_controllen: 0,
        msg_flags: 0,
    }
}

fn check(result: isize) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
