//! From the kernel's bytes to typed records, and from records to lines. Core: nothing here does I/O.

#![forbid(unsafe_code)]

mod decode;
pub(crate) mod export;
mod finding;
mod flow;
mod guarded;
mod image;
mod line;
mod losses;
mod read;
mod repeats;

pub(crate) use decode::{Body, Connection, Egress, ExecImage, GuardDecision, Record, decode};
pub(crate) use finding::LineFinding;
pub(crate) use flow::{LineFlow, TCP};
pub(crate) use guarded::LineGuard;
pub(crate) use image::{LineContent, LineImage};
pub(crate) use line::{
    EventKind, EventLine, LineAsker, LineDestination, LineEgress, LineProcess, LineSession, Lineage,
    SessionText, protocol_name,
};
pub(crate) use losses::{
    LineGap, LineLoss, LineRecord, Loss, Losses, Number, Reading, Sight, Told, Unwritten,
};
pub(crate) use repeats::LineRepeats;
