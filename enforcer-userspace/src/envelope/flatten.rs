//! From rules that overlap to prefixes that do not hide anything: what holds at each prefix that a rule names, for every
//! protocol and port, with what all prefixes around it say taken in.
//!
//! The prefixes are walked in order, with those that contain the current one on a stack. Each prefix has a table: its own
//! rules laid over the table of the nearest prefix around it. That gives the precedence of the language: a deny that is
//! carried out before everything; one that is audited before an allow; within each, the longest prefix; at the same
//! prefix, the rule written first.

use std::collections::HashMap;
use std::rc::Rc;

use enforcer_common::rules::{INBOUND, selector};
use enforcer_common::verdict::{Mode, Verdict};

use super::spans::{Span, layer, mark_audited};
use super::{ListenRule, PortRange, Prefix, Rule};

/// What holds at a prefix, except where a longer one says something else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Flat {
    pub(super) prefix: Prefix,
    /// In order, without overlap. What is not in it, no rule decides.
    pub(super) spans: Rc<[Span]>,
}

/// The rules to flatten, numbered as in records. What listen rules say stands under selectors of its own, so that both are laid
/// over each other without meeting.
#[derive(Clone, Copy, Debug)]
pub(super) struct RuleSet<'e> {
    pub(super) mode: Mode,
    pub(super) rules: &'e [Rule],
    pub(super) listen: &'e [ListenRule],
    /// Where every listen rule holds besides.
    pub(super) anybody: &'e [Prefix],
}

/// Compiling would take more than the caller gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TooLarge {
    #[error("the rules overlap so much that combining their ports takes more than {max_steps} steps")]
    Steps { max_steps: u64 },
    #[error("the compiled rules take more than {max_blocks} blocks of 128 bytes")]
    Blocks { max_blocks: usize },
}

/// Flattens rules in at most `max_steps` steps of combining port ranges. In order: a prefix stands directly before those that it
/// contains. One that says what the one around it says is left out.
///
/// Usually a step or two per prefix. But each prefix needs every port range that holds there, also those of the prefixes
/// around it: m ranges for 0.0.0.0/0 and n single addresses make m times n steps.
pub(super) fn flatten(set: RuleSet<'_>, max_steps: u64) -> Result<Vec<Flat>, TooLarge> {
    let mut flattener = Flattener::new(set, max_steps)?;
    let mut claims: Vec<(Prefix, u32)> = Vec::with_capacity(set.rules.len() + set.listen.len());
    let to = set.rules.iter().map(|rule| (&rule.to[..], &[][..]));
    let from = set.listen.iter().map(|rule| (&rule.from[..], set.anybody));
    for ((prefixes, others), number) in to.chain(from).zip(0..) {
        claims.extend(prefixes.iter().chain(others).map(|prefix| (*prefix, number)));
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
    fn new(set: RuleSet<'_>, max_steps: u64) -> Result<Self, TooLarge> {
        let RuleSet { mode, rules, listen, .. } = set;
        let kind = |rule: &Rule| match (rule.verdict, rule.effective_mode(mode)) {
            (Verdict::Allow, _) => Kind::Allow,
            (Verdict::Deny, Mode::Enforce) => Kind::Enforced,
            (Verdict::Deny, Mode::Audit) => Kind::Audited,
        };
        let count = rules.len() + listen.len();
        let mut flattener = Self {
            kinds: rules.iter().map(kind).chain(listen.iter().map(|_| Kind::Allow)).collect(),
            rule_spans: Vec::with_capacity(count),
            tables: Vec::with_capacity(count),
            known: HashMap::with_capacity(count),
            nothing: Rc::new([]),
            steps_left: max_steps,
            max_steps,
        };
        let out = rules.iter().zip(0..).map(|(rule, number)| written(mode, rule, number));
        let numbers = (0..).skip(rules.len());
        for spans in out.chain(listen.iter().zip(numbers).map(|(rule, number)| listened(rule, number))) {
            let spans = flattener.combine(spans, &[])?;
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

/// Every protocol and port of a rule in an envelope of this mode.
pub(super) fn written(mode: Mode, rule: &Rule, number: u32) -> Vec<Span> {
    // A deny that is carried out says so, whatever else holds. What is audited is let through only where an allow rule matches
    // as well: that is marked there.
    let own_mode = Some(rule.effective_mode(mode));
    let mode = own_mode.filter(|mode| (rule.verdict, *mode) == (Verdict::Deny, Mode::Enforce));
    let span = |first, last| Span { first, last, rule: number, mode };
    let spans = rule.protocols.iter().flat_map(|protocol| {
        let at = |port| selector(*protocol, port);
        let icmp = (!protocol.has_ports()).then(|| span(at(0), at(0)));
        let ports = rule.ports.iter().filter(|_| protocol.has_ports());
        let ports = ports.map(move |range| match (rule.verdict, *range) {
            (Verdict::Deny, PortRange::ANY) => span(at(0), at(range.last)),
            _ => span(at(range.first), at(range.last)),
        });
        icmp.into_iter().chain(ports)
    });
    spans.collect()
}

/// Every protocol and local port of a listen rule.
fn listened(rule: &ListenRule, number: u32) -> Vec<Span> {
    let spans = rule.protocols.iter().flat_map(|protocol| {
        let at = |port| INBOUND | selector(*protocol, port);
        let span = move |first, last| Span { first: at(first), last: at(last), rule: number, mode: None };
        rule.ports.iter().map(move |range| span(range.first, range.last))
    });
    spans.collect()
}
