//! From the kernel's bytes to typed records, and from records to lines. Core: nothing here does I/O.

#![forbid(unsafe_code)]

mod decode;
mod line;

pub(crate) use decode::{Body, Egress, GuardDecision, Record, decode};
pub(crate) use line::{
    EventKind, EventLine, LineEgress, LineGuard, LineProcess, LineSession, SessionText, protocol_name,
};
