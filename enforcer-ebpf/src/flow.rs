//! What is counted of packets: datagrams that pass, and packets that are refused again. Counting changes no verdict: what finds no
//! room is counted with a session's others, and if that fails as well, as a fault.

use aya_ebpf::maps::HashMap;
use enforcer_common::{
    counter::Counter,
    flow::{Flow, FlowKey, MAX_FLOWS_OF_SESSION},
};

use crate::{
    atomic, counters,
    maps::{FLOW_PERIOD, FLOW_RESTS, FLOWS, FLOWS_MADE},
    session,
};

const BPF_NOEXIST: u64 = 1;

/// One packet that is counted.
#[repr(C)]
pub(crate) struct Datagram {
    pub(crate) key: FlowKey,
    /// Without headers, of a datagram.
    pub(crate) bytes: u64,
    pub(crate) rule: u32,
    pub(crate) envelope: u32,
    /// Who sends it, if that is known; else 0.
    pub(crate) tgid: u32,
    pub(crate) local_port: u16,
    /// 1: it leaves.
    pub(crate) is_out: u8,
    /// 1: the socket is not of the session's own cgroup.
    pub(crate) foreign: u8,
}
const _: () = assert!(size_of::<Datagram>() == 72);

/// Reads a field of a flow, which other CPUs write.
macro_rules! load {
    ($flow:ident, $field:ident) => {{
        // SAFETY: a field of a live map value.
        let field = unsafe { &raw const (*$flow).$field };
        // SAFETY: likewise; volatile, because others write to it.
        unsafe { field.read_volatile() }
    }};
}

/// Likewise writes it.
macro_rules! store {
    ($flow:ident, $field:ident, $value:expr) => {{
        let value = $value;
        // SAFETY: a field of a live map value.
        let field = unsafe { &raw mut (*$flow).$field };
        // SAFETY: likewise; volatile, because others read it.
        unsafe { field.write_volatile(value) }
    }};
}

/// Likewise adds to it.
macro_rules! increase {
    ($flow:ident, $field:ident, $by:expr) => {{
        let by = $by;
        // SAFETY: a field of a live map value.
        let field = unsafe { &raw mut (*$flow).$field };
        // SAFETY: likewise, and one that is accessed atomically only.
        unsafe { atomic::add(field, by) }
    }};
}

/// Adds a datagram to its total. Verified by itself, and on a stack frame of its own.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn flow_count(datagram: *mut Datagram) -> u64 {
    // SAFETY: null, or what the caller has initialised; the kernel checks its size.
    let Some(datagram) = (unsafe { datagram.as_mut() }) else { return 0 };
    // What is refused to a session that is long over does not take what its slot's next one may have.
    if !session::holds(datagram.key.session) {
        return 0;
    }
    datagram.key.period = period();
    if add(&FLOWS, datagram) || make(datagram) {
        return 0;
    }
    datagram.key = datagram.key.others();
    if !add(&FLOW_RESTS, datagram)
        && FLOW_RESTS.insert(datagram.key, flow_of(datagram), BPF_NOEXIST).is_err()
        // If another CPU was faster, it is added to that.
        && !add(&FLOW_RESTS, datagram)
    {
        counters::add(Counter::FaultFlowStore);
    }
    0
}

/// Whether a datagram that is about to be sent needs no record of its own: there is a total of this period, with the same outcome, and it names
/// this process.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn flow_is_known(datagram: *mut Datagram) -> u64 {
    // SAFETY: as in `flow_count`.
    let Some(datagram) = (unsafe { datagram.as_mut() }) else { return 0 };
    datagram.key.period = period();
    let Some(flow) = FLOWS.get_ptr_mut(datagram.key) else { return 0 };
    // Another CPU may write to it meanwhile, and then there is a record too many.
    let is_same = load!(flow, rule) == datagram.rule && load!(flow, envelope) == datagram.envelope;
    let sender = load!(flow, tgid);
    if is_same && sender == datagram.tgid {
        return 1;
    }
    if sender != 0 && sender != datagram.tgid {
        store!(flow, flags, load!(flow, flags) | Flow::SEVERAL);
    }
    store!(flow, tgid, datagram.tgid);
    0
}

#[inline(always)]
fn period() -> u64 {
    FLOW_PERIOD.get_ptr(0).map_or(0, |period| {
        // SAFETY: a live array value; the daemon writes it, and either of two periods will do.
        unsafe { period.read_volatile() }
    })
}

#[inline(always)]
fn add(flows: &HashMap<FlowKey, Flow>, datagram: &Datagram) -> bool {
    let Some(flow) = flows.get_ptr_mut(datagram.key) else { return false };
    // Of these, what was written last stands.
    if datagram.tgid != 0 {
        let sender = load!(flow, tgid);
        if sender == 0 {
            store!(flow, tgid, datagram.tgid);
        } else if sender != datagram.tgid {
            store!(flow, flags, load!(flow, flags) | Flow::SEVERAL);
        }
    }
    store!(flow, last_ns, session::now_ns());
    if load!(flow, rule) != datagram.rule {
        store!(flow, rule, datagram.rule);
    }
    if load!(flow, envelope) != datagram.envelope {
        store!(flow, envelope, datagram.envelope);
    }
    if datagram.is_out != 0 {
        increase!(flow, packets_out, 1);
        increase!(flow, bytes_out, datagram.bytes);
    } else {
        increase!(flow, packets_in, 1);
        increase!(flow, bytes_in, datagram.bytes);
    }
    true
}

/// Makes a total of this datagram, if there is room; if another CPU was faster, it is added to that.
#[inline(always)]
fn make(datagram: &Datagram) -> bool {
    if !has_room(datagram.key.session.slot, datagram.key.period) {
        return false;
    }
    FLOWS.insert(datagram.key, flow_of(datagram), BPF_NOEXIST).is_ok() || add(&FLOWS, datagram)
}

#[inline(always)]
fn flow_of(datagram: &Datagram) -> Flow {
    let now_ns = session::now_ns();
    let (out, into) = if datagram.is_out != 0 { (1, 0) } else { (0, 1) };
    Flow {
        first_ns: now_ns,
        last_ns: now_ns,
        packets_out: out,
        bytes_out: out * datagram.bytes,
        packets_in: into,
        bytes_in: into * datagram.bytes,
        rule: datagram.rule,
        envelope: datagram.envelope,
        tgid: datagram.tgid,
        local_port: datagram.local_port,
        flags: if datagram.foreign != 0 { Flow::FOREIGN } else { 0 },
    }
}

/// Takes one of the flows that a session may have in a period.
#[inline(always)]
fn has_room(slot: u32, period: u64) -> bool {
    let Some(made) = FLOWS_MADE.get_ptr_mut(slot) else { return false };
    let period = period << 32;
    // SAFETY: a live array value that is accessed atomically only.
    let seen = unsafe { made.read_volatile() };
    if seen & !u64::from(u32::MAX) != period {
        // If another CPU was faster, it has done this.
        // SAFETY: as above.
        unsafe { atomic::replace(made, seen, period) };
    }
    // SAFETY: as above.
    let before = unsafe { atomic::fetch_add(made, 1) };
    before & u64::from(u32::MAX) < MAX_FLOWS_OF_SESSION
}
