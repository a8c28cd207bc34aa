//! Compiled entries in memory, looked up the way the kernel does it.

use std::collections::HashMap;

use enforcer_common::rules::{EnvelopeRules, LengthNode, LengthPlan, RuleEntry, RuleKey, RuleTables};

use super::CompiledRules;

/// The table of one envelope, under its number: what `enforcer_common::decision::decide` asks when it runs in user space.
#[derive(Clone, Debug)]
pub(crate) struct CompiledTable {
    number: u32,
    entries: HashMap<RuleKey, RuleEntry>,
    plan: LengthPlan,
}

impl CompiledTable {
    pub(crate) fn new(number: u32, compiled: &CompiledRules) -> Self {
        Self { number, entries: compiled.entries.iter().copied().collect(), plan: compiled.plan }
    }
}

impl<'t> RuleTables for &'t CompiledTable {
    type Rules = &'t CompiledTable;

    fn envelope(&self, number: u32) -> Option<&'t CompiledTable> {
        (number == self.number).then_some(self)
    }
}

impl EnvelopeRules for &CompiledTable {
    fn node(&self, index: usize) -> Option<LengthNode> {
        self.plan.nodes.get(index).copied()
    }

    fn entry(&self, key: &RuleKey) -> Option<RuleEntry> {
        self.entries.get(key).copied()
    }
}
