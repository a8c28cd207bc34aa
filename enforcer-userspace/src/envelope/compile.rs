//! From flattened rules to the entries of an envelope's table; `enforcer_common::rules` says what they are.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::rc::Rc;

use enforcer_common::net::Family;
use enforcer_common::rules::{LengthPlan, RuleEntry, RuleKey};

use super::flatten::{Flat, TooLarge, flatten};
use super::lengths;
use super::spans::Span;
use super::{Envelope, Prefix, Rule};

/// The table of one envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CompiledRules {
    /// Each key once, in no particular order.
    pub(crate) entries: Vec<(RuleKey, RuleEntry)>,
    pub(crate) plan: LengthPlan,
    pub(crate) stats: Stats,
}

/// What the entries are there for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stats {
    /// Prefixes at which something else holds than around them.
    pub(crate) prefixes: usize,
    /// Prefixes that no rule names, left so that longer ones are found.
    pub(crate) markers: usize,
    /// Ranges of ports, of prefixes that have several.
    pub(crate) ranges: usize,
    /// The most look-ups to find the prefix of an address.
    pub(crate) prefix_lookups: usize,
    /// The most look-ups to find the range of a port.
    pub(crate) range_lookups: usize,
}

impl CompiledRules {
    /// The kernel memory that the table takes, in bytes: for each entry its key and value, each rounded up to 8, and 48 (6.18;
    /// v6.12/kernel/bpf/hashtab.c, struct htab_elem), for each bucket 16, and about 1 KiB.
    pub(crate) fn kernel_bytes(&self) -> u64 {
        const ENTRY: u64 =
            48 + size_of::<RuleKey>().next_multiple_of(8) as u64 + size_of::<RuleEntry>() as u64;
        const BUCKET: u64 = 16;
        const REST: u64 = 1024;
        let entries = self.entries.len().max(1) as u64;
        entries * ENTRY + entries.next_power_of_two() * BUCKET + REST
    }
}

/// Compiles in at most `max_steps` steps of combining port ranges; there are no more entries than eight times that.
pub(crate) fn compile_within(envelope: &Envelope, max_steps: u64) -> Result<CompiledRules, TooLarge> {
    let flat = flatten(envelope.mode, &envelope.rules, max_steps)?;
    let mut compiler = Compiler {
        rules: &envelope.rules,
        entries: HashMap::with_capacity(flat.len()),
        known_ranges: HashMap::new(),
        ranges: Vec::new(),
        range_lookups: 0,
    };
    let mut plan = LengthPlan::default();
    let mut prefix_lookups = 0;
    for family in Family::ALL {
        let of_family = |flat: &&Flat| flat.prefix.address().family() == *family;
        let mut counts = [0; lengths::LENGTHS];
        for flat in flat.iter().filter(of_family) {
            counts[usize::from(flat.prefix.bits())] += 1;
        }
        let tree = lengths::Tree::new(&counts);
        prefix_lookups = prefix_lookups.max(tree.depth());
        tree.write(&mut plan, *family);
        compiler.add_family(flat.iter().filter(of_family), &tree);
    }
    let stats = Stats {
        prefixes: flat.len(),
        markers: compiler.entries.len() - flat.len(),
        ranges: compiler.ranges.len(),
        prefix_lookups,
        range_lookups: compiler.range_lookups,
    };
    let mut entries: Vec<_> = compiler.entries.into_iter().collect();
    entries.append(&mut compiler.ranges);
    Ok(CompiledRules { entries, plan, stats })
}

struct Compiler<'e> {
    rules: &'e [Rule],
    entries: HashMap<RuleKey, RuleEntry>,
    /// The numbers of the first and the last of ranges that stand in the table already.
    known_ranges: HashMap<Rc<[Span]>, (u32, u32)>,
    ranges: Vec<(RuleKey, RuleEntry)>,
    range_lookups: usize,
}

impl Compiler<'_> {
    /// Adds the prefixes of one family, in order, each with the markers that lead to it.
    fn add_family<'f>(&mut self, flat: impl Iterator<Item = &'f Flat>, tree: &lengths::Tree) {
        let mut around: Vec<(Prefix, RuleEntry)> = Vec::new();
        for Flat { prefix, spans } in flat {
            while around.pop_if(|(outer, _)| !outer.contains(*prefix)).is_some() {}
            for bits in tree.shorter_on_the_way_to(prefix.bits()) {
                let key = RuleKey::prefix(prefix.address(), bits);
                match self.entries.entry(key) {
                    Entry::Occupied(mut known) => known.get_mut().longer = 1,
                    Entry::Vacant(vacant) => {
                        let outer = around.iter().rev().find(|(outer, _)| outer.bits() <= bits);
                        let holds = outer.map_or(RuleEntry::NONE, |(_, entry)| *entry);
                        vacant.insert(RuleEntry { longer: 1, ..holds });
                    }
                }
            }
            let entry = self.entry_for(spans);
            // A prefix comes before all that lead to longer ones through it, so nothing stands here yet.
            self.entries.insert(RuleKey::prefix(prefix.address(), prefix.bits()), entry);
            around.push((*prefix, entry));
        }
    }

    fn entry_for(&mut self, spans: &Rc<[Span]>) -> RuleEntry {
        match &**spans {
            [] => RuleEntry::NONE,
            [only] => self.range(only),
            several => {
                self.range_lookups = self.range_lookups.max(several.len().ilog2() as usize + 1);
                let (first, last) = match self.known_ranges.get(spans) {
                    Some(known) => *known,
                    None => self.add_ranges(spans),
                };
                RuleEntry { first, last, many: 1, ..RuleEntry::NONE }
            }
        }
    }

    fn add_ranges(&mut self, spans: &Rc<[Span]>) -> (u32, u32) {
        let number = |n: usize| u32::try_from(n).expect("flattening is bounded by far less than 2^32 steps");
        let first = number(self.ranges.len());
        for span in spans.iter() {
            let entry = (RuleKey::range(number(self.ranges.len())), self.range(span));
            self.ranges.push(entry);
        }
        let numbers = (first, number(self.ranges.len()) - 1);
        self.known_ranges.insert(Rc::clone(spans), numbers);
        numbers
    }

    fn range(&self, span: &Span) -> RuleEntry {
        let verdict = self.rules[span.rule as usize].verdict.raw();
        let mode = span.mode.map_or(0, |mode| mode.raw());
        RuleEntry { first: span.first, last: span.last, rule: span.rule, verdict, mode, longer: 0, many: 0 }
    }
}

#[cfg(test)]
mod tests;
