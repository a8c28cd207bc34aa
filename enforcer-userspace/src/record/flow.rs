//! What was carried: by a TCP connection that is closed, or by datagrams in some time.

use std::borrow::Cow;

use enforcer_common::record::ConnectionChange;
use serde::{Deserialize, Serialize};

use super::{Connection, LineDestination, protocol_name};

/// IP's number for TCP.
pub(crate) const TCP: u16 = 6;

/// As a line says it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LineFlow {
    pub(crate) protocol: Cow<'static, str>,
    /// The far end; of a socket that listens, our own. Null of datagrams that are counted together because they were to too many.
    pub(crate) destination: Option<LineDestination>,
    /// Our own port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) local_port: Option<u16>,
    /// Who began it: `outbound` if we did, `inbound`. Left out if that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) direction: Option<Cow<'static, str>>,
    /// When it was opened, or the first datagram; RFC 3339, UTC, ns. Left out if that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) since: Option<String>,
    /// From then to the event's time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) duration_ms: Option<u64>,
    /// Without headers, and each byte once.
    pub(crate) bytes_out: u64,
    pub(crate) bytes_in: u64,
    pub(crate) packets_out: u64,
    pub(crate) packets_in: u64,
    /// What state of TCP a closed socket was in before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) was: Option<Cow<'static, str>>,
    /// The rule that let it through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rule: Option<String>,
    /// The socket's cookie, as `ss -e` shows it; 0 of datagrams that are counted together.
    pub(crate) socket: u64,
    /// The inode of the network namespace that the socket is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) netns: Option<u32>,
    /// True if the socket was not made in the session: it was inherited, or received.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) foreign: bool,
}

impl From<&Connection> for LineFlow {
    /// As far as the kernel's record says it, which knows nothing of the beginning.
    fn from(connection: &Connection) -> Self {
        let (address, port) = connection.end;
        Self {
            protocol: protocol_name(TCP),
            destination: Some(LineDestination { address: address.to_string(), port }),
            local_port: Some(connection.local_port),
            direction: None,
            since: None,
            duration_ms: None,
            bytes_out: connection.bytes_out,
            bytes_in: connection.bytes_in,
            packets_out: connection.packets_out.into(),
            packets_in: connection.packets_in.into(),
            was: (connection.change == ConnectionChange::Closed).then(|| connection.was.name().into()),
            rule: None,
            socket: connection.cookie,
            netns: connection.netns,
            foreign: connection.foreign,
        }
    }
}
