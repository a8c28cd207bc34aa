//! Compiled rules: what the kernel looks up, and how.
//!
//! An envelope is flattened into two prefix tables. `DESTS` maps (envelope, protocol, family, address prefix) to a port
//! set; `PORTS` maps (envelope, port set, port prefix) to the rule that decides. Overlaps are resolved when compiling: the entry
//! of a prefix already holds what all shorter prefixes say. So a decision is two longest-prefix look-ups, however many
//! rules there are.

use crate::kernel_pod;
use crate::net::{Address, Destination, Family, Protocol};

/// The data of a key in `DESTS`; the prefix length goes before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct DestKey {
    /// The envelope's number.
    pub envelope: u32,
    /// [`Protocol`].
    pub protocol: u8,
    /// [`Family`].
    pub family: u8,
    /// Always zero.
    pub pad: [u8; 2],
    /// Network order; IPv4 in the first four octets, the rest zero.
    pub address: [u8; 16],
}

impl DestKey {
    /// The bits before the address: always matched in full.
    pub const FIXED_BITS: u32 = 64;

    /// The key of one address prefix.
    pub const fn new(envelope: u32, protocol: Protocol, address: Address) -> Self {
        Self {
            envelope,
            protocol: protocol.raw(),
            family: address.family().raw(),
            pad: [0; 2],
            address: address.octets(),
        }
    }

    /// The prefix length of a look-up: all bits of the family.
    pub const fn lookup_bits(family: Family) -> u32 {
        Self::FIXED_BITS + family.bits() as u32
    }
}

/// The data of a key in `PORTS`; the prefix length goes before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct PortKey {
    /// The envelope's number.
    pub envelope: u32,
    /// The port set's number in its envelope.
    pub port_set: u32,
    /// Network order, so that the prefix is the high bits.
    pub port_be: [u8; 2],
    /// Always zero.
    pub pad: [u8; 2],
}

impl PortKey {
    /// The bits before the port: always matched in full.
    pub const FIXED_BITS: u32 = 64;
    /// The prefix length of a look-up.
    pub const LOOKUP_BITS: u32 = Self::FIXED_BITS + 16;

    /// The key of one port, host byte order.
    pub const fn new(envelope: u32, port_set: u32, port: u16) -> Self {
        Self { envelope, port_set, port_be: port.to_be_bytes(), pad: [0; 2] }
    }
}

/// What a rule of an envelope does with what it matches; the value of `PORTS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct PortRule {
    /// The rule's number in its envelope: allow rules first, in the order they are written, then the deny rules.
    pub rule: u32,
    /// [`crate::verdict::Verdict`] as a number.
    pub verdict: u8,
    /// Always zero.
    pub pad: [u8; 3],
}

/// In a record: no rule decided.
pub const NO_RULE: u32 = u32::MAX;

kernel_pod!(DestKey: 24, PortKey: 12, PortRule: 8);

/// Where compiled rules are looked up: kernel maps, or the same entries in memory.
pub trait RuleTable {
    /// The port set of the longest prefix that holds `key.address`.
    fn port_set(&self, key: &DestKey, family: Family) -> Option<u32>;

    /// The rule for a port of a port set.
    fn port_rule(&self, key: &PortKey) -> Option<PortRule>;

    /// Both look-ups.
    fn rule(&self, envelope: u32, destination: &Destination) -> Option<PortRule> {
        let key = DestKey::new(envelope, destination.protocol, destination.address);
        let port_set = self.port_set(&key, destination.address.family())?;
        self.port_rule(&PortKey::new(envelope, port_set, destination.port))
    }
}
