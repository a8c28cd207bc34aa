//! The rules of envelopes in the kernel, for [`enforcer_common::decision`] to ask.
//!
//! The search is a function of its own, which the kernel verifies once, whatever calls it; and which has a stack frame of its own,
//! of which a program has 512 bytes in all.

use enforcer_common::{
    net::Family,
    rules::{Block, Broken, EnvelopeRules, Place, RuleEntry, RuleTables},
};

use crate::maps::{Blocks, RULES};

/// The rule maps as [`RuleTables`].
pub(crate) struct KernelRules;

/// The rules of the envelope with this number. That there are none, the first look-up says.
#[derive(Clone, Copy)]
pub(crate) struct KernelEnvelope(u32);

impl RuleTables for KernelRules {
    type Rules = KernelEnvelope;

    #[inline(always)]
    fn envelope(&self, number: u32) -> Option<KernelEnvelope> {
        Some(KernelEnvelope(number))
    }
}

impl EnvelopeRules for KernelEnvelope {
    #[inline(always)]
    fn block(&self, index: u32) -> Option<&Block> {
        table(self.0)?.get(index)
    }

    #[inline(always)]
    fn search(&self, family: Family, place: Place, selector: u32) -> Result<Option<RuleEntry>, Broken> {
        let found = find_rule(self.0, family.raw().into(), place.high, place.low, selector);
        match (found >> STATUS) as u8 {
            NONE => Ok(None),
            FOUND => Ok(Some(RuleEntry {
                rule: found as u32,
                verdict: (found >> VERDICT) as u8,
                mode: (found >> MODE) as u8,
                ..RuleEntry::NONE
            })),
            _ => Err(Broken),
        }
    }
}

/// Blocks of one envelope.
struct Table(&'static Blocks);

impl EnvelopeRules for Table {
    #[inline(always)]
    fn block(&self, index: u32) -> Option<&Block> {
        self.0.get(index)
    }
}

#[inline(always)]
fn table(envelope: u32) -> Option<&'static Blocks> {
    // SAFETY: the kernel keeps the table for as long as this program runs.
    unsafe { RULES.get(&envelope) }
}

/// Where the parts of what [`find_rule`] found stand in one number, above the rule.
const VERDICT: u32 = 32;
const MODE: u32 = 40;
const STATUS: u32 = 48;

const NONE: u8 = 0;
const FOUND: u8 = 1;
const BROKEN: u8 = 2;

/// The rule of an envelope that decides at a place for a selector. Takes and gives numbers only, as the kernel wants it of a function
/// that it verifies by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn find_rule(envelope: u32, family: u32, high: u64, low: u64, selector: u32) -> u64 {
    const V4: u32 = Family::V4 as u32;
    let Some(table) = table(envelope) else {
        return u64::from(BROKEN) << STATUS;
    };
    let place = Place { high, low };
    let found = match family {
        V4 => Table(table).search(Family::V4, place, selector),
        _ => Table(table).search(Family::V6, place, selector),
    };
    match found {
        Ok(None) => u64::from(NONE) << STATUS,
        Ok(Some(entry)) => {
            u64::from(FOUND) << STATUS
                | u64::from(entry.mode) << MODE
                | u64::from(entry.verdict) << VERDICT
                | u64::from(entry.rule)
        }
        Err(Broken) => u64::from(BROKEN) << STATUS,
    }
}
