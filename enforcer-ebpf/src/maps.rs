//! Every map: who writes it, who reads it, why this size. All are pinned by the loader under their names.

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    macros::map,
    maps::{Array, HashMap, LpmTrie, PerCpuArray, RingBuf, lpm_trie::Key},
};
use enforcer_common::{
    config::{MAX_SESSIONS, Meta},
    counter::Counter,
    identity::{EnrolRequest, SessionRef, TaskTag},
    net::Family,
    rules::{DestKey, PortKey, PortRule, RuleTable},
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

/// Rules, first look-up. Written by the daemon. A trie allocates an entry when it is inserted, so the size is a bound
/// and not a cost.
#[map]
pub(crate) static DESTS: LpmTrie<DestKey, u32> = LpmTrie::with_max_entries(4_194_304, 0);

/// Rules, second look-up. Written by the daemon.
#[map]
pub(crate) static PORTS: LpmTrie<PortKey, PortRule> = LpmTrie::with_max_entries(4_194_304, 0);

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

/// The rule maps as [`RuleTable`].
pub(crate) struct KernelRules;

impl RuleTable for KernelRules {
    #[inline(always)]
    fn port_set(&self, key: &DestKey, family: Family) -> Option<u32> {
        DESTS.get(Key::new(DestKey::lookup_bits(family), *key)).copied()
    }

    #[inline(always)]
    fn port_rule(&self, key: &PortKey) -> Option<PortRule> {
        PORTS.get(Key::new(PortKey::LOOKUP_BITS, *key)).copied()
    }
}
