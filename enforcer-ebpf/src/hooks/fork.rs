//! A new task. `task_newtask` and not `sched_process_fork`, which io_uring workers do not fire; it runs in the parent,
//! before the child can execute one instruction.

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_EXIST, BPF_NOEXIST},
    cty::c_void,
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use enforcer_common::{
    counter::Counter,
    identity::TaskTag,
    image::CLEAR,
    record::{ForkRecord, RecordKind},
};

use crate::{
    counters, emit, image,
    kernel::task::Task,
    maps::{SESSIONS, TASKS},
    session, task,
};

/// `tp_btf/task_newtask` (v6.1/include/trace/events/task.h: `task`, `clone_flags`). A tag that cannot be stored leaves
/// the child in its session's cgroup without one, where every hook refuses it: fails closed.
#[btf_tracepoint(function = "task_newtask")]
pub(crate) fn track_fork(ctx: BtfTracePointContext) -> i32 {
    let Some(parent) = task::current_tag() else {
        return 0;
    };
    // SAFETY: the first argument of this tracepoint.
    let child = unsafe { Task::from_argument(ctx.arg::<*const c_void>(0)) };
    let (parent_tgid, child_tgid) = (task::current_tgid(), child.tgid());
    if child_tgid == parent_tgid {
        // A thread or a kernel worker of the same process: the tag is the process's.
        return 0;
    }
    // It has its parent's image, and with it what there is against that.
    let tag = TaskTag {
        start_ns: child.leader_start_ns(),
        session: parent.session,
        parent_tgid,
        pad: 0,
        image: image::inherited(parent.image),
    };
    let stored = store(child_tgid, tag);
    if matches!(stored, Stored::Already) {
        return 0;
    }
    let untagged = matches!(stored, Stored::Full);
    emit::submit(ForkRecord {
        header: emit::header::<ForkRecord>(RecordKind::Fork),
        session: parent.session,
        child_start_ns: tag.start_ns,
        parent_tgid,
        child_tgid,
        comm: emit::current_comm(),
        untagged: untagged as u8,
        pad: [0; 7],
    });
    0
}

/// What became of a tag.
#[derive(Clone, Copy)]
pub(super) enum Stored {
    /// It is in place.
    New,
    /// The process had one. While programs are being replaced, the old and the new both see a fork.
    Already,
    /// There is no room.
    Full,
}

/// Tags a process, and counts it. A tag that an earlier process with this tgid left behind is overwritten.
#[inline(always)]
pub(super) fn store(tgid: u32, tag: TaskTag) -> Stored {
    if TASKS.insert(tgid, tag, BPF_NOEXIST.into()).is_err() {
        if let Some(old) = TASKS.get_ptr(tgid) {
            // SAFETY: a map value; its process is gone or is this one, so nobody writes it.
            let old = unsafe { *old };
            if old.start_ns == tag.start_ns {
                return Stored::Already;
            }
            counters::add(Counter::FaultTagStale);
            if session::holds(old.session) {
                session::count_processes(old.session.slot, -1);
            }
        }
        if TASKS.insert(tgid, tag, BPF_ANY.into()).is_err() {
            counters::add(Counter::FaultTagStore);
            return Stored::Full;
        }
    }
    counters::add(Counter::TagsMade);
    session::count_processes(tag.session.slot, 1);
    Stored::New
}

/// Puts a tag in the place of that which the process has from the parent of the tag's session, and of no other. Should the process end at
/// this very moment, the session that it ends in is counted wrongly, which the daemon sees: nobody has its tag.
#[inline(always)]
pub(super) fn hand_over(tgid: u32, mut tag: TaskTag) {
    let Some(parent) = SESSIONS.get(tag.session.slot).and_then(|row| session::ancestor_at(row, 0)) else {
        return;
    };
    let Some(old) = TASKS.get_ptr(tgid) else { return };
    // SAFETY: a map value.
    let old = unsafe { *old };
    if old.start_ns != tag.start_ns || old.session != parent {
        return;
    }
    // It does not get rid of what stands against it.
    let taint = image::taint(old.image);
    if taint != CLEAR {
        tag.image = taint;
    }
    if TASKS.insert(tgid, tag, BPF_EXIST.into()).is_ok() {
        session::count_processes(tag.session.slot, 1);
        session::count_processes(parent.slot, -1);
    }
}
