//! What one envelope allows and another does not.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};

use enforcer_common::net::Protocol;
use enforcer_common::rules::{NO_RULE, selector};
use enforcer_common::verdict::{Mode, Verdict};

use super::super::flatten::TooLarge;
use super::super::spans::Span;
use super::super::{Envelope, ListenRule, Rule};
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
    let (rules, outer_rules) = (Rules::of(inner), Rules::of(outer));
    for (by, not_by, region) in regions(rules, outer_rules, &mut steps)? {
        let (inner, outer) = (rules.named(by), outer_rules.named(not_by));
        all.push(Excess { what: What::Destinations(region), inner, outer });
    }
    // In audit mode the outer envelope lets through what a name stands for, whatever it is.
    if outer.mode == Mode::Enforce {
        named(rules, outer_rules, &mut steps, &mut all)?;
    }
    listen(inner, outer, &mut steps, &mut all)?;
    unix(inner, outer, &mut all);
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

/// Rules, and the mode of their envelope.
#[derive(Clone, Copy)]
struct Rules<'e> {
    mode: Mode,
    rules: &'e [Rule],
}

impl<'e> Rules<'e> {
    fn of(envelope: &'e Envelope) -> Self {
        Self { mode: envelope.mode, rules: &envelope.rules }
    }

    fn named(self, number: u32) -> Option<RuleRef> {
        let rule = self.rules.get(usize::try_from(number).ok()?)?;
        Some(RuleRef { name: rule.name.clone(), line: rule.line })
    }

    /// Every selector that is let through, or every one that is refused, each with the rule that does it or [`NO_RULE`].
    fn decided(self, spans: &[Span], let_through: bool) -> Vec<Span> {
        let ports = u16::MAX;
        let [icmp, tcp, udp] = [(Protocol::Icmp, 0), (Protocol::Tcp, ports), (Protocol::Udp, ports)]
            .map(|(protocol, last)| (selector(protocol, 0), selector(protocol, last)))
            .map(|(first, last)| Span { first, last, rule: NO_RULE, mode: None });
        let by_default = self.mode == Mode::Audit;
        let mut decided = Vec::with_capacity(spans.len() + 3);
        for part in overlay(&[icmp, tcp, udp], spans) {
            let verdict = part.b.map(|span| self.rules[span.rule as usize].verdict);
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
}

/// By which rule of the inner envelope something is let through, and by which of the outer one refused.
type By = (u32, u32);

/// What is let through and refused at some address.
type TooMuch = Vec<(By, Selectors)>;

/// The regions that one lets through and the other refuses, by the rules that do so.
fn regions(
    inner: Rules<'_>,
    outer: Rules<'_>,
    steps: &mut Steps,
) -> Result<Vec<(u32, u32, Region)>, TooLarge> {
    let inner_flat = steps.flatten(inner.mode, inner.rules)?;
    let outer_flat = steps.flatten(outer.mode, outer.rules)?;
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
                let too_much = too_much(&inner.decided(&pair.a, true), &outer.decided(&pair.b, false));
                classes.push((too_much, Vec::new()));
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
    let regions = regions.into_iter().filter_map(|(((by, not_by), selectors), ranges)| {
        Some((by, not_by, Region::new(ranges, selectors)?))
    });
    Ok(regions.collect())
}

/// What is let through and refused, by the rules that do so.
fn too_much(let_through: &[Span], refused: &[Span]) -> TooMuch {
    let mut by_rules: BTreeMap<By, Selectors> = BTreeMap::new();
    for part in overlay(let_through, refused) {
        if let (Some(inner), Some(outer)) = (part.a, part.b) {
            by_rules.entry((inner.rule, outer.rule)).or_default().push(part.first, part.last);
        }
    }
    by_rules.into_iter().collect()
}

/// Hosts and agents that the inner rules allow by name, and the outer ones neither by that name nor by a wider one.
fn named(
    inner: Rules<'_>,
    outer: Rules<'_>,
    steps: &mut Steps,
    all: &mut Vec<Excess>,
) -> Result<(), TooLarge> {
    let mut index = Index::new(inner.rules, steps)?;
    let mut outer_index = Index::new(outer.rules, steps)?;
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
        inner: inner.named(rule),
        outer: None,
    }));
    Ok(())
}

fn listen(
    inner: &Envelope,
    outer: &Envelope,
    steps: &mut Steps,
    all: &mut Vec<Excess>,
) -> Result<(), TooLarge> {
    let Some(outer) = &outer.listen else { return Ok(()) };
    let Some(inner) = &inner.listen else {
        all.push(whole(What::AnyListen));
        return Ok(());
    };
    let (inner, outer) = (as_rules(inner), as_rules(outer));
    let [inner, outer] = [&inner, &outer].map(|rules| Rules { mode: Mode::Enforce, rules });
    for (by, not_by, region) in regions(inner, outer, steps)? {
        let (inner, outer) = (inner.named(by), outer.named(not_by));
        all.push(Excess { what: What::Listen(region), inner, outer });
    }
    Ok(())
}

/// Listening rules as allow rules: those who may connect as the addresses.
pub(super) fn as_rules(listen: &[ListenRule]) -> Vec<Rule> {
    let rules = listen.iter().map(|rule| Rule {
        name: rule.name.clone(),
        line: rule.line,
        verdict: Verdict::Allow,
        mode: None,
        protocols: rule.protocols.clone(),
        to: rule.from.clone(),
        names: Vec::new(),
        agents: Vec::new(),
        ports: rule.ports.clone(),
    });
    rules.collect()
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
