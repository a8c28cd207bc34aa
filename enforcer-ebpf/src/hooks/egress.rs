//! What the socket hooks share: facts from the context, the decision, the record, the return code.

use aya_ebpf::{
    EbpfContext as _, bindings::bpf_sock_addr, helpers::generated::bpf_get_socket_cookie,
    programs::SockAddrContext,
};
use enforcer_common::{
    counter::Counter,
    decision::{Claim, Decision, decide},
    net::{Address, Destination, Family, Protocol},
    record::{EgressRecord, Operation, RecordKind},
    verdict::{Reason, Verdict},
};

use crate::{counters, emit, maps::KernelRules, session, task};

/// Return code of `cgroup/connect*`, `cgroup/sendmsg*` and `cgroup/sock_create`: the operation goes on.
pub(crate) const PROCEED: i32 = 1;
/// The operation fails with EPERM.
pub(crate) const REJECT: i32 = 0;

/// The socket and the destination of an operation, for its record.
pub(crate) struct Attempt {
    pub(crate) operation: Operation,
    pub(crate) cookie: u64,
    pub(crate) socket_type: u32,
    pub(crate) protocol: u32,
    /// `socket()` has none.
    pub(crate) to: Option<(Address, u16)>,
}

/// Decides an operation that names its destination. The hook, not the family that the program wrote into the address,
/// says which family it is: the kernel takes `AF_UNSPEC` for IPv4 in a send (v6.1/net/ipv4/udp.c, udp_sendmsg).
#[inline(always)]
pub(crate) fn decide_named(ctx: &SockAddrContext, family: Family, operation: Operation) -> i32 {
    let Some(claim) = task::current_claim() else {
        return PROCEED;
    };
    // SAFETY: the context of the running program; the verifier checks each field that is read.
    let fields = unsafe { &*ctx.sock_addr };
    let (protocol, socket_type) = (context_field(&fields.protocol), context_field(&fields.type_));
    let port = u16::from_be(context_field(&fields.user_port) as u16);
    let address = match family {
        Family::V4 => Address::v4(context_field(&fields.user_ip4).to_ne_bytes()),
        Family::V6 => {
            let words: [u32; 4] = core::array::from_fn(|i| context_field(&fields.user_ip6[i]));
            Address::v6_words(words)
        }
    };
    let known = Protocol::of_ip(protocol);
    let address = match (known, operation) {
        (Some(Protocol::Tcp), Operation::Connect) if is_unspecified_v4(address) => unspecified_tcp(fields),
        _ => address,
    };
    let destination = known.map(|protocol| Destination { protocol, address, port });
    let decision = decide(&session::standing(claim), destination, &KernelRules);
    // SAFETY: a helper on the context.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    let attempt = Attempt { operation, cookie, socket_type, protocol, to: Some((address, port)) };
    conclude(claim, &decision, &attempt)
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
    // Read once: the verifier wants the very pointer that was compared with null.
    // SAFETY: a context field; volatile, so that it is not loaded again.
    let socket = unsafe { (&raw const fields.__bindgen_anon_1.sk).read_volatile() };
    // SAFETY: a socket that the verifier knows as such, or null.
    let Some(socket) = (unsafe { socket.as_ref() }) else {
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
pub(crate) fn conclude(claim: Claim, decision: &Decision, attempt: &Attempt) -> i32 {
    let refused = decision.is_refused();
    counters::add(match (decision.verdict, refused) {
        (_, true) => Counter::Refused,
        (Verdict::Deny, false) => Counter::Audited,
        (Verdict::Allow, false) => Counter::Allowed,
    });
    if decision.reason == Reason::Fault {
        counters::add(Counter::FaultNoRules);
    }
    let (family, address, port) = match attempt.to {
        Some((address, port)) => (address.family().raw(), address.octets(), port),
        None => (0, [0; 16], 0),
    };
    emit::submit(EgressRecord {
        header: emit::header::<EgressRecord>(RecordKind::Egress),
        cookie: attempt.cookie,
        session: claim.session(),
        tgid: task::current_tgid(),
        tid: task::current_tid(),
        uid: task::current_uid(),
        rule: decision.rule,
        envelope: decision.envelope,
        protocol: attempt.protocol as u16,
        port_be: port.to_be_bytes(),
        address,
        family,
        socket_type: attempt.socket_type as u8,
        operation: attempt.operation.raw(),
        verdict: decision.verdict.raw(),
        reason: decision.reason.raw(),
        refused: refused as u8,
        pad: [0; 2],
        comm: emit::current_comm(),
    });
    if refused { REJECT } else { PROCEED }
}
