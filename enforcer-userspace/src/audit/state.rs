//! Where a log stands: what the next entry is made of. Whoever writes has one, and so has whoever reads.

use ring::rand::SecureRandom;
use uuid::Uuid;

use super::{
    entry::{self, Entry, Header, Kind},
    hash::Hash,
    merkle::{self, Tree},
    statement::{Anchor, Begun, CheckpointStatement, Covered, Lost, Moment, Opened, Signed},
};
use crate::signature::{KeyError, KeyId, SigningKey};

/// After so many entries there is a checkpoint, if none came before.
pub(crate) const CHECKPOINT_ENTRIES: u64 = 1024;

/// Why an entry is not the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Broken {
    #[error("entry {found} stands there")]
    Sequence { found: u64 },
    #[error("its chain value is not that of what it holds and what is before it")]
    Chain,
    #[error("it cannot be read as what it says it is")]
    Payload,
}

/// Where a log stands.
#[derive(Clone, Debug)]
pub(crate) struct State {
    pub(crate) log: Uuid,
    /// Of the last entry.
    pub(crate) sequence: u64,
    pub(crate) chain: Hash,
    /// The last checkpoint's number, and the digest of its statement.
    pub(crate) checkpoint: u64,
    checkpoint_digest: Hash,
    /// Of what the next checkpoint covers.
    covered_first: u64,
    tree: Tree,
    /// The last event, as events count.
    pub(crate) last_event: u64,
}

impl State {
    /// A log in which there is nothing yet.
    pub(crate) fn begin(begun: &Begun) -> Self {
        Self {
            log: begun.log,
            sequence: 0,
            chain: begun.chain(),
            checkpoint: 0,
            checkpoint_digest: Hash::ZERO,
            covered_first: 1,
            tree: Tree::default(),
            last_event: begun.events_before,
        }
    }

    /// Where a segment says that the log stood before it: behind a checkpoint, if it is not the first.
    pub(crate) fn at(header: &Header) -> Self {
        let sequence = header.first.saturating_sub(1);
        let mut tree = Tree::default();
        if sequence > 0 {
            tree.push(merkle::leaf(header.chain));
        }
        Self {
            log: header.log,
            sequence,
            chain: header.chain,
            checkpoint: header.checkpoint,
            checkpoint_digest: header.checkpoint_digest,
            covered_first: sequence.max(1),
            tree,
            last_event: header.last_event,
        }
    }

    /// The header of a segment that begins here.
    pub(crate) fn header(&self, key: &KeyId) -> Header {
        Header {
            log: self.log,
            first: self.sequence.saturating_add(1),
            chain: self.chain,
            checkpoint: self.checkpoint,
            checkpoint_digest: self.checkpoint_digest,
            key: entry::key_bytes(key),
            last_event: self.last_event,
        }
    }

    /// How many entries no checkpoint covers, itself not counted.
    pub(crate) fn uncovered(&self) -> u64 {
        self.tree.leaves().saturating_sub(u64::from(self.checkpoint > 0))
    }

    /// What a checkpoint would say now.
    pub(super) fn covered(&self) -> Covered {
        Covered {
            log: self.log,
            number: self.checkpoint.saturating_add(1),
            first: self.covered_first,
            last: self.sequence,
            head: self.chain,
            root: self.tree.root(),
            previous: (self.checkpoint > 0).then_some(self.checkpoint_digest),
        }
    }

    /// Appends the bytes of another entry.
    pub(crate) fn append(&mut self, kind: Kind, payload: &[u8], out: &mut Vec<u8>) {
        let sequence = self.sequence + 1;
        let chain = entry::chain_value(self.chain, kind.number(), sequence, payload);
        entry::encode(kind, sequence, payload, chain, out);
        self.advance(kind, payload, chain).expect("what we write is what it says it is");
    }

    /// Appends the bytes of a checkpoint.
    pub(crate) fn append_checkpoint(
        &mut self,
        key: &SigningKey,
        random: &dyn SecureRandom,
        moment: &Moment,
        out: &mut Vec<u8>,
    ) -> Result<Anchor, KeyError> {
        let public = key.trust_key();
        let statement = CheckpointStatement::new(&self.covered(), moment, public.id().to_string());
        let statement = serde_json::to_string(&statement).expect("a statement holds only text and numbers");
        let signature = Some(key.sign(statement.as_bytes(), random)?);
        let signed = Signed { statement, signature };
        let payload = serde_json::to_vec(&signed).expect("it holds only text");
        self.append(Kind::Checkpoint, &payload, out);
        Ok(Anchor {
            version: Anchor::VERSION,
            log: self.log,
            sequence: self.sequence,
            chain: self.chain,
            statement: signed.statement,
            signature: signed.signature,
            key: public.to_pem(),
        })
    }

    /// Goes on by an entry, if it is the next one.
    pub(crate) fn follow(&mut self, entry: &Entry<'_>) -> Result<(), Broken> {
        self.expect(entry)?;
        self.advance(entry.kind, entry.payload, entry.chain)
    }

    /// Whether an entry is the next one. What it says is another matter.
    pub(super) fn expect(&self, entry: &Entry<'_>) -> Result<(), Broken> {
        if self.sequence.checked_add(1) != Some(entry.sequence) {
            return Err(Broken::Sequence { found: entry.sequence });
        }
        let chain = entry::chain_value(self.chain, entry.kind.number(), entry.sequence, entry.payload);
        if chain == entry.chain { Ok(()) } else { Err(Broken::Chain) }
    }

    pub(super) fn advance(&mut self, kind: Kind, payload: &[u8], chain: Hash) -> Result<(), Broken> {
        match kind {
            Kind::Event => self.last_event = entry::event_sequence(payload).unwrap_or(self.last_event),
            Kind::Checkpoint => {
                let signed: Signed = read(payload)?;
                self.checkpoint = self.checkpoint.saturating_add(1);
                self.checkpoint_digest = Hash::of(&[signed.statement.as_bytes()]);
                self.covered_first = self.sequence.saturating_add(1);
                self.tree = Tree::default();
            }
            Kind::Lost => self.last_event = read::<Lost>(payload)?.last,
            Kind::Opened => self.last_event = read::<Opened>(payload)?.events_before,
            Kind::Begun | Kind::KeyChanged | Kind::Removed => {}
        }
        self.tree.push(merkle::leaf(chain));
        self.sequence = self.sequence.saturating_add(1);
        self.chain = chain;
        Ok(())
    }
}

pub(super) fn read<T: serde::de::DeserializeOwned>(payload: &[u8]) -> Result<T, Broken> {
    serde_json::from_slice(payload).map_err(|_| Broken::Payload)
}
