//! Bytes from the ring buffer to typed records. Total: any bytes give a record or an error.

use std::{mem::offset_of, net::IpAddr};

use enforcer_common::{
    ABI_VERSION, UnknownRaw,
    identity::SessionRef,
    image::{ImageId, ImageState},
    net::{Address, Family},
    record::{
        COMM_LEN, ConnectionChange, EgressRecord, ExecRecord, ExitRecord, ForkRecord, NO_UID, Operation,
        Placement, RecordHeader, RecordKind, TcpState,
    },
    rules::NO_RULE,
    verdict::{Reason, Verdict},
};

use super::{EventKind, Number};

/// Why bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DecodeError {
    #[error("{len} bytes are too few for a record of {expected}")]
    Short { len: usize, expected: usize },
    #[error("ABI version {0}")]
    Abi(u16),
    #[error(transparent)]
    Unknown(#[from] UnknownRaw),
}

/// A record, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// ns on the boot clock.
    pub(crate) time_ns: u64,
    pub(crate) number: Number,
    pub(crate) session: SessionRef,
    pub(crate) tgid: u32,
    pub(crate) comm: String,
    pub(crate) body: Body,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    Egress(Egress),
    /// `Record::tgid` is the parent.
    Fork {
        child_tgid: u32,
        child_start_ns: u64,
        untagged: bool,
    },
    Exec {
        uid: u32,
        path: Option<String>,
        path_cut: bool,
        image: ExecImage,
    },
    Exit {
        wait_status: u32,
    },
    Guard(GuardDecision),
    Connection(Connection),
}

impl Body {
    pub(crate) const fn kind(&self) -> EventKind {
        match self {
            Self::Egress(_) => EventKind::Egress,
            Self::Fork { .. } => EventKind::Fork,
            Self::Exec { .. } => EventKind::Exec,
            Self::Exit { .. } => EventKind::Exit,
            Self::Guard(_) => EventKind::Guard,
            Self::Connection(connection) => match (connection.change, connection.was) {
                (ConnectionChange::Listens, _) => EventKind::Listening,
                (ConnectionChange::Closed, TcpState::Listen) => EventKind::ListeningEnded,
                (ConnectionChange::Closed, _) => EventKind::ConnectionClosed,
            },
        }
    }
}

/// What a process executes, as the kernel saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ExecImage {
    pub(crate) state: ImageState,
    /// What was executed names an interpreter, which then is the image.
    pub(crate) script: bool,
    /// The leader's start, ns on the boot clock.
    pub(crate) start_ns: u64,
    /// What the process waits for.
    pub(crate) ticket: Option<u64>,
    /// The envelope that was asked.
    pub(crate) envelope: u32,
    /// Not known if the session may execute everything.
    pub(crate) id: Option<ImageId>,
}

/// One decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Egress {
    pub(crate) tid: u32,
    /// Not known of a packet that no process was seen to send.
    pub(crate) uid: Option<u32>,
    pub(crate) cookie: u64,
    /// The inode of the socket's network namespace.
    pub(crate) netns: Option<u32>,
    pub(crate) placement: Placement,
    /// Whether the socket was made outside the session's cgroup.
    pub(crate) foreign: bool,
    /// Our own port, where it is known.
    pub(crate) local_port: Option<u16>,
    pub(crate) operation: Operation,
    /// IP protocol number, or larger (MPTCP is 262).
    pub(crate) protocol: u16,
    pub(crate) socket_type: u8,
    /// `socket()` has none.
    pub(crate) to: Option<(IpAddr, u16)>,
    pub(crate) verdict: Verdict,
    pub(crate) reason: Reason,
    pub(crate) refused: bool,
    pub(crate) rule: Option<u32>,
    /// The number of the envelope that decided.
    pub(crate) envelope: u32,
}

impl Egress {
    /// Whether the process stood somewhere else than its tag says.
    pub(crate) const fn is_misplaced(&self) -> bool {
        match self.placement {
            Placement::Home | Placement::Unknown => false,
            Placement::Outside | Placement::OtherSession | Placement::Untagged => true,
        }
    }
}

/// Reads a field of a record by its offset in the `repr(C)` type.
macro_rules! field {
    ($bytes:ident, $ty:ty, $field:ident: [u8; $len:expr]) => {{
        const START: usize = offset_of!($ty, $field);
        array::<{ $len }>($bytes, START)
    }};
    ($bytes:ident, $ty:ty, $field:ident: $int:ty) => {{
        const START: usize = offset_of!($ty, $field);
        <$int>::from_ne_bytes(array($bytes, START))
    }};
}

mod connection;
mod guard;
pub(crate) use connection::Connection;
pub(crate) use guard::GuardDecision;

/// Decodes one record.
pub(crate) fn decode(bytes: &[u8]) -> Result<Record, DecodeError> {
    let bytes = at_least(bytes, size_of::<RecordHeader>())?;
    let abi = field!(bytes, RecordHeader, abi: u16);
    if abi != ABI_VERSION {
        return Err(DecodeError::Abi(abi));
    }
    let time_ns = field!(bytes, RecordHeader, time_ns: u64);
    let number = Number {
        cpu: field!(bytes, RecordHeader, cpu: u32),
        sequence: field!(bytes, RecordHeader, sequence: u64),
        lost: field!(bytes, RecordHeader, lost: u64),
    };
    match RecordKind::try_from(field!(bytes, RecordHeader, kind: u16))? {
        RecordKind::Egress => {
            let bytes = at_least(bytes, size_of::<EgressRecord>())?;
            let rule = field!(bytes, EgressRecord, rule: u32);
            let (uid, netns) =
                (field!(bytes, EgressRecord, uid: u32), field!(bytes, EgressRecord, netns: u32));
            let local_port = u16::from_be_bytes(field!(bytes, EgressRecord, local_port_be: [u8; 2]));
            Ok(Record {
                time_ns,
                number,
                session: session(bytes, offset_of!(EgressRecord, session)),
                tgid: field!(bytes, EgressRecord, tgid: u32),
                comm: text(&field!(bytes, EgressRecord, comm: [u8; COMM_LEN])),
                body: Body::Egress(Egress {
                    tid: field!(bytes, EgressRecord, tid: u32),
                    uid: (uid != NO_UID).then_some(uid),
                    netns: (netns != 0).then_some(netns),
                    placement: field!(bytes, EgressRecord, placement: u8).try_into()?,
                    foreign: field!(bytes, EgressRecord, foreign: u8) != 0,
                    local_port: (local_port != 0).then_some(local_port),
                    cookie: field!(bytes, EgressRecord, cookie: u64),
                    operation: field!(bytes, EgressRecord, operation: u8).try_into()?,
                    protocol: field!(bytes, EgressRecord, protocol: u16),
                    socket_type: field!(bytes, EgressRecord, socket_type: u8),
                    to: destination(bytes)?,
                    verdict: field!(bytes, EgressRecord, verdict: u8).try_into()?,
                    reason: field!(bytes, EgressRecord, reason: u8).try_into()?,
                    refused: field!(bytes, EgressRecord, refused: u8) != 0,
                    rule: (rule != NO_RULE).then_some(rule),
                    envelope: field!(bytes, EgressRecord, envelope: u32),
                }),
            })
        }
        RecordKind::Fork => {
            let bytes = at_least(bytes, size_of::<ForkRecord>())?;
            Ok(Record {
                time_ns,
                number,
                session: session(bytes, offset_of!(ForkRecord, session)),
                tgid: field!(bytes, ForkRecord, parent_tgid: u32),
                comm: text(&field!(bytes, ForkRecord, comm: [u8; COMM_LEN])),
                body: Body::Fork {
                    child_tgid: field!(bytes, ForkRecord, child_tgid: u32),
                    child_start_ns: field!(bytes, ForkRecord, child_start_ns: u64),
                    untagged: field!(bytes, ForkRecord, untagged: u8) != 0,
                },
            })
        }
        RecordKind::Exec => {
            let bytes = at_least(bytes, size_of::<ExecRecord>())?;
            let start = offset_of!(ExecRecord, path);
            let path = bytes.get(start..size_of::<ExecRecord>()).unwrap_or_default();
            let length = usize::try_from(field!(bytes, ExecRecord, path_len: u32)).unwrap_or(usize::MAX);
            let path = path.get(..length).unwrap_or(path);
            Ok(Record {
                time_ns,
                number,
                session: session(bytes, offset_of!(ExecRecord, session)),
                tgid: field!(bytes, ExecRecord, tgid: u32),
                comm: text(&field!(bytes, ExecRecord, comm: [u8; COMM_LEN])),
                body: Body::Exec {
                    uid: field!(bytes, ExecRecord, uid: u32),
                    path: (!path.is_empty()).then(|| text(path)),
                    path_cut: field!(bytes, ExecRecord, path_cut: u8) != 0,
                    image: exec_image(bytes)?,
                },
            })
        }
        RecordKind::Exit => {
            let bytes = at_least(bytes, size_of::<ExitRecord>())?;
            Ok(Record {
                time_ns,
                number,
                session: session(bytes, offset_of!(ExitRecord, session)),
                tgid: field!(bytes, ExitRecord, tgid: u32),
                comm: text(&field!(bytes, ExitRecord, comm: [u8; COMM_LEN])),
                body: Body::Exit { wait_status: field!(bytes, ExitRecord, wait_status: u32) },
            })
        }
        RecordKind::Connection => connection::decode(bytes, time_ns, number),
        RecordKind::Guard => guard::decode(bytes, time_ns, number),
    }
}

fn exec_image(bytes: &[u8]) -> Result<ExecImage, DecodeError> {
    let ticket = field!(bytes, ExecRecord, ticket: u64);
    let at = bytes.get(offset_of!(ExecRecord, image)..).unwrap_or_default();
    let id = ImageId {
        inode: field!(at, ImageId, inode: u64),
        size_bytes: field!(at, ImageId, size_bytes: u64),
        ctime_s: field!(at, ImageId, ctime_s: i64),
        mtime_s: field!(at, ImageId, mtime_s: i64),
        ctime_ns: field!(at, ImageId, ctime_ns: u32),
        mtime_ns: field!(at, ImageId, mtime_ns: u32),
        device: field!(at, ImageId, device: u32),
        pad: 0,
    };
    Ok(ExecImage {
        state: field!(bytes, ExecRecord, image_state: u8).try_into()?,
        script: field!(bytes, ExecRecord, script: u8) != 0,
        start_ns: field!(bytes, ExecRecord, start_ns: u64),
        ticket: (ticket != 0).then_some(ticket),
        envelope: field!(bytes, ExecRecord, envelope: u32),
        id: (id != ImageId::default()).then_some(id),
    })
}

fn destination(bytes: &[u8]) -> Result<Option<(IpAddr, u16)>, DecodeError> {
    let family = field!(bytes, EgressRecord, family: u8);
    if family == 0 {
        return Ok(None);
    }
    let address = address(family, field!(bytes, EgressRecord, address: [u8; 16]))?;
    let port = u16::from_be_bytes(field!(bytes, EgressRecord, port_be: [u8; 2]));
    Ok(Some((address, port)))
}

fn address(family: u8, octets: [u8; 16]) -> Result<IpAddr, DecodeError> {
    Ok(match Family::try_from(family)? {
        Family::V4 => Address::v4([octets[0], octets[1], octets[2], octets[3]]).into(),
        Family::V6 => Address::v6(octets).into(),
    })
}

fn at_least(bytes: &[u8], expected: usize) -> Result<&[u8], DecodeError> {
    if bytes.len() < expected { Err(DecodeError::Short { len: bytes.len(), expected }) } else { Ok(bytes) }
}

/// The bytes at an offset; zeros past the end, which `at_least` has ruled out.
fn array<const N: usize>(bytes: &[u8], start: usize) -> [u8; N] {
    bytes.get(start..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}

fn session(bytes: &[u8], start: usize) -> SessionRef {
    SessionRef {
        slot: u32::from_ne_bytes(array(bytes, start)),
        generation: u32::from_ne_bytes(array(bytes, start + size_of::<u32>())),
    }
}

/// Text up to the first zero; what is not UTF-8 is replaced.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or(bytes)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ABI: usize = offset_of!(RecordHeader, abi);

    fn head(bytes: &mut [u8], kind: u16) {
        bytes[ABI..ABI + 2].copy_from_slice(&ABI_VERSION.to_ne_bytes());
        let start = offset_of!(RecordHeader, kind);
        bytes[start..start + 2].copy_from_slice(&kind.to_ne_bytes());
    }

    fn exec_bytes(path: &[u8], path_len: u32) -> Vec<u8> {
        let mut bytes = vec![0; size_of::<ExecRecord>()];
        head(&mut bytes, RecordKind::Exec.raw());
        let start = offset_of!(ExecRecord, path_len);
        bytes[start..start + 4].copy_from_slice(&path_len.to_ne_bytes());
        let start = offset_of!(ExecRecord, path);
        bytes[start..start + path.len()].copy_from_slice(path);
        bytes
    }

    #[test]
    fn path_is_as_long_as_the_record_says_and_no_longer_than_the_record() {
        for (path_len, expect) in
            [(7, Some("/bin/sh")), (4, Some("/bin")), (u32::MAX, Some("/bin/sh")), (0, None)]
        {
            let record = decode(&exec_bytes(b"/bin/sh", path_len)).unwrap();
            let Body::Exec { path, .. } = record.body else { panic!("an exec record") };
            assert_eq!(path.as_deref(), expect);
        }
    }

    #[test]
    fn other_abi_and_short_records_are_errors() {
        let mut bytes = exec_bytes(b"/bin/sh", 7);
        assert!(matches!(decode(&bytes[..100]), Err(DecodeError::Short { .. })));
        bytes[ABI] = bytes[ABI].wrapping_add(1);
        assert_eq!(decode(&bytes), Err(DecodeError::Abi(ABI_VERSION + 1)));
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_fail(mut bytes in prop::collection::vec(any::<u8>(), 0..450), kind in 0u16..8, fix: bool) {
            if fix && bytes.len() >= size_of::<RecordHeader>() {
                head(&mut bytes, kind);
            }
            let _decoded = decode(&bytes);
        }
    }
}
