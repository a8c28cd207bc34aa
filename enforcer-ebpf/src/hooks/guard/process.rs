//! Other people's processes, and the ways to change the kernel's mind that take no file: `bpf()`, performance events, modules.

use aya_ebpf::{cty::c_void, macros::lsm, programs::LsmContext};
use enforcer_common::guard::{self, GuardHook};

use super::{About, PASS, REFUSE, member, refuses, tell};
use crate::{
    atomic,
    hooks::packet::pack,
    image,
    kernel::task::Task,
    maps::CANARY,
    task::{self, current_tgid},
};

/// `lsm/ptrace_access_check` (`child`, `mode`). Fails closed: a process whose session cannot be read is another's. This one stands before
/// ptrace, `process_vm_readv` and `writev`, `pidfd_getfd`, and what `/proc/PID` shows only to those who may ptrace: memory,
/// environment, descriptors, namespaces.
#[lsm(hook = "ptrace_access_check")]
pub(crate) fn guard_ptrace(ctx: LsmContext) -> i32 {
    /// The kernel only asks whether to show more: as `ps` does of every process. Not worth a record each.
    const PTRACE_MODE_NOAUDIT: u32 = 4;
    let session = member();
    if session == 0 {
        return PASS;
    }
    // SAFETY: the first argument of this hook.
    let target = unsafe { Task::from_argument(ctx.arg::<*const c_void>(0)) };
    // Who is refused for what it executes does not get another of its session to do its work.
    if is_of(target, session) && image::current_refusal() == 0 {
        return PASS;
    }
    let mode: u32 = ctx.arg(1);
    if mode & PTRACE_MODE_NOAUDIT == 0 {
        let about = About { target_tgid: target.tgid(), number: mode, ..About::NOTHING };
        tell(GuardHook::PtraceAccessCheck, session, about);
    }
    REFUSE
}

/// `lsm/task_kill` (`p`, `info`, `sig`, `cred`). Fails closed. Signals that the kernel sends do not come here.
#[lsm(hook = "task_kill")]
pub(crate) fn guard_signal(ctx: LsmContext) -> i32 {
    let session = member();
    if session == 0 {
        return PASS;
    }
    // SAFETY: the first argument of this hook.
    let target = unsafe { Task::from_argument(ctx.arg::<*const c_void>(0)) };
    if is_of(target, session) {
        return PASS;
    }
    let about = About { target_tgid: target.tgid(), number: ctx.arg(2), ..About::NOTHING };
    tell(GuardHook::TaskKill, session, about);
    REFUSE
}

#[inline(always)]
fn is_of(target: Task, session: u64) -> bool {
    task::session_of(target).map_or(0, pack) == session
}

/// `lsm/bpf` (`cmd`, ...). Fails closed. Counts the daemon's own calls while it asks for that.
#[lsm(hook = "bpf")]
pub(crate) fn guard_bpf(ctx: LsmContext) -> i32 {
    sing();
    if refuses(GuardHook::Bpf, || About::number(ctx.arg(0))) {
        return REFUSE;
    }
    PASS
}

#[inline(always)]
fn sing() {
    let Some(canary) = CANARY.get_ptr_mut(0) else { return };
    // SAFETY: a field of a live map value.
    let tgid = unsafe { &raw const (*canary).tgid };
    // SAFETY: as above; what the daemon stores meanwhile is another number.
    let tgid = unsafe { tgid.read_volatile() };
    if tgid != 0 && tgid == current_tgid() {
        // SAFETY: a field of a live map value.
        let hits = unsafe { &raw mut (*canary).hits };
        // SAFETY: as above; several CPUs add to it, hence atomic.
        unsafe { atomic::add(hits, 1) };
    }
}

/// `lsm/perf_event_open`. Fails closed.
#[lsm(hook = "perf_event_open")]
pub(crate) fn guard_perf(_ctx: LsmContext) -> i32 {
    if refuses(GuardHook::PerfEventOpen, || About::NOTHING) {
        return REFUSE;
    }
    PASS
}

/// `lsm/kernel_module_request`: what a session asks for is not there until somebody else has loaded it. Fails closed.
#[lsm(hook = "kernel_module_request")]
pub(crate) fn guard_modreq(_ctx: LsmContext) -> i32 {
    if refuses(GuardHook::KernelModuleRequest, || About::NOTHING) {
        return REFUSE;
    }
    PASS
}

/// `lsm/kernel_read_file` (`file`, `id`, `contents`). Fails closed.
#[lsm(hook = "kernel_read_file")]
pub(crate) fn guard_readfile(ctx: LsmContext) -> i32 {
    let kind: u32 = ctx.arg(1);
    if guard::may_load(kind) {
        return PASS;
    }
    if refuses(GuardHook::KernelReadFile, || About::number(kind)) {
        return REFUSE;
    }
    PASS
}

/// `lsm/kernel_load_data` (`id`, `contents`). Fails closed.
#[lsm(hook = "kernel_load_data")]
pub(crate) fn guard_loaddata(ctx: LsmContext) -> i32 {
    let kind: u32 = ctx.arg(0);
    if guard::may_load(kind) {
        return PASS;
    }
    if refuses(GuardHook::KernelLoadData, || About::number(kind)) {
        return REFUSE;
    }
    PASS
}

/// `lsm/locked_down` (`what`): kernel memory, I/O ports, model-specific registers, debugfs, probes. Fails closed.
#[lsm(hook = "locked_down")]
pub(crate) fn guard_lockdown(ctx: LsmContext) -> i32 {
    if refuses(GuardHook::LockedDown, || About::number(ctx.arg(0))) {
        return REFUSE;
    }
    PASS
}

/// `lsm/tun_dev_create`: packets with any sender, from no socket. Fails closed.
#[lsm(hook = "tun_dev_create")]
pub(crate) fn guard_tun(_ctx: LsmContext) -> i32 {
    if refuses(GuardHook::TunDevCreate, || About::NOTHING) {
        return REFUSE;
    }
    PASS
}
