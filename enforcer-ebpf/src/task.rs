//! Current task to session: the tag first, then the cgroup.

use aya_ebpf::helpers::generated::bpf_get_current_ancestor_cgroup_id;
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_get_current_uid_gid};
use enforcer_common::{
    counter::Counter,
    decision::Claim,
    identity::{SessionRef, TaskTag},
};

use crate::{
    config, counters,
    kernel::task::Task,
    maps::{CGROUPS, TASKS},
};

/// The current process's id.
#[inline(always)]
pub(crate) fn current_tgid() -> u32 {
    (bpf_get_current_pid_tgid() >> 32) as u32
}

/// The current thread's id.
#[inline(always)]
pub(crate) fn current_tid() -> u32 {
    bpf_get_current_pid_tgid() as u32
}

/// The current user, as seen from the initial user namespace.
#[inline(always)]
pub(crate) fn current_uid() -> u32 {
    bpf_get_current_uid_gid() as u32
}

/// The current process's tag. A tag that an earlier process with the same tgid left behind is not this one's.
///
/// Kernel workers that act for a process (io_uring) have its tgid, and so its tag.
#[inline(always)]
pub(crate) fn current_tag() -> Option<TaskTag> {
    let tag = TASKS.get_ptr(current_tgid())?;
    // SAFETY: a live map value. It is removed only when the last thread of this process exits, and this thread runs.
    let tag = unsafe { *tag };
    if tag.start_ns != Task::current().leader_start_ns() {
        counters::add(Counter::FaultTagStale);
        return None;
    }
    Some(tag)
}

/// Who the current process acts as, or `None` if it belongs to no session: the answer for every other process of the
/// host, found with one hash look-up and one helper call.
#[inline(always)]
pub(crate) fn current_claim() -> Option<Claim> {
    if let Some(tag) = current_tag() {
        return Some(Claim::Tagged(tag.session));
    }
    let (parent_id, level) = config::cgroup_parent();
    if ancestor_cgroup(level) != parent_id {
        return None;
    }
    // In one of our cgroups without a tag: refused, whether or not the cgroup still has a session.
    let session = CGROUPS.get_ptr(ancestor_cgroup(level + 1)).map_or(SessionRef::UNKNOWN, |session| {
        // SAFETY: a map value; the daemon may remove it at the same time, and then this reads the entry of another
        // session. The answer is a refusal for either.
        unsafe { *session }
    });
    Some(Claim::Untagged(session))
}

/// The id of the current task's cgroup `level` levels below the root of the hierarchy, 0 if it is not that deep.
#[inline(always)]
fn ancestor_cgroup(level: u32) -> u64 {
    // SAFETY: a helper that takes a number.
    unsafe { bpf_get_current_ancestor_cgroup_id(level as i32) }
}
