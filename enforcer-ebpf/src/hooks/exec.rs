//! A process of a session executes another program. Identity does not change: the tag is the process's, and an exec from
//! any thread keeps the tgid.

use aya_ebpf::{cty::c_void, macros::btf_tracepoint, programs::BtfTracePointContext};
use enforcer_common::{
    counter::Counter,
    record::{ExecRecord, PATH_LEN, RecordKind},
};

use crate::{counters, emit, kernel::binprm::Binprm, task};

/// `tp_btf/sched_process_exec` (v6.1/include/trace/events/sched.h: `p`, `old_pid`, `bprm`). Only records: it cannot fail
/// open.
#[btf_tracepoint(function = "sched_process_exec")]
pub(crate) fn track_exec(ctx: BtfTracePointContext) -> i32 {
    let Some(tag) = task::current_tag() else {
        return 0;
    };
    // SAFETY: the third argument of this tracepoint.
    let binprm = unsafe { Binprm::from_argument(ctx.arg::<*const c_void>(2)) };
    emit::fill(|record: *mut ExecRecord| {
        // SAFETY: `record` is reserved memory of the record's size; every byte is written here.
        unsafe {
            (&raw mut (*record).header).write(emit::header::<ExecRecord>(RecordKind::Exec));
            (&raw mut (*record).session).write(tag.session);
            (&raw mut (*record).tgid).write(task::current_tgid());
            (&raw mut (*record).uid).write(task::current_uid());
            (&raw mut (*record).comm).write(emit::current_comm());
            (&raw mut (*record).path).write_bytes(0, 1);
            let written = binprm.copy_filename((&raw mut (*record).path).cast()).unwrap_or_else(|| {
                counters::add(Counter::FaultKernelRead);
                0
            });
            (&raw mut (*record).path_len).write(written.saturating_sub(1));
            // The helper fills the buffer exactly only when it had to cut (or the path just fits).
            (&raw mut (*record).path_cut).write((written as usize == PATH_LEN) as u8);
            (&raw mut (*record).pad).write([0; 3]);
        }
    });
    0
}
