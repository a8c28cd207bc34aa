//! `sock`.

use super::{Place, cgroup::Cgroup};
use crate::config::loaded;

/// A socket of the kernel's.
#[derive(Clone, Copy)]
pub(crate) struct Sock(Place);

impl Sock {
    /// The socket behind a pointer that the verifier knows as one, whatever kind of pointer that is.
    #[inline(always)]
    pub(crate) fn of<T>(pointer: *const T) -> Option<Self> {
        Place::of(pointer).map(Self)
    }

    /// The inode of its network namespace.
    #[inline(always)]
    pub(crate) fn netns(self) -> Option<u32> {
        self.0.follow(loaded!(offsets.sock_net))?.load(loaded!(offsets.net_inum))
    }

    /// The cgroup that it was made in.
    #[inline(always)]
    pub(crate) fn cgroup(self) -> Option<Cgroup> {
        self.0.follow(loaded!(offsets.sock_cgroup)).map(Cgroup::at)
    }

    /// `AF_INET` and so on.
    #[inline(always)]
    pub(crate) fn family(self) -> Option<u16> {
        self.0.load(loaded!(offsets.sock_family))
    }

    /// The IP protocol number, or larger.
    #[inline(always)]
    pub(crate) fn protocol(self) -> Option<u16> {
        self.0.load(loaded!(offsets.sock_protocol))
    }

    /// Whether the process that runs is the one that uses the socket, and not one that the work of another's socket has
    /// interrupted.
    ///
    /// A socket that no file leads to is the kernel's own (neighbour discovery, answers from no socket), or nobody's any more.
    /// Of TCP, what is sent for another reason than a call of the process (acknowledgements, retransmissions) is sent while
    /// nobody owns the lock: otherwise it waits for the owner (v6.1/net/ipv4/tcp_ipv4.c, tcp_v4_rcv; tcp_output.c,
    /// tcp_tsq_handler). Other protocols send in the caller's context only.
    #[inline(always)]
    pub(crate) fn is_used_by_current(self) -> bool {
        const TCP: u16 = 6;
        let Some(socket) = self.0.follow(loaded!(offsets.sock_socket)) else {
            return false;
        };
        if socket.follow(loaded!(offsets.socket_file)).is_none() {
            return false;
        }
        self.protocol() != Some(TCP) || self.0.load::<u32>(loaded!(offsets.sock_lock_owned)) != Some(0)
    }
}
