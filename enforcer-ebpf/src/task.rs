//! Current task to session: the tag first, then the cgroup.

use aya_ebpf::helpers::bpf_get_current_uid_gid;
use aya_ebpf::helpers::generated::bpf_get_current_ancestor_cgroup_id;
use enforcer_common::{
    counter::Counter,
    decision::Claim,
    identity::{SessionRef, TaskTag},
    record::Placement,
};

use crate::{
    cgroup, counters, image,
    kernel::task::Task,
    maps::{SESSIONS, TASKS},
};

/// The current process's id. Read from the task: the helper for it is not there for every type of program (cgroup_skb on 6.1).
#[inline(always)]
pub(crate) fn current_tgid() -> u32 {
    Task::current().tgid()
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
    // Read from the task: the helper for its id is not there for cgroup_skb on 6.1.
    let current = Task::current();
    tag_of(current, current.tgid())
}

/// The tag of a task's process, likewise.
#[inline(always)]
pub(crate) fn tag_of(task: Task, tgid: u32) -> Option<TaskTag> {
    let tag = TASKS.get_ptr(tgid)?;
    // SAFETY: a live map value. It is removed only when the last thread of its process exits.
    let tag = unsafe { *tag };
    if tag.start_ns != task.leader_start_ns() {
        counters::add(Counter::FaultTagStale);
        return None;
    }
    Some(tag)
}

/// The session that the current process belongs to: by its tag, or by its cgroup, where a child is that could not be tagged.
#[inline(always)]
pub(crate) fn current_session() -> Option<SessionRef> {
    match current_tag() {
        Some(tag) => Some(tag.session),
        None => cgroup::session_of(ancestor_cgroup),
    }
}

/// The session that another process belongs to, likewise. What cannot be read is in none.
#[inline(always)]
pub(crate) fn session_of(task: Task) -> Option<SessionRef> {
    if let Some(tag) = tag_of(task, task.tgid()) {
        return Some(tag.session);
    }
    let cgroup = task.cgroup()?;
    cgroup::session_of(|level| cgroup.ancestor_id(level).unwrap_or(0))
}

/// Who acts.
#[derive(Clone, Copy)]
pub(crate) struct Actor {
    pub(crate) claim: Claim,
    pub(crate) placement: Placement,
    /// [`enforcer_common::verdict::Reason`] as a number: why it is refused for what it executes; 0 if it is not.
    pub(crate) image: u8,
}

/// Who the current process acts as, or `None` if it belongs to no session: the answer for every other process of the
/// host, found with two look-ups and a helper call.
#[inline(always)]
pub(crate) fn current_actor() -> Option<Actor> {
    let ancestor = |level| ancestor_cgroup(level);
    if let Some(tag) = current_tag() {
        let session = tag.session;
        let home = SESSIONS.get(session.slot).is_some_and(|row| ancestor(row.cgroup_level) == row.cgroup_id);
        let placement = if home {
            Placement::Home
        } else {
            counters::add(Counter::Displaced);
            match cgroup::session_of(ancestor) {
                None => Placement::Outside,
                Some(_) => Placement::OtherSession,
            }
        };
        return Some(Actor { claim: Claim::Tagged(session), placement, image: image::refusal(tag.image) });
    }
    let session = cgroup::session_of(ancestor)?;
    counters::add(Counter::Displaced);
    Some(Actor { claim: Claim::Untagged(session), placement: Placement::Untagged, image: 0 })
}

/// The id of the current task's cgroup `level` levels below the root of the hierarchy, 0 if it is not that deep.
#[inline(always)]
fn ancestor_cgroup(level: u32) -> u64 {
    // SAFETY: a helper that takes a number.
    unsafe { bpf_get_current_ancestor_cgroup_id(level as i32) }
}
