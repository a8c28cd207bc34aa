//! What the socket hooks share: facts from the context, the decision, the record, the return code.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{bpf_sock, bpf_sock_addr},
    cty::c_void,
    helpers::generated::bpf_get_socket_cookie,
    programs::SockAddrContext,
};
use enforcer_common::{
    counter::Counter,
    decision::{Decision, Standing, decide, decide_packet, spend},
    flow::FlowKey,
    identity::SessionRef,
    net::{Address, Destination, Direction, Family, Protocol},
    packet::Packet,
    record::{EgressRecord, NO_UID, Operation, Placement, RecordKind},
    rules::Place,
    verdict::{Reason, Verdict},
};

use super::packet::{pack, unpack};
use crate::{
    counters, emit,
    flow::{self, Datagram},
    kernel::{sock::Sock, task::Task},
    maps::SOCKETS,
    rules::KernelRules,
    session,
    task::{self, Actor},
    usage::{self, Item},
};

/// Return code of `cgroup/connect*`, `cgroup/sendmsg*` and `cgroup/sock_create`: the operation goes on.
pub(crate) const PROCEED: i32 = 1;
/// The operation fails with EPERM.
pub(crate) const REJECT: i32 = 0;

/// What was attempted, for its record.
pub(crate) struct Attempt {
    pub(crate) operation: Operation,
    pub(crate) cookie: u64,
    pub(crate) netns: u32,
    pub(crate) socket_type: u32,
    pub(crate) protocol: u32,
    /// The far end. No `Option`: where one is none, the compiler copies bytes that nobody wrote, which the verifier minds.
    pub(crate) address: Address,
    pub(crate) port: u16,
    /// Whether there is a far end: `socket()` has none.
    pub(crate) named: bool,
    /// Our own port; 0 if it is not known.
    pub(crate) local_port: u16,
    /// Whether the socket is not of the session's own cgroup.
    pub(crate) foreign: bool,
}

/// The process that attempts it, for the record.
pub(crate) struct Process {
    pub(crate) tgid: u32,
    pub(crate) tid: u32,
    pub(crate) uid: u32,
    pub(crate) placement: Placement,
}

impl Process {
    /// None: a packet that no process of the session was seen to send.
    pub(crate) const UNKNOWN: Self = Self { tgid: 0, tid: 0, uid: NO_UID, placement: Placement::Unknown };

    /// The one that runs.
    #[inline(always)]
    pub(crate) fn current(placement: Placement) -> Self {
        let current = Task::current();
        Self { tgid: current.tgid(), tid: current.tid(), uid: current.uid(), placement }
    }
}

/// Decides an operation that names its destination. The hook, not the family that the program wrote into the address,
/// says which family it is: the kernel takes `AF_UNSPEC` for IPv4 in a send (v6.1/net/ipv4/udp.c, udp_sendmsg).
#[inline(always)]
pub(crate) fn decide_named(ctx: &SockAddrContext, family: Family, operation: Operation) -> i32 {
    let Some(Actor { claim, placement, image }) = task::current_actor() else {
        return PROCEED;
    };
    // SAFETY: the context of the running program; the verifier checks each field that is read.
    let fields = unsafe { &*ctx.sock_addr };
    let (protocol, socket_type) = (context_field(&fields.protocol), context_field(&fields.type_));
    let (address, port) = named_address(fields, family);
    let known = Protocol::of_ip(protocol);
    let address = match (known, operation) {
        (Some(Protocol::Tcp), Operation::Connect) if is_unspecified_v4(address) => unspecified_tcp(fields),
        _ => address,
    };
    let standing = session::standing(claim, placement, image);
    let socket = socket_of(fields);
    let decision = match known {
        // What answers somebody who may reach us at the socket's port needs no other rule, as for its packet. `connect` does not
        // know that: with it, Linux 6.1 finds its stack too large.
        Some(Protocol::Udp) if !matches!(operation, Operation::Connect) && !address.is_unspecified() => {
            let packet = Packet {
                direction: Direction::Out,
                protocol: Protocol::Udp,
                opens: false,
                resets: false,
                remote: address,
                remote_port: port,
                local_port: local_port(socket),
            };
            decide_packet(&standing, &packet, None, &KernelRules)
        }
        Some(protocol) => decide(&standing, Some(Destination { protocol, address, port }), &KernelRules),
        None => decide(&standing, None, &KernelRules),
    };
    let decision = pay(decision, &standing);
    // Of datagrams to the same place the first of a period has a record, the others are in a total.
    if matches!(operation, Operation::Send)
        && is_in_total(ctx, &decision, claim.session(), family, known.map_or(0, Protocol::raw), placement)
    {
        count(&decision);
        return PROCEED;
    }
    let attempt = Attempt {
        operation,
        // SAFETY: a helper on the context.
        cookie: unsafe { bpf_get_socket_cookie(ctx.as_ptr()) },
        netns: netns(socket),
        socket_type,
        protocol,
        address,
        port,
        named: true,
        local_port: 0,
        foreign: false,
    };
    // A limit is not noted: the gate has others, with the same reason.
    if is_audited(&decision) && decision.reason != Reason::Limit {
        let kind = u32::from_le_bytes([decision.reason.raw(), protocol as u8, address.family().raw(), 0]);
        let Place { high, low } = Place::of(address);
        note_told(ctx.sock_addr, standing.control.0, high, low, u64::from(kind) << 16 | u64::from(port));
    }
    conclude(claim.session(), &decision, &attempt, &Process::current(placement))
}

/// Whether an allowed datagram is one of a total that a record has spoken of.
#[inline(always)]
fn is_in_total(
    ctx: &SockAddrContext,
    decision: &Decision,
    session: SessionRef,
    family: Family,
    protocol: u8,
    placement: Placement,
) -> bool {
    if !matches!(decision.verdict, Verdict::Allow) || !matches!(placement, Placement::Home) {
        return false;
    }
    let rule = u64::from(decision.rule) << 32 | u64::from(decision.envelope);
    let known = match family {
        Family::V4 => egress_is_known4(ctx.sock_addr, pack(session), rule, protocol.into()),
        Family::V6 => egress_is_known6(ctx.sock_addr, pack(session), rule, protocol.into()),
    };
    known != 0
}

/// A function of its own for its stack frame, of which Linux 6.1 allows 512 bytes in all; and for each family, since a context has the
/// address of one only.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn egress_is_known4(ctx: *mut bpf_sock_addr, session: u64, rule: u64, protocol: u64) -> u64 {
    is_known(ctx, Family::V4, session, rule, protocol)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn egress_is_known6(ctx: *mut bpf_sock_addr, session: u64, rule: u64, protocol: u64) -> u64 {
    is_known(ctx, Family::V6, session, rule, protocol)
}

#[inline(always)]
fn is_known(ctx: *mut bpf_sock_addr, family: Family, session: u64, rule: u64, protocol: u64) -> u64 {
    // SAFETY: the context of the running program, which is not null.
    let Some(fields) = (unsafe { ctx.as_ref() }) else { return 0 };
    let (address, port) = named_address(fields, family);
    // SAFETY: a helper on the context.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.cast()) };
    let mut datagram = Datagram {
        key: FlowKey::new(unpack(session), cookie, address, port, protocol as u8),
        bytes: 0,
        rule: (rule >> 32) as u32,
        envelope: rule as u32,
        tgid: task::current_tgid(),
        local_port: 0,
        is_out: 1,
        foreign: 0,
    };
    flow::flow_is_known(&raw mut datagram)
}

/// Whether something goes on that would be refused in another mode.
#[inline(always)]
pub(super) fn is_audited(decision: &Decision) -> bool {
    matches!(decision.verdict, Verdict::Deny) && !decision.is_refused()
}

/// Notes on the socket what is audited and recorded, so that the packet gate makes no second record of its packets. Without storage it
/// does, and where the kernel puts another address in the place of `0.0.0.0` or `::`: one too many, and not one too few.
///
/// A function of its own for its stack frame, of which Linux 6.1 allows 512 bytes in all.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn egress_note_told(
    ctx: *mut bpf_sock_addr,
    control: u64,
    high: u64,
    low: u64,
    kind_and_port: u64,
) -> u64 {
    // SAFETY: the context of the running program, which is not null.
    let Some(fields) = (unsafe { ctx.as_ref() }) else { return 0 };
    let socket = socket_of(fields);
    if socket.is_null() {
        return 0;
    }
    let [reason, protocol, family, _] = ((kind_and_port >> 16) as u32).to_le_bytes();
    // SAFETY: a socket that the verifier knows as such, not null.
    if let Some(tag) = unsafe { SOCKETS.get_or_insert(socket) } {
        // What was told of stands for what is refused from then on.
        if tag.barred().is_some() {
            return 0;
        }
        tag.told.control = control;
        tag.told.remote_high = high;
        tag.told.remote_low = low;
        tag.told.remote_port = kind_and_port as u16;
        tag.told.local_port = 0;
        tag.told.direction = 0;
        tag.told.reason = reason;
        tag.told.protocol = protocol;
        tag.told.family = family;
    }
    0
}
use egress_note_told as note_told;

/// The address and port that a context names.
#[inline(always)]
pub(super) fn named_address(fields: &bpf_sock_addr, family: Family) -> (Address, u16) {
    let port = u16::from_be(context_field(&fields.user_port) as u16);
    let address = match family {
        Family::V4 => Address::v4(context_field(&fields.user_ip4).to_ne_bytes()),
        Family::V6 => {
            let words: [u32; 4] = core::array::from_fn(|i| context_field(&fields.user_ip6[i]));
            Address::v6_words(words)
        }
    };
    (address, port)
}

/// The socket of a context, read once: the verifier wants the very pointer that was compared with null.
#[inline(always)]
pub(super) fn socket_of(fields: &bpf_sock_addr) -> *mut c_void {
    // SAFETY: a context field; volatile, so that it is not loaded again.
    unsafe { (&raw const fields.__bindgen_anon_1.sk).read_volatile() }.cast()
}

/// The port that a socket has; 0 if it has none yet.
#[inline(always)]
fn local_port(socket: *mut c_void) -> u16 {
    // SAFETY: a socket that the verifier knows as such, or null.
    match unsafe { socket.cast::<bpf_sock>().as_ref() } {
        // In host order, unlike the far end's.
        Some(socket) => context_field(&socket.src_port) as u16,
        None => 0,
    }
}

/// The inode of a socket's network namespace, or 0 and a count.
#[inline(always)]
pub(super) fn netns(socket: *mut c_void) -> u32 {
    Sock::of(socket).and_then(Sock::netns).unwrap_or_else(|| {
        counters::add(Counter::FaultKernelRead);
        0
    })
}

/// Takes a connection for what is allowed, or turns it into a refusal.
#[inline(always)]
fn pay(decision: Decision, standing: &Standing) -> Decision {
    if !matches!(decision.verdict, Verdict::Allow) {
        return decision;
    }
    let paid = usage::take(standing.claim.session().slot, decision.envelope, Item::Connection, 1);
    spend(decision, standing.control, paid)
}

#[inline(always)]
fn is_unspecified_v4(address: Address) -> bool {
    address.family() == Family::V4 && address.is_unspecified()
}

/// Where TCP connects to when told 0.0.0.0: to loopback, from a socket that is bound to no address and no device. Otherwise to
/// the address that it is bound to, unless that is a broadcast address (v6.1/net/ipv4/route.c, ip_route_output_key_hash_rcu;
/// v6.1/net/ipv4/af_inet.c, __inet_bind): too much to tell here, so 0.0.0.0 stays what it is, and no rule allows it.
///
/// `connect` on TCP holds the socket's lock from before this hook until the route is found, so that no other thread binds it
/// meanwhile. On UDP it does not, and a datagram can name source and device in a control message: there 0.0.0.0 is always refused.
#[inline(always)]
fn unspecified_tcp(fields: &bpf_sock_addr) -> Address {
    // SAFETY: a socket that the verifier knows as such, or null.
    let Some(socket) = (unsafe { socket_of(fields).cast::<bpf_sock>().as_ref() }) else {
        return Address::v4([0; 4]);
    };
    match (context_field(&socket.src_ip4), context_field(&socket.bound_dev_if)) {
        (0, 0) => Address::LOOPBACK_V4,
        _ => Address::v4([0; 4]),
    }
}

/// Reads a context field with the one 32-bit load that the verifier allows; the compiler could join two of them.
#[inline(always)]
pub(super) fn context_field(field: &u32) -> u32 {
    // SAFETY: a reference is valid to read from.
    unsafe { core::ptr::read_volatile(field) }
}

/// Counts and records a decision, and gives the return code for it.
#[inline(always)]
pub(crate) fn conclude(
    session: SessionRef,
    decision: &Decision,
    attempt: &Attempt,
    process: &Process,
) -> i32 {
    let refused = count(decision);
    record(session, decision, attempt, process);
    if refused { REJECT } else { PROCEED }
}

/// Counts a decision; whether what was attempted is refused.
#[inline(always)]
pub(crate) fn count(decision: &Decision) -> bool {
    let refused = decision.is_refused();
    counters::add(match (decision.verdict, refused) {
        (_, true) => Counter::Refused,
        (Verdict::Deny, false) => Counter::Audited,
        (Verdict::Allow, false) => Counter::Allowed,
    });
    if decision.reason == Reason::Fault {
        counters::add(Counter::FaultNoRules);
    }
    refused
}

/// Records a decision.
#[inline(always)]
pub(crate) fn record(session: SessionRef, decision: &Decision, attempt: &Attempt, process: &Process) {
    emit::submit_in_place::<EgressRecord>(|record| {
        record.header = emit::header::<EgressRecord>(RecordKind::Egress);
        record.cookie = attempt.cookie;
        record.session = session;
        record.tgid = process.tgid;
        record.tid = process.tid;
        record.uid = process.uid;
        record.rule = decision.rule;
        record.envelope = decision.envelope;
        record.netns = attempt.netns;
        record.protocol = attempt.protocol as u16;
        record.local_port_be = attempt.local_port.to_be_bytes();
        record.placement = process.placement.raw();
        record.foreign = attempt.foreign as u8;
        if attempt.named {
            record.family = attempt.address.family().raw();
            record.address = attempt.address.octets();
            record.port_be = attempt.port.to_be_bytes();
        }
        record.socket_type = attempt.socket_type as u8;
        record.operation = attempt.operation.raw();
        record.verdict = decision.verdict.raw();
        record.reason = decision.reason.raw();
        record.refused = decision.is_refused() as u8;
        if process.tgid != 0 {
            record.comm = emit::current_comm();
        }
    });
}
