//! The end of a process: when its last thread is gone, not when its leader exits. A leader may exit while other threads
//! go on, and an exec from another thread ends the old leader with the process alive.

use aya_ebpf::{cty::c_void, macros::btf_tracepoint, programs::BtfTracePointContext};
use enforcer_common::{
    counter::Counter,
    record::{ExitRecord, RecordKind},
};

use crate::{counters, emit, image, kernel::task::Task, maps::TASKS, session, task};

/// `tp_btf/sched_process_exit` (v6.1/include/trace/events/sched.h: `p`; v6.16 adds `group_dead`, which 6.1 and 6.12 do
/// not have). A tag that stays behind by mistake names a process that is gone: it can only deny.
#[btf_tracepoint(function = "sched_process_exit")]
pub(crate) fn track_exit(ctx: BtfTracePointContext) -> i32 {
    let Some(tag) = task::current_tag() else {
        return 0;
    };
    // SAFETY: the first argument of this tracepoint.
    let exiting = unsafe { Task::from_argument(ctx.arg::<*const c_void>(0)) };
    if exiting.live_threads() != 0 {
        return 0;
    }
    // Two threads that exit at once may both see zero: who removes the tag, counts.
    let tgid = task::current_tgid();
    if TASKS.remove(tgid).is_err() {
        return 0;
    }
    counters::add(Counter::TagsRemoved);
    image::retire(tag.image);
    emit::submit(ExitRecord {
        header: emit::header::<ExitRecord>(RecordKind::Exit),
        session: tag.session,
        tgid,
        wait_status: exiting.wait_status(),
        comm: exiting.comm().unwrap_or_else(emit::current_comm),
    });
    // After the record: a session without processes has no record to come.
    session::count_processes(tag.session.slot, -1);
    0
}
