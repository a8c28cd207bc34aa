//! Connections that somebody outside begins: what goes back over them was never connected, nor named.

use std::net::Ipv4Addr;

use crate::context::{self, Context, INBOUND_PORT};
use crate::sys::{self, Attempt, name};

/// A shell for whoever connects.
pub(crate) fn tcp(context: &Context) -> Attempt {
    let listener = listener(sys::socket(libc::AF_INET, libc::SOCK_STREAM, 0)?)?;
    sys::send(sys::accept(&listener)?, context.magic())
}

/// Without a `bind`: the kernel chooses the port when the socket listens, and the outsider is told over a file.
pub(crate) fn tcp_unbound(context: &Context) -> Attempt {
    use std::os::fd::AsRawFd as _;
    let listener = sys::socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
    sys::listen(&listener)?;
    let bound = nix::sys::socket::getsockname::<nix::sys::socket::SockaddrIn>(listener.as_raw_fd());
    let port = sys::At::at(bound, "getsockname")?.port();
    sys::At::at(std::fs::write(context.dir.join("port"), port.to_string()), "write")?;
    sys::send(sys::accept(&listener)?, context.magic())
}

/// Answers a datagram.
pub(crate) fn udp(context: &Context) -> Attempt {
    let socket = sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    sys::bind(&socket, &name(context::at(Ipv4Addr::LOCALHOST, INBOUND_PORT)))?;
    let socket = std::net::UdpSocket::from(socket);
    let (_, from) = sys::At::at(socket.recv_from(&mut [0; 64]), "recvfrom")?;
    sys::send_to(&socket, context.magic(), 0, &name(from))
}

fn listener(socket: std::os::fd::OwnedFd) -> Attempt<std::os::fd::OwnedFd> {
    sys::set_flag(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR)?;
    sys::bind(&socket, &name(context::at(Ipv4Addr::LOCALHOST, INBOUND_PORT)))?;
    sys::listen(&socket)?;
    Ok(socket)
}
