//! Two flattened envelopes side by side: what each says at every prefix that either names.

use std::collections::HashMap;
use std::iter::Peekable;
use std::rc::Rc;

use enforcer_common::net::{Address, Family};

use super::super::Prefix;
use super::super::flatten::{Flat, RuleSet, TooLarge, flatten};
use super::super::spans::Span;
use super::region::Range;

/// The work that comparing two envelopes may still take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Steps {
    left: u64,
    max: u64,
}

impl Steps {
    pub(super) fn new(max: u64) -> Self {
        Self { left: max, max }
    }

    pub(super) fn take(&mut self, steps: usize) -> Result<(), TooLarge> {
        let left = self.left.checked_sub(steps as u64);
        self.left = left.ok_or(TooLarge::Steps { max_steps: self.max })?;
        Ok(())
    }

    /// Flattens rules; each flattening may take what comparing may.
    pub(super) fn flatten(self, set: RuleSet<'_>) -> Result<Vec<Flat>, TooLarge> {
        flatten(set, self.max)
    }
}

/// Which list of spans it is, by where it stands: prefixes at which the same holds share one list. Good while the list lives.
pub(super) type SpansId = *const Span;

pub(super) fn id(spans: &Rc<[Span]>) -> SpansId {
    Rc::as_ptr(spans).cast()
}

/// What holds at a prefix, in each of two envelopes.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    pub(super) prefix: Prefix,
    pub(super) a: Rc<[Span]>,
    pub(super) b: Rc<[Span]>,
    /// Index of the nearest prefix around it.
    pub(super) around: Option<usize>,
}

/// Every prefix that either names, and the two that hold everything, in order.
pub(super) fn pairs(a: &[Flat], b: &[Flat]) -> Vec<Pair> {
    let nothing: Rc<[Span]> = Rc::new([]);
    let (mut a, mut b) = (a.iter().peekable(), b.iter().peekable());
    let mut roots = [Address::v4([0; 4]), Address::v6([0; 16])]
        .into_iter()
        .filter_map(|address| Prefix::holding(address, 0))
        .peekable();
    let mut pairs: Vec<Pair> = Vec::with_capacity(a.len() + b.len() + 2);
    let mut open: Vec<usize> = Vec::new();
    loop {
        let next =
            [a.peek().map(|flat| flat.prefix), b.peek().map(|flat| flat.prefix), roots.peek().copied()];
        let Some(prefix) = next.into_iter().flatten().min() else { return pairs };
        let _root = roots.next_if_eq(&prefix);
        while open.pop_if(|outer| !pairs[*outer].prefix.contains(prefix)).is_some() {}
        let around = open.last().copied();
        let at = |own: &mut Peekable<std::slice::Iter<'_, Flat>>, outer: fn(&Pair) -> &Rc<[Span]>| match (
            own.next_if(|flat| flat.prefix == prefix),
            around,
        ) {
            (Some(flat), _) => Rc::clone(&flat.spans),
            (None, Some(around)) => Rc::clone(outer(&pairs[around])),
            (None, None) => Rc::clone(&nothing),
        };
        let pair = Pair { prefix, a: at(&mut a, |outer| &outer.a), b: at(&mut b, |outer| &outer.b), around };
        open.push(pairs.len());
        pairs.push(pair);
    }
}

/// Cuts the addresses of both families into ranges, in order, each with the index of the longest prefix that holds it.
pub(super) fn segments(pairs: &[Pair], mut visit: impl FnMut(Range, usize)) {
    for family in Family::ALL {
        let mut open: Vec<(u128, usize)> = Vec::new();
        // The first address not yet visited; `None` behind the last one.
        let mut at = Some(0);
        let mut close = |at: &mut Option<u128>, last: u128, index: usize| {
            if let Some(first) = at.filter(|first| *first <= last) {
                visit(Range { family: *family, first, last }, index);
                *at = last.checked_add(1);
            }
        };
        for (pair, index) in pairs.iter().zip(0..) {
            if pair.prefix.address().family() != *family {
                continue;
            }
            let Range { first, last, .. } = Range::of(pair.prefix);
            while let Some((last, ended)) = open.pop_if(|(last, _)| *last < first) {
                close(&mut at, last, ended);
            }
            if let (Some((_, around)), Some(before)) = (open.last(), first.checked_sub(1)) {
                close(&mut at, before, *around);
            }
            open.push((last, index));
        }
        while let Some((last, ended)) = open.pop() {
            close(&mut at, last, ended);
        }
    }
}

/// A range of selectors, and what two lists of spans have there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub(super) first: u32,
    pub(super) last: u32,
    pub(super) a: Option<Span>,
    pub(super) b: Option<Span>,
}

/// Two lists of spans, each in order and without overlap, cut at the ends of both. Selectors that neither has are left out.
pub(super) fn overlay(a: &[Span], b: &[Span]) -> Vec<Part> {
    let (mut a, mut b) = (a.iter().peekable(), b.iter().peekable());
    let mut parts = Vec::new();
    let mut at = 0;
    loop {
        while a.next_if(|span| span.last < at).is_some() {}
        while b.next_if(|span| span.last < at).is_some() {}
        let heads = [a.peek().map(|span| **span), b.peek().map(|span| **span)];
        let Some(first) = heads.iter().flatten().map(|span| span.first.max(at)).min() else { return parts };
        let ends =
            heads.iter().flatten().map(|span| if span.first > first { span.first - 1 } else { span.last });
        let last = ends.min().unwrap_or(first);
        let [a, b] = heads.map(|span| span.filter(|span| span.first <= first));
        parts.push(Part { first, last, a, b });
        // No selector is so large that there is none behind it.
        at = last + 1;
    }
}

/// What was worked out of two lists of spans.
pub(super) type Known<T> = HashMap<(SpansId, SpansId), T>;

#[cfg(test)]
mod tests {
    use super::*;

    fn span(first: u32, last: u32, rule: u32) -> Span {
        Span { first, last, rule, mode: None }
    }

    #[test]
    fn overlay_cuts_at_every_end() {
        let parts = overlay(&[span(1, 10, 0), span(20, 30, 1)], &[span(5, 25, 7), span(40, 41, 8)]);
        let parts: Vec<_> = parts
            .iter()
            .map(|part| (part.first, part.last, part.a.map(|span| span.rule), part.b.map(|span| span.rule)))
            .collect();
        assert_eq!(
            parts,
            [
                (1, 4, Some(0), None),
                (5, 10, Some(0), Some(7)),
                (11, 19, None, Some(7)),
                (20, 25, Some(1), Some(7)),
                (26, 30, Some(1), None),
                (40, 41, None, Some(8)),
            ]
        );
    }

    #[test]
    fn segments_cover_every_address_once() {
        let flat = |text: &str| Flat { prefix: Prefix::parse(text).unwrap(), spans: Rc::new([]) };
        let a = [flat("10.0.0.0/8"), flat("10.1.0.0/16"), flat("255.0.0.0/8"), flat("255.255.255.255")];
        let b = [flat("10.1.0.0/16"), flat("ff00::/8")];
        let pairs = pairs(&a, &b);
        let mut seen = Vec::new();
        segments(&pairs, |range, index| seen.push((range, pairs[index].prefix.to_string())));
        let mut at = 0;
        for (range, prefix) in seen.iter().filter(|(range, _)| range.family == Family::V4) {
            assert_eq!(range.first, at);
            assert!(Prefix::parse(prefix).unwrap().holds(range.first_address().unwrap()));
            at = range.last + 1;
        }
        assert_eq!(at, 1 << 32);
        let prefixes: Vec<_> = seen.iter().map(|(_, prefix)| prefix.as_str()).collect();
        assert_eq!(
            prefixes,
            [
                "0.0.0.0/0",
                "10.0.0.0/8",
                "10.1.0.0/16",
                "10.0.0.0/8",
                "0.0.0.0/0",
                "255.0.0.0/8",
                "255.255.255.255/32",
                "::/0",
                "ff00::/8"
            ]
        );
    }
}
