//! That one entry is in a log, for somebody who has neither the log nor the host: the entry, the way from it to the root of a checkpoint,
//! and the checkpoint, which is signed.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    entry::{self, Entry, Header, Kind},
    hash::Hash,
    merkle,
    statement::{CheckpointStatement, Signed},
};
use crate::signature::TrustKey;

const KIND: &str = "enforcer-audit-proof";
const VERSION: u32 = 1;
/// A checkpoint comes far sooner.
const MAX_LEAVES: usize = 1 << 20;

/// Why there is no proof, or why it proves nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProofError {
    #[error("no checkpoint covers the entry: it is the last one, or one will in a second")]
    NotCovered,
    #[error("there are more entries without a checkpoint than there can be")]
    TooMany,
    #[error("the entry is no text")]
    NoText,
    #[error("it is no proof of this version")]
    Kind,
    #[error("the checkpoint is not signed by this key")]
    Signature,
    #[error("the checkpoint is none, or is of another log")]
    Checkpoint,
    #[error("the checkpoint does not cover the entry")]
    Place,
    #[error("the entry is not the one that the checkpoint covers there")]
    Root,
}

/// A proof, as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Proof {
    kind: String,
    version: u32,
    pub(crate) log: Uuid,
    pub(crate) entry: ProvenEntry,
    /// The place among what the checkpoint covers, counted from 0.
    leaf: u64,
    leaves: u64,
    /// What stands beside the way from the leaf to the root, the nearest first.
    path: Vec<Hash>,
    checkpoint: Signed,
}

/// The entry, with what its chain value is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProvenEntry {
    pub(crate) sequence: u64,
    /// A number.
    kind: u8,
    pub(crate) kind_name: String,
    pub(crate) payload: String,
    /// The chain value of the entry before.
    chain_before: Hash,
}

/// Takes entries in order until there is a proof.
#[derive(Debug)]
pub(crate) struct Prover {
    log: Uuid,
    wanted: u64,
    chain: Hash,
    /// Since the last checkpoint, that one included; of `first` and what follows.
    leaves: Vec<Hash>,
    first: u64,
    held: Option<ProvenEntry>,
}

impl Prover {
    /// From the segment on that has the entry.
    pub(crate) fn new(wanted: u64, header: &Header) -> Self {
        let before = header.first.saturating_sub(1);
        let leaves = if before > 0 { vec![merkle::leaf(header.chain)] } else { Vec::new() };
        Self { log: header.log, wanted, chain: header.chain, leaves, first: before.max(1), held: None }
    }

    pub(crate) fn take(&mut self, entry: &Entry<'_>) -> Result<Option<Proof>, ProofError> {
        if entry.kind == Kind::Checkpoint {
            if let Some(held) = self.held.take() {
                return self.proof(held, entry.payload).map(Some);
            }
            self.leaves.clear();
            self.first = entry.sequence;
        }
        if entry.sequence == self.wanted {
            self.held = Some(ProvenEntry {
                sequence: entry.sequence,
                kind: entry.kind.number(),
                kind_name: entry.kind.name().to_owned(),
                payload: str::from_utf8(entry.payload).map_err(|_| ProofError::NoText)?.to_owned(),
                chain_before: self.chain,
            });
        }
        if self.leaves.len() >= MAX_LEAVES {
            return Err(ProofError::TooMany);
        }
        self.leaves.push(merkle::leaf(entry.chain));
        self.chain = entry.chain;
        Ok(None)
    }

    fn proof(&self, entry: ProvenEntry, checkpoint: &[u8]) -> Result<Proof, ProofError> {
        let leaf = entry.sequence.checked_sub(self.first).ok_or(ProofError::Place)?;
        let at = usize::try_from(leaf).map_err(|_| ProofError::Place)?;
        Ok(Proof {
            kind: KIND.to_owned(),
            version: VERSION,
            log: self.log,
            entry,
            leaf,
            leaves: self.leaves.len() as u64,
            path: merkle::path(&self.leaves, at),
            checkpoint: serde_json::from_slice(checkpoint).map_err(|_| ProofError::Checkpoint)?,
        })
    }
}

impl Proof {
    /// Checks it by a key that somebody has from elsewhere. What the checkpoint says.
    pub(crate) fn check(&self, key: &TrustKey) -> Result<CheckpointStatement, ProofError> {
        if self.kind != KIND || self.version != VERSION {
            return Err(ProofError::Kind);
        }
        if !self.checkpoint.is_by([key.clone()]) {
            return Err(ProofError::Signature);
        }
        let statement = CheckpointStatement::read(&self.checkpoint).ok_or(ProofError::Checkpoint)?;
        if statement.log != self.log {
            return Err(ProofError::Checkpoint);
        }
        let ProvenEntry { sequence, kind, kind_name, payload, chain_before } = &self.entry;
        let covered = statement.last.checked_sub(statement.first).and_then(|more| more.checked_add(1));
        let named = Kind::of(*kind).is_some_and(|kind| kind.name() == kind_name);
        if covered != Some(self.leaves) || statement.first.checked_add(self.leaf) != Some(*sequence) || !named
        {
            return Err(ProofError::Place);
        }
        if payload.len() > entry::MAX_PAYLOAD_BYTES {
            return Err(ProofError::Root);
        }
        let chain = entry::chain_value(*chain_before, *kind, *sequence, payload.as_bytes());
        let root = merkle::root_from(merkle::leaf(chain), self.leaf, self.leaves, &self.path);
        if root == Some(statement.root) { Ok(statement) } else { Err(ProofError::Root) }
    }
}
