//! How a process is tied to a session.

use crate::{kernel_pod, wire_enum};

/// A session's place in the session tables. The slot is reused, the generation tells its holders apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct SessionRef {
    /// Index into `CONTROL`, `SESSIONS` and `PROCS`.
    pub slot: u32,
    /// Which holder of the slot.
    pub generation: u32,
}

impl SessionRef {
    /// No session: a process that ought to belong to one and cannot be placed.
    pub const UNKNOWN: Self = Self { slot: u32::MAX, generation: 0 };
}

/// What `TASKS` holds for a process of a session. Written by kernel programs only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct TaskTag {
    /// The leader's `start_boottime`, ns on the boot clock: with the tgid, a key that is not reused until reboot.
    pub start_ns: u64,
    /// The session.
    pub session: SessionRef,
    /// The process that made this one, as of the fork; 0 for the first of a session.
    pub parent_tgid: u32,
    /// Always zero.
    pub pad: u32,
    /// The ticket of what it executes, or a number that stands for one: see [`crate::image`].
    pub image: u64,
}

wire_enum! {
    /// Which processes the task iterator is to tag.
    pub enum EnrolKind: u32 = "kind of enrolment" {
        /// None.
        Nothing = 0 => "nothing",
        /// This one.
        Process = 1 => "process",
        /// This one, and those whose parent has the session's tag: run again until no more are found, every descendant.
        Descendants = 2 => "descendants",
        /// Those in the session's cgroup and below it.
        Cgroup = 3 => "cgroup",
        /// None; sockets that were taken for the session are given back.
        Release = 4 => "release",
        /// This one, which has the tag of the session's parent: the new tag takes the place of that.
        HandOver = 5 => "hand-over",
    }
}

/// Asks the iterators to tag processes, and to take the sockets that they hold for the session's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct EnrolRequest {
    /// What to tag them with.
    pub session: SessionRef,
    /// The process to tag.
    pub tgid: u32,
    /// [`EnrolKind`] as a number.
    pub kind: u32,
}

impl EnrolRequest {
    /// What is asked for; `None` if nobody knows.
    #[inline(always)]
    pub fn kind(&self) -> Option<EnrolKind> {
        EnrolKind::try_from(self.kind).ok()
    }

    /// Nothing is asked for.
    pub const NONE: Self = Self { session: SessionRef::UNKNOWN, tgid: 0, kind: EnrolKind::Nothing as u32 };
}

/// What `SOCKETS` holds for a socket: only for those that were seen in the hands of a session that they were not made in, and for
/// those that something was refused to, or would be in another mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct SocketTag {
    /// The session in whose hands it was seen; of generation 0, which no session has, if it is of its own cgroup's session only.
    pub adopted: SessionRef,
    /// What was recorded last: the same is not recorded again.
    pub told: Told,
    /// The session of a process that wrote to it and is refused for what it executes: the kernel has that to send, again and again, in
    /// nobody's name, and nothing passes any more. Of generation 0 if there is none.
    pub barred: SessionRef,
}

/// A refusal, or what would be one in another mode, as far as they differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Told {
    /// The session's control word: a new envelope's refusal is a new one.
    pub control: u64,
    /// [`crate::rules::Place`].
    pub remote_high: u64,
    pub remote_low: u64,
    pub remote_port: u16,
    /// 0 for what goes on.
    pub local_port: u16,
    /// [`crate::net::Direction`] as a number; 0 for what goes on.
    pub direction: u8,
    /// [`crate::verdict::Reason`] as a number.
    pub reason: u8,
    pub protocol: u8,
    /// [`crate::net::Family`] as a number.
    pub family: u8,
}

impl SocketTag {
    /// The session that was seen to use the socket, if it is not of that session's making.
    #[inline(always)]
    pub const fn adopted(&self) -> Option<SessionRef> {
        if self.adopted.generation == 0 { None } else { Some(self.adopted) }
    }

    /// The session for whose process nothing passes the socket any more.
    #[inline(always)]
    pub const fn barred(&self) -> Option<SessionRef> {
        if self.barred.generation == 0 { None } else { Some(self.barred) }
    }
}

/// A socket in the hands of a session's process, as the iterator over open files reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct HeldSocket {
    /// Unique until reboot, on this host.
    pub cookie: u64,
    /// Who holds it.
    pub tgid: u32,
    pub fd: u32,
    /// The inode of its network namespace.
    pub netns: u32,
    /// `AF_INET` and so on.
    pub family: u16,
    /// As in an IP header.
    pub protocol: u16,
    /// 1: made in the session's cgroup; 0: elsewhere.
    pub native: u8,
    /// 1: it is taken for the session's.
    pub adopted: u8,
    /// Always zero.
    pub pad: [u8; 6],
}

kernel_pod!(SessionRef: 8, TaskTag: 32, EnrolRequest: 16, Told: 32, SocketTag: 48, HeldSocket: 32);
