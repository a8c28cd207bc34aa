//! Tagging what runs. The daemon says in `ENROL` what it wants, and reads an iterator: over the tasks of the host, to tag
//! processes with the start time that the kernel has, and over the files that tasks have open, to take the sockets among them
//! for the session's.

use aya_ebpf::{
    bindings::seq_file,
    cty::c_void,
    helpers::generated::{bpf_get_socket_cookie, bpf_seq_write, bpf_sock_from_file},
};
use enforcer_common::{
    counter::Counter,
    identity::{EnrolKind, EnrolRequest, HeldSocket, SessionRef, TaskTag},
};

use super::fork;
use crate::{
    cgroup,
    config::loaded,
    counters, image,
    kernel::{sock::Sock, task::Task},
    maps::{ENROL, SESSIONS, SOCKETS, TASKS},
    task,
};

/// The context of `iter/task` (v6.1/kernel/bpf/task_iter.c, `bpf_iter__task`).
#[repr(C)]
pub(crate) struct TaskIterContext {
    meta: *const IterMeta,
    /// Null at the end of the iteration.
    task: *const c_void,
}

/// What is common to all iterators (v6.1/include/linux/bpf.h, `bpf_iter_meta`).
#[repr(C)]
pub(crate) struct IterMeta {
    seq: *mut seq_file,
    session_id: u64,
    seq_num: u64,
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
    if task.tid() != tgid || !is_meant(&request, task, tgid) {
        return 0;
    }
    let parent_tgid = match request.kind() {
        Some(EnrolKind::Process | EnrolKind::HandOver) => 0,
        _ => task.parent().tgid(),
    };
    let start_ns = task.leader_start_ns();
    // Once more for the same process is no reason for another ticket.
    if TASKS.get_ptr(tgid).is_some_and(|tag| {
        // SAFETY: a live map value.
        let tag = unsafe { *tag };
        tag.start_ns == start_ns && tag.session == request.session
    }) {
        return 0;
    }
    let image = image::at_enrolment(request.session, tgid, start_ns);
    let tag = TaskTag { start_ns, session: request.session, parent_tgid, pad: 0, image };
    if matches!(request.kind(), Some(EnrolKind::HandOver)) {
        fork::hand_over(tgid, tag);
        return 0;
    }
    // An earlier tag of the same process stays; the daemon sees it is another session's.
    let _stored = fork::store(tgid, tag);
    0
}

/// Whether the daemon wants this process tagged. One whose last thread is gone will not remove a tag any more.
#[inline(always)]
fn is_meant(request: &EnrolRequest, task: Task, tgid: u32) -> bool {
    if task.live_threads() == 0 {
        return false;
    }
    match request.kind() {
        None | Some(EnrolKind::Nothing | EnrolKind::Release) => false,
        Some(EnrolKind::Process | EnrolKind::HandOver) => tgid == request.tgid,
        Some(EnrolKind::Descendants) => {
            let parent = task.parent();
            tgid == request.tgid
                || task::tag_of(parent, parent.tgid()).is_some_and(|tag| tag.session == request.session)
        }
        Some(EnrolKind::Cgroup) => {
            let Some(row) = SESSIONS.get(request.session.slot) else {
                counters::add(Counter::FaultNoSession);
                return false;
            };
            task.cgroup().and_then(|cgroup| cgroup.ancestor_id(row.cgroup_level)) == Some(row.cgroup_id)
        }
    }
}

/// The context of `iter/task_file` (v6.1/kernel/bpf/task_iter.c, `bpf_iter__task_file`).
#[repr(C)]
pub(crate) struct FileIterContext {
    meta: *const IterMeta,
    /// Null at the end of the iteration, as is the file.
    task: *const c_void,
    fd: u32,
    file: *const c_void,
}

/// `iter/task_file`. Reports the network sockets that processes of a session hold, and, if the daemon asks for it, takes those that
/// were made elsewhere for the session's. One that cannot be taken is reported as such, and counted.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
pub(crate) extern "C" fn enrol_socket(ctx: *mut FileIterContext) -> i32 {
    const AF_INET: u16 = 2;
    const AF_INET6: u16 = 10;
    // SAFETY: the context of the running program, whose fields are at fixed offsets.
    let FileIterContext { meta, task, fd, file } = *unsafe { &*ctx };
    if task.is_null() || file.is_null() {
        return 0;
    }
    let Some(request) = ENROL.get(0).copied() else {
        return 0;
    };
    if request.session == SessionRef::UNKNOWN {
        return 0;
    }
    // SAFETY: the iterator's task, not null.
    let task = unsafe { Task::from_argument(task) };
    let tgid = task.tgid();
    if task::tag_of(task, tgid).is_none_or(|tag| tag.session != request.session) {
        return 0;
    }
    // SAFETY: the iterator's file, not null.
    let socket = unsafe { bpf_sock_from_file(file.cast_mut().cast()) };
    if socket.is_null() {
        return 0;
    }
    let field = socket.cast::<u8>().wrapping_add(loaded!(offsets.socket_sk) as usize);
    // SAFETY: the verifier refuses the program unless this is a field of the structure.
    let sk = unsafe { field.cast::<*mut c_void>().read() };
    if sk.is_null() {
        return 0;
    }
    let Some(sock) = Sock::of(sk) else {
        counters::add(Counter::FaultKernelRead);
        return 0;
    };
    // One whose family cannot be read is taken: what is passed over here would go on unseen.
    let family = match sock.family() {
        Some(family @ (AF_INET | AF_INET6)) => family,
        Some(_) => return 0,
        None => {
            counters::add(Counter::FaultKernelRead);
            0
        }
    };
    let native = is_native(sock, request.session);
    let kind = request.kind();
    let take = !matches!(kind, None | Some(EnrolKind::Nothing | EnrolKind::Release));
    if matches!(kind, Some(EnrolKind::Release)) {
        give_back(sk, request.session);
    }
    let held = HeldSocket {
        // SAFETY: a socket that the verifier knows as such.
        cookie: unsafe { bpf_get_socket_cookie(sk) },
        tgid,
        fd,
        netns: sock.netns().unwrap_or(0),
        family,
        protocol: sock.protocol().unwrap_or(0),
        native: native as u8,
        adopted: is_adopted(sk, request.session, take && !native) as u8,
        pad: [0; 6],
    };
    // SAFETY: the iterator's own meta data.
    let seq = unsafe { (*meta).seq };
    // SAFETY: the iterator's own output, and a value with its size. If there is no room, the kernel calls again with more.
    unsafe { bpf_seq_write(seq, (&raw const held).cast(), size_of::<HeldSocket>() as u32) };
    0
}

/// Whether a socket was made in the session's own cgroup.
#[inline(always)]
pub(super) fn is_native(sock: Sock, session: SessionRef) -> bool {
    let Some(cgroup) = sock.cgroup() else {
        return false;
    };
    cgroup::session_of(|level| cgroup.ancestor_id(level).unwrap_or(0)) == Some(session)
}

/// Takes nothing for the session's any more.
#[inline(always)]
fn give_back(sk: *mut c_void, session: SessionRef) {
    // SAFETY: a socket that the verifier knows as such.
    if let Some(tag) = unsafe { SOCKETS.get(sk) }
        && tag.adopted() == Some(session)
    {
        tag.adopted = SessionRef { slot: 0, generation: 0 };
    }
}

/// Whether a socket is taken for the session's; if `take`, makes it so.
#[inline(always)]
fn is_adopted(sk: *mut c_void, session: SessionRef, take: bool) -> bool {
    // SAFETY: a socket that the verifier knows as such.
    let tag = if take { unsafe { SOCKETS.get_or_insert(sk) } } else { unsafe { SOCKETS.get(sk) } };
    let Some(tag) = tag else {
        if take {
            counters::add(Counter::FaultSocketStorage);
        }
        return false;
    };
    if take && tag.adopted().is_none() {
        tag.adopted = session;
        counters::add(Counter::SocketsAdopted);
    }
    tag.adopted() == Some(session)
}
