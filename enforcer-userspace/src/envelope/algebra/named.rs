//! Which protocols and ports an envelope's allow rules open to what they name: hosts and agents. A pattern is found by the
//! suffixes of a name, so that comparing takes a look-up for each label and not one for each pattern.

use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;

use enforcer_common::verdict::{Mode, Verdict};

use super::super::flatten::{TooLarge, written};
use super::super::spans::{Span, layer};
use super::super::{HostPattern, Rule};
use super::pairs::Steps;

/// What a rule can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Named<'e> {
    /// One host.
    Host(&'e str),
    /// Every host below this one.
    Below(&'e str),
    Agent(&'e str),
}

impl<'e> Named<'e> {
    fn of_host(pattern: &'e HostPattern) -> Self {
        match pattern.0.strip_prefix("*.") {
            Some(domain) => Self::Below(domain),
            None => Self::Host(&pattern.0),
        }
    }

    /// Everything that a rule names.
    fn of_rule(rule: &'e Rule) -> impl Iterator<Item = Self> {
        rule.names.iter().map(Self::of_host).chain(rule.agents.iter().map(|agent| Self::Agent(agent)))
    }

    /// Everything that holds all of it: itself, then from narrow to wide.
    pub(super) fn covering(self) -> impl Iterator<Item = Self> {
        let below = |name: &'e str| name.split_once('.').map(|(_, domain)| domain);
        let domain = match self {
            Self::Host(name) | Self::Below(name) => below(name),
            Self::Agent(_) => None,
        };
        std::iter::once(self)
            .chain(std::iter::successors(domain, move |domain| below(domain)).map(Self::Below))
    }
}

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(name) => f.write_str(name),
            Self::Below(domain) => write!(f, "*.{domain}"),
            Self::Agent(agent) => write!(f, "agent:{agent}"),
        }
    }
}

/// What an envelope's allow rules name.
#[derive(Debug)]
pub(super) struct Index<'e> {
    /// The rules that name it, in the order they are written.
    own: HashMap<Named<'e>, Vec<u32>>,
    /// Each rule's selectors, of the rules that name anything.
    rule_spans: HashMap<u32, Vec<Span>>,
    /// The spans of some rules, laid over each other: for each thing that holds it, from narrow to wide, the rules that
    /// name it, ended by [`Index::END`].
    known: HashMap<Vec<u32>, Rc<[Span]>>,
}

impl<'e> Index<'e> {
    /// No rule has this number.
    const END: u32 = u32::MAX;

    pub(super) fn new(rules: &'e [Rule], steps: &mut Steps) -> Result<Self, TooLarge> {
        let mut index = Self { own: HashMap::new(), rule_spans: HashMap::new(), known: HashMap::new() };
        for (rule, number) in rules.iter().zip(0..) {
            if rule.verdict == Verdict::Deny || rule.names.is_empty() && rule.agents.is_empty() {
                continue;
            }
            // Allow rules: the mode changes nothing in them.
            let spans = written(Mode::Enforce, rule, number);
            steps.take(spans.len() + rule.names.len() + rule.agents.len())?;
            index.rule_spans.insert(number, layer(spans, &[]));
            for named in Named::of_rule(rule) {
                let own = index.own.entry(named).or_default();
                if own.last() != Some(&number) {
                    own.push(number);
                }
            }
        }
        Ok(index)
    }

    /// Everything that is named, in order.
    pub(super) fn keys(&self) -> Vec<Named<'e>> {
        let mut keys: Vec<_> = self.own.keys().copied().collect();
        keys.sort_unstable();
        keys
    }

    pub(super) fn names(&self, named: Named<'_>) -> bool {
        self.own.contains_key(&named)
    }

    /// What the rules that name exactly this open.
    pub(super) fn exactly(&mut self, named: Named<'_>, steps: &mut Steps) -> Result<Rc<[Span]>, TooLarge> {
        self.combined(std::iter::once(named), steps)
    }

    /// What the rules open that name it, or all of it and more: the narrowest first.
    pub(super) fn covering(&mut self, named: Named<'_>, steps: &mut Steps) -> Result<Rc<[Span]>, TooLarge> {
        self.combined(named.covering(), steps)
    }

    fn combined<'n>(
        &mut self,
        all: impl Iterator<Item = Named<'n>>,
        steps: &mut Steps,
    ) -> Result<Rc<[Span]>, TooLarge> {
        let mut key = Vec::new();
        for named in all {
            steps.take(1)?;
            if let Some(own) = self.own.get(&named) {
                steps.take(own.len())?;
                key.extend_from_slice(own);
                key.push(Self::END);
            }
        }
        if let Some(known) = self.known.get(&key) {
            return Ok(Rc::clone(known));
        }
        let mut combined = Vec::new();
        for own in key.split(|rule| *rule == Self::END).rev() {
            let spans: Vec<Span> =
                own.iter().flat_map(|rule| self.rule_spans[rule].iter().copied()).collect();
            steps.take(spans.len() + combined.len())?;
            combined = if spans.is_empty() { combined } else { layer(spans, &combined) };
        }
        let combined: Rc<[Span]> = combined.into();
        self.known.insert(key, Rc::clone(&combined));
        Ok(combined)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_cover_what_is_below_them() {
        let pattern = |text: &str| HostPattern(text.to_owned());
        let cases = [
            ("a.example.com", "a.example.com", true),
            ("*.example.com", "a.example.com", true),
            ("*.example.com", "b.a.example.com", true),
            ("*.example.com", "*.example.com", true),
            ("*.example.com", "*.a.example.com", true),
            ("*.example.com", "example.com", false),
            ("*.example.com", "badexample.com", false),
            ("*.a.example.com", "*.example.com", false),
            ("a.example.com", "*.a.example.com", false),
            ("*.a.example.com", "a.example.com", false),
        ];
        for (ours, other, expect) in cases {
            let (ours, other) = (pattern(ours), pattern(other));
            assert_eq!(ours.covers(&other), expect, "{ours} {other}");
            let found = Named::of_host(&other).covering().any(|named| named == Named::of_host(&ours));
            assert_eq!(found, expect, "{ours} {other}");
        }
    }
}
