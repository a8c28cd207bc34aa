//! What is found out of a log, and what can be wrong with one.

use serde::Serialize;
use uuid::Uuid;

use super::{state::Broken, statement::Begun};

/// What is wrong with a log.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Flaw {
    #[error("the segment cannot be read: {0}")]
    Unreadable(String),
    #[error("the segment is of another log, {0}")]
    OtherLog(Uuid),
    #[error("the segment begins with entry {found}: those before are missing, or it is in the wrong place")]
    Begins { found: u64 },
    #[error("the segment's header does not say where the log stood before it")]
    Header,
    #[error("there are entries missing before it, and no stub says that they were removed")]
    NoStub,
    #[error("the stub of what was removed is none, or is of another log")]
    Stub,
    #[error("the stub of what was removed is not signed by a key of this log")]
    StubSignature,
    #[error("no entry that is signed speaks of the stub of what was removed")]
    StubUnsaid,
    #[error("the stub of what was removed says another chain value than the log")]
    StubChain,
    #[error("{0}")]
    Broken(#[from] Broken),
    #[error("the log does not begin with what a log begins with")]
    NoBeginning,
    #[error("the log did not begin with this id, host and key")]
    Beginning,
    #[error("the checkpoint is not signed by the key that was in force")]
    Signature,
    #[error("the checkpoint says another {0} than the log: something that it covers was changed")]
    Checkpoint(&'static str),
    #[error("the new key is not signed by the one before")]
    NewKey,
    #[error("the key was replaced, and no key vouches for the new one")]
    KeyReplaced,
    #[error("a daemon found at its start: {0}")]
    SaidSo(String),
    #[error("the checkpoint is signed by a key that is not trusted")]
    NotTrusted,
    #[error("no entry of the log is signed")]
    NotSigned,
    #[error("the log ends here; {from} has a checkpoint at entry {sequence}: what is between was taken away")]
    Ends { from: String, sequence: u64 },
    #[error(
        "this is not the checkpoint that {from} has: the log is another one from some entry before it on"
    )]
    OtherCheckpoint { from: String },
    #[error("{from} is a checkpoint of another log, {log}")]
    AnchorOfOther { from: String, log: Uuid },
    #[error("{from} is no checkpoint")]
    NoAnchor { from: String },
}

/// The first thing that is wrong, and where.
#[derive(Debug)]
pub(crate) struct Finding {
    /// Of the entry that should be there.
    pub(crate) sequence: u64,
    pub(crate) segment: String,
    pub(crate) flaw: Flaw,
}

/// A checkpoint, briefly.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct LastCheckpoint {
    pub(crate) number: u64,
    pub(crate) sequence: u64,
    pub(crate) time: String,
    pub(crate) key: String,
}

/// What was found out.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) begun: Option<Begun>,
    pub(crate) log: Option<Uuid>,
    /// The first and the last entry that are there and in order.
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) segments: u64,
    pub(crate) events: u64,
    /// Events that are said to be lost.
    pub(crate) lost: u64,
    pub(crate) checkpoint: Option<LastCheckpoint>,
    /// Entries after the last checkpoint, for which nobody vouches yet.
    pub(crate) unsigned: u64,
    /// Bytes of an entry that is not whole, behind them.
    pub(crate) torn_bytes: u64,
    pub(crate) notes: Vec<String>,
    pub(crate) finding: Option<Finding>,
}
