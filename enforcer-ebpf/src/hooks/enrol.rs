//! The first tag of a session. The daemon asks for one process in `ENROL` and reads this iterator; it runs over every
//! task of the host and tags the one asked for, so that the start time in the tag is the kernel's own.

use aya_ebpf::cty::c_void;
use enforcer_common::identity::TaskTag;

use super::fork;
use crate::{kernel::task::Task, maps::ENROL};

/// The context of `iter/task` (v6.1/kernel/bpf/task_iter.c, `bpf_iter__task`).
#[repr(C)]
pub(crate) struct TaskIterContext {
    meta: *const c_void,
    /// Null at the end of the iteration.
    task: *const c_void,
}

/// `iter/task`. Tags nothing unless asked; the daemon reads `TASKS` back, so a tag that could not be stored is noticed
/// and the process is not enrolled: fails closed.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
pub(crate) extern "C" fn enrol_task(ctx: *mut TaskIterContext) -> i32 {
    // SAFETY: a context field at a fixed offset.
    let task = unsafe { (*ctx).task };
    if task.is_null() {
        return 0;
    }
    let Some(request) = ENROL.get(0).copied() else {
        return 0;
    };
    // SAFETY: the iterator's task, not null.
    let task = unsafe { Task::from_argument(task) };
    let tgid = task.tgid();
    if request.tgid == 0 || tgid != request.tgid || task.tid() != tgid {
        return 0;
    }
    let tag = TaskTag { start_ns: task.leader_start_ns(), session: request.session, parent_tgid: 0, pad: 0 };
    // An earlier tag of the same process stays; the daemon sees it is another session's.
    let _stored = fork::store(tgid, tag);
    0
}
