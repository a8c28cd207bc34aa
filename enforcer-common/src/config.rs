//! Values that are fixed when the kernel programs are loaded.

use crate::kernel_pod;

/// Where the running kernel keeps what the programs read, in bytes from the start of the structure. Found in the
/// kernel's own BTF by the loader; constant to the verifier, which checks every access against the same BTF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Offsets {
    /// `task_struct.pid`: the thread.
    pub task_pid: u32,
    /// `task_struct.tgid`: the process.
    pub task_tgid: u32,
    /// `task_struct.group_leader`.
    pub task_group_leader: u32,
    /// `task_struct.start_boottime`, ns.
    pub task_start_boottime: u32,
    /// `task_struct.signal`.
    pub task_signal: u32,
    /// `task_struct.exit_code`.
    pub task_exit_code: u32,
    /// `task_struct.comm`.
    pub task_comm: u32,
    /// `signal_struct.live.counter`: threads that have not begun to exit.
    pub signal_live: u32,
    /// `linux_binprm.filename`.
    pub binprm_filename: u32,
    /// Always zero.
    pub pad: u32,
}

/// The one global that the loader sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Config {
    pub offsets: Offsets,
    /// The id of the cgroup whose children are the sessions' cgroups.
    pub cgroup_parent_id: u64,
    /// Its depth below the root of the hierarchy.
    pub cgroup_parent_level: u32,
    /// Always zero.
    pub pad: u32,
}

/// What a pinned set of maps says about itself; the one value of `META`. The first field is the ABI version and always
/// will be, so that any later build can read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Meta {
    /// [`crate::ABI_VERSION`] of the programs.
    pub abi: u16,
    /// Always zero.
    pub pad: [u8; 6],
    /// Spells `enforcer`: tells our map from another program's with the same name.
    pub magic: [u8; 8],
    /// SHA-256 of the object file and the [`Config`] it was loaded with.
    pub digest: [u8; 32],
}

impl Meta {
    /// The value of `magic`.
    pub const MAGIC: [u8; 8] = *b"enforcer";
}

/// Sessions at one time on one host.
pub const MAX_SESSIONS: u32 = 16_384;

kernel_pod!(Offsets: 40, Config: 56, Meta: 48);
