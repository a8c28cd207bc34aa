//! Records: what the kernel programs put into the ring buffer, one per thing that happened.

use crate::identity::SessionRef;
use crate::image::ImageId;
use crate::{kernel_pod, wire_enum};

/// The length of a task's `comm`, with its closing zero.
pub const COMM_LEN: usize = 16;

/// The bytes of an executable's path that a record keeps.
pub const PATH_LEN: usize = 256;

wire_enum! {
    /// What a record is about.
    pub enum RecordKind: u16 = "record kind" {
        /// [`EgressRecord`].
        Egress = 1 => "egress",
        /// [`ForkRecord`].
        Fork = 2 => "fork",
        /// [`ExecRecord`].
        Exec = 3 => "exec",
        /// [`ExitRecord`].
        Exit = 4 => "exit",
        /// [`GuardRecord`].
        Guard = 5 => "guard",
        /// [`ConnectionRecord`].
        Connection = 6 => "connection",
    }
}

wire_enum! {
    /// Where a process stands, and whether that is where its tag says.
    pub enum Placement: u8 = "placement" {
        /// In its session's cgroup.
        Home = 0 => "home",
        /// In no session's cgroup: somebody moved it.
        Outside = 1 => "outside",
        /// In another session's.
        OtherSession = 2 => "other-session",
        /// It has no tag, and is in the session's cgroup.
        Untagged = 3 => "untagged",
        /// Not known: the packet was sent when no process of the session ran.
        Unknown = 4 => "unknown",
    }
}

wire_enum! {
    /// The operation that was decided.
    pub enum Operation: u8 = "operation" {
        /// `socket()`.
        Socket = 1 => "socket",
        /// `connect()`, or a first send that connects (TCP Fast Open).
        Connect = 2 => "connect",
        /// A datagram on a socket that is not connected, or to another address than the connected one.
        Send = 3 => "send",
        /// `bind()` to a port of the program's choice.
        Bind = 4 => "bind",
        /// A connection that somebody else begins.
        Accept = 5 => "accept",
        /// A packet that leaves, whatever was decided when the socket was used.
        PacketOut = 6 => "packet-out",
        /// A packet that arrives.
        PacketIn = 7 => "packet-in",
    }
}

wire_enum! {
    /// What became of a TCP socket of a session.
    pub enum ConnectionChange: u8 = "change of a connection" {
        /// It waits for connections from now on.
        Listens = 1 => "listens",
        /// It is closed, or gone into TIME_WAIT: nothing more is carried.
        Closed = 2 => "closed",
    }
}

wire_enum! {
    /// What a TCP socket was before (v6.1/include/net/tcp_states.h), as far as it matters what it was.
    pub enum TcpState: u8 = "state of a TCP socket" {
        /// Connected; `Closed` says how much it carried.
        Established = 1 => "established",
        /// It asked for a connection, and was not answered yet.
        SynSent = 2 => "syn-sent",
        /// It was asked for one, likewise.
        SynReceived = 3 => "syn-received",
        /// This side has closed, and the other one has not.
        FinWait1 = 4 => "fin-wait-1",
        FinWait2 = 5 => "fin-wait-2",
        TimeWait = 6 => "time-wait",
        Close = 7 => "close",
        /// The other side has closed, and this one has not.
        CloseWait = 8 => "close-wait",
        LastAck = 9 => "last-ack",
        /// It waited for connections.
        Listen = 10 => "listen",
        Closing = 11 => "closing",
        NewSynReceived = 12 => "new-syn-received",
        BoundInactive = 13 => "bound-inactive",
    }
}

/// The user of a process that is not known.
pub const NO_UID: u32 = u32::MAX;

/// Starts every record.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct RecordHeader {
    /// When, ns on the boot clock.
    pub time_ns: u64,
    /// Counts the records that this CPU made, also those that were lost, since the programs were loaded.
    pub sequence: u64,
    /// How many of these were lost before this one.
    pub lost: u64,
    /// [`crate::ABI_VERSION`].
    pub abi: u16,
    /// [`RecordKind`] as a number.
    pub kind: u16,
    /// The whole record's size, bytes.
    pub len_bytes: u32,
    /// Which CPU made it.
    pub cpu: u32,
    /// Always zero.
    pub pad: u32,
}

/// One decision.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct EgressRecord {
    pub header: RecordHeader,
    /// The socket's cookie, unique until reboot; 0 before the socket has one.
    pub cookie: u64,
    pub session: SessionRef,
    /// 0 for a packet that no process of the session was seen to send.
    pub tgid: u32,
    pub tid: u32,
    /// As seen from the initial user namespace; [`NO_UID`] if it is not known.
    pub uid: u32,
    /// [`crate::rules::NO_RULE`] when none decided.
    pub rule: u32,
    pub envelope: u32,
    /// The inode of the network namespace that the socket is in; 0 if it cannot be read.
    pub netns: u32,
    /// As given to `socket()`; an IP protocol number, or larger (MPTCP is 262).
    pub protocol: u16,
    /// Network byte order; the far end's.
    pub port_be: [u8; 2],
    /// Network byte order; our own port, where it is known.
    pub local_port_be: [u8; 2],
    /// [`Placement`] of the process, as a number.
    pub placement: u8,
    /// 1 if the socket is not of the session's own cgroup.
    pub foreign: u8,
    /// Network order; IPv4 in the first four octets. The far end's.
    pub address: [u8; 16],
    /// [`crate::net::Family`] of `address`; 0 when there is no address.
    pub family: u8,
    /// `SOCK_STREAM` and so on.
    pub socket_type: u8,
    /// [`Operation`] as a number.
    pub operation: u8,
    /// [`crate::verdict::Verdict`] as a number.
    pub verdict: u8,
    /// [`crate::verdict::Reason`] as a number.
    pub reason: u8,
    /// 1 if the operation was refused; a deny in audit mode is not.
    pub refused: u8,
    /// Always zero.
    pub pad: [u8; 2],
    pub comm: [u8; COMM_LEN],
}

/// A process of a session made another process.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ForkRecord {
    pub header: RecordHeader,
    pub session: SessionRef,
    /// The child's start, ns on the boot clock.
    pub child_start_ns: u64,
    pub parent_tgid: u32,
    pub child_tgid: u32,
    pub comm: [u8; COMM_LEN],
    /// 1 if the child's tag could not be stored: it is in the session's cgroup without one, and so denied everything.
    pub untagged: u8,
    /// Always zero.
    pub pad: [u8; 7],
}

/// A process of a session executes another program.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ExecRecord {
    pub header: RecordHeader,
    pub session: SessionRef,
    pub tgid: u32,
    pub uid: u32,
    pub comm: [u8; COMM_LEN],
    /// The bytes of `path` that are filled.
    pub path_len: u32,
    /// 1 if the path is longer than `path`.
    pub path_cut: u8,
    /// [`crate::image::ImageState`] as a number.
    pub image_state: u8,
    /// 1 if what was executed names an interpreter, which then is the image.
    pub script: u8,
    /// Always zero.
    pub pad: u8,
    /// The leader's start, ns on the boot clock.
    pub start_ns: u64,
    /// What the process waits for; 0: for nothing.
    pub ticket: u64,
    /// The envelope that was asked.
    pub envelope: u32,
    /// Always zero.
    pub pad2: u32,
    /// Zeros if the session may execute everything, or if it cannot be read.
    pub image: ImageId,
    /// As the caller wrote it: it may be relative.
    pub path: [u8; PATH_LEN],
}

/// The last thread of a process of a session is gone.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ExitRecord {
    pub header: RecordHeader,
    pub session: SessionRef,
    pub tgid: u32,
    /// As `wait` gives it: exit code times 256, or the signal.
    pub wait_status: u32,
    pub comm: [u8; COMM_LEN],
}

/// The bytes of a name that a record of the guard keeps: as long as the address of a Unix socket.
pub const NAME_LEN: usize = 108;

/// What the guard refused; or a Unix socket that a rule allowed.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct GuardRecord {
    pub header: RecordHeader,
    pub session: SessionRef,
    pub tgid: u32,
    pub tid: u32,
    pub uid: u32,
    /// [`crate::rules::NO_RULE`] when none decided.
    pub rule: u32,
    /// 0 if none was asked.
    pub envelope: u32,
    /// The process that it was to be done to; 0: it is none.
    pub target_tgid: u32,
    /// The family of a socket, such as `AF_PACKET`; 0: it is about none.
    pub family: u32,
    /// Of a socket its protocol, of `bpf` its command, of a signal its number; else 0.
    pub number: u32,
    /// [`crate::guard::GuardHook`] as a number.
    pub hook: u8,
    /// [`crate::verdict::Verdict`] as a number.
    pub verdict: u8,
    /// [`crate::verdict::Reason`] as a number.
    pub reason: u8,
    /// 1 if the operation was refused; a deny in audit mode is not.
    pub refused: u8,
    /// [`crate::guard::NameKind`] as a number.
    pub name_kind: u8,
    /// The bytes of `name` that are filled.
    pub name_len: u8,
    /// Always zero.
    pub pad: [u8; 2],
    pub name: [u8; NAME_LEN],
    pub comm: [u8; COMM_LEN],
    /// Always zero.
    pub pad2: [u8; 4],
}

/// A TCP socket of a session waits for connections, or is closed.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ConnectionRecord {
    pub header: RecordHeader,
    pub session: SessionRef,
    /// The socket's, unique until reboot.
    pub cookie: u64,
    /// Of what was sent, without headers, and counted once however often it was sent.
    pub bytes_out: u64,
    /// Of what was received, likewise.
    pub bytes_in: u64,
    /// The process that runs; 0 of `Closed`, which may be anybody's.
    pub tgid: u32,
    pub tid: u32,
    pub uid: u32,
    /// The inode of the network namespace that the socket is in; 0 if it cannot be read.
    pub netns: u32,
    /// Segments that were sent, also those that carry nothing.
    pub packets_out: u32,
    pub packets_in: u32,
    /// Network order; IPv4 in the first four octets. The far end's; of one that listens, our own.
    pub address: [u8; 16],
    /// Network byte order, likewise.
    pub port_be: [u8; 2],
    /// Network byte order; our own.
    pub local_port_be: [u8; 2],
    /// [`crate::net::Family`] of `address`.
    pub family: u8,
    /// [`ConnectionChange`] as a number.
    pub change: u8,
    /// [`TcpState`] as a number: what it was before.
    pub was: u8,
    /// 1 if the socket is not of the session's own cgroup.
    pub foreign: u8,
    pub comm: [u8; COMM_LEN],
}

kernel_pod!(ConnectionRecord: 136, GuardRecord: 216, RecordHeader: 40, EgressRecord: 128, ForkRecord: 88, ExecRecord: 408, ExitRecord: 72);
