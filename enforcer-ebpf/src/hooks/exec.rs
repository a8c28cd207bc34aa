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
    emit::submit_in_place::<ExecRecord>(|record| {
        record.header = emit::header::<ExecRecord>(RecordKind::Exec);
        record.session = tag.session;
        record.tgid = task::current_tgid();
        record.uid = task::current_uid();
        record.comm = emit::current_comm();
        let written = binprm.copy_filename(&mut record.path).unwrap_or_else(|| {
            counters::add(Counter::FaultKernelRead);
            0
        });
        record.path_len = written.saturating_sub(1);
        // The buffer is full only when the path had to be cut (or just fits).
        record.path_cut = (written as usize == PATH_LEN) as u8;
    });
    0
}
