//! The packet gate: every IP packet of a session's socket, by its own header. It sees what the other hooks cannot: source routes,
//! translated destinations, sockets that were connected before anybody asked, connections that others begin, and those that are
//! open when a session ends. No program that is attached elsewhere can overrule it.
//!
//! Whose a packet is, its socket says, not the process that happens to run: much is sent from interrupts. A socket is of the
//! session in whose cgroup it was made, and of one that was seen to use it: that it is then remembered for, with storage of
//! its own. A packet that is several sessions' business needs the leave of each.

use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock},
    cty::c_void,
    helpers::generated::{bpf_get_socket_cookie, bpf_sk_fullsock, bpf_skb_ancestor_cgroup_id},
    macros::cgroup_skb,
    programs::SkBuffContext,
};
use enforcer_common::{
    counter::Counter,
    decision::{Claim, decide_packet, spend},
    identity::Told,
    net::{Direction, Protocol},
    record::Placement,
    rules::Place,
    session::ControlWord,
    verdict::Verdict,
};

mod carried;
mod facts;
mod header;

use carried::{gate_count as count, gate_count_barred as count_barred};
use facts::{Facts, Judged};
pub(super) use facts::{pack, unpack};
use header::gate_read as read;

use super::egress::{self, Attempt, Process};
use crate::{
    cgroup, counters, image,
    kernel::{sock::Sock, task::Task},
    maps::SOCKETS,
    rules::KernelRules,
    session, task,
    usage::{self, Item},
};

/// Return code of `cgroup_skb`: the packet goes on.
const PASS: i32 = 1;
/// It does not. A program that sends is told so (EPERM), but for TCP, which tries again until it gives up.
const REFUSE: i32 = 0;

/// `cgroup_skb/egress`. Fails closed: a session's packet that cannot be judged does not leave.
#[cgroup_skb(egress)]
pub(crate) fn packet_egress(ctx: SkBuffContext) -> i32 {
    gate(&ctx, Direction::Out)
}

/// `cgroup_skb/ingress`. Fails closed: a session's packet that cannot be judged does not arrive.
#[cgroup_skb(ingress)]
pub(crate) fn packet_ingress(ctx: SkBuffContext) -> i32 {
    gate(&ctx, Direction::In)
}

#[inline(always)]
fn gate(ctx: &SkBuffContext, direction: Direction) -> i32 {
    let socket = full_socket(ctx);
    let native = cgroup::session_of(|level| ancestor_cgroup(ctx, level)).map_or(0, pack);
    let (adopted, barred_for) = kept_of(socket);
    let sender = match direction {
        Direction::Out => current_sender(socket),
        Direction::In => 0,
    };
    if native | adopted | sender == 0 {
        return PASS;
    }
    let mut facts = Facts::new(ctx, direction);
    read(ctx.skb.skb, &raw mut facts);
    if barred_for != 0 {
        counters::add(Counter::PacketsRefused);
        facts.foreign = (native != barred_for) as u8;
        count_barred(ctx.skb.skb, &raw const facts, barred_for);
        return REFUSE;
    }
    let stranger = if sender == native || sender == adopted { 0 } else { sender };
    if stranger != 0 && !adopt(socket, stranger) {
        return REFUSE;
    }
    // Each once.
    if native != 0 && judge(ctx, &mut facts, native, native, sender) == REFUSE {
        return REFUSE;
    }
    if adopted != 0 && adopted != native && judge(ctx, &mut facts, adopted, native, sender) == REFUSE {
        return REFUSE;
    }
    if stranger != 0 {
        return judge(ctx, &mut facts, stranger, native, sender);
    }
    PASS
}

/// The session that was seen to use a socket that is not of its making; and the one for which nothing passes it any more.
#[inline(always)]
fn kept_of(socket: *mut c_void) -> (u64, u64) {
    if socket.is_null() {
        return (0, 0);
    }
    // SAFETY: a socket that the verifier knows as such, not null.
    match unsafe { SOCKETS.get(socket) } {
        Some(tag) => (tag.adopted().map_or(0, pack), tag.barred().map_or(0, pack)),
        None => (0, 0),
    }
}

/// The session of the process that runs, if it is the one that sends the packet. By its cgroup if it has no tag: somebody may have moved
/// it in, with a socket of its own.
#[inline(always)]
fn current_sender(socket: *mut c_void) -> u64 {
    if socket.is_null() || listens(socket) || !Sock::of(socket).is_some_and(Sock::is_used_by_current) {
        return 0;
    }
    task::session_of(Task::current()).map_or(0, pack)
}

/// Whether a socket waits for connections. What it sends are answers to those who begin one, from an interrupt and without its
/// lock: that somebody has the lock, in `accept`, says nothing then.
#[inline(always)]
fn listens(socket: *mut c_void) -> bool {
    const TCP_LISTEN: u32 = 10;
    // SAFETY: a socket that the verifier knows as such, not null.
    let socket = unsafe { &*socket.cast::<bpf_sock>() };
    egress::context_field(&socket.state) == TCP_LISTEN
}

/// Takes a socket for a session that uses it; false if that cannot be noted. One that was another session's before stays that, and
/// this one is asked for each packet that it sends.
#[inline(always)]
pub(super) fn adopt(socket: *mut c_void, session: u64) -> bool {
    if socket.is_null() {
        return false;
    }
    // SAFETY: a socket that the verifier knows as such, not null.
    let Some(tag) = (unsafe { SOCKETS.get_or_insert(socket) }) else {
        counters::add(Counter::FaultSocketStorage);
        return false;
    };
    if tag.adopted().is_none() {
        tag.adopted = unpack(session);
        counters::add(Counter::SocketsAdopted);
    }
    true
}

/// Asks one session for its leave. [`PASS`] or [`REFUSE`].
///
/// Verified by itself, as are the parts that it calls: up to three sessions are asked, and Linux 6.1 follows each way through each of
/// them otherwise (more than a million instructions, its limit).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn gate_judge(
    skb: *mut __sk_buff,
    facts: *mut Facts,
    session: u64,
    native: u64,
    sender: u64,
) -> u64 {
    // SAFETY: as in `gate_decide`.
    let Some(facts) = (unsafe { facts.as_mut() }) else {
        return REFUSE as u64;
    };
    facts.foreign = (session != native) as u8;
    facts.sent_by_current = (session == sender) as u8;
    let mut judged = Judged::new();
    decide(&raw const *facts, session, &raw mut judged);
    if judged.verdict == Verdict::Allow.raw() && judged.resets == 0 {
        spend_bytes(&raw const *facts, session, &raw mut judged);
    }
    if judged.resets != 0 {
        return PASS as u64;
    }
    let refused = judged.decision().is_refused();
    // Of what is allowed, that which somebody else begins is told of; of the rest, `connect` has told.
    let tell_of = match judged.verdict == Verdict::Allow.raw() {
        true => facts.is_inbound_opening(),
        false => is_first(skb, &raw const *facts, &raw const judged, session) != 0,
    };
    if tell_of {
        tell(skb, &raw const *facts, &raw const judged, session);
    }
    // What is refused is told of, or is in a total.
    if !(refused && tell_of) {
        count(skb, &raw const *facts, &raw const judged, session);
    }
    if refused {
        counters::add(Counter::PacketsRefused);
        return REFUSE as u64;
    }
    PASS as u64
}

#[inline(always)]
fn judge(ctx: &SkBuffContext, facts: &mut Facts, session: u64, native: u64, sender: u64) -> i32 {
    let answer = gate_judge(ctx.skb.skb, &raw mut *facts, session, native, sender);
    // The compiler knows that it is 0 or 1, and would return it as it is; the verifier does not.
    if core::hint::black_box(answer) == PASS as u64 { PASS } else { REFUSE }
}

/// Decides for one session. Writes nothing if an address is null, which none is: the kernel wants it looked at.
///
/// A packet that tells the far end of a connection that it is over, and carries nothing, may pass while no process of a session runs:
/// the daemon destroys the sockets of a session that is over, or that came to be held to less, and without this the far ends would
/// not learn of it. What a session itself sends is judged, resets as well.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn gate_decide(facts: *const Facts, session: u64, judged: *mut Judged) -> u64 {
    // SAFETY: null, or what the caller has initialised; the kernel checks its size.
    let (Some(facts), Some(judged)) = (unsafe { facts.as_ref() }, unsafe { judged.as_mut() }) else {
        return 0;
    };
    // What it sends itself, whoever connected the socket.
    let image = if facts.sent_by_current != 0 { image::current_refusal() } else { 0 };
    let standing = session::standing(Claim::Tagged(unpack(session)), Placement::Unknown, image);
    judged.control = standing.control.0;
    let decision = decide_packet(&standing, &facts.packet(), facts.unread(), &KernelRules);
    judged.set(&decision);
    let resets = facts.unread == 0 && facts.resets != 0 && facts.is_out();
    if decision.is_refused() && resets && task::current_tag().is_none() {
        judged.resets = 1;
    }
    0
}
use gate_decide as decide;

/// Takes an allowed packet's bytes from the session's limits, or makes a refusal of it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn gate_spend(facts: *const Facts, session: u64, judged: *mut Judged) -> u64 {
    // SAFETY: as in `gate_decide`.
    let (Some(facts), Some(judged)) = (unsafe { facts.as_ref() }, unsafe { judged.as_mut() }) else {
        return 0;
    };
    let decision = judged.decision();
    let item = if facts.is_out() { Item::BytesOut } else { Item::BytesIn };
    let paid = usage::take(unpack(session).slot, decision.envelope, item, facts.len.into());
    judged.set(&spend(decision, ControlWord(judged.control), paid));
    0
}
use gate_spend as spend_bytes;

/// Whether this is not what was recorded for the socket last, here or by `connect`: a program that tries the same again and again, and
/// TCP does so by itself, makes one record, and a total for the rest. Without storage each is one.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn gate_is_first(
    skb: *mut __sk_buff,
    facts: *const Facts,
    judged: *const Judged,
    session: u64,
) -> u64 {
    // SAFETY: the callers' own.
    let (Some(facts), Some(judged)) = (unsafe { facts.as_ref() }, unsafe { judged.as_ref() }) else {
        return 1;
    };
    let socket = full_socket(&SkBuffContext::new(skb));
    if socket.is_null() {
        return 1;
    }
    // SAFETY: a socket that the verifier knows as such, not null.
    let Some(tag) = (unsafe { SOCKETS.get_or_insert(socket) }) else {
        counters::add(Counter::FaultSocketStorage);
        return 1;
    };
    // What is only audited goes back and forth, by the port that the socket has.
    let (direction, local_port) = match egress::is_audited(&judged.decision()) {
        true => (0, 0),
        false => (facts.direction, facts.local_port),
    };
    let remote = Place::of(facts.address());
    let told = Told {
        control: judged.control,
        remote_high: remote.high,
        remote_low: remote.low,
        remote_port: facts.remote_port,
        local_port,
        direction,
        reason: judged.reason,
        protocol: facts.protocol,
        family: facts.family,
    };
    let is_first = tag.told != told;
    tag.told = told;
    // TCP sends again what was refused, when nobody runs.
    if facts.protocol == Protocol::Tcp.raw() && judged.is_for_image() {
        tag.barred = unpack(session);
    }
    is_first as u64
}
use gate_is_first as is_first;

/// Counts and records a decision.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn gate_tell(
    skb: *mut __sk_buff,
    facts: *const Facts,
    judged: *const Judged,
    session: u64,
) -> u64 {
    // SAFETY: the callers' own.
    let (Some(facts), Some(judged)) = (unsafe { facts.as_ref() }, unsafe { judged.as_ref() }) else {
        return 0;
    };
    let socket = full_socket(&SkBuffContext::new(skb));
    let sock = if socket.is_null() { None } else { Sock::of(socket) };
    let protocol = match facts.protocol {
        protocol @ (6 | 17) => protocol.into(),
        _ => sock.and_then(Sock::protocol).unwrap_or(0).into(),
    };
    let netns = sock.and_then(Sock::netns).unwrap_or_else(|| {
        counters::add(Counter::FaultKernelRead);
        0
    });
    let attempt = Attempt {
        operation: facts.operation(),
        // SAFETY: a helper on the context.
        cookie: unsafe { bpf_get_socket_cookie(skb.cast()) },
        netns,
        socket_type: 0,
        protocol,
        address: facts.address(),
        port: facts.remote_port,
        named: facts.unread == 0,
        local_port: facts.local_port,
        foreign: facts.foreign != 0,
    };
    let process = match facts.sent_by_current {
        0 => Process::UNKNOWN,
        _ => Process::current(Placement::Unknown),
    };
    let decision = judged.decision();
    egress::count(&decision);
    egress::record(unpack(session), &decision, &attempt, &process);
    0
}
use gate_tell as tell;

/// The socket of a packet as what storage may be kept for; null if there is none.
#[inline(always)]
fn full_socket(ctx: &SkBuffContext) -> *mut c_void {
    // SAFETY: the context of the running program.
    let field = unsafe { &raw const (*ctx.skb.skb).__bindgen_anon_2.sk };
    // SAFETY: a context field; volatile, so that it is not loaded again.
    let socket: *mut bpf_sock = unsafe { field.read_volatile() };
    if socket.is_null() {
        return core::ptr::null_mut();
    }
    // SAFETY: a socket that the verifier knows as such, not null.
    unsafe { bpf_sk_fullsock(socket) }.cast()
}

/// The id of the ancestor of the cgroup that the packet's socket was made in.
#[inline(always)]
fn ancestor_cgroup(ctx: &SkBuffContext, level: u32) -> u64 {
    // SAFETY: a helper on the context, and a number.
    unsafe { bpf_skb_ancestor_cgroup_id(ctx.skb.skb, level as i32) }
}
