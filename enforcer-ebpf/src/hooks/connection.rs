//! TCP sockets of sessions that wait for connections, and those that are closed, with what they carried. Nothing is decided here.

use aya_ebpf::{
    cty::c_void, helpers::generated::bpf_get_socket_cookie, macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use enforcer_common::{
    counter::Counter,
    identity::SessionRef,
    record::{ConnectionChange, ConnectionRecord, NO_UID, RecordKind, TcpState},
};

use super::packet::{pack, unpack};
use crate::{
    cgroup, counters, emit,
    kernel::{
        sock::Sock,
        task::Task,
        tcp::{End, Tcp},
    },
    maps::SOCKETS,
};

/// `tp_btf/inet_sock_set_state` (v6.1/include/trace/events/sock.h: `sk`, `oldstate`, `newstate`), in whatever context the state changes: of
/// a close, who runs says nothing. What cannot be read is counted, and the record is incomplete or missing.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub(crate) fn track_connection(ctx: BtfTracePointContext) -> i32 {
    let (was, state): (i32, i32) = (ctx.arg(1), ctx.arg(2));
    let change = match state {
        state if state == i32::from(TcpState::Listen.raw()) => ConnectionChange::Listens,
        state if state == i32::from(TcpState::Close.raw()) => ConnectionChange::Closed,
        _ => return 0,
    };
    let socket: *mut c_void = ctx.arg::<*const c_void>(0).cast_mut();
    // SAFETY: the first argument of this tracepoint, a socket that the verifier knows as such.
    let adopted = unsafe { SOCKETS.get(socket) }.and_then(|tag| tag.adopted()).map_or(0, pack);
    let Some(sock) = Sock::of(socket.cast_const()) else {
        counters::add(Counter::FaultKernelRead);
        return 0;
    };
    // One that is in no cgroup is the kernel's own.
    let native = sock.cgroup().map_or(0, |cgroup| {
        cgroup::session_of(|level| cgroup.ancestor_id(level).unwrap_or(0)).map_or(0, pack)
    });
    if native | adopted == 0 || !Tcp::is(sock) {
        return 0;
    }
    // SAFETY: a helper on a socket that the verifier knows as such.
    let cookie = unsafe { bpf_get_socket_cookie(socket) };
    if native != 0 {
        tell(sock, cookie, native, change as u64 | (was as u64 & 0xff) << 8);
    }
    if adopted != 0 && adopted != native {
        tell(sock, cookie, adopted, change as u64 | (was as u64 & 0xff) << 8 | FOREIGN);
    }
    0
}

/// That the socket is not of the session's own cgroup.
const FOREIGN: u64 = 1 << 16;

#[inline(always)]
fn tell(sock: Sock, cookie: u64, session: u64, how: u64) {
    connection_tell(sock.place().address(), cookie, session, how);
}

/// Verified by itself, and on a stack frame of its own.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn connection_tell(sock: u64, cookie: u64, session: u64, how: u64) -> u64 {
    let tcp = Tcp::at(sock);
    let session: SessionRef = unpack(session);
    let is_closed = how as u8 == ConnectionChange::Closed.raw();
    let was = (how >> 8) as u8;
    let Some(End { address, port, local_port }) = tcp.end(!is_closed || was == TcpState::Listen.raw()) else {
        counters::add(Counter::FaultKernelRead);
        return 0;
    };
    let carried = tcp.carried();
    let netns = tcp.sock().netns();
    if carried.is_none() || netns.is_none() {
        counters::add(Counter::FaultKernelRead);
    }
    let carried = carried.unwrap_or_default();
    emit::submit_in_place::<ConnectionRecord>(|record| {
        record.header = emit::header::<ConnectionRecord>(RecordKind::Connection);
        record.session = session;
        record.cookie = cookie;
        record.bytes_out = carried.bytes_out;
        record.bytes_in = carried.bytes_in;
        record.packets_out = carried.packets_out;
        record.packets_in = carried.packets_in;
        record.netns = netns.unwrap_or(0);
        record.address = address.octets();
        record.family = address.family().raw();
        record.port_be = port.to_be_bytes();
        record.local_port_be = local_port.to_be_bytes();
        record.change = how as u8;
        record.was = was;
        record.foreign = (how & FOREIGN != 0) as u8;
        record.uid = NO_UID;
        if !is_closed {
            let current = Task::current();
            record.tgid = current.tgid();
            record.tid = current.tid();
            record.uid = current.uid();
            record.comm = emit::current_comm();
        }
    });
    0
}
