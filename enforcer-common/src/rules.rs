//! Compiled rules: what the kernel looks up, and how.
//!
//! Overlaps are resolved when compiling: the addresses of each family are cut into intervals, and within one the same ranges of
//! ports are decided by the same rules. Most intervals have one range or none, which is their entry; where there are
//! several, the entry says where those stand, in order.
//!
//! The interval of an address is found in a search tree whose nodes are as large as what a processor fetches at once, so
//! that a million rules take few more fetches than ten: [`MAX_LEVELS`] at most. Hash tables, one per prefix length, were
//! measured before: they take a fetch or two for each length, and each is one from memory when there are many rules.
//!
//! Each envelope has an array of [`Block`]s of its own: the [`Header`], then for each family the nodes of its tree, then
//! entries. A node's children are found by counting, without pointers: those of node n are n times the fan-out plus 1 and so
//! on, so that the tree is complete from the left.

mod header;

use crate::kernel_pod;
use crate::limits::Limits;
use crate::net::{Address, Destination, Direction, Family, Protocol};

pub use header::{Header, Tree};

/// Envelopes in the kernel at one time, less one: number 0 is none. One for each session, and room for those that are
/// being replaced.
pub const MAX_ENVELOPES: u32 = crate::config::MAX_SESSIONS + 1024;

/// Unix sockets that all envelopes together may name.
pub const MAX_UNIX_RULES: u32 = 65_536;

/// The most nodes from the root to a leaf: enough for as many IPv6 intervals as fit an envelope's array.
pub const MAX_LEVELS: usize = 8;

/// The most halvings to find a port among the ranges of an interval, and one: there are at most 2^18.
const MAX_RANGE_LOOKUPS: usize = 19;

/// A protocol and a port as one number, so that one range can be compared: protocol times 65,536, plus port.
pub const fn selector(protocol: Protocol, port: u16) -> u32 {
    (protocol as u32) << 16 | port as u32
}

/// Added to a [`selector`]: what comes in to this port of ours, and not what goes out to it. So the rules for both
/// directions stand in one tree.
pub const INBOUND: u32 = 1 << 24;

/// What one look-up yields: the header, a node or entries. As large as two cache lines, which processors fetch as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Block {
    /// All in host order.
    pub words: [u32; Self::WORDS],
}

impl Block {
    /// Numbers in a block.
    pub const WORDS: usize = 32;
    /// Entries in a block.
    pub const ENTRIES: usize = Self::WORDS / RuleEntry::WORDS;

    /// Nothing.
    pub const EMPTY: Self = Self { words: [0; Self::WORDS] };

    /// An entry of a block of entries.
    #[inline(always)]
    fn entry(&self, place: u32) -> RuleEntry {
        let at = (place as usize % Self::ENTRIES) * RuleEntry::WORDS;
        RuleEntry::from_words([self.words[at], self.words[at + 1], self.words[at + 2], self.words[at + 3]])
    }

    /// How many keys of a node are at most `place`. The keys are in order.
    ///
    /// Without branches: they would depend on the data, which processors guess wrong and the verifier follows each.
    #[inline(always)]
    fn keys_up_to(&self, family: Family, place: Place) -> u32 {
        let mut count = 0;
        let mut half = fan_out(family) / 2;
        while half > 0 {
            count += self.is_up_to(family, count + half - 1, place) * half;
            half /= 2;
        }
        count
    }

    /// Of a node: whether nothing holds from this key on. That stands after the keys, a bit for each.
    #[inline(always)]
    fn holds_nothing(&self, family: Family, key: u32) -> bool {
        self.words[Self::nothing(family)] >> (key % u32::BITS) & 1 != 0
    }

    /// The word of a node that says where nothing holds.
    pub const fn nothing(family: Family) -> usize {
        (fan_out(family) as usize - 1) * (Self::WORDS / fan_out(family) as usize)
    }

    /// 1 if the key is at most `place`, else 0.
    #[inline(always)]
    fn is_up_to(&self, family: Family, key: u32, place: Place) -> u32 {
        let word = |at: usize| u64::from(self.words[at % Self::WORDS]);
        let greater = match family {
            Family::V4 => less(place.low, word(key as usize)),
            Family::V6 => {
                let at = key as usize * 4;
                let [high, low] = [word(at) << 32 | word(at + 1), word(at + 2) << 32 | word(at + 3)];
                less(place.high, high) | (equal(place.high, high) & less(place.low, low))
            }
        };
        1 - greater as u32
    }
}

/// An address as a number.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub high: u64,
    pub low: u64,
}

impl Place {
    /// The number of an address; an IPv4 address is one of 32 bits.
    #[inline(always)]
    pub const fn of(address: Address) -> Self {
        Self { high: address.high(), low: address.low() }
    }
}

/// 1 if `a` is less than `b`, else 0.
#[inline(always)]
const fn less(a: u64, b: u64) -> u64 {
    (!a & b | !(a ^ b) & a.wrapping_sub(b)) >> 63
}

/// 1 if `a` is `b`, else 0.
#[inline(always)]
const fn equal(a: u64, b: u64) -> u64 {
    let difference = a ^ b;
    1 ^ (difference | difference.wrapping_neg()) >> 63
}

/// Children of a node of a family's tree: as many as keys fit a block, which has one key less.
#[inline(always)]
pub const fn fan_out(family: Family) -> u32 {
    match family {
        Family::V4 => Block::WORDS as u32,
        Family::V6 => Block::WORDS as u32 / 4,
    }
}

/// Which rule decides, in an interval of addresses or for a range of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RuleEntry {
    /// The first [`selector`] that the rule decides; with `many`, the number of the first entry.
    pub first: u32,
    /// The last, included. Less than `first`: nothing holds here.
    pub last: u32,
    /// The rule's number in its envelope: allow rules first, in the order they are written, then the deny rules.
    pub rule: u32,
    /// [`crate::verdict::Verdict`] as a number.
    pub verdict: u8,
    /// [`crate::verdict::Mode`] as a number: of the deny, whatever the session's mode is. 0: the session's.
    pub mode: u8,
    /// Of an interval: whether its ranges are entries of their own.
    pub many: bool,
}

impl RuleEntry {
    /// Numbers of an entry.
    pub const WORDS: usize = 4;

    /// Nothing holds here.
    pub const NONE: Self = Self { first: 1, last: 0, rule: NO_RULE, verdict: 0, mode: 0, many: false };

    /// As it stands in a block.
    pub const fn words(&self) -> [u32; Self::WORDS] {
        let rest = u32::from_le_bytes([self.verdict, self.mode, self.many as u8, 0]);
        [self.first, self.last, self.rule, rest]
    }

    #[inline(always)]
    const fn from_words([first, last, rule, rest]: [u32; Self::WORDS]) -> Self {
        let [verdict, mode, many, _] = rest.to_le_bytes();
        Self { first, last, rule, verdict, mode, many: many != 0 }
    }

    /// Whether the rule decides for a protocol and port.
    #[inline(always)]
    const fn decides(&self, selector: u32) -> bool {
        self.first <= selector && selector <= self.last
    }
}

/// The place of no entry. Not `None`, of which the compiler leaves one half unset: the verifier minds.
const NOWHERE: u32 = u32::MAX;

/// In a record: no rule decided.
pub const NO_RULE: u32 = u32::MAX;

kernel_pod!(Block: 128);

/// The rules of an envelope are missing, or contradict themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

/// Where compiled rules are looked up: kernel maps, or the same blocks in memory.
pub trait RuleTables {
    /// The rules of one envelope.
    type Rules: EnvelopeRules;

    /// The rules under an envelope's number.
    fn envelope(&self, number: u32) -> Option<Self::Rules>;
}

/// The compiled rules of one envelope.
pub trait EnvelopeRules {
    /// The block with this index.
    fn block(&self, index: u32) -> Option<&Block>;

    /// The limits of the envelope.
    #[inline(always)]
    fn limits(&self) -> Result<Limits, Broken> {
        match self.block(0) {
            Some(header) => {
                Ok(Limits::from_words(core::array::from_fn(|at| header.words[Header::LIMITS + at])))
            }
            None => Err(Broken),
        }
    }

    /// Whether ping sockets may be made.
    #[inline(always)]
    fn allows_icmp(&self) -> Result<bool, Broken> {
        self.block(0).map(Header::allows_icmp).ok_or(Broken)
    }

    /// Whether Unix sockets are restricted.
    #[inline(always)]
    fn restricts_unix(&self) -> Result<bool, Broken> {
        self.block(0).map(Header::restricts_unix).ok_or(Broken)
    }

    /// [`crate::image::ImagePolicy`] as a number, and the name of the list of images.
    #[inline(always)]
    fn images(&self) -> Result<(u32, [u32; 4]), Broken> {
        self.block(0).map(Header::images).ok_or(Broken)
    }

    /// The rule that decides for what goes out to a destination; or for what comes in from its address to its port, which then is
    /// one of ours.
    #[inline(always)]
    fn find(&self, direction: Direction, destination: &Destination) -> Result<Option<RuleEntry>, Broken> {
        let inbound = if matches!(direction, Direction::In) { INBOUND } else { 0 };
        let selector = inbound | selector(destination.protocol, destination.port);
        self.search(destination.address.family(), Place::of(destination.address), selector)
    }

    /// The rule that decides at a place for a selector.
    #[inline(always)]
    fn search(&self, family: Family, place: Place, selector: u32) -> Result<Option<RuleEntry>, Broken> {
        let Some(header) = self.block(0) else {
            return Err(Broken);
        };
        let (tree, entries) = Header::read(header, family);
        let Some(place) = self.interval(tree, family, place)? else {
            return Ok(None);
        };
        let holds = self.entry(entries, place)?;
        let range = if holds.many { self.range(entries, holds, selector)? } else { holds };
        Ok(if range.decides(selector) { Some(range) } else { None })
    }

    /// Of the ranges of an interval the last that begins at the selector or before; the first if none does.
    #[inline(always)]
    fn range(&self, entries: u32, interval: RuleEntry, selector: u32) -> Result<RuleEntry, Broken> {
        // As in `interval`.
        let wanted = core::hint::black_box(u64::from(selector));
        let mut at = interval.first;
        let mut left = interval.last.wrapping_sub(interval.first).wrapping_add(1);
        for _ in 0..MAX_RANGE_LOOKUPS {
            if left <= 1 {
                return self.entry(entries, at);
            }
            let half = left / 2;
            let middle = self.entry(entries, at.wrapping_add(half))?;
            let is_behind = less(wanted, u64::from(middle.first)) as u32;
            at = at.wrapping_add(half.wrapping_mul(1 - is_behind));
            left -= half;
        }
        Err(Broken)
    }

    /// The entry of the interval that holds an address, by its place; `None` if the first begins behind it.
    #[inline(always)]
    fn interval(&self, tree: Tree, family: Family, place: Place) -> Result<Option<u32>, Broken> {
        let fan_out = fan_out(family);
        // So that the compiler does not make branches of the comparisons.
        let place = core::hint::black_box(place);
        let mut found = NOWHERE;
        let mut node: u32 = 0;
        for _ in 0..MAX_LEVELS {
            if node >= tree.nodes {
                break;
            }
            let Some(block) = self.block(tree.root.wrapping_add(node)) else {
                return Err(Broken);
            };
            let count = block.keys_up_to(family, place);
            if count > 0 {
                // A key further down is nearer. Where nothing holds there is no need to read the entry.
                let key = count - 1;
                found = if block.holds_nothing(family, key) {
                    NOWHERE
                } else {
                    tree.entry.wrapping_add(node.wrapping_mul(fan_out)).wrapping_add(key)
                };
            }
            node = node.wrapping_mul(fan_out).wrapping_add(1 + count);
        }
        match found {
            _ if node < tree.nodes => Err(Broken),
            NOWHERE => Ok(None),
            found => Ok(Some(found)),
        }
    }

    /// An entry by its place among all of them.
    #[inline(always)]
    fn entry(&self, entries: u32, place: u32) -> Result<RuleEntry, Broken> {
        match self.block(entries.wrapping_add(place / Block::ENTRIES as u32)) {
            Some(block) => Ok(block.entry(place)),
            None => Err(Broken),
        }
    }
}

#[cfg(test)]
mod tests;
