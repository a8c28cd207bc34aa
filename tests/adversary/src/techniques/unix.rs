//! Unix sockets of outsiders, who do what they are asked.

use std::io::Write as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};

use crate::context::Context;
use crate::sys::{self, At as _, Attempt};

pub(crate) fn stream(context: &Context) -> Attempt {
    let mut stream = UnixStream::connect(context.socket()).at("connect")?;
    stream.write_all(context.magic()).at("write")
}

/// Under another name: a symbolic link of the attacker's own.
pub(crate) fn stream_by_link(context: &Context) -> Attempt {
    let link = context.dir.join("link");
    std::os::unix::fs::symlink(context.socket(), &link).at("symlink")?;
    let mut stream = UnixStream::connect(link).at("connect")?;
    stream.write_all(context.magic()).at("write")
}

pub(crate) fn abstract_stream(context: &Context) -> Attempt {
    let name = SocketAddr::from_abstract_name(context.abstract_name()).at("name")?;
    let mut stream = UnixStream::connect_addr(&name).at("connect")?;
    stream.write_all(context.magic()).at("write")
}

pub(crate) fn datagram(context: &Context) -> Attempt {
    let socket = UnixDatagram::unbound().at("socket")?;
    socket.send_to(context.magic(), context.socket()).at("sendto").map(drop)
}

pub(crate) fn packets(context: &Context) -> Attempt {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
    use std::os::fd::AsRawFd as _;
    let kind = SockType::SeqPacket;
    let socket = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None).at("socket")?;
    let name = UnixAddr::new(&context.socket()).at("name")?;
    connect(socket.as_raw_fd(), &name).at("connect")?;
    sys::send(&socket, context.magic())
}
