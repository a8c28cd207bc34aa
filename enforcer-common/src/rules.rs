//! Compiled rules: what the kernel looks up, and how.
//!
//! Each envelope has a hash table of its own. Under the key of an address prefix stands what holds there: which rule decides
//! for which protocols and ports. Overlaps are resolved when compiling: the entry of a prefix already holds what all shorter
//! prefixes say, so only the longest prefix that holds an address matters.
//!
//! It is found by a search over prefix lengths, not over prefixes: the envelope's [`LengthPlan`] says which length to try first,
//! which next if there is an entry (a longer one) and which if there is none (a shorter one). So that a longer prefix is
//! never missed, each leaves a marker at the shorter lengths on its way; a marker holds what the longest prefix around it
//! holds. That is [`MAX_LOOKUPS`] look-ups at most, however many rules there are.
//!
//! Most prefixes have one range of ports under one rule, which stands in the entry itself. Where there are several, they stand in
//! entries of their own, in order, and are searched by halving.

use crate::kernel_pod;
use crate::net::{Address, Destination, Family, Protocol};

/// Envelopes in the kernel at one time, less one: number 0 is none. One for each session, and room for those that are
/// being replaced.
pub const MAX_ENVELOPES: u32 = crate::config::MAX_SESSIONS + 1024;

/// The most look-ups to find the longest prefix: enough for all 129 lengths of IPv6.
pub const MAX_LOOKUPS: usize = 8;

/// The most look-ups to find a port among the ranges of a prefix: there are fewer than 2^18.
const MAX_RANGE_LOOKUPS: usize = 18;

/// A protocol and a port as one number, so that one range can be compared: protocol times 65,536, plus port.
pub const fn selector(protocol: Protocol, port: u16) -> u32 {
    (protocol as u32) << 16 | port as u32
}

/// A key of an envelope's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct RuleKey {
    /// [`Family`] of a prefix, or [`Self::RANGE`].
    pub kind: u8,
    /// The prefix length in bits; 0 for a range.
    pub bits: u8,
    /// Always zero.
    pub pad: [u8; 2],
    /// A prefix: network order, the bits after it zero; IPv4 in the first four octets. A range: its number, host order.
    pub data: [u8; 16],
}

impl RuleKey {
    /// The kind of a range of ports.
    pub const RANGE: u8 = 1;

    /// The key of the prefix of this length that holds `address`.
    #[inline(always)]
    pub const fn prefix(address: Address, bits: u8) -> Self {
        Self { kind: address.family() as u8, bits, pad: [0; 2], data: masked(address.octets(), bits) }
    }

    /// The key of a range of ports, by its number in the envelope.
    #[inline(always)]
    pub const fn range(number: u32) -> Self {
        let [a, b, c, d] = number.to_ne_bytes();
        Self {
            kind: Self::RANGE,
            bits: 0,
            pad: [0; 2],
            data: [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        }
    }
}

/// The octets with only the first `bits` bits kept.
#[inline(always)]
pub const fn masked(octets: [u8; 16], bits: u8) -> [u8; 16] {
    /// The first `bits` of 64 bits; all of them if it is more.
    #[inline(always)]
    const fn mask(bits: u8) -> u64 {
        match bits {
            0 => 0,
            1..64 => u64::MAX << (64 - bits),
            _ => u64::MAX,
        }
    }
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = octets;
    let high = u64::from_be_bytes([a, b, c, d, e, f, g, h]) & mask(bits);
    let low = u64::from_be_bytes([i, j, k, l, m, n, o, p]) & mask(bits.saturating_sub(64));
    let [a, b, c, d, e, f, g, h] = high.to_be_bytes();
    let [i, j, k, l, m, n, o, p] = low.to_be_bytes();
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
}

/// A value of an envelope's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct RuleEntry {
    /// The first [`selector`] that the rule decides; with `many`, the number of the first range.
    pub first: u32,
    /// The last, included. Less than `first`: nothing holds here.
    pub last: u32,
    /// The rule's number in its envelope: allow rules first, in the order they are written, then the deny rules.
    pub rule: u32,
    /// [`crate::verdict::Verdict`] as a number.
    pub verdict: u8,
    /// [`crate::verdict::Mode`] as a number: of the deny, whatever the session's mode is. 0: the session's.
    pub mode: u8,
    /// Of a prefix: 1 if the search goes on with longer ones.
    pub longer: u8,
    /// Of a prefix: 1 if its ranges are entries of their own.
    pub many: u8,
}

impl RuleEntry {
    /// Nothing holds here.
    pub const NONE: Self = Self { first: 1, last: 0, rule: NO_RULE, verdict: 0, mode: 0, longer: 0, many: 0 };

    /// Whether the rule decides for a protocol and port.
    #[inline(always)]
    const fn decides(&self, selector: u32) -> bool {
        self.first <= selector && selector <= self.last
    }
}

/// A step of the search for the longest prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct LengthNode {
    /// The prefix length to look up; more than an address has bits: there is no such node. If there is an entry, and it says
    /// so, the next node follows this one.
    pub bits: u8,
    /// The next node if there is no entry; [`Self::END`] for none.
    pub miss: u8,
}

impl LengthNode {
    /// No further node.
    pub const END: u8 = u8::MAX;
    /// No node.
    pub const NONE: Self = Self { bits: u8::MAX, miss: Self::END };
}

/// In which order an envelope's prefix lengths are tried: a search tree for each family, each node directly before the
/// tree of the longer ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct LengthPlan {
    /// From 0 the nodes for IPv4, from 33 those for IPv6.
    pub nodes: [LengthNode; Self::NODES],
}

impl LengthPlan {
    /// One node for each length: 0 to 32 and 0 to 128.
    pub const NODES: usize = 33 + 129;

    /// Where the search begins.
    pub const fn root(family: Family) -> usize {
        match family {
            Family::V4 => 0,
            Family::V6 => 33,
        }
    }
}

impl Default for LengthPlan {
    /// No prefix at all.
    fn default() -> Self {
        Self { nodes: [LengthNode::NONE; Self::NODES] }
    }
}

/// In a record: no rule decided.
pub const NO_RULE: u32 = u32::MAX;

kernel_pod!(RuleKey: 20, RuleEntry: 16, LengthNode: 2, LengthPlan: 324);

/// The rules of an envelope are missing, or contradict themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

/// Where compiled rules are looked up: kernel maps, or the same entries in memory.
pub trait RuleTables {
    /// The rules of one envelope.
    type Rules: EnvelopeRules;

    /// The rules under an envelope's number.
    fn envelope(&self, number: u32) -> Option<Self::Rules>;
}

/// The compiled rules of one envelope.
pub trait EnvelopeRules {
    /// A node of the plan, if there is one with this index.
    fn node(&self, index: usize) -> Option<LengthNode>;

    /// The entry under a key.
    fn entry(&self, key: &RuleKey) -> Option<RuleEntry>;

    /// The rule that decides for a destination.
    #[inline(always)]
    fn find(&self, destination: &Destination) -> Result<Option<RuleEntry>, Broken> {
        let selector = selector(destination.protocol, destination.port);
        let Some(longest) = self.longest_prefix(destination.address)? else {
            return Ok(None);
        };
        if longest.many == 0 {
            return Ok(if longest.decides(selector) { Some(longest) } else { None });
        }
        let (mut first, mut end) = (longest.first, longest.last.wrapping_add(1));
        for _ in 0..MAX_RANGE_LOOKUPS {
            if first >= end {
                return Ok(None);
            }
            let middle = first + (end - first) / 2;
            let Some(range) = self.entry(&RuleKey::range(middle)) else {
                return Err(Broken);
            };
            if range.decides(selector) {
                return Ok(Some(range));
            }
            if selector < range.first {
                end = middle;
            } else {
                first = middle + 1;
            }
        }
        Err(Broken)
    }

    /// The entry of the longest prefix that holds an address.
    #[inline(always)]
    fn longest_prefix(&self, address: Address) -> Result<Option<RuleEntry>, Broken> {
        let mut longest = None;
        let mut index = LengthPlan::root(address.family());
        for _ in 0..MAX_LOOKUPS {
            let Some(node) = self.node(index) else {
                return Err(Broken);
            };
            if node.bits > address.family().bits() {
                return Ok(longest);
            }
            match self.entry(&RuleKey::prefix(address, node.bits)) {
                Some(entry) => {
                    longest = Some(entry);
                    if entry.longer == 0 {
                        return Ok(longest);
                    }
                    index += 1;
                }
                None if node.miss == LengthNode::END => return Ok(longest),
                None => index = node.miss as usize,
            }
        }
        // Every way through a plan is at most so long.
        Ok(longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mask_keeps_the_first_bits() {
        for bits in 0..=128u8 {
            let kept = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            assert_eq!(u128::from_be_bytes(masked([0xff; 16], bits)), kept, "{bits}");
        }
    }

    #[test]
    fn selectors_order_by_protocol_and_then_by_port() {
        assert!(selector(Protocol::Icmp, 0) < selector(Protocol::Tcp, 0));
        assert!(selector(Protocol::Tcp, u16::MAX) < selector(Protocol::Udp, 0));
    }
}
