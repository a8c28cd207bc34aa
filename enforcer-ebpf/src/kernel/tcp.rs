//! `tcp_sock`.

use enforcer_common::net::Address;

use super::{Place, sock::Sock};
use crate::config::loaded;

/// A TCP socket of the kernel's.
#[derive(Clone, Copy)]
pub(crate) struct Tcp(Place);

/// One end of a connection.
pub(crate) struct End {
    pub(crate) address: Address,
    pub(crate) port: u16,
    /// Our own.
    pub(crate) local_port: u16,
}

/// What a connection has carried.
#[derive(Clone, Copy, Default)]
pub(crate) struct Carried {
    pub(crate) bytes_out: u64,
    pub(crate) bytes_in: u64,
    pub(crate) packets_out: u32,
    pub(crate) packets_in: u32,
}

impl Tcp {
    /// Whether a socket is one: the states of others are called likewise.
    #[inline(always)]
    pub(crate) fn is(sock: Sock) -> bool {
        const TCP: u16 = 6;
        sock.protocol() == Some(TCP)
    }

    /// The one at this address.
    #[inline(always)]
    pub(crate) const fn at(address: u64) -> Self {
        Self(Place::at_address(address))
    }

    #[inline(always)]
    pub(crate) const fn sock(self) -> Sock {
        Sock::at(self.0)
    }

    /// The far end; or our own.
    #[inline(always)]
    pub(crate) fn end(self, own: bool) -> Option<End> {
        const AF_INET6: u16 = 10;
        // One that is closed has given its port back, and one that listens without having been bound has none yet.
        let local_port = match self.0.load::<u16>(loaded!(offsets.sock_num))? {
            0 => u16::from_be(self.0.load(loaded!(offsets.inet_sport))?),
            port => port,
        };
        let address = if self.sock().family()? == AF_INET6 {
            let at = if own { loaded!(offsets.sock_v6_rcv_saddr) } else { loaded!(offsets.sock_v6_daddr) };
            Address::v6_words(self.0.load(at)?)
        } else {
            let at = if own { loaded!(offsets.sock_rcv_saddr) } else { loaded!(offsets.sock_daddr) };
            Address::v4(self.0.load(at)?)
        };
        let port = if own { local_port } else { u16::from_be(self.0.load(loaded!(offsets.sock_dport))?) };
        Some(End { address, port, local_port })
    }

    /// What it has carried so far: of what was sent, only what was sent for the first time.
    #[inline(always)]
    pub(crate) fn carried(self) -> Option<Carried> {
        let sent: u64 = self.0.load(loaded!(offsets.tcp_bytes_sent))?;
        let again: u64 = self.0.load(loaded!(offsets.tcp_bytes_retrans))?;
        let received: u64 = self.0.load(loaded!(offsets.tcp_bytes_received))?;
        // The kernel counts the other side's FIN as a byte; it sets this flag when it has taken that in, and for nothing else
        // (v6.1/net/ipv4/tcp_input.c, tcp_fin; include/net/sock.h, sock_flags).
        const SOCK_DONE: u64 = 1 << 1;
        let flags: u64 = self.0.load(loaded!(offsets.sock_flags))?;
        let fin = u64::from(flags & SOCK_DONE != 0);
        Some(Carried {
            bytes_out: sent.saturating_sub(again),
            bytes_in: received.saturating_sub(fin),
            packets_out: self.0.load(loaded!(offsets.tcp_segs_out))?,
            packets_in: self.0.load(loaded!(offsets.tcp_segs_in))?,
        })
    }
}
