//! A process of a session executes another program. Identity does not change: the tag is the process's, and an exec from
//! any thread keeps the tgid. What is executed does, and with it what stands against the process.
//!
//! The hook runs when the old program is gone, with its threads, and before the new one's first instruction. A signal that is sent
//! here is delivered on the way there.

use aya_ebpf::{
    cty::c_void, helpers::generated::bpf_send_signal, macros::btf_tracepoint, programs::BtfTracePointContext,
};
use enforcer_common::{
    counter::Counter,
    identity::TaskTag,
    image::{
        CLEAR, ImageId, ImageKey, ImagePolicy, ImageState, LISTED, NO_ANSWER, NOT_LISTED, NOT_MEASURED,
        Ticket, answer_about,
    },
    record::{ExecRecord, PATH_LEN, RecordKind},
};

use crate::{
    counters, emit, image,
    kernel::binprm::Binprm,
    maps::{IMAGES, TASKS},
    session, task,
};

const SIGKILL: u32 = 9;
const SIGSTOP: u32 = 19;

/// `tp_btf/sched_process_exec` (v6.1/include/trace/events/sched.h: `p`, `old_pid`, `bprm`). Fails closed: a process whose image cannot be
/// told, or found a ticket for, is refused everything, in a session that is held to a list.
#[btf_tracepoint(function = "sched_process_exec")]
pub(crate) fn track_exec(ctx: BtfTracePointContext) -> i32 {
    let Some(tag) = task::current_tag() else {
        return 0;
    };
    // SAFETY: the third argument of this tracepoint.
    let binprm = unsafe { Binprm::from_argument(ctx.arg::<*const c_void>(2)) };
    let tgid = task::current_tgid();
    let found = judge(&tag, tgid, binprm);
    set_ticket(tgid, found.ticket);
    image::retire(tag.image);
    if let Some(signal) = found.signal() {
        // SAFETY: a helper that takes a number.
        if unsafe { bpf_send_signal(signal) } != 0 {
            counters::add(Counter::FaultImageSignal);
        }
    }
    emit::submit_in_place::<ExecRecord>(|record| {
        record.header = emit::header::<ExecRecord>(RecordKind::Exec);
        record.session = tag.session;
        record.tgid = tgid;
        record.uid = task::current_uid();
        record.comm = emit::current_comm();
        let written = binprm.copy_filename(&mut record.path).unwrap_or_else(|| {
            counters::add(Counter::FaultKernelRead);
            0
        });
        record.path_len = written.saturating_sub(1);
        // The buffer is full only when the path had to be cut (or just fits).
        record.path_cut = (written as usize == PATH_LEN) as u8;
        record.start_ns = tag.start_ns;
        record.envelope = session::control_of(tag.session).map_or(0, |control| control.envelope());
        record.image_state = found.state.raw();
        record.script = found.script as u8;
        record.ticket = if matches!(found.state, ImageState::Waits) { found.ticket } else { 0 };
        record.image = found.image;
    });
    0
}

/// What there is to be said of an image.
struct Found {
    state: ImageState,
    ticket: u64,
    policy: u32,
    script: bool,
    image: ImageId,
}

impl Found {
    /// What is sent to the process.
    #[inline(always)]
    fn signal(&self) -> Option<u32> {
        match self.state {
            ImageState::Waits => Some(SIGSTOP),
            ImageState::Unlisted | ImageState::Under | ImageState::Lost
                if self.policy == ImagePolicy::Kill.raw() =>
            {
                Some(SIGKILL)
            }
            _ => None,
        }
    }
}

#[inline(always)]
fn judge(tag: &TaskTag, tgid: u32, binprm: Binprm) -> Found {
    let (policy, list) = image::policy(tag.session);
    let mut found = Found {
        state: ImageState::Any,
        ticket: CLEAR,
        policy,
        script: binprm.is_interpreted(),
        image: ImageId::default(),
    };
    if policy == ImagePolicy::Any.raw() {
        return found;
    }
    let enforced = policy != ImagePolicy::Audit.raw();
    let taint = if enforced { image::taint(tag.image) } else { CLEAR };
    let Some(image) = binprm.image() else {
        counters::add(Counter::FaultImageStore);
        found.state = ImageState::Lost;
        found.ticket = if enforced { NOT_MEASURED } else { CLEAR };
        return found;
    };
    found.image = image;
    if taint != CLEAR {
        counters::add(Counter::ImagesUnlisted);
        found.state = ImageState::Under;
        found.ticket = taint;
        return found;
    }
    // Which script it is, the interpreter's file does not tell: that is always asked.
    let known = if found.script { NO_ANSWER } else { answer_for(&ImageKey { list, image }) };
    (found.state, found.ticket) = match known {
        LISTED => (ImageState::Listed, CLEAR),
        NO_ANSWER if enforced => {
            let ticket = image::give(&Ticket {
                image,
                session: tag.session,
                start_ns: tag.start_ns,
                tgid,
                answer: NO_ANSWER,
                stopped: 1,
                script: found.script as u16,
            });
            match ticket {
                NOT_MEASURED => (ImageState::Lost, ticket),
                _ => {
                    counters::add(Counter::ImagesWaited);
                    (ImageState::Waits, ticket)
                }
            }
        }
        NO_ANSWER => (ImageState::Unmeasured, CLEAR),
        _ => {
            counters::add(Counter::ImagesUnlisted);
            (ImageState::Unlisted, if enforced { NOT_LISTED } else { CLEAR })
        }
    };
    found
}

#[inline(always)]
fn answer_for(key: &ImageKey) -> u64 {
    match IMAGES.get_ptr(key) {
        // SAFETY: a live map value.
        Some(word) => answer_about(key.image.inode, unsafe { word.read_volatile() }),
        None => NO_ANSWER,
    }
}

/// The process is at its exec: nothing else of it runs that could read or copy the tag, and nobody else writes it.
#[inline(always)]
fn set_ticket(tgid: u32, ticket: u64) {
    let Some(tag) = TASKS.get_ptr_mut(tgid) else { return };
    // SAFETY: a field of a live map value.
    let image = unsafe { &raw mut (*tag).image };
    // SAFETY: as above; other processes' hooks may read it, hence one volatile store.
    unsafe { image.write_volatile(ticket) };
}
