//! The audit log: what happened, in a form in which a change is seen. Core: bytes, keys and times come in as arguments.
//!
//! A log is a sequence of entries, each with a chain value that is made of all before it. Every so often one of them is a checkpoint: it
//! says how far the log went, with a Merkle root over what came since the one before, and is signed. Keys change by an entry that the old
//! one signs. Segments are stretches of the log, a file each; what was removed for its age leaves a signed stub. The form, byte by byte,
//! and what can be told from it are in `docs/audit-log.md`. The bytes of a log are not believed: reading them is total.

#![forbid(unsafe_code)]

mod entry;
mod finding;
mod hash;
mod merkle;
mod proof;
mod reader;
mod state;
mod statement;
#[cfg(test)]
mod tests;
mod verify;

pub(crate) use entry::{Entry, HEADER_BYTES, Header, Kind, MAX_PAYLOAD_BYTES, key_bytes};
pub(crate) use finding::{Finding, LastCheckpoint, Report};
pub(crate) use hash::Hash;
pub(crate) use proof::{Proof, ProofError, Prover};
pub(crate) use reader::{ReadError, SegmentReader};
pub(crate) use state::{CHECKPOINT_ENTRIES, State};
pub(crate) use statement::{
    Anchor, Begun, Found, HeadSaid, KeyStatement, Lost, Moment, Opened, Removed, Signed, Stub, StubStatement,
};
pub(crate) use verify::Verifier;
