//! Mounts: over our pins, and file systems whose servers the kernel speaks to by itself.
//!
//! Only with privileges over the host. In a user namespace of its own a process changes nothing but its own view, and can mount
//! nothing that has a server; sandboxes are made of that.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use enforcer_common::guard::GuardHook;

use super::{About, PASS, REFUSE, member, tell};
use crate::kernel::task::Task;

/// `lsm/sb_mount`. Fails closed.
#[lsm(hook = "sb_mount")]
pub(crate) fn guard_mount(_ctx: LsmContext) -> i32 {
    if is_refused(GuardHook::SbMount) {
        return REFUSE;
    }
    PASS
}

/// `lsm/sb_umount`. Fails closed.
#[lsm(hook = "sb_umount")]
pub(crate) fn guard_umount(_ctx: LsmContext) -> i32 {
    if is_refused(GuardHook::SbUmount) {
        return REFUSE;
    }
    PASS
}

/// `lsm/move_mount`: of what `open_tree` and `fsmount` make as well. Fails closed.
#[lsm(hook = "move_mount")]
pub(crate) fn guard_mvmount(_ctx: LsmContext) -> i32 {
    if is_refused(GuardHook::MoveMount) {
        return REFUSE;
    }
    PASS
}

/// `lsm/sb_pivotroot`. Fails closed.
#[lsm(hook = "sb_pivotroot")]
pub(crate) fn guard_pivot(_ctx: LsmContext) -> i32 {
    if is_refused(GuardHook::SbPivotroot) {
        return REFUSE;
    }
    PASS
}

/// `lsm/fs_context_parse_param`: `fsconfig` has the kernel speak to a server before anything is mounted. Fails closed. When this passes, the
/// hook's own default counts (v6.1/kernel/bpf/bpf_lsm.c).
#[lsm(hook = "fs_context_parse_param")]
pub(crate) fn guard_fsparam(_ctx: LsmContext) -> i32 {
    if is_refused(GuardHook::FsContextParseParam) {
        return REFUSE;
    }
    PASS
}

#[inline(always)]
fn is_refused(hook: GuardHook) -> bool {
    let session = member();
    if session == 0 || !Task::current().is_in_host_user_namespace() {
        return false;
    }
    tell(hook, session, About::NOTHING);
    true
}
