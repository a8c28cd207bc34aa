//! The only code that reserves, fills and submits a record. A record that does not fit is lost and counted; nothing else
//! depends on it.
//!
//! A number is given out once there is a place for the record, or none: what comes out of the ring is then in the order of the numbers,
//! but for programs that interrupt each other.

use aya_ebpf::helpers::generated::bpf_get_smp_processor_id;
use enforcer_common::{
    ABI_VERSION,
    counter::Counter,
    record::{COMM_LEN, RecordHeader, RecordKind},
};

use crate::{
    atomic, counters,
    kernel::task::Task,
    maps::{RECORDS, SEQUENCES},
    session,
};

/// A header for a record of type `T`. Its numbers are filled in when it is submitted.
#[inline(always)]
pub(crate) fn header<T>(kind: RecordKind) -> RecordHeader {
    RecordHeader {
        time_ns: session::now_ns(),
        sequence: 0,
        lost: 0,
        abi: ABI_VERSION,
        kind: kind.raw(),
        len_bytes: size_of::<T>() as u32,
        cpu: 0,
        pad: 0,
    }
}

/// Puts `record` into the ring buffer.
#[inline(always)]
pub(crate) fn submit<T: 'static>(record: T) {
    match RECORDS.reserve::<T>(0) {
        Some(mut entry) => {
            entry.write(record);
            // SAFETY: a record, which begins with its header.
            number(unsafe { &mut *entry.as_mut_ptr().cast::<RecordHeader>() });
            entry.submit(0);
        }
        None => lose(),
    }
}

/// Reserves a record and lets `fill` write it in place: for one that is too large for what is left of the 512-byte stack.
#[inline(always)]
pub(crate) fn submit_in_place<T: 'static>(fill: impl FnOnce(&mut T)) {
    match RECORDS.reserve::<T>(0) {
        Some(mut entry) => {
            let record = entry.as_mut_ptr();
            // SAFETY: reserved memory of one record.
            unsafe { record.write_bytes(0, 1) };
            // SAFETY: initialised above; zeros are a valid record, which is integers only.
            fill(unsafe { &mut *record });
            // SAFETY: a record, which begins with its header.
            number(unsafe { &mut *record.cast::<RecordHeader>() });
            entry.submit(0);
        }
        None => lose(),
    }
}

/// Which record of which CPU this is, and how many that has lost.
#[inline(always)]
fn number(header: &mut RecordHeader) {
    header.sequence = next_sequence();
    header.lost = counters::read(Counter::FaultRecordLost);
    // SAFETY: it takes nothing, and gives a number.
    header.cpu = unsafe { bpf_get_smp_processor_id() };
}

#[inline(always)]
fn lose() {
    next_sequence();
    counters::add(Counter::FaultRecordLost);
}

/// Verified by itself.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn next_sequence() -> u64 {
    let Some(made) = SEQUENCES.get_ptr_mut(0) else { return 0 };
    // SAFETY: a live map value of this CPU that is accessed atomically only: a program may be interrupted by another.
    unsafe { atomic::fetch_add(made, 1) }
}

/// The current thread's name, or zeros (and a count) if the kernel does not say. Read from the task: the helper for it is not
/// there for every type of program (cgroup_skb on 6.1 and 6.12).
#[inline(always)]
pub(crate) fn current_comm() -> [u8; COMM_LEN] {
    Task::current().comm().unwrap_or_else(|| {
        counters::add(Counter::FaultKernelRead);
        [0; COMM_LEN]
    })
}
