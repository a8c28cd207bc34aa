//! Every map: who writes it, who reads it, why this size. All are pinned by the loader under their names.

use aya_ebpf::{
    bindings::{BPF_F_INNER_MAP, BPF_F_MMAPABLE, bpf_map_type::BPF_MAP_TYPE_ARRAY},
    btf_maps,
    helpers::bpf_map_lookup_elem,
    macros::{btf_map, map},
    maps::{Array, HashMap, PerCpuArray, RingBuf},
};
use enforcer_common::{
    config::{MAX_SESSIONS, Meta},
    counter::Counter,
    identity::{EnrolRequest, SessionRef, TaskTag},
    rules::{Block, EnvelopeRules, MAX_ENVELOPES, RuleTables},
    session::SessionRow,
};

/// tgid to tag. Written by kernel programs only (fork, exit, enrolment); read by every hook. Preallocated, so that an
/// insertion fails for one reason only: the map is full. The loader sets the size to the host's `kernel.pid_max`, up to
/// 262,144; a child that finds no room is denied by its cgroup.
#[map]
pub(crate) static TASKS: HashMap<u32, TaskTag> = HashMap::with_max_entries(32_768, 0);

/// Cgroup id to the session it was made for. Written by the daemon. One per session.
#[map]
pub(crate) static CGROUPS: HashMap<u64, SessionRef> = HashMap::with_max_entries(MAX_SESSIONS, 0);

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
    #[inline(always)]
    fn get(&self, index: u32) -> Option<&Block> {
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

/// What the task iterator is asked to tag, entry 0. Written by the daemon.
#[map]
pub(crate) static ENROL: Array<EnrolRequest> = Array::with_max_entries(1, 0);

/// Records, in the order they happened on this host. 4 MiB holds some 40,000 decisions; full means the record is lost
/// and counted, and the verdict stands.
#[map]
pub(crate) static RECORDS: RingBuf = RingBuf::with_byte_size(4 << 20, 0);

/// [`Counter`] to count, per CPU. Written by kernel programs.
#[map]
pub(crate) static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Counter::COUNT, 0);

/// What this set of maps is, entry 0. Written by the daemon when it attaches programs, read by every later one.
#[map]
pub(crate) static META: Array<Meta> = Array::with_max_entries(1, 0);

/// The rule maps as [`RuleTables`].
pub(crate) struct KernelRules;

/// The rules of one envelope in the kernel.
#[derive(Clone, Copy)]
pub(crate) struct KernelEnvelope(&'static Blocks);

impl RuleTables for KernelRules {
    type Rules = KernelEnvelope;

    #[inline(always)]
    fn envelope(&self, number: u32) -> Option<KernelEnvelope> {
        // SAFETY: the kernel keeps the table for as long as this program runs.
        unsafe { RULES.get(&number) }.map(KernelEnvelope)
    }
}

impl EnvelopeRules for KernelEnvelope {
    #[inline(always)]
    fn block(&self, index: u32) -> Option<&Block> {
        self.0.get(index)
    }
}
