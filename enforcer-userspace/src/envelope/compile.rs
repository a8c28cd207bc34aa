//! Flattens an envelope into the entries of `DESTS` and `PORTS`; `enforcer_common::rules` says what they are.
//!
//! For each protocol the prefixes of all rules are walked in order, with the prefixes that contain the current one on a
//! stack. Each prefix has a table: for every port, the deny rule and the allow rule that hold there. A prefix's table is
//! its own rules laid over the table of the nearest prefix around it. That gives the precedence of the language: a deny
//! rule before any allow rule; within each, the longest prefix; at the same prefix, the rule written first.

mod spans;
mod table;

use super::{Envelope, Prefix, Rule};
use enforcer_common::net::Protocol;
use enforcer_common::rules::PortRule;
use enforcer_common::verdict::Verdict;
use spans::{Span, blocks, layer};
use std::collections::HashMap;
use std::rc::Rc;

pub(crate) use table::CompiledTable;

/// The entries of one envelope.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CompiledRules {
    pub(crate) dests: Vec<DestEntry>,
    pub(crate) ports: Vec<PortEntry>,
}

/// An entry of `DESTS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DestEntry {
    pub(crate) protocol: Protocol,
    pub(crate) prefix: Prefix,
    /// Counted from 0 in each envelope.
    pub(crate) port_set: u32,
}

/// An entry of `PORTS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PortEntry {
    pub(crate) port_set: u32,
    /// The first port of the block.
    pub(crate) first: u16,
    /// The block's prefix length: it has 2^(16 - bits) ports. At most 16.
    pub(crate) bits: u8,
    pub(crate) rule: PortRule,
}

/// Compiling would take more than the caller gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the rules overlap so much that combining their ports takes more than {max_steps} steps")]
pub(crate) struct TooLarge {
    pub(crate) max_steps: u64,
}

/// Compiles in at most `max_steps` steps of combining port ranges; there are no more port entries than 30 times that.
///
/// Usually a step or two per prefix and protocol. But each prefix needs every port range that holds there, also those of
/// the prefixes around it: m ranges for 0.0.0.0/0 and n single addresses make m times n steps.
pub(crate) fn compile_within(envelope: &Envelope, max_steps: u64) -> Result<CompiledRules, TooLarge> {
    let mut compiler = Compiler::new(&envelope.rules, max_steps)?;
    for protocol in Protocol::ALL {
        compiler.add_protocol(*protocol)?;
    }
    Ok(compiler.compiled)
}

/// What holds at a prefix.
struct Table {
    deny: Rc<[Span]>,
    allow: Rc<[Span]>,
    /// The two combined.
    port_set: u32,
}

/// Index into [`Compiler::tables`].
type TableId = usize;

struct Compiler<'e> {
    rules: &'e [Rule],
    /// Each rule's ports, in order and without overlap.
    rule_spans: Vec<Vec<Span>>,
    tables: Vec<Table>,
    /// Which table is made of which: prefixes with the same rules, inside the same table, share one.
    known_tables: HashMap<(Option<TableId>, Box<[u32]>), TableId>,
    known_port_sets: HashMap<Rc<[Span]>, u32>,
    nothing: Rc<[Span]>,
    steps_left: u64,
    max_steps: u64,
    compiled: CompiledRules,
}

impl<'e> Compiler<'e> {
    fn new(rules: &'e [Rule], max_steps: u64) -> Result<Self, TooLarge> {
        let mut compiler = Self {
            rules,
            rule_spans: Vec::with_capacity(rules.len()),
            tables: Vec::with_capacity(rules.len()),
            known_tables: HashMap::with_capacity(rules.len()),
            known_port_sets: HashMap::with_capacity(rules.len()),
            nothing: Rc::new([]),
            steps_left: max_steps,
            max_steps,
            compiled: CompiledRules::default(),
        };
        for (rule, number) in rules.iter().zip(0..) {
            let written =
                rule.ports.iter().map(|range| Span { first: range.first, last: range.last, rule: number });
            let spans = compiler.combine(written.collect(), &[])?;
            compiler.rule_spans.push(spans);
        }
        Ok(compiler)
    }

    fn add_protocol(&mut self, protocol: Protocol) -> Result<(), TooLarge> {
        let mut claims: Vec<(Prefix, u32)> = Vec::new();
        for (rule, number) in self.rules.iter().zip(0..) {
            if rule.protocols.contains(&protocol) {
                claims.extend(rule.to.iter().map(|prefix| (*prefix, number)));
            }
        }
        claims.sort_unstable();
        claims.dedup();
        let mut around: Vec<(Prefix, TableId)> = Vec::new();
        for claims in claims.chunk_by(|(a, _), (b, _)| a == b) {
            let Some((prefix, _)) = claims.first().copied() else { continue };
            while around.pop_if(|(outer, _)| !outer.contains(prefix)).is_some() {}
            let outer = around.last().map(|(_, table)| *table);
            let table = self.table(outer, claims.iter().map(|(_, rule)| *rule).collect())?;
            let port_set = self.port_set_of(table);
            // An entry that says what the one around it says would only take up room.
            if outer.map(|outer| self.port_set_of(outer)) != Some(port_set) {
                self.compiled.dests.push(DestEntry { protocol, prefix, port_set });
            }
            around.push((prefix, table));
        }
        Ok(())
    }

    fn port_set_of(&self, table: TableId) -> u32 {
        self.tables[table].port_set
    }

    /// The table of a prefix that `own` rules name, in the order they are written, inside the prefix of table `outer`.
    fn table(&mut self, outer: Option<TableId>, own: Box<[u32]>) -> Result<TableId, TooLarge> {
        let key = (outer, own);
        if let Some(known) = self.known_tables.get(&key) {
            return Ok(*known);
        }
        let own = &key.1;
        let (outer_deny, outer_allow) = match outer.map(|outer| &self.tables[outer]) {
            Some(outer) => (Rc::clone(&outer.deny), Rc::clone(&outer.allow)),
            None => (Rc::clone(&self.nothing), Rc::clone(&self.nothing)),
        };
        let deny = self.over(own, Verdict::Deny, outer_deny)?;
        let allow = self.over(own, Verdict::Allow, outer_allow)?;
        let combined = match (deny.is_empty(), allow.is_empty()) {
            (true, _) => Rc::clone(&allow),
            (false, true) => Rc::clone(&deny),
            (false, false) => self.combine(deny.to_vec(), &allow)?.into(),
        };
        let port_set = self.port_set(combined);
        let id = self.tables.len();
        self.tables.push(Table { deny, allow, port_set });
        self.known_tables.insert(key, id);
        Ok(id)
    }

    /// Those of the `own` rules that have this verdict, laid over `outer`.
    fn over(&mut self, own: &[u32], verdict: Verdict, outer: Rc<[Span]>) -> Result<Rc<[Span]>, TooLarge> {
        let spans = own
            .iter()
            .map(|rule| *rule as usize)
            .filter(|rule| self.rules[*rule].verdict == verdict)
            .flat_map(|rule| self.rule_spans[rule].iter().copied());
        let spans: Vec<Span> = spans.collect();
        if spans.is_empty() {
            return Ok(outer);
        }
        Ok(self.combine(spans, &outer)?.into())
    }

    fn combine(&mut self, over: Vec<Span>, under: &[Span]) -> Result<Vec<Span>, TooLarge> {
        let steps = over.len() as u64 + under.len() as u64;
        self.steps_left = self.steps_left.checked_sub(steps).ok_or(TooLarge { max_steps: self.max_steps })?;
        Ok(layer(over, under))
    }

    fn port_set(&mut self, spans: Rc<[Span]>) -> u32 {
        let next = u32::try_from(self.known_port_sets.len()).expect("a text has no 2^32 prefixes");
        if let Some(known) = self.known_port_sets.get(&spans) {
            return *known;
        }
        for span in spans.iter() {
            let verdict = self.rules[span.rule as usize].verdict;
            let rule = PortRule { rule: span.rule, verdict: verdict.raw(), pad: [0; 3] };
            let entry = |(first, bits)| PortEntry { port_set: next, first, bits, rule };
            self.compiled.ports.extend(blocks(span.first, span.last).map(entry));
        }
        self.known_port_sets.insert(spans, next);
        next
    }
}

#[cfg(test)]
mod tests;
