//! From rules that overlap to prefixes that do not hide anything: what holds at each prefix that a rule names, for every
//! protocol and port, with what all prefixes around it say taken in.
//!
//! The prefixes are walked in order, with those that contain the current one on a stack. Each prefix has a table: its own
//! rules laid over the table of the nearest prefix around it. That gives the precedence of the language: a deny that is
//! carried out before everything; one that is audited before an allow; within each, the longest prefix; at the same
//! prefix, the rule written first.

use std::collections::HashMap;
use std::rc::Rc;

use enforcer_common::rules::selector;
use enforcer_common::verdict::{Mode, Verdict};

use super::spans::{Span, layer, mark_audited};
use super::{Prefix, Rule};

/// What holds at a prefix, except where a longer one says something else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Flat {
    pub(super) prefix: Prefix,
    /// In order, without overlap. What is not in it, no rule decides.
    pub(super) spans: Rc<[Span]>,
}

/// Compiling would take more than the caller gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TooLarge {
    #[error("the rules overlap so much that combining their ports takes more than {max_steps} steps")]
    Steps { max_steps: u64 },
    #[error("the compiled rules take more than {max_blocks} blocks of 128 bytes")]
    Blocks { max_blocks: usize },
}

/// Flattens the rules of an envelope of this mode in at most `max_steps` steps of combining port ranges. In order: a prefix
/// stands directly before those that it contains. One that says what the one around it says is left out.
///
/// Usually a step or two per prefix. But each prefix needs every port range that holds there, also those of the prefixes
/// around it: m ranges for 0.0.0.0/0 and n single addresses make m times n steps.
pub(super) fn flatten(mode: Mode, rules: &[Rule], max_steps: u64) -> Result<Vec<Flat>, TooLarge> {
    let mut flattener = Flattener::new(mode, rules, max_steps)?;
    let mut claims: Vec<(Prefix, u32)> = Vec::with_capacity(rules.len());
    for (rule, number) in rules.iter().zip(0..) {
        claims.extend(rule.to.iter().map(|prefix| (*prefix, number)));
    }
    claims.sort_unstable();
    claims.dedup();
    let mut flat: Vec<Flat> = Vec::with_capacity(claims.len());
    let mut around: Vec<(Prefix, TableId)> = Vec::new();
    for claims in claims.chunk_by(|(a, _), (b, _)| a == b) {
        let Some((prefix, _)) = claims.first().copied() else { continue };
        while around.pop_if(|(outer, _)| !outer.contains(prefix)).is_some() {}
        let outer = around.last().map(|(_, table)| *table);
        let id = flattener.table(outer, claims.iter().map(|(_, rule)| *rule).collect())?;
        let table = &flattener.tables[id];
        if table.is_news {
            flat.push(Flat { prefix, spans: Rc::clone(&table.combined) });
        }
        around.push((prefix, id));
    }
    Ok(flat)
}

/// What holds at a prefix, by kind of rule.
struct Table {
    /// Denies that are carried out.
    enforced: Rc<[Span]>,
    /// Denies that are only recorded.
    audited: Rc<[Span]>,
    allow: Rc<[Span]>,
    /// All of them.
    combined: Rc<[Span]>,
    /// Whether that is something else than what the table around says.
    is_news: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Enforced,
    Audited,
    Allow,
}

/// Index into [`Flattener::tables`].
type TableId = usize;

struct Flattener {
    kinds: Vec<Kind>,
    /// Each rule's ports, in order and without overlap.
    rule_spans: Vec<Vec<Span>>,
    tables: Vec<Table>,
    /// Which table is made of which: prefixes with the same rules, inside the same table, share one.
    known: HashMap<(Option<TableId>, Box<[u32]>), TableId>,
    nothing: Rc<[Span]>,
    steps_left: u64,
    max_steps: u64,
}

impl Flattener {
    fn new(mode: Mode, rules: &[Rule], max_steps: u64) -> Result<Self, TooLarge> {
        let kind = |rule: &Rule| match (rule.verdict, rule.effective_mode(mode)) {
            (Verdict::Allow, _) => Kind::Allow,
            (Verdict::Deny, Mode::Enforce) => Kind::Enforced,
            (Verdict::Deny, Mode::Audit) => Kind::Audited,
        };
        let mut flattener = Self {
            kinds: rules.iter().map(kind).collect(),
            rule_spans: Vec::with_capacity(rules.len()),
            tables: Vec::with_capacity(rules.len()),
            known: HashMap::with_capacity(rules.len()),
            nothing: Rc::new([]),
            steps_left: max_steps,
            max_steps,
        };
        for (rule, number) in rules.iter().zip(0..) {
            let spans = flattener.combine(written(rule, number), &[])?;
            flattener.rule_spans.push(spans);
        }
        Ok(flattener)
    }

    /// The table of a prefix that `own` rules name, in the order they are written, inside the prefix of table `outer`.
    fn table(&mut self, outer: Option<TableId>, own: Box<[u32]>) -> Result<TableId, TooLarge> {
        let key = (outer, own);
        if let Some(known) = self.known.get(&key) {
            return Ok(*known);
        }
        let own = &key.1;
        let [enforced, audited, allow] = match outer.map(|outer| &self.tables[outer]) {
            Some(outer) => [&outer.enforced, &outer.audited, &outer.allow].map(Rc::clone),
            None => [(); 3].map(|()| Rc::clone(&self.nothing)),
        };
        let enforced = self.over(own, Kind::Enforced, enforced)?;
        let audited = self.over(own, Kind::Audited, audited)?;
        let allow = self.over(own, Kind::Allow, allow)?;
        let recorded = if audited.is_empty() {
            Rc::clone(&allow)
        } else {
            self.combine(mark_audited(&audited, &allow), &allow)?.into()
        };
        let combined = match (enforced.is_empty(), recorded.is_empty()) {
            (true, _) => recorded,
            (false, true) => Rc::clone(&enforced),
            (false, false) => self.combine(enforced.to_vec(), &recorded)?.into(),
        };
        // Asked once: there may be as many prefixes with this table as the text has room for.
        let is_news = outer.is_none_or(|outer| self.tables[outer].combined != combined);
        let id = self.tables.len();
        self.tables.push(Table { enforced, audited, allow, combined, is_news });
        self.known.insert(key, id);
        Ok(id)
    }

    /// Those of the `own` rules that are of this kind, laid over `outer`.
    fn over(&mut self, own: &[u32], kind: Kind, outer: Rc<[Span]>) -> Result<Rc<[Span]>, TooLarge> {
        let spans = own
            .iter()
            .map(|rule| *rule as usize)
            .filter(|rule| self.kinds[*rule] == kind)
            .flat_map(|rule| self.rule_spans[rule].iter().copied());
        let spans: Vec<Span> = spans.collect();
        if spans.is_empty() {
            return Ok(outer);
        }
        Ok(self.combine(spans, &outer)?.into())
    }

    fn combine(&mut self, over: Vec<Span>, under: &[Span]) -> Result<Vec<Span>, TooLarge> {
        let steps = over.len() as u64 + under.len() as u64;
        self.steps_left =
            self.steps_left.checked_sub(steps).ok_or(TooLarge::Steps { max_steps: self.max_steps })?;
        Ok(layer(over, under))
    }
}

/// Every protocol and port of a rule.
pub(super) fn written(rule: &Rule, number: u32) -> Vec<Span> {
    // What is audited is let through only where an allow rule matches as well: that is marked there.
    let mode = rule.mode.filter(|mode| *mode == Mode::Enforce);
    let span = |first, last| Span { first, last, rule: number, mode };
    let spans = rule.protocols.iter().flat_map(|protocol| {
        let at = |port| selector(*protocol, port);
        let icmp = (!protocol.has_ports()).then(|| span(at(0), at(0)));
        let ports = rule.ports.iter().filter(|_| protocol.has_ports());
        icmp.into_iter().chain(ports.map(move |range| span(at(range.first), at(range.last))))
    });
    spans.collect()
}
