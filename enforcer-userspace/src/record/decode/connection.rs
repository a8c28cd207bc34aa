//! A TCP socket that listens, or is closed.

use std::{mem::offset_of, net::IpAddr};

use enforcer_common::record::{COMM_LEN, ConnectionChange, ConnectionRecord, NO_UID, TcpState};

use super::{Body, DecodeError, Number, Record, address, array, at_least, session, text};

/// What became of a TCP socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Connection {
    /// Not known of one that is closed: that may be done by anybody.
    pub(crate) tid: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) cookie: u64,
    /// The inode of the socket's network namespace.
    pub(crate) netns: Option<u32>,
    /// Whether the socket was made outside the session's cgroup.
    pub(crate) foreign: bool,
    pub(crate) change: ConnectionChange,
    pub(crate) was: TcpState,
    /// The far end; of one that listens or listened, our own.
    pub(crate) end: (IpAddr, u16),
    pub(crate) local_port: u16,
    pub(crate) bytes_out: u64,
    pub(crate) bytes_in: u64,
    pub(crate) packets_out: u32,
    pub(crate) packets_in: u32,
}

pub(super) fn decode(bytes: &[u8], time_ns: u64, number: Number) -> Result<Record, DecodeError> {
    let bytes = at_least(bytes, size_of::<ConnectionRecord>())?;
    let (tid, uid) = (field!(bytes, ConnectionRecord, tid: u32), field!(bytes, ConnectionRecord, uid: u32));
    let netns = field!(bytes, ConnectionRecord, netns: u32);
    let octets = field!(bytes, ConnectionRecord, address: [u8; 16]);
    let end = address(field!(bytes, ConnectionRecord, family: u8), octets)?;
    let port = |bytes: [u8; 2]| u16::from_be_bytes(bytes);
    Ok(Record {
        time_ns,
        number,
        session: session(bytes, offset_of!(ConnectionRecord, session)),
        tgid: field!(bytes, ConnectionRecord, tgid: u32),
        comm: text(&field!(bytes, ConnectionRecord, comm: [u8; COMM_LEN])),
        body: Body::Connection(Connection {
            tid: (tid != 0).then_some(tid),
            uid: (uid != NO_UID).then_some(uid),
            cookie: field!(bytes, ConnectionRecord, cookie: u64),
            netns: (netns != 0).then_some(netns),
            foreign: field!(bytes, ConnectionRecord, foreign: u8) != 0,
            change: field!(bytes, ConnectionRecord, change: u8).try_into()?,
            was: field!(bytes, ConnectionRecord, was: u8).try_into()?,
            end: (end, port(field!(bytes, ConnectionRecord, port_be: [u8; 2]))),
            local_port: port(field!(bytes, ConnectionRecord, local_port_be: [u8; 2])),
            bytes_out: field!(bytes, ConnectionRecord, bytes_out: u64),
            bytes_in: field!(bytes, ConnectionRecord, bytes_in: u64),
            packets_out: field!(bytes, ConnectionRecord, packets_out: u32),
            packets_in: field!(bytes, ConnectionRecord, packets_in: u32),
        }),
    })
}
