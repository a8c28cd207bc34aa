//! The only code that reserves, fills and submits a record. A record that does not fit is lost and counted; nothing else
//! depends on it.

use enforcer_common::{
    ABI_VERSION,
    counter::Counter,
    record::{COMM_LEN, RecordHeader, RecordKind},
};

use crate::{counters, kernel::task::Task, maps::RECORDS, session};

/// A header for a record of type `T`.
#[inline(always)]
pub(crate) fn header<T>(kind: RecordKind) -> RecordHeader {
    RecordHeader {
        time_ns: session::now_ns(),
        abi: ABI_VERSION,
        kind: kind.raw(),
        len_bytes: size_of::<T>() as u32,
    }
}

/// Puts `record` into the ring buffer.
#[inline(always)]
pub(crate) fn submit<T: 'static>(record: T) {
    match RECORDS.reserve::<T>(0) {
        Some(mut entry) => {
            entry.write(record);
            entry.submit(0);
        }
        None => counters::add(Counter::FaultRecordLost),
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
            entry.submit(0);
        }
        None => counters::add(Counter::FaultRecordLost),
    }
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
