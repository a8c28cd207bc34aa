//! What an attempt is told, and where everything is. The network is the harness's own namespace, so addresses and ports are
//! constants.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What every envelope of the suite allows, on [`PORT`] and [`RELAY_PORT`].
pub(crate) const ALLOWED4: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 10);
pub(crate) const ALLOWED6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xad, 0, 0, 0, 0, 0, 0x10);
/// What none allows, and where the magic is to arrive.
pub(crate) const TARGET4: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 20);
pub(crate) const TARGET6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xad, 0, 0, 0, 0, 0, 0x20);
/// An address outside 127.0.0.0/8, which the kernel takes from any device; it is one of the loopback device's.
pub(crate) const ROUTED4: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 20);
/// Where packets that attackers make by hand say they come from.
pub(crate) const ROUTED_FROM: Ipv4Addr = Ipv4Addr::new(10, 99, 1, 1);

/// The harness listens here, over TCP and UDP, on every address.
pub(crate) const PORT: u16 = 4000;
/// A relay of somebody else's, on [`ALLOWED4`] and on [`TARGET4`].
pub(crate) const RELAY_PORT: u16 = 4001;
/// Where an attempt listens for connections from outside.
pub(crate) const INBOUND_PORT: u16 = 4002;
/// What an outsider's netlink, vsock, TIPC and message queue end is called.
pub(crate) const MAILBOX: u32 = 4242;

pub(crate) fn allowed4() -> SocketAddr {
    at(ALLOWED4, PORT)
}

pub(crate) fn allowed6() -> SocketAddr {
    at(ALLOWED6, PORT)
}

pub(crate) fn target4() -> SocketAddr {
    at(TARGET4, PORT)
}

pub(crate) fn target6() -> SocketAddr {
    at(TARGET6, PORT)
}

/// The target as IPv6 writes IPv4 addresses.
pub(crate) fn target_mapped() -> SocketAddr {
    at(TARGET4.to_ipv6_mapped(), PORT)
}

pub(crate) fn at(ip: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(ip.into(), port)
}

/// What an attempt, and the outsider that it may have, are told: one argument, in JSON.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Context {
    /// What is to arrive. No other attempt has it.
    pub(crate) magic: String,
    /// A directory of this attempt's, which everybody may write to.
    pub(crate) dir: PathBuf,
    /// The outsider's process id, and what it said of itself.
    pub(crate) outsider: i32,
    pub(crate) facts: Vec<u64>,
    /// A cgroup beside the daemon's.
    pub(crate) cgroup: PathBuf,
    /// The enforcer, its pins, and its objects by id.
    pub(crate) enforcer: PathBuf,
    pub(crate) control_socket: PathBuf,
    pub(crate) pins: PathBuf,
    pub(crate) daemon: i32,
    pub(crate) links: Vec<u64>,
    pub(crate) maps: Vec<u64>,
    /// An envelope that allows everything.
    pub(crate) wide_envelope: PathBuf,
}

impl Context {
    pub(crate) fn magic(&self) -> &[u8] {
        self.magic.as_bytes()
    }

    /// The outsider's Unix socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.join("outsider.sock")
    }

    /// The same, as an abstract name.
    pub(crate) fn abstract_name(&self) -> String {
        format!("adversary-{}", self.dir.display())
    }
}
