//! How a process is tied to a session.

use crate::kernel_pod;

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
}

/// Asks the task iterator to tag one process. `tgid` 0 asks for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct EnrolRequest {
    /// The process to tag.
    pub tgid: u32,
    /// What to tag it with.
    pub session: SessionRef,
    /// Always zero.
    pub pad: u32,
}

impl EnrolRequest {
    /// Nothing is asked for.
    pub const NONE: Self = Self { tgid: 0, session: SessionRef { slot: 0, generation: 0 }, pad: 0 };
}

kernel_pod!(SessionRef: 8, TaskTag: 24, EnrolRequest: 16);
