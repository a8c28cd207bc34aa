//! The kernel's socket diagnosis, in the network namespace of the thread that opens it (sock_diag(7)).

#![expect(unsafe_code, reason = "pidfd_getfd and SIOCGSKNS have no safe wrapper")]

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use enforcer_common::net::Protocol;
use netlink_packet_core::{
    DecodeError, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable, Nla as _,
};
use netlink_packet_sock_diag::{
    SockDiagDestroy, SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP},
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags, nlas::Nla},
};
use netlink_sys::{Socket, SocketAddr as NetlinkAddr, protocols::NETLINK_SOCK_DIAG};

use super::Wanted;

/// Why the kernel's answer is none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DiagError {
    #[error("{action}")]
    Netlink {
        action: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("understand what the kernel says of a socket")]
    Decode(#[source] DecodeError),
}

/// Whose ends a socket connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flow {
    pub(crate) protocol: Protocol,
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    pub(crate) listens: bool,
}

/// A socket, and what it takes to destroy it.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) cookie: u64,
    pub(super) flow: Flow,
    family: u8,
    id: SocketId,
}

/// A connection to the diagnosis.
pub(super) struct Diagnosis {
    socket: Socket,
}

/// In the attributes of a socket: the cgroup that it was made in (v6.1/include/uapi/linux/inet_diag.h, INET_DIAG_CGROUP_ID).
const CGROUP_ID: u16 = 21;
/// Receive as much at once as the kernel gives: it fills 32 KiB.
const BUFFER_BYTES: usize = 64 << 10;
/// Destroy so many with one call: what the kernel answers of those that fail must fit the socket's queue.
const AT_ONCE: usize = 128;

impl Diagnosis {
    pub(super) fn open() -> Result<Self, DiagError> {
        let failed = |source| DiagError::Netlink { action: "open the socket diagnosis", source };
        let mut socket = Socket::new(NETLINK_SOCK_DIAG).map_err(failed)?;
        socket.bind_auto().map_err(failed)?;
        socket.connect(&NetlinkAddr::new(0, 0)).map_err(failed)?;
        Ok(Self { socket })
    }

    /// The wanted among all TCP and UDP sockets.
    pub(super) fn list(&mut self, wanted: &Wanted) -> Result<Vec<Found>, DiagError> {
        let mut found = Vec::new();
        for (protocol, number) in [(Protocol::Tcp, IPPROTO_TCP), (Protocol::Udp, IPPROTO_UDP)] {
            for (family, socket_id) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
                let request = InetRequest {
                    family,
                    protocol: number,
                    extensions: ExtensionFlags::empty(),
                    // What is in TIME_WAIT is no socket any more: it says nothing but that.
                    states: StateFlags::all() - StateFlags::TIME_WAIT,
                    socket_id,
                };
                self.dump(request, |response| {
                    if is_wanted(&response, wanted) {
                        found.push(read(protocol, response));
                    }
                })?;
            }
        }
        Ok(found)
    }

    fn dump(&mut self, request: InetRequest, mut take: impl FnMut(InetResponse)) -> Result<(), DiagError> {
        let receiving = |source| DiagError::Netlink { action: "list sockets", source };
        self.send(&[SockDiagMessage::InetRequest(request)], NLM_F_REQUEST | NLM_F_DUMP)?;
        let mut buffer = Vec::with_capacity(BUFFER_BYTES);
        loop {
            buffer.clear();
            self.socket.recv(&mut buffer, 0).map_err(receiving)?;
            let mut rest = &buffer[..];
            while !rest.is_empty() {
                let message =
                    NetlinkMessage::<SockDiagMessage>::deserialize(rest).map_err(DiagError::Decode)?;
                match message.payload {
                    NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => take(*response),
                    NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::Error(error) => match error.to_io() {
                        // A protocol that this kernel cannot tell of has no sockets that could be told of.
                        error if error.raw_os_error() == Some(libc::ENOENT) => return Ok(()),
                        error => return Err(receiving(error)),
                    },
                    _ => {}
                }
                let length = (message.header.length as usize).next_multiple_of(4);
                rest = rest.get(length.max(1)..).unwrap_or_default();
            }
        }
    }

    /// Destroys sockets. Of one that is gone meanwhile, the kernel says so, which is no failure; whether others are, a new list
    /// shows.
    pub(super) fn destroy(&mut self, sockets: &[Found]) -> Result<(), DiagError> {
        for sockets in sockets.chunks(AT_ONCE) {
            let requests: Vec<SockDiagDestroy> = sockets.iter().map(destroy_request).collect();
            self.send(&requests, NLM_F_REQUEST)?;
            self.forget_answers()?;
        }
        Ok(())
    }

    fn forget_answers(&mut self) -> Result<(), DiagError> {
        let mut buffer = Vec::with_capacity(BUFFER_BYTES);
        loop {
            buffer.clear();
            match self.socket.recv(&mut buffer, libc::MSG_DONTWAIT) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(source) => return Err(DiagError::Netlink { action: "destroy sockets", source }),
            }
        }
    }

    /// All in one call: the kernel has done with each when it returns.
    fn send<T: NetlinkSerializable + Clone>(&mut self, messages: &[T], flags: u16) -> Result<(), DiagError>
    where
        NetlinkPayload<T>: From<T>,
    {
        let mut bytes = Vec::new();
        for message in messages {
            let mut header = NetlinkHeader::default();
            header.flags = flags;
            let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message.clone()));
            message.finalize();
            let start = bytes.len();
            bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
            message.serialize(&mut bytes[start..start + message.buffer_len()]);
        }
        let sent = self.socket.send(&bytes, 0);
        sent.map(drop).map_err(|source| DiagError::Netlink { action: "ask the socket diagnosis", source })
    }
}

fn is_wanted(response: &InetResponse, wanted: &Wanted) -> bool {
    wanted.cookies.contains(&cookie(&response.header.socket_id))
        || cgroup(response).is_some_and(|cgroup| wanted.cgroups.contains(&cgroup))
}

fn cgroup(response: &InetResponse) -> Option<u64> {
    response.nlas.iter().find_map(|attribute| match attribute {
        Nla::Other(other) if other.kind() == CGROUP_ID => {
            let mut value = [0; size_of::<u64>()];
            if other.value_len() != value.len() {
                return None;
            }
            other.emit_value(&mut value);
            Some(u64::from_ne_bytes(value))
        }
        _ => None,
    })
}

fn cookie(id: &SocketId) -> u64 {
    // Two numbers of 32 bits, the lower first (v6.1/include/linux/sock_diag.h, sock_diag_save_cookie).
    u64::from_ne_bytes(id.cookie)
}

fn read(protocol: Protocol, response: InetResponse) -> Found {
    const LISTEN: u8 = 10;
    let header = response.header;
    let id = header.socket_id;
    let flow = Flow {
        protocol,
        local: address(id.source_address, id.source_port),
        remote: address(id.destination_address, id.destination_port),
        listens: header.state == LISTEN,
    };
    Found { cookie: cookie(&id), flow, family: header.family, id }
}

/// An IPv4-mapped address is the IPv4 address.
fn address(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip.to_canonical(), port)
}

fn destroy_request(socket: &Found) -> SockDiagDestroy {
    let protocol = match socket.flow.protocol {
        Protocol::Udp => IPPROTO_UDP,
        Protocol::Tcp | Protocol::Icmp => IPPROTO_TCP,
    };
    SockDiagDestroy::new(SockDiagMessage::InetRequest(InetRequest {
        family: socket.family,
        protocol,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::all(),
        socket_id: socket.id.clone(),
    }))
}

/// The network namespace of another process's socket: a copy of its descriptor says so.
pub(super) fn namespace_of(pid: u32, fd: u32) -> Option<OwnedFd> {
    // SAFETY: a system call that takes numbers.
    let process = owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: as above.
    let socket = owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), fd, 0) })?;
    // SAFETY: a request without an argument, on a descriptor of ours.
    owned(unsafe { libc::ioctl(socket.as_raw_fd(), SIOCGSKNS) }.into())
}

/// v6.1/include/uapi/linux/sockios.h.
const SIOCGSKNS: libc::Ioctl = 0x894C;

fn owned(opened: libc::c_long) -> Option<OwnedFd> {
    let fd = i32::try_from(opened).ok().filter(|fd| *fd >= 0)?;
    // SAFETY: a descriptor that was just opened, and that nobody else owns.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}
