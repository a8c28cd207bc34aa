//! Sockets: the families that no cgroup hook sees, and sockets of others in a session's hands. The latter are taken for the session's at
//! the first use, so that what leaves later, from an interrupt, is judged by the packet gate as well.

use aya_ebpf::{cty::c_void, helpers::generated::bpf_sock_from_file, macros::lsm, programs::LsmContext};
use enforcer_common::guard::{self, GuardHook};

use super::{About, PASS, REFUSE, member, refuses, tell};
use crate::{
    hooks::{
        enrol,
        packet::{adopt, unpack},
    },
    image,
    kernel::{
        file::File,
        sock::{Sock, Socket, family_and_protocol},
    },
    maps::SOCKETS,
};

/// `lsm/socket_create` (`family`, `type`, `protocol`, `kern`). Fails closed. `SOCK_PACKET` of `AF_INET` arrives as `AF_PACKET`
/// (v6.1/net/socket.c, __sock_create).
#[lsm(hook = "socket_create")]
pub(crate) fn guard_socket(ctx: LsmContext) -> i32 {
    let (family, protocol, kern): (u32, u32, i32) = (ctx.arg(0), ctx.arg(2), ctx.arg(3));
    if kern != 0 || guard::may_have(family, protocol) {
        return PASS;
    }
    if refuses(GuardHook::SocketCreate, || About::socket(family, protocol)) {
        return REFUSE;
    }
    PASS
}

/// `lsm/socket_sendmsg` (`sock`, `msg`, `size`). Fails closed: a socket that cannot be taken for the session's sends nothing.
#[lsm(hook = "socket_sendmsg")]
pub(crate) fn guard_send(ctx: LsmContext) -> i32 {
    // SAFETY: the first argument of this hook.
    let socket = unsafe { Socket::from_argument(ctx.arg::<*const c_void>(0)) };
    if is_refused(GuardHook::SocketSendmsg, socket) {
        return REFUSE;
    }
    PASS
}

/// `lsm/file_permission` (`file`, `mask`). All that `sendfile` and `splice` meet on Linux 6.1. Fails closed.
#[lsm(hook = "file_permission")]
pub(crate) fn guard_write(ctx: LsmContext) -> i32 {
    const MAY_WRITE: u32 = 2;
    if ctx.arg::<u32>(1) & MAY_WRITE == 0 {
        return PASS;
    }
    let pointer: *const c_void = ctx.arg(0);
    // SAFETY: the first argument of this hook.
    let file = unsafe { File::from_argument(pointer) };
    if !file.inode().is_socket() {
        return PASS;
    }
    // SAFETY: the hook's file, not null.
    let pointer = unsafe { bpf_sock_from_file(file.as_ptr().cast_mut().cast()) };
    if pointer.is_null() {
        return PASS;
    }
    // SAFETY: a socket that the verifier knows as such, not null.
    if is_refused(GuardHook::FilePermission, unsafe { Socket::from_argument(pointer.cast_const().cast()) }) {
        return REFUSE;
    }
    PASS
}

#[inline(always)]
fn is_refused(hook: GuardHook, socket: Socket) -> bool {
    let sk = socket.sk();
    if sk.is_null() {
        return false;
    }
    let (family, protocol) = family_and_protocol(sk);
    let network = guard::is_network(family);
    if !network && guard::may_have(family, protocol) {
        return false;
    }
    let session = member();
    if session == 0 || !socket.has_file() {
        return false;
    }
    let native = || Sock::of(sk).is_some_and(|sock| enrol::is_native(sock, unpack(session)));
    // What a process writes that is refused for what it executes must not wait in the socket for somebody else to send it.
    if network && image::current_refusal() == 0 && (native() || adopt(sk, session)) {
        return false;
    }
    tell(hook, session, About::socket(family, protocol));
    true
}

/// Whether a session may take a socket from somebody: a network socket only if it is its own.
#[inline(always)]
pub(super) fn may_receive(socket: Socket, session: u64) -> bool {
    let sk = socket.sk();
    if sk.is_null() {
        // Closed for good: nothing can be done with it.
        return true;
    }
    let (family, protocol) = family_and_protocol(sk);
    if guard::may_have(family, protocol) {
        let own = unpack(session);
        if !guard::is_network(family) || Sock::of(sk).is_some_and(|sock| enrol::is_native(sock, own)) {
            return true;
        }
        // SAFETY: a socket that the verifier knows as such, not null.
        if unsafe { SOCKETS.get(sk) }.and_then(|tag| tag.adopted()) == Some(own) {
            return true;
        }
    }
    tell(GuardHook::FileReceive, session, About::socket(family, protocol));
    false
}
