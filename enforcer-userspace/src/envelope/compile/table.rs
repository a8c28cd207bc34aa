//! Compiled entries in memory, looked up the way the kernel does it.

use super::super::prefix::mask;
use super::CompiledRules;
use enforcer_common::net::Family;
use enforcer_common::rules::{DestKey, PortKey, PortRule, RuleTable};
use std::collections::HashMap;

/// The entries of one envelope, under the keys they have in the kernel: what `enforcer_common::decision::decide` asks when
/// it runs in user space.
#[derive(Clone, Debug)]
pub(crate) struct CompiledTable {
    /// By key and prefix length, without the fixed bits.
    dests: HashMap<(DestKey, u8), u32>,
    /// Likewise.
    ports: HashMap<(PortKey, u8), PortRule>,
}

impl CompiledTable {
    /// The entries under this envelope number.
    pub(crate) fn new(envelope: u32, compiled: &CompiledRules) -> Self {
        let dest = |entry: &super::DestEntry| {
            let key = DestKey::new(envelope, entry.protocol, entry.prefix.address());
            ((key, entry.prefix.bits()), entry.port_set)
        };
        let port = |entry: &super::PortEntry| {
            ((PortKey::new(envelope, entry.port_set, entry.first), entry.bits), entry.rule)
        };
        Self {
            dests: compiled.dests.iter().map(dest).collect(),
            ports: compiled.ports.iter().map(port).collect(),
        }
    }
}

impl RuleTable for CompiledTable {
    fn port_set(&self, key: &DestKey, family: Family) -> Option<u32> {
        (0..=family.bits()).rev().find_map(|bits| {
            let key = DestKey { address: mask(key.address, bits), ..*key };
            self.dests.get(&(key, bits)).copied()
        })
    }

    fn port_rule(&self, key: &PortKey) -> Option<PortRule> {
        let port = u16::from_be_bytes(key.port_be);
        (0..=16).rev().find_map(|bits: u8| {
            let kept = u16::MAX.checked_shl(16 - u32::from(bits)).unwrap_or(0);
            let key = PortKey { port_be: (port & kept).to_be_bytes(), ..*key };
            self.ports.get(&(key, bits)).copied()
        })
    }
}
