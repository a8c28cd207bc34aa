//! What the log says of itself: the payloads of all entries that are no events. JSON. What is signed is the text of a statement, byte for
//! byte, so that `openssl dgst -sha256 -verify` checks it too; each says what it is, so that none is taken for another.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use uuid::Uuid;

use super::{
    entry::{self, Kind},
    hash::Hash,
};
use crate::signature::{Signature, TrustKey, TrustKeys};

const VERSION: u32 = 1;
const CHECKPOINT: &str = "enforcer-audit-checkpoint";
const KEY: &str = "enforcer-audit-key";
const STUB: &str = "enforcer-audit-stub";

/// When, and in which boot of the host.
#[derive(Clone, Debug)]
pub(crate) struct Moment {
    pub(crate) time: jiff::Timestamp,
    pub(crate) boot_id: String,
}

/// The first entry.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Begun {
    pub(crate) version: u32,
    pub(crate) log: Uuid,
    /// What the host calls itself.
    pub(crate) host: String,
    /// Names the machine, where it has a name; made of `/etc/machine-id` so that this cannot be had from it.
    pub(crate) machine: Option<String>,
    /// The first key, PEM.
    pub(crate) key: String,
    pub(crate) time: String,
    pub(crate) boot_id: String,
    /// The sequence of the last event before there was a log.
    pub(crate) events_before: u64,
}

impl Begun {
    pub(crate) const VERSION: u32 = VERSION;

    /// The chain value before the first entry: of no other log, host or key.
    pub(crate) fn chain(&self) -> Hash {
        let machine = self.machine.as_deref().unwrap_or("");
        let texts = [self.host.as_str(), machine, self.key.as_str()];
        let lengths = texts.map(|text| (text.len() as u64).to_le_bytes());
        Hash::of(&[
            b"enforcer audit log 1\0",
            self.log.as_bytes(),
            &lengths[0],
            texts[0].as_bytes(),
            &lengths[1],
            texts[1].as_bytes(),
            &lengths[2],
            texts[2].as_bytes(),
        ])
    }
}

/// A statement, and who vouches for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Signed {
    pub(crate) statement: String,
    /// Base64; null where there was no key to sign with.
    pub(crate) signature: Option<String>,
}

impl Signed {
    /// Whether one of these keys signed it.
    pub(super) fn is_by(&self, keys: impl IntoIterator<Item = TrustKey>) -> bool {
        let signature = self.signature.as_deref().map(Signature::parse);
        let Some(Ok(signature)) = signature else { return false };
        TrustKeys::new(keys).verify(self.statement.as_bytes(), &signature).is_ok()
    }

    /// Of what is signed.
    pub(crate) fn digest(&self) -> Hash {
        Hash::of(&[self.statement.as_bytes()])
    }

    fn read<T: DeserializeOwned>(&self, kind: &str, said: impl Fn(&T) -> (&str, u32)) -> Option<T> {
        let statement: T = serde_json::from_str(&self.statement).ok()?;
        (said(&statement) == (kind, VERSION)).then_some(statement)
    }
}

/// How far the log went. It covers the entries from the checkpoint before on, that one included.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CheckpointStatement {
    kind: String,
    version: u32,
    pub(crate) log: Uuid,
    pub(crate) number: u64,
    /// How many entries there were in the whole log before it.
    pub(crate) entries: u64,
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// The chain value of `last`.
    pub(crate) head: Hash,
    /// Of the Merkle tree over `first` to `last`.
    pub(crate) root: Hash,
    /// The digest of the statement of the checkpoint before.
    pub(crate) previous: Option<Hash>,
    /// RFC 3339.
    pub(crate) time: String,
    pub(crate) boot_id: String,
    /// The id of the key that signs.
    pub(crate) key: String,
}

/// What a checkpoint is about to say.
#[derive(Clone, Copy, Debug)]
pub(super) struct Covered {
    pub(super) log: Uuid,
    pub(super) number: u64,
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) head: Hash,
    pub(super) root: Hash,
    pub(super) previous: Option<Hash>,
}

impl CheckpointStatement {
    pub(super) fn new(covered: &Covered, moment: &Moment, key: String) -> Self {
        let Covered { log, number, first, last, head, root, previous } = *covered;
        Self {
            kind: CHECKPOINT.to_owned(),
            version: VERSION,
            log,
            number,
            entries: last,
            first,
            last,
            head,
            root,
            previous,
            time: moment.time.to_string(),
            boot_id: moment.boot_id.clone(),
            key,
        }
    }

    pub(super) fn read(signed: &Signed) -> Option<Self> {
        signed.read(CHECKPOINT, |statement: &Self| (statement.kind.as_str(), statement.version))
    }

    /// What is not as the log has it.
    pub(super) fn differs_from(&self, covered: &Covered) -> Option<&'static str> {
        let Covered { log, number, first, last, head, root, previous } = *covered;
        let compared = [
            (self.log == log, "log"),
            (self.number == number, "number"),
            (self.entries == last && self.last == last, "last entry"),
            (self.first == first, "first entry"),
            (self.head == head, "chain value"),
            (self.root == root, "root"),
            (self.previous == previous, "previous checkpoint"),
        ];
        compared.into_iter().find(|(same, _)| !same).map(|(_, what)| what)
    }
}

/// A checkpoint to keep elsewhere, or beside the log: what the log must still say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Anchor {
    pub(crate) version: u32,
    pub(crate) log: Uuid,
    /// Of the checkpoint's own entry.
    pub(crate) sequence: u64,
    /// Likewise.
    pub(crate) chain: Hash,
    pub(crate) statement: String,
    pub(crate) signature: Option<String>,
    /// The key that signed it, PEM. To look at; whether it is the right one, others say.
    pub(crate) key: String,
}

impl Anchor {
    pub(crate) const VERSION: u32 = VERSION;

    pub(crate) fn signed(&self) -> Signed {
        Signed { statement: self.statement.clone(), signature: self.signature.clone() }
    }

    /// What the checkpoint says, if it is one, and its entry would be the one that is named.
    pub(crate) fn read(&self) -> Option<CheckpointStatement> {
        let signed = self.signed();
        let statement = CheckpointStatement::read(&signed)?;
        let payload = serde_json::to_vec(&signed).ok()?;
        let kind = Kind::Checkpoint.number();
        let same = statement.log == self.log
            && statement.last.checked_add(1) == Some(self.sequence)
            && entry::chain_value(statement.head, kind, self.sequence, &payload) == self.chain;
        same.then_some(statement)
    }
}

/// Another key signs from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyStatement {
    kind: String,
    version: u32,
    pub(crate) log: Uuid,
    /// Of its own entry.
    pub(crate) sequence: u64,
    pub(crate) old: String,
    pub(crate) new: String,
    /// The new one, PEM.
    pub(crate) key: String,
    pub(crate) time: String,
    pub(crate) boot_id: String,
}

impl KeyStatement {
    pub(crate) fn new(
        log: Uuid,
        sequence: u64,
        [old, new]: [String; 2],
        key: String,
        moment: &Moment,
    ) -> Self {
        let (time, boot_id) = (moment.time.to_string(), moment.boot_id.clone());
        Self { kind: KEY.to_owned(), version: VERSION, log, sequence, old, new, key, time, boot_id }
    }

    pub(crate) fn read(signed: &Signed) -> Option<Self> {
        signed.read(KEY, |statement: &Self| (statement.kind.as_str(), statement.version))
    }
}

/// Events that did not come into the log.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Lost {
    /// As events count.
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) events: u64,
    pub(crate) why: String,
    pub(crate) time: String,
}

/// How a daemon found the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Found {
    /// There was none.
    New,
    Sound,
    /// A daemon was ended while it wrote: what it had not vouched for yet was cut.
    Torn,
    /// It does not say any more what it said.
    Tampered,
}

/// A daemon began to write.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Opened {
    pub(crate) found: Found,
    /// What was not whole, and was cut.
    pub(crate) cut_bytes: u64,
    /// The file that they were kept in, in the log's directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) kept: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) detail: Option<String>,
    /// What was to be there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) head: Option<HeadSaid>,
    /// The sequence of the last event so far, as events count.
    pub(crate) events_before: u64,
    pub(crate) release: String,
    pub(crate) time: String,
    pub(crate) boot_id: String,
}

/// Where the last checkpoint was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HeadSaid {
    pub(crate) log: Uuid,
    pub(crate) sequence: u64,
    pub(crate) chain: Hash,
}

/// The oldest entries were removed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Removed {
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// Of the stub that stands for them: a stub that no entry speaks of is none of ours, whoever signed it.
    pub(crate) stub: Hash,
    pub(crate) why: String,
    pub(crate) time: String,
}

/// What is left of the entries that were removed: as much as it takes to go on behind them.
pub(crate) type Stub = Signed;

/// What a stub says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StubStatement {
    kind: String,
    version: u32,
    pub(crate) log: Uuid,
    /// Entries 1 to this are removed.
    pub(crate) last: u64,
    /// The chain value before the first entry, and that of `last`.
    pub(crate) chain_first: Hash,
    pub(crate) chain: Hash,
    pub(crate) checkpoint: u64,
    pub(crate) checkpoint_digest: Hash,
    pub(crate) last_event: u64,
    /// The payload of the first entry.
    pub(crate) begun: String,
    /// The payloads of the entries that changed the key.
    pub(crate) keys: Vec<String>,
    pub(crate) why: String,
    pub(crate) time: String,
    pub(crate) boot_id: String,
    /// The id of the key that signs.
    pub(crate) key: String,
}

impl StubStatement {
    /// Of all before a segment.
    pub(crate) fn before(
        header: &super::Header,
        chain_first: Hash,
        begun: String,
        keys: Vec<String>,
        why: String,
        (moment, key): (&Moment, String),
    ) -> Self {
        Self {
            kind: STUB.to_owned(),
            version: VERSION,
            log: header.log,
            last: header.first.saturating_sub(1),
            chain_first,
            chain: header.chain,
            checkpoint: header.checkpoint,
            checkpoint_digest: header.checkpoint_digest,
            last_event: header.last_event,
            begun,
            keys,
            why,
            time: moment.time.to_string(),
            boot_id: moment.boot_id.clone(),
            key,
        }
    }

    pub(crate) fn read(stub: &Stub) -> Option<Self> {
        stub.read(STUB, |statement: &Self| (statement.kind.as_str(), statement.version))
    }
}
