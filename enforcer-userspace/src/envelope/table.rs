//! Compiled blocks in memory, looked up the way the kernel does it.

use enforcer_common::rules::{Block, EnvelopeRules, RuleTables};

use super::CompiledRules;

/// The table of one envelope, under its number: what `enforcer_common::decision::decide` asks when it runs in user space.
#[derive(Clone, Debug)]
pub(crate) struct CompiledTable {
    number: u32,
    blocks: Vec<Block>,
}

impl CompiledTable {
    pub(crate) fn new(number: u32, compiled: &CompiledRules) -> Self {
        Self { number, blocks: compiled.blocks.clone() }
    }
}

impl<'t> RuleTables for &'t CompiledTable {
    type Rules = &'t CompiledTable;

    fn envelope(&self, number: u32) -> Option<&'t CompiledTable> {
        (number == self.number).then_some(self)
    }
}

impl EnvelopeRules for &CompiledTable {
    fn block(&self, index: u32) -> Option<&Block> {
        self.blocks.get(index as usize)
    }
}
