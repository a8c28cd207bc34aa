//! System calls as the kernel has them, without what a library would correct. Every failure says which call it was.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

/// Where an attempt came to its end.
#[derive(Debug)]
pub(crate) struct Stop {
    pub(crate) at: &'static str,
    pub(crate) error: io::Error,
}

pub(crate) type Attempt<T = ()> = Result<T, Stop>;

/// Says which call it was that failed.
pub(crate) trait At<T> {
    fn at(self, call: &'static str) -> Attempt<T>;
}

impl<T, E: Into<io::Error>> At<T> for Result<T, E> {
    fn at(self, call: &'static str) -> Attempt<T> {
        self.map_err(|error| Stop { at: call, error: error.into() })
    }
}

/// What a call returned, or the error that it left behind.
pub(crate) fn check(at: &'static str, result: isize) -> Attempt<usize> {
    usize::try_from(result).map_err(|_| Stop { at, error: io::Error::last_os_error() })
}

/// A new descriptor that a call returned.
pub(crate) fn owned(at: &'static str, result: isize) -> Attempt<OwnedFd> {
    let fd = check(at, result)?;
    // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// A system call by its number.
///
/// # Safety
/// The arguments are what that call takes, and what they point to is valid for it.
pub(crate) unsafe fn syscall(at: &'static str, number: i64, arguments: &[usize]) -> Attempt<usize> {
    let mut all = [0; 6];
    all[..arguments.len()].copy_from_slice(arguments);
    let [a, b, c, d, e, f] = all;
    // SAFETY: the caller's promise.
    check(at, unsafe { libc::syscall(number, a, b, c, d, e, f) } as isize)
}

/// A socket address in the kernel's form. Bytes, so that it can be any address, and none.
pub(crate) fn name(address: SocketAddr) -> Vec<u8> {
    match address {
        SocketAddr::V4(v4) => {
            let mut bytes = (libc::AF_INET as u16).to_ne_bytes().to_vec();
            bytes.extend(v4.port().to_be_bytes());
            bytes.extend(v4.ip().octets());
            bytes.resize(16, 0);
            bytes
        }
        SocketAddr::V6(v6) => {
            let mut bytes = (libc::AF_INET6 as u16).to_ne_bytes().to_vec();
            bytes.extend(v6.port().to_be_bytes());
            bytes.extend(v6.flowinfo().to_be_bytes());
            bytes.extend(v6.ip().octets());
            bytes.extend(v6.scope_id().to_ne_bytes());
            bytes
        }
    }
}

/// The same address under another family.
pub(crate) fn name_as(family: i32, address: SocketAddr) -> Vec<u8> {
    let mut bytes = name(address);
    bytes[..2].copy_from_slice(&(family as u16).to_ne_bytes());
    bytes
}

pub(crate) fn socket(family: i32, kind: i32, protocol: i32) -> Attempt<OwnedFd> {
    // SAFETY: takes no pointer.
    owned("socket", unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) } as isize)
}

/// A TCP socket of the address's family.
pub(crate) fn tcp(address: SocketAddr) -> Attempt<OwnedFd> {
    socket(family_of(address), libc::SOCK_STREAM, 0)
}

/// A UDP socket of the address's family.
pub(crate) fn udp(address: SocketAddr) -> Attempt<OwnedFd> {
    socket(family_of(address), libc::SOCK_DGRAM, 0)
}

fn family_of(address: SocketAddr) -> i32 {
    if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }
}

pub(crate) fn connect(socket: impl AsFd, name: &[u8]) -> Attempt {
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: `name` outlives the call, and its length is given.
    check("connect", unsafe { libc::connect(fd, name.as_ptr().cast(), name.len() as u32) } as isize).map(drop)
}

pub(crate) fn bind(socket: impl AsFd, name: &[u8]) -> Attempt {
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: `name` outlives the call, and its length is given.
    check("bind", unsafe { libc::bind(fd, name.as_ptr().cast(), name.len() as u32) } as isize).map(drop)
}

pub(crate) fn listen(socket: impl AsFd) -> Attempt {
    // SAFETY: takes no pointer.
    check("listen", unsafe { libc::listen(socket.as_fd().as_raw_fd(), 8) } as isize).map(drop)
}

pub(crate) fn accept(socket: impl AsFd) -> Attempt<OwnedFd> {
    // SAFETY: no address is asked for.
    let accepted = unsafe { libc::accept(socket.as_fd().as_raw_fd(), ptr::null_mut(), ptr::null_mut()) };
    owned("accept", accepted as isize)
}

pub(crate) fn send(socket: impl AsFd, data: &[u8]) -> Attempt {
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: `data` outlives the call, and its length is given.
    check("send", unsafe { libc::send(fd, data.as_ptr().cast(), data.len(), libc::MSG_NOSIGNAL) }).map(drop)
}

pub(crate) fn send_to(socket: impl AsFd, data: &[u8], flags: i32, name: &[u8]) -> Attempt {
    let fd = socket.as_fd().as_raw_fd();
    let (at, len) = (name.as_ptr().cast(), name.len() as u32);
    // SAFETY: `data` and `name` outlive the call, and their lengths are given.
    check("sendto", unsafe { libc::sendto(fd, data.as_ptr().cast(), data.len(), flags, at, len) }).map(drop)
}

pub(crate) fn set_option(socket: impl AsFd, level: i32, option: i32, value: &[u8]) -> Attempt {
    let fd = socket.as_fd().as_raw_fd();
    let (at, len) = (value.as_ptr().cast(), value.len() as u32);
    // SAFETY: `value` outlives the call, and its length is given.
    check("setsockopt", unsafe { libc::setsockopt(fd, level, option, at, len) } as isize).map(drop)
}

pub(crate) fn set_flag(socket: impl AsFd, level: i32, option: i32) -> Attempt {
    set_option(socket, level, option, &1_i32.to_ne_bytes())
}

/// `sendmsg` with one control message: its level, type and data. Without an address if `name` is empty.
pub(crate) fn send_message(
    socket: impl AsFd,
    data: &[u8],
    name: &[u8],
    (level, kind, control): (i32, i32, &[u8]),
) -> Attempt {
    // A header of three words, then the data; the whole in words, since that is how it must be aligned.
    let len = 16 + control.len();
    let mut bytes = len.to_ne_bytes().to_vec();
    bytes.extend(level.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(control);
    bytes.resize(len.next_multiple_of(8), 0);
    let mut words: Vec<u64> =
        bytes.chunks_exact(8).map(|word| u64::from_ne_bytes(word.try_into().expect("eight bytes"))).collect();
    let mut vector = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    let message = libc::msghdr {
        msg_name: if name.is_empty() { ptr::null_mut() } else { name.as_ptr().cast_mut().cast() },
        msg_namelen: name.len() as u32,
        msg_iov: &mut vector,
        msg_iovlen: 1,
        msg_control: words.as_mut_ptr().cast(),
        msg_controllen: words.len() * 8,
        msg_flags: 0,
    };
    // SAFETY: all that `message` points to outlives the call.
    check("sendmsg", unsafe { libc::sendmsg(socket.as_fd().as_raw_fd(), &message, 0) }).map(drop)
}

/// Passes a descriptor over a Unix socket.
pub(crate) fn pass_fd(stream: impl AsFd, fd: impl AsFd) -> Attempt {
    let number = fd.as_fd().as_raw_fd().to_ne_bytes();
    send_message(stream, b"fd", &[], (libc::SOL_SOCKET, libc::SCM_RIGHTS, &number))
}

/// Receives one. That the message came without one is an error of `EBADF`: that is how the kernel withholds it.
pub(crate) fn receive_fd(stream: impl AsFd) -> Attempt<OwnedFd> {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
    let mut data = [0; 2];
    let mut vector = [io::IoSliceMut::new(&mut data)];
    let mut space = nix::cmsg_space!(i32);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message =
        recvmsg::<()>(stream.as_fd().as_raw_fd(), &mut vector, Some(&mut space), flags).at("recvmsg")?;
    let rights = message.cmsgs().at("recvmsg")?.find_map(|message| match message {
        ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
        _ => None,
    });
    owned("recvmsg", rights.ok_or(nix::Error::EBADF).at("receive a descriptor")? as isize)
}

/// A socket of a process that we may trace.
pub(crate) fn steal_fd(pid: i32, fd: i32) -> Attempt<OwnedFd> {
    // SAFETY: takes no pointer.
    let process = unsafe { syscall("pidfd_open", libc::SYS_pidfd_open, &[pid as usize, 0]) }?;
    // SAFETY: takes no pointer.
    let stolen = unsafe { syscall("pidfd_getfd", libc::SYS_pidfd_getfd, &[process, fd as usize, 0]) }?;
    owned("pidfd_getfd", stolen as isize)
}
