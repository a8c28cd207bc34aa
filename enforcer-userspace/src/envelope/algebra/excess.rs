//! What one envelope allows and another does not.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};

use enforcer_common::net::{Direction, Protocol};
use enforcer_common::rules::{INBOUND, NO_RULE, selector};
use enforcer_common::verdict::{Mode, Verdict};

use super::super::Envelope;
use super::super::flatten::{RuleSet, TooLarge};
use super::super::spans::Span;
use super::named::Index;
use super::pairs::{Known, Steps, id, overlay, pairs, segments};
use super::region::{Range, Region, Selectors};
use super::{Excess, Limit, MAX_STEPS, RuleRef, What};

/// Everything that `inner` allows and `outer` does not: destinations first, so that the first of them has an example if there
/// is one. Empty: `inner` is included in `outer`.
///
/// Takes time in proportion to the rules, unless their ports overlap very much; then it gives up.
pub(crate) fn excess(inner: &Envelope, outer: &Envelope) -> Result<Vec<Excess>, TooLarge> {
    excess_within(inner, outer, MAX_STEPS)
}

pub(super) fn excess_within(
    inner: &Envelope,
    outer: &Envelope,
    max_steps: u64,
) -> Result<Vec<Excess>, TooLarge> {
    let mut steps = Steps::new(max_steps);
    let mut all = Vec::new();
    let mut inbound = Vec::new();
    for (By { direction, inner: by, outer: not_by, in_part }, region) in regions(inner, outer, &mut steps)? {
        let (inner, outer) = (named_by(inner, by), named_by(outer, not_by));
        match direction {
            Direction::Out => all.push(Excess { what: What::Destinations(region), inner, outer }),
            Direction::In => inbound.push(Excess { what: What::Listen { region, in_part }, inner, outer }),
        }
    }
    // In audit mode the outer envelope lets through what a name stands for, whatever it is.
    if outer.mode == Mode::Enforce {
        named(inner, outer, &mut steps, &mut all)?;
    }
    all.append(&mut inbound);
    unix(inner, outer, &mut all);
    exec(inner, outer, &mut all);
    if (inner.mode, outer.mode) == (Mode::Audit, Mode::Enforce) {
        all.push(whole(What::Audit));
    }
    if inner.ttl > outer.ttl {
        all.push(whole(What::Ttl { inner: inner.ttl, outer: outer.ttl }));
    }
    for which in Limit::ALL {
        let (inner, outer) = (which.of(&inner.limits), which.of(&outer.limits));
        let Some(outer) = outer else { continue };
        if inner.is_none_or(|inner| !inner.is_within(outer)) {
            all.push(whole(What::Limit { which, inner, outer }));
        }
    }
    if inner.on_finding < outer.on_finding {
        all.push(whole(What::OnFinding { inner: inner.on_finding, outer: outer.on_finding }));
    }
    // What it restricts, it requires.
    let needs = inner.needs();
    let missing: Vec<_> = outer.requires.iter().copied().filter(|need| !needs.contains(need)).collect();
    if !missing.is_empty() {
        all.push(whole(What::Requires(missing)));
    }
    Ok(all)
}

/// What `b` allows more than `a`, and what it allows less.
pub(crate) fn difference(a: &Envelope, b: &Envelope) -> Result<(Vec<Excess>, Vec<Excess>), TooLarge> {
    Ok((excess(b, a)?, excess(a, b)?))
}

/// Something that no rule speaks of.
fn whole(what: What) -> Excess {
    Excess { what, inner: None, outer: None }
}

fn named_by(envelope: &Envelope, number: u32) -> Option<RuleRef> {
    envelope.named(number).map(|(name, line)| RuleRef { name: name.to_owned(), line })
}

/// Which way something goes, by which rule of the inner envelope it is let through, and by which of the outer one refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct By {
    direction: Direction,
    inner: u32,
    outer: u32,
    /// Refused from some of the ports that they may connect from.
    in_part: bool,
}

/// What is let through and refused at some address.
type TooMuch = Vec<(By, Selectors)>;

/// The regions that one lets through and the other refuses, by the rules that do so.
fn regions(inner: &Envelope, outer: &Envelope, steps: &mut Steps) -> Result<Vec<(By, Region)>, TooLarge> {
    let flatten = |Envelope { mode, rules, listen, .. }: &Envelope| {
        steps.flatten(RuleSet { mode: *mode, rules, listen, anybody: &[] })
    };
    let (inner_flat, outer_flat) = (flatten(inner)?, flatten(outer)?);
    let pairs = pairs(&inner_flat, &outer_flat);
    // Where the same holds in both, the same is too much.
    let mut known: Known<usize> = HashMap::new();
    let mut classes: Vec<(TooMuch, Vec<Range>)> = Vec::new();
    let mut class_of = Vec::with_capacity(pairs.len());
    for pair in &pairs {
        let key = (id(&pair.a), id(&pair.b));
        let class = match known.get(&key) {
            Some(class) => *class,
            None => {
                steps.take(pair.a.len() + pair.b.len() + 6)?;
                let (inner, outer) = (Held::new(inner, &pair.a), Held::new(outer, &pair.b));
                classes.push((too_much(&inner, &outer), Vec::new()));
                known.insert(key, classes.len() - 1);
                classes.len() - 1
            }
        };
        class_of.push(class);
    }
    segments(&pairs, |range, pair| {
        let (too_much, ranges) = &mut classes[class_of[pair]];
        if !too_much.is_empty() {
            ranges.push(range);
        }
    });
    let mut regions: BTreeMap<(By, Selectors), Vec<Range>> = BTreeMap::new();
    for (too_much, ranges) in classes {
        for (by, selectors) in too_much {
            steps.take(ranges.len() + selectors.0.len())?;
            regions.entry((by, selectors)).or_default().extend_from_slice(&ranges);
        }
    }
    let regions = regions
        .into_iter()
        .filter_map(|((by, selectors), ranges)| Some((by, Region::new(ranges, selectors)?)));
    Ok(regions.collect())
}

/// What is let through and refused, by the rules that do so.
fn too_much(inner: &Held<'_>, outer: &Held<'_>) -> TooMuch {
    let mut by_rules: BTreeMap<By, Selectors> = BTreeMap::new();
    let out = Protocol::ALL.iter().map(|protocol| ports_of(*protocol, 0)).collect::<Vec<_>>();
    for part in overlay(&inner.decided(&out, true), &outer.decided(&out, false)) {
        if let (Some(inner), Some(outer)) = (part.a, part.b) {
            let by = By { direction: Direction::Out, inner: inner.rule, outer: outer.rule, in_part: false };
            by_rules.entry(by).or_default().push(part.first, part.last);
        }
    }
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        // Where they connect from, and to which port of ours: the first is up to deny rules, the second to listen rules, each
        // whatever the other is. So there is too much if either is, unless nothing comes in at all.
        let from = inner.open(protocol);
        if from.is_empty() {
            continue;
        }
        let denied = overlay(&from, &outer.carried_out(protocol));
        let denied_by = denied.iter().find_map(|part| part.a.and(part.b)).map(|denied| denied.rule);
        let is_open = denied.iter().any(|part| part.a.is_some() && part.b.is_none());
        let ports = [ports_of(protocol, INBOUND)];
        for part in overlay(&inner.decided(&ports, true), &outer.decided(&ports, false)) {
            let Some(let_in) = part.a else { continue };
            let (outer, in_part) = match (part.b, denied_by) {
                (Some(refused), _) => (refused.rule, false),
                (None, Some(denied_by)) => (denied_by, is_open),
                (None, None) => continue,
            };
            let by = By { direction: Direction::In, inner: let_in.rule, outer, in_part };
            by_rules.entry(by).or_default().push(part.first & !INBOUND, part.last & !INBOUND);
        }
    }
    by_rules.into_iter().collect()
}

/// Every port of a protocol; by no rule.
fn ports_of(protocol: Protocol, direction: u32) -> Span {
    let last = if protocol.has_ports() { u16::MAX } else { 0 };
    let at = |port| direction | selector(protocol, port);
    Span { first: at(0), last: at(last), rule: NO_RULE, mode: None }
}

/// What an envelope says at some address.
struct Held<'e> {
    envelope: &'e Envelope,
    spans: &'e [Span],
}

impl<'e> Held<'e> {
    fn new(envelope: &'e Envelope, spans: &'e [Span]) -> Self {
        Self { envelope, spans }
    }

    /// Of these selectors every one that is let through, or every one that is refused, each with the rule that does it or
    /// [`NO_RULE`].
    fn decided(&self, all: &[Span], let_through: bool) -> Vec<Span> {
        let by_default = self.envelope.mode == Mode::Audit;
        let mut decided = Vec::with_capacity(self.spans.len() + all.len());
        for part in overlay(all, self.spans) {
            if part.a.is_none() {
                continue;
            }
            let verdict = part.b.map(|span| self.envelope.verdict(span.rule));
            let through = match (verdict, part.b.and_then(|span| span.mode)) {
                (Some(Verdict::Allow), _) | (Some(Verdict::Deny), Some(Mode::Audit)) => true,
                (Some(Verdict::Deny), Some(Mode::Enforce)) => false,
                (Some(Verdict::Deny) | None, _) => by_default,
            };
            if through == let_through {
                let rule = part.b.map_or(NO_RULE, |span| span.rule);
                decided.push(Span { first: part.first, last: part.last, rule, mode: None });
            }
        }
        decided
    }

    /// The ports of the far end that a deny rule refuses whoever begins.
    fn carried_out(&self, protocol: Protocol) -> Vec<Span> {
        let ports = ports_of(protocol, 0);
        let denied = self.spans.iter().filter(|span| {
            span.mode == Some(Mode::Enforce) && span.first <= ports.last && span.last >= ports.first
        });
        denied.copied().collect()
    }

    /// Those that none does.
    fn open(&self, protocol: Protocol) -> Vec<Span> {
        let parts = overlay(&[ports_of(protocol, 0)], &self.carried_out(protocol));
        let open = parts.into_iter().filter(|part| part.a.is_some() && part.b.is_none());
        open.map(|part| Span { first: part.first, last: part.last, rule: NO_RULE, mode: None }).collect()
    }
}

/// Hosts and agents that the inner rules allow by name, and the outer ones neither by that name nor by a wider one.
fn named(
    inner: &Envelope,
    outer: &Envelope,
    steps: &mut Steps,
    all: &mut Vec<Excess>,
) -> Result<(), TooLarge> {
    let mut index = Index::new(&inner.rules, steps)?;
    let mut outer_index = Index::new(&outer.rules, steps)?;
    let mut known: Known<Vec<(u32, Selectors)>> = HashMap::new();
    let mut names: BTreeMap<(u32, Selectors), Vec<String>> = BTreeMap::new();
    for named in index.keys() {
        let ours = index.exactly(named, steps)?;
        let theirs = outer_index.covering(named, steps)?;
        let key = (id(&ours), id(&theirs));
        let too_much = match known.entry(key) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                steps.take(ours.len() + theirs.len())?;
                let mut by_rule: BTreeMap<u32, Selectors> = BTreeMap::new();
                for part in overlay(&ours, &theirs) {
                    if let (Some(span), None) = (part.a, part.b) {
                        by_rule.entry(span.rule).or_default().push(part.first, part.last);
                    }
                }
                unknown.insert(by_rule.into_iter().collect())
            }
        };
        for too_much in too_much.iter() {
            steps.take(1 + too_much.1.0.len())?;
            names.entry(too_much.clone()).or_default().push(named.to_string());
        }
    }
    all.extend(names.into_iter().map(|((rule, selectors), names)| Excess {
        what: What::Named { names, services: selectors.services() },
        inner: named_by(inner, rule),
        outer: None,
    }));
    Ok(())
}

fn exec(inner: &Envelope, outer: &Envelope, all: &mut Vec<Excess>) {
    let (inner, outer) = (&inner.exec, &outer.exec);
    match inner.images_beyond(outer) {
        None => all.push(whole(What::AnyImage)),
        Some(images) if images.is_empty() => {}
        Some(images) => all.push(whole(What::Images(images))),
    }
    let files = inner.files_short_of(outer);
    if !files.is_empty() {
        all.push(whole(What::Files(files)));
    }
    if inner.is_milder_than(outer) {
        all.push(whole(What::OnMismatch { inner: inner.on_mismatch, outer: outer.on_mismatch }));
    }
}

fn unix(inner: &Envelope, outer: &Envelope, all: &mut Vec<Excess>) {
    let Some(outer) = &outer.unix else { return };
    let Some(inner) = &inner.unix else {
        all.push(whole(What::AnyUnix));
        return;
    };
    let allowed: HashSet<&str> = outer.iter().flat_map(|rule| &rule.to).map(String::as_str).collect();
    for rule in inner {
        let sockets = rule.to.iter().filter(|socket| !allowed.contains(socket.as_str()));
        let sockets: Vec<String> = sockets.cloned().collect();
        if !sockets.is_empty() {
            let by = RuleRef { name: rule.name.clone(), line: rule.line };
            all.push(Excess { what: What::Unix(sockets), inner: Some(by), outer: None });
        }
    }
}
