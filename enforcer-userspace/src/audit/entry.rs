//! The bytes of a log: the header of a segment, and what frames an entry. All numbers are little-endian.

use uuid::Uuid;

use super::hash::Hash;
use crate::signature::KeyId;

const MAGIC: [u8; 8] = *b"EnfAudit";
const VERSION: u16 = 1;
pub(crate) const HEADER_BYTES: usize = 128;
/// Length, kind, sequence.
pub(super) const FRAME_BYTES: usize = 4 + 1 + 8;
pub(super) const CHAIN_BYTES: usize = 32;
/// No line of the daemon comes near it. Whoever reads a log keeps no more than this of it.
pub(crate) const MAX_PAYLOAD_BYTES: usize = 1 << 20;

/// What an entry is. Numbers are appended, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The first entry of a log: whose it is, and the first key.
    Begun,
    /// A line of JSON, as the event file has it, without its newline.
    Event,
    /// A signed statement of how far the log goes.
    Checkpoint,
    /// Another key signs from the next entry on.
    KeyChanged,
    /// Events that did not come into the log, by number.
    Lost,
    /// A daemon began to write, and how it found the log.
    Opened,
    /// The oldest segments were removed.
    Removed,
}

impl Kind {
    const ALL: [Self; 7] = [
        Self::Begun,
        Self::Event,
        Self::Checkpoint,
        Self::KeyChanged,
        Self::Lost,
        Self::Opened,
        Self::Removed,
    ];

    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Begun => 1,
            Self::Event => 2,
            Self::Checkpoint => 3,
            Self::KeyChanged => 4,
            Self::Lost => 5,
            Self::Opened => 6,
            Self::Removed => 7,
        }
    }

    pub(super) fn of(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.number() == number)
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Begun => "begun",
            Self::Event => "event",
            Self::Checkpoint => "checkpoint",
            Self::KeyChanged => "key-changed",
            Self::Lost => "lost",
            Self::Opened => "opened",
            Self::Removed => "removed",
        }
    }
}

/// An entry as it stands in a segment. That its chain value is right was not looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) kind: Kind,
    pub(crate) sequence: u64,
    pub(crate) payload: &'a [u8],
    pub(crate) chain: Hash,
}

/// The chain value of an entry, from that of the one before.
pub(super) fn chain_value(before: Hash, kind: u8, sequence: u64, payload: &[u8]) -> Hash {
    let length = length_of(payload).to_le_bytes();
    Hash::of(&[&before.0, &[kind], &sequence.to_le_bytes(), &length, payload])
}

/// Appends the bytes of an entry.
pub(super) fn encode(kind: Kind, sequence: u64, payload: &[u8], chain: Hash, out: &mut Vec<u8>) {
    out.extend_from_slice(&length_of(payload).to_le_bytes());
    out.push(kind.number());
    out.extend_from_slice(&sequence.to_le_bytes());
    out.extend_from_slice(payload);
    out.extend_from_slice(&chain.0);
}

fn length_of(payload: &[u8]) -> u32 {
    u32::try_from(payload.len()).expect("a payload is far shorter, see `MAX_PAYLOAD_BYTES`")
}

/// The sequence of an event, as events count: the first of that name in its line, which the daemon writes before anything that others choose.
pub(super) fn event_sequence(payload: &[u8]) -> Option<u64> {
    const NAME: &[u8] = b"\"sequence\":";
    let at = payload.windows(NAME.len()).position(|window| window == NAME)? + NAME.len();
    let digits = payload.get(at..)?.iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(None, |number: Option<u64>, digit| {
        number.unwrap_or(0).checked_mul(10)?.checked_add(u64::from(digit - b'0'))
    })
}

/// What a segment begins with: where the log stood. Nothing in it is believed that the log does not say as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) log: Uuid,
    /// The sequence of its first entry.
    pub(crate) first: u64,
    /// The chain value of the entry before that.
    pub(crate) chain: Hash,
    /// The number of the last checkpoint before it, and the digest of its statement; 0 and zeros if there is none.
    pub(crate) checkpoint: u64,
    pub(crate) checkpoint_digest: Hash,
    /// The first eight bytes of the digest of the key in force.
    pub(crate) key: [u8; 8],
    /// The sequence of the last event before it, as events count.
    pub(crate) last_event: u64,
}

impl Header {
    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES] {
        let parts: [&[u8]; 10] = [
            &MAGIC,
            &VERSION.to_le_bytes(),
            &[0; 6],
            self.log.as_bytes(),
            &self.first.to_le_bytes(),
            &self.chain.0,
            &self.checkpoint.to_le_bytes(),
            &self.checkpoint_digest.0,
            &self.key,
            &self.last_event.to_le_bytes(),
        ];
        let mut bytes = [0; HEADER_BYTES];
        bytes.iter_mut().zip(parts.into_iter().flatten()).for_each(|(to, from)| *to = *from);
        bytes
    }

    /// Why not, in words.
    pub(super) fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, &'static str> {
        let mut rest = bytes.as_slice();
        if take::<8>(&mut rest) != MAGIC {
            return Err("it does not begin as one");
        }
        if u16::from_le_bytes(take(&mut rest)) != VERSION {
            return Err("it is of another version");
        }
        if take::<6>(&mut rest) != [0; 6] {
            return Err("its reserved bytes are not zero");
        }
        Ok(Self {
            log: Uuid::from_bytes(take(&mut rest)),
            first: u64::from_le_bytes(take(&mut rest)),
            chain: Hash(take(&mut rest)),
            checkpoint: u64::from_le_bytes(take(&mut rest)),
            checkpoint_digest: Hash(take(&mut rest)),
            key: take(&mut rest),
            last_event: u64::from_le_bytes(take(&mut rest)),
        })
    }
}

/// The next bytes; zeros for what is not there.
pub(super) fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    let (head, tail) = rest.split_at(N.min(rest.len()));
    *rest = tail;
    let mut bytes = [0; N];
    bytes.iter_mut().zip(head).for_each(|(to, from)| *to = *from);
    bytes
}

/// A key's id as a header has it.
pub(crate) fn key_bytes(id: &KeyId) -> [u8; 8] {
    let number = u64::from_str_radix(&id.to_string(), 16).unwrap_or(0);
    number.to_be_bytes()
}
