//! Files that the kernel is ruled by, and descriptors of others.
//!
//! What is asked of every process of the host (is it such a file?) comes before the question who asks.

use aya_ebpf::{cty::c_void, helpers::generated::bpf_sock_from_file, macros::lsm, programs::LsmContext};
use enforcer_common::guard::{self, GuardHook};

use super::{About, PASS, REFUSE, member, refuses, socket, tell};
use crate::kernel::{
    file::{File, Inode},
    sock::Socket,
};

/// `lsm/file_open`. Fails closed: what cannot be told to be a process's own file in procfs is none.
#[lsm(hook = "file_open")]
pub(crate) fn guard_open(ctx: LsmContext) -> i32 {
    // SAFETY: the first argument of this hook.
    let file = unsafe { File::from_argument(ctx.arg::<*const c_void>(0)) };
    if !is_guarded(file) {
        return PASS;
    }
    if refuses(GuardHook::FileOpen, || About::dentry(file.dentry())) {
        return REFUSE;
    }
    PASS
}

/// Whether no session may have a file open as this one is.
#[inline(always)]
fn is_guarded(file: File) -> bool {
    let inode = file.inode();
    if guard::is_guarded_device(inode.character_device()) {
        return true;
    }
    if !file.is_writable() {
        return false;
    }
    match inode.file_system() {
        guard::PROC => !inode.is_of_process(),
        magic => guard::is_protected(magic),
    }
}

/// `lsm/file_receive` (by a message over a Unix socket, or `pidfd_getfd`). Fails closed: what cannot be read is not received.
#[lsm(hook = "file_receive")]
pub(crate) fn guard_receive(ctx: LsmContext) -> i32 {
    let session = member();
    if session == 0 {
        return PASS;
    }
    let pointer: *const c_void = ctx.arg(0);
    // SAFETY: the first argument of this hook.
    let file = unsafe { File::from_argument(pointer) };
    if file.inode().is_socket() {
        // SAFETY: the hook's file, not null.
        let pointer = unsafe { bpf_sock_from_file(pointer.cast_mut().cast()) };
        if pointer.is_null() {
            tell(GuardHook::FileReceive, session, About::NOTHING);
            return REFUSE;
        }
        // SAFETY: a socket that the verifier knows as such, not null.
        let received = unsafe { Socket::from_argument(pointer.cast_const().cast()) };
        if socket::may_receive(received, session) {
            return PASS;
        }
        return REFUSE;
    }
    let anonymous = file.inode().file_system() == guard::ANONYMOUS
        && file.name_start().is_none_or(guard::is_guarded_anonymous);
    if anonymous || is_guarded(file) {
        tell(GuardHook::FileReceive, session, About::dentry(file.dentry()));
        return REFUSE;
    }
    PASS
}

/// `lsm/inode_unlink` (`dir`, `dentry`). Fails closed.
#[lsm(hook = "inode_unlink")]
pub(crate) fn guard_unlink(ctx: LsmContext) -> i32 {
    if is_refused_in(&ctx, GuardHook::InodeUnlink) {
        return REFUSE;
    }
    PASS
}

/// `lsm/inode_rmdir` (`dir`, `dentry`). Fails closed.
#[lsm(hook = "inode_rmdir")]
pub(crate) fn guard_rmdir(ctx: LsmContext) -> i32 {
    if is_refused_in(&ctx, GuardHook::InodeRmdir) {
        return REFUSE;
    }
    PASS
}

/// `lsm/inode_rename` (`old_dir`, `old_dentry`, `new_dir`, `new_dentry`), which are on one file system. Fails closed.
#[lsm(hook = "inode_rename")]
pub(crate) fn guard_rename(ctx: LsmContext) -> i32 {
    if is_refused_in(&ctx, GuardHook::InodeRename) {
        return REFUSE;
    }
    PASS
}

#[inline(always)]
fn is_refused_in(ctx: &LsmContext, hook: GuardHook) -> bool {
    // SAFETY: the first argument of these hooks.
    let dir = unsafe { Inode::from_argument(ctx.arg::<*const c_void>(0)) };
    guard::is_protected(dir.file_system()) && refuses(hook, || About::NOTHING)
}
