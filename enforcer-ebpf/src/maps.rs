//! Every map: who writes it, who reads it, why this size. All are pinned by the loader under their names.

use aya_ebpf::{
    bindings::{
        BPF_F_CLONE, BPF_F_INNER_MAP, BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, BPF_SK_STORAGE_GET_F_CREATE,
        bpf_map_type::{BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_SK_STORAGE},
    },
    btf_maps,
    cty::c_void,
    helpers::{bpf_map_lookup_elem, generated::bpf_sk_storage_get},
    macros::{btf_map, map},
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
};
use enforcer_common::{
    config::{MAX_SESSIONS, Meta},
    counter::Counter,
    flow::{Flow, FlowKey, MAX_FLOWS, MAX_RESTS},
    guard::{Canary, UnixKey},
    identity::{EnrolRequest, SessionRef, SocketTag, TaskTag},
    image::{self, ImageKey, Ticket},
    rules::{Block, MAX_ENVELOPES, MAX_UNIX_RULES},
    session::{SessionRow, Usage},
};

/// tgid to tag. Written by kernel programs only (fork, exit, enrolment); read by every hook. Preallocated, so that an
/// insertion fails for one reason only: the map is full. The loader sets the size to the host's `kernel.pid_max`, up to
/// 262,144; a child that finds no room is denied by its cgroup.
#[map]
pub(crate) static TASKS: HashMap<u32, TaskTag> = HashMap::with_max_entries(32_768, 0);

/// Cgroup id to the session it was made for. Written by the daemon. One per session.
#[map]
pub(crate) static CGROUPS: HashMap<u64, SessionRef> = HashMap::with_max_entries(MAX_SESSIONS, 0);

/// Entry 0: a bit for each level below the root of the hierarchy at which a session has the cgroup of somebody else's, such as a
/// container's. Written by the daemon. Cgroups of our own stand below their parent, and need none.
#[map]
pub(crate) static LEVELS: Array<u64> = Array::with_max_entries(1, 0);

/// Slot to control word. Written by the daemon, through a shared mapping, one atomic store a change.
#[map]
pub(crate) static CONTROL: Array<u64> = Array::with_max_entries(MAX_SESSIONS, BPF_F_MMAPABLE);

/// Slot to what is fixed for the session's life. Written by the daemon before the control word makes it active.
#[map]
pub(crate) static SESSIONS: Array<SessionRow> = Array::with_max_entries(MAX_SESSIONS, 0);

/// Slot to the number of live tagged processes. Written by kernel programs (atomic add), set to zero by the daemon
/// before the session is active.
#[map]
pub(crate) static PROCS: Array<u64> = Array::with_max_entries(MAX_SESSIONS, 0);

/// Slot to what the session has used of its limits. Written by kernel programs (atomically), set to zero by the daemon before
/// the session is active.
#[map]
pub(crate) static USAGE: Array<Usage> = Array::with_max_entries(MAX_SESSIONS, 0);

/// Entry 0: the period that datagrams are counted in. Written by the daemon, which reads a period's entries when it is over.
#[map]
pub(crate) static FLOW_PERIOD: Array<u64> = Array::with_max_entries(1, 0);

/// What is counted of datagrams. Written by kernel programs; the daemon takes away what it has written down. Not preallocated: few
/// hosts need much of it.
#[map]
pub(crate) static FLOWS: HashMap<FlowKey, Flow> = HashMap::with_max_entries(MAX_FLOWS, BPF_F_NO_PREALLOC);

/// Likewise what found no place there, together for each session.
#[map]
pub(crate) static FLOW_RESTS: HashMap<FlowKey, Flow> =
    HashMap::with_max_entries(MAX_RESTS, BPF_F_NO_PREALLOC);

/// Slot to how many flows the session has in a period, which is the upper half. Written by kernel programs, atomically; set to zero by the
/// daemon when the session is over.
#[map]
pub(crate) static FLOWS_MADE: Array<u64> = Array::with_max_entries(MAX_SESSIONS, 0);

/// What is kept for a socket: that a session uses it though it was not made in its cgroup, and what it was refused last. Written
/// by kernel programs. Lives as long as the socket, and is there for few: others need nothing.
///
/// An accepted socket has what its listener had.
#[btf_map]
pub(crate) static SOCKETS: SocketTags = SocketTags::new();

/// The map of [`SOCKETS`]; `btf_maps::SkStorage` takes no flags, and only the context of one kind of program.
#[repr(C)]
pub(crate) struct SocketTags {
    r#type: *const [i32; BPF_MAP_TYPE_SK_STORAGE as usize],
    key: *const i32,
    value: *const SocketTag,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; (BPF_F_NO_PREALLOC | BPF_F_CLONE) as usize],
}

// SAFETY: a description of a map, which is not accessed as memory.
unsafe impl Sync for SocketTags {}

impl SocketTags {
    const fn new() -> Self {
        use core::ptr::null;
        Self { r#type: null(), key: null(), value: null(), max_entries: null(), map_flags: null() }
    }

    /// What is kept for a socket, if anything is.
    ///
    /// # Safety
    ///
    /// `socket` must be a socket that the verifier knows as such.
    #[inline(always)]
    pub(crate) unsafe fn get(&self, socket: *mut c_void) -> Option<&'static mut SocketTag> {
        let map = core::ptr::from_ref(self).cast_mut().cast();
        // SAFETY: a map that the kernel gave out, and the caller's socket.
        let tag = unsafe { bpf_sk_storage_get(map, socket, core::ptr::null_mut(), 0) };
        // SAFETY: null, or a value of the map's that lives as long as the program runs.
        unsafe { tag.cast::<SocketTag>().as_mut() }
    }

    /// Likewise, made if there is none; `None` if there is no memory for it, which the socket's user can bring about.
    ///
    /// # Safety
    ///
    /// As [`Self::get`].
    #[inline(always)]
    pub(crate) unsafe fn get_or_insert(&self, socket: *mut c_void) -> Option<&'static mut SocketTag> {
        let map = core::ptr::from_ref(self).cast_mut().cast();
        let flags = BPF_SK_STORAGE_GET_F_CREATE.into();
        // Without a value the new one is zeros: of no session, and nothing was refused.
        // SAFETY: a map that the kernel gave out, and the caller's socket.
        let tag = unsafe { bpf_sk_storage_get(map, socket, core::ptr::null_mut(), flags) };
        // SAFETY: as in `get`.
        unsafe { tag.cast::<SocketTag>().as_mut() }
    }
}

/// The table of one envelope: an array of blocks. The daemon makes it as large as the envelope's rules need, which a flag permits,
/// and has them begin at a page. The size here is that of no table.
///
/// By size and not by type as [`btf_maps::Array`] is: to Linux 6.1 a table without type information, as the daemon makes them, is
/// not like one with it (v6.1/kernel/bpf/map_in_map.c, bpf_map_meta_equal).
#[repr(C)]
pub(crate) struct Blocks {
    r#type: *const [i32; BPF_MAP_TYPE_ARRAY as usize],
    key_size: *const [i32; size_of::<u32>()],
    value_size: *const [i32; size_of::<Block>()],
    max_entries: *const [i32; 1],
    map_flags: *const [i32; (BPF_F_INNER_MAP | BPF_F_MMAPABLE) as usize],
}

impl Blocks {
    /// The block with this index.
    #[inline(always)]
    pub(crate) fn get(&self, index: u32) -> Option<&Block> {
        let map = core::ptr::from_ref(self).cast_mut().cast();
        // SAFETY: a map that the kernel gave out, and a key of its size.
        let block = unsafe { bpf_map_lookup_elem(map, (&raw const index).cast()) };
        // SAFETY: null, or a value of the map's: a block, which nobody writes once the table can be seen.
        unsafe { block.cast::<Block>().as_ref() }
    }
}

/// Envelope number to its table. Written by the daemon: a table is complete before it is put here, and does not change.
#[btf_map]
pub(crate) static RULES: btf_maps::HashOfMaps<u32, Blocks, { MAX_ENVELOPES as usize }> =
    btf_maps::HashOfMaps::new();

/// The Unix sockets that rules name, to the rule's number. Written by the daemon: those of an envelope before it is in force, and gone
/// with it. An envelope whose sockets find no room is refused.
#[map]
pub(crate) static UNIX_RULES: HashMap<UnixKey, u32> =
    HashMap::with_max_entries(MAX_UNIX_RULES, BPF_F_NO_PREALLOC);

/// Images that were measured, for each list, to what the daemon found: [`image::answer`] about its inode. Written by the daemon,
/// read at every exec of a session that is held to a list. One that is not in it is measured.
#[map]
pub(crate) static IMAGES: LruHashMap<ImageKey, u64> = LruHashMap::with_max_entries(image::MAX_IMAGES, 0);

/// Ticket to who waits for an answer, and that. Made by kernel programs (exec, enrolment), answered by the daemon, which takes away those
/// that no process has any more.
#[map]
pub(crate) static TICKETS: HashMap<u64, Ticket> = HashMap::with_max_entries(image::MAX_TICKETS, 0);

/// Entry 0: the ticket that was given out last. Written by kernel programs, atomically.
#[map]
pub(crate) static LAST_TICKET: Array<u64> = Array::with_max_entries(1, 0);

/// Whose calls of `bpf()` the guard counts, entry 0: the daemon's, while it looks whether the guard's programs run. Written by the
/// daemon, counted by the guard.
#[map]
pub(crate) static CANARY: Array<Canary> = Array::with_max_entries(1, 0);

/// What the task iterator is asked to tag, entry 0. Written by the daemon.
#[map]
pub(crate) static ENROL: Array<EnrolRequest> = Array::with_max_entries(1, 0);

/// Records, in the order they happened on this host. 4 MiB holds some 30,000 decisions; full means the record is lost
/// and counted, and the verdict stands.
#[map]
pub(crate) static RECORDS: RingBuf = RingBuf::with_byte_size(4 << 20, 0);

/// Entry 0: how many records this CPU made, also those that were lost. Written by kernel programs.
#[map]
pub(crate) static SEQUENCES: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// [`Counter`] to count, per CPU. Written by kernel programs.
#[map]
pub(crate) static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Counter::COUNT, 0);

/// What this set of maps is, entry 0. Written by the daemon when it attaches programs, read by every later one.
#[map]
pub(crate) static META: Array<Meta> = Array::with_max_entries(1, 0);
