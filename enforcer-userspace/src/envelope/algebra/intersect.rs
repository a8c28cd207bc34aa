//! The envelope that lets through what two others both let through.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;

use enforcer_common::net::Protocol;
use enforcer_common::verdict::{Mode, Verdict};

use super::super::flatten::{RuleSet, TooLarge};
use super::super::spans::Span;
use super::super::{Envelope, HostPattern, Limits, ListenRule, PortRange, Rule, UnixRule, parse};
use super::MAX_STEPS;
use super::named::{Index, Named};
use super::pairs::{Known, Steps, id, overlay, pairs};
use super::region::{Selectors, Service};

/// The envelope that lets through exactly the destinations that `a` and `b` both let through, and has the stricter of
/// everything else. It is in enforce mode unless both are in audit mode.
///
/// It is about the agent of `b`: the narrower envelope, the one that is asked for. Its metadata is taken as it is, and rules
/// have the names and lines of the rules of `b` where both have one; a rule that comes out in parts gets numbers after its
/// name. Deny rules of both stay as they are written, those that are only audited too. Two rates of connections of which neither
/// is within the other become one that is within both.
pub(crate) fn intersect(a: &Envelope, b: &Envelope) -> Result<Envelope, TooLarge> {
    intersect_within(a, b, MAX_STEPS)
}

pub(super) fn intersect_within(a: &Envelope, b: &Envelope, max_steps: u64) -> Result<Envelope, TooLarge> {
    let mut steps = Steps::new(max_steps);
    let mode = match (a.mode, b.mode) {
        (Mode::Audit, Mode::Audit) => Mode::Audit,
        _ => Mode::Enforce,
    };
    let mut names = Names::new(b);
    // An envelope in audit mode lets through what the rules of the other allow, whatever its own say.
    let mut meet = |rules: fn(&Envelope) -> Vec<Rule>, joined| match (a.mode, b.mode) {
        (Mode::Enforce, Mode::Audit) => Ok((rules(a), false)),
        (Mode::Audit, Mode::Enforce) => Ok((rules(b), true)),
        _ => met(&rules(a), &rules(b), joined, &mut steps).map(|rules| (rules, true)),
    };
    let (mut rules, is_b) = meet(allowed, false)?;
    let (listen, _) = meet(|envelope| as_rules(&envelope.listen), true)?;
    let mut listen: Vec<ListenRule> = listen.into_iter().map(as_listen).collect();
    // One word stands for both rules, so either both are kept as they are or both are written out.
    let loopback = rules.iter().any(is_loopback) && listen.iter().any(listens_on_loopback);
    for rule in rules.iter_mut().filter(|rule| !(loopback && is_loopback(rule))) {
        rule.name = names.give(&rule.name, is_b);
    }
    rules.sort_by_key(is_loopback);
    rules.append(&mut denied(a, b, mode, &mut names));
    for rule in listen.iter_mut().filter(|rule| !(loopback && listens_on_loopback(rule))) {
        rule.name = names.give(&rule.name, is_b);
    }
    listen.sort_by_key(listens_on_loopback);
    let mut requires = [&a.requires[..], &b.requires].concat();
    requires.sort_unstable();
    requires.dedup();
    Ok(Envelope {
        metadata: b.metadata.clone(),
        mode,
        ttl: a.ttl.min(b.ttl),
        requires,
        rules,
        listen,
        unix: unix(a, b, &mut names),
        exec: a.exec.intersect(&b.exec),
        limits: stricter(&a.limits, &b.limits),
        on_finding: a.on_finding.max(b.on_finding),
    })
}

fn allowed(envelope: &Envelope) -> Vec<Rule> {
    envelope.rules.iter().filter(|rule| rule.verdict == Verdict::Allow).cloned().collect()
}

fn as_listen(Rule { name, line, protocols, to, ports, .. }: Rule) -> ListenRule {
    ListenRule { name, line, protocols, from: to, ports }
}

/// Listen rules as allow rules: those who may connect as the addresses.
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

/// The deny rules of `b`, then those of `a` that are others. They keep their effect if the envelope's mode is another.
fn denied(a: &Envelope, b: &Envelope, mode: Mode, names: &mut Names) -> Vec<Rule> {
    let mut known = HashSet::new();
    let mut denied = Vec::new();
    for (envelope, is_b) in [(b, true), (a, false)] {
        for rule in envelope.rules.iter().filter(|rule| rule.verdict == Verdict::Deny) {
            let own_mode = rule.effective_mode(envelope.mode);
            if known.insert((own_mode == Mode::Audit, &rule.protocols, &rule.to, &rule.ports)) {
                let kept = if rule.effective_mode(mode) == own_mode { rule.mode } else { Some(own_mode) };
                denied.push(Rule { name: names.give(&rule.name, is_b), mode: kept, ..rule.clone() });
            }
        }
    }
    denied
}

fn unix(a: &Envelope, b: &Envelope, names: &mut Names) -> Option<Vec<UnixRule>> {
    let (rules, others, is_b) = match (&a.unix, &b.unix) {
        (None, None) => return None,
        (Some(only), None) => (only, None, false),
        (others, Some(rules)) => (rules, others.as_ref(), true),
    };
    let allowed: Option<HashSet<&String>> =
        others.map(|others| others.iter().flat_map(|rule| &rule.to).collect());
    let mut kept = Vec::new();
    for rule in rules {
        let both = |socket: &&String| allowed.as_ref().is_none_or(|allowed| allowed.contains(*socket));
        let to: Vec<String> = rule.to.iter().filter(both).cloned().collect();
        if !to.is_empty() {
            kept.push(UnixRule { name: names.give(&rule.name, is_b), line: rule.line, to });
        }
    }
    Some(kept)
}

fn stricter(a: &Limits, b: &Limits) -> Limits {
    let least = |a: Option<u64>, b: Option<u64>| a.into_iter().chain(b).min();
    let connection_rate = match (a.connection_rate, b.connection_rate) {
        (Some(a), Some(b)) => Some(b.stricter(a)),
        (a, b) => a.or(b),
    };
    Limits {
        connections: least(a.connections, b.connections),
        connection_rate,
        bytes_out: least(a.bytes_out, b.bytes_out),
        bytes_in: least(a.bytes_in, b.bytes_in),
        processes: least(a.processes, b.processes),
        depth: least(a.depth, b.depth),
    }
}

/// Whether it is the allow rule that `loopback: allow` stands for.
pub(in super::super) fn is_loopback(rule: &Rule) -> bool {
    rule.name == parse::LOOPBACK && (Rule { line: 0, ..rule.clone() }) == parse::loopback_rules(0).0
}

/// Whether it is the listen rule that `loopback: allow` stands for.
pub(in super::super) fn listens_on_loopback(rule: &ListenRule) -> bool {
    rule.name == parse::LOOPBACK && (ListenRule { line: 0, ..rule.clone() }) == parse::loopback_rules(0).1
}

/// What the allow rules of `a` and those of `b` both match, as rules named like those of `b`. `joined`: TCP and UDP to every
/// port can stand in one rule without ICMP.
fn met(a: &[Rule], b: &[Rule], joined: bool, steps: &mut Steps) -> Result<Vec<Rule>, TooLarge> {
    let mut meeting = Meeting { b, joined, ..Meeting::default() };
    let set = |rules| RuleSet { mode: Mode::Enforce, rules, listen: &[], anybody: &[] };
    let (a_flat, b_flat) = (steps.flatten(set(a))?, steps.flatten(set(b))?);
    let nothing: Rc<[Span]> = Rc::new([]);
    let mut both: Vec<Rc<[Span]>> = Vec::new();
    // Lists of spans are known by where they stand, so all of them stay until the end.
    let pairs = pairs(&a_flat, &b_flat);
    for pair in &pairs {
        let here = meeting.both(&pair.a, &pair.b, steps)?;
        let around = pair.around.map_or(&nothing, |around| &both[around]);
        for group in meeting.groups(&here, around, steps)?.iter() {
            meeting.rules[*group].to.push(pair.prefix);
        }
        both.push(here);
    }
    let (mut a_index, mut b_index) = (Index::new(a, steps)?, Index::new(b, steps)?);
    let mut all = a_index.keys();
    all.extend(b_index.keys());
    all.sort_unstable();
    all.dedup();
    for named in all {
        let mut wider = named.covering().skip(1);
        let wider = wider.find(|wider| a_index.names(*wider) || b_index.names(*wider));
        let mut ask = |named| {
            let (a, b) = (a_index.covering(named, steps)?, b_index.covering(named, steps)?);
            meeting.both(&a, &b, steps)
        };
        let here = ask(named)?;
        let around = match wider {
            Some(wider) => ask(wider)?,
            None => Rc::clone(&nothing),
        };
        for group in meeting.groups(&here, &around, steps)?.iter() {
            let rule = &mut meeting.rules[*group];
            match named {
                Named::Agent(agent) => rule.agents.push(agent.to_owned()),
                Named::Host(_) | Named::Below(_) => rule.names.push(HostPattern(named.to_string())),
            }
        }
    }
    let mut rules = meeting.rules;
    // Stable: the parts of a rule stay in the order in which they were found.
    let mut numbered: Vec<(u32, Rule)> = meeting.numbers.into_iter().zip(rules.drain(..)).collect();
    numbered.sort_by_key(|(number, _)| *number);
    Ok(numbered.into_iter().map(|(_, rule)| rule).collect())
}

/// The rules that come of it, as far as they are known.
#[derive(Default)]
struct Meeting<'e> {
    b: &'e [Rule],
    joined: bool,
    both: Known<Rc<[Span]>>,
    groups: Known<Rc<[usize]>>,
    /// What is allowed by one rule of `b`, with the same protocols and ports, is one rule.
    rule_of: HashMap<(u32, Service), usize>,
    rules: Vec<Rule>,
    /// For each of them, the number of the rule of `b`.
    numbers: Vec<u32>,
}

impl Meeting<'_> {
    /// What is in both, under the rules of the second.
    fn both(&mut self, a: &Rc<[Span]>, b: &Rc<[Span]>, steps: &mut Steps) -> Result<Rc<[Span]>, TooLarge> {
        let key = (id(a), id(b));
        if let Some(known) = self.both.get(&key) {
            return Ok(Rc::clone(known));
        }
        steps.take(a.len() + b.len())?;
        let mut both: Vec<Span> = Vec::new();
        for part in overlay(a, b) {
            let (Some(_), Some(Span { rule, .. })) = (part.a, part.b) else { continue };
            match both.last_mut() {
                Some(last) if last.rule == rule && last.last + 1 == part.first => last.last = part.last,
                _ => both.push(Span { first: part.first, last: part.last, rule, mode: None }),
            }
        }
        let both: Rc<[Span]> = both.into();
        self.both.insert(key, Rc::clone(&both));
        Ok(both)
    }

    /// The rules that say `here`, as far as `around` does not say it already.
    fn groups(
        &mut self,
        here: &Rc<[Span]>,
        around: &Rc<[Span]>,
        steps: &mut Steps,
    ) -> Result<Rc<[usize]>, TooLarge> {
        let key = (id(here), id(around));
        if let Some(known) = self.groups.get(&key) {
            steps.take(known.len())?;
            return Ok(Rc::clone(known));
        }
        steps.take(here.len() + around.len())?;
        let mut by_rule: BTreeMap<u32, Selectors> = BTreeMap::new();
        for part in overlay(here, around) {
            if let Some(Span { rule, .. }) = part.a.filter(|here| part.b.is_none_or(|b| b.rule != here.rule))
            {
                by_rule.entry(rule).or_default().push(part.first, part.last);
            }
        }
        let services = by_rule
            .into_iter()
            .flat_map(|(rule, selectors)| {
                selectors.services().into_iter().map(move |service| (rule, service))
            })
            .flat_map(|(rule, service)| {
                self.written(service).into_iter().map(move |service| (rule, service))
            });
        let services: Vec<_> = services.collect();
        let groups: Rc<[usize]> =
            services.into_iter().map(|(rule, service)| self.group(rule, service)).collect();
        self.groups.insert(key, Rc::clone(&groups));
        Ok(groups)
    }

    /// As the language can say it: a rule for TCP and UDP to every port is one for ICMP as well.
    fn written(&self, service: Service) -> Vec<Service> {
        if self.joined
            || service.protocols != [Protocol::Tcp, Protocol::Udp]
            || service.ports != [PortRange::ANY]
        {
            return vec![service];
        }
        let one = |protocol| Service { protocols: vec![protocol], ports: vec![PortRange::ANY] };
        service.protocols.into_iter().map(one).collect()
    }

    fn group(&mut self, number: u32, service: Service) -> usize {
        if let Some(known) = self.rule_of.get(&(number, service.clone())) {
            return *known;
        }
        let like = &self.b[number as usize];
        self.rules.push(Rule {
            name: like.name.clone(),
            line: like.line,
            verdict: Verdict::Allow,
            mode: None,
            protocols: service.protocols.clone(),
            to: Vec::new(),
            names: Vec::new(),
            agents: Vec::new(),
            ports: service.ports.clone(),
        });
        self.numbers.push(number);
        self.rule_of.insert((number, service), self.rules.len() - 1);
        self.rules.len() - 1
    }
}

/// Gives every rule a name of its own.
struct Names {
    /// The names in `b`: nothing else is called so.
    of_b: HashSet<String>,
    given: HashSet<String>,
    /// The last number tried, by what stands before it.
    numbers: HashMap<String, u64>,
}

impl Names {
    /// The longest name there is.
    const MAX: usize = 63;

    fn new(b: &Envelope) -> Self {
        let rules = b.rules.iter().map(|rule| &rule.name);
        let listen = b.listen.iter().map(|rule| &rule.name);
        let unix = b.unix.iter().flatten().map(|rule| &rule.name);
        let of_b = rules.chain(listen).chain(unix).cloned().collect();
        Self { of_b, given: HashSet::from([parse::LOOPBACK.to_owned()]), numbers: HashMap::new() }
    }

    /// This name if it is free, else one that begins with it and ends in a number.
    fn give(&mut self, name: &str, is_b: bool) -> String {
        if (is_b || !self.of_b.contains(name)) && self.given.insert(name.to_owned()) {
            return name.to_owned();
        }
        /// Room for a dash and a number.
        const ROOM: usize = 12;
        let start = name.get(..Self::MAX - ROOM).unwrap_or(name).trim_end_matches(['-', '.']);
        let number = self.numbers.entry(start.to_owned()).or_insert(1);
        loop {
            *number += 1;
            let name = format!("{start}-{number}");
            if !self.of_b.contains(&name) && self.given.insert(name.clone()) {
                return name;
            }
        }
    }
}
