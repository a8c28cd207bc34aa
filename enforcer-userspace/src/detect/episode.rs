//! One and the same thing, again and again: told of when it begins, and when it is over with how often it was.

use std::collections::VecDeque;

use jiff::Timestamp;
use uuid::Uuid;

use super::{Evidence, Moment};

/// The most events that a finding names.
pub(super) const MOST_EVIDENCE: usize = 16;

/// When an episode begins: so many within such a time. It is over when less than half as many are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(super) threshold: usize,
    pub(super) within_ns: u64,
}

impl Rule {
    pub(super) const fn within_s(self) -> u64 {
        self.within_ns / 1_000_000_000
    }
}

/// What there is to tell of an episode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Summary {
    pub(super) id: String,
    /// The session that it began with.
    pub(super) session: Option<Uuid>,
    pub(super) count: u64,
    pub(super) first: Timestamp,
    pub(super) last: Timestamp,
    pub(super) evidence: Vec<Evidence>,
}

#[derive(Debug, Default)]
pub(super) struct Episode {
    /// The newest: no more than it takes to begin.
    recent: VecDeque<Moment>,
    /// Of the newest, those that were written.
    newest: VecDeque<(Moment, Option<u64>)>,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    id: String,
    session: Option<Uuid>,
    count: u64,
    first: Timestamp,
    last: Timestamp,
}

impl Episode {
    /// One more. Something if an episode begins with it.
    pub(super) fn add(
        &mut self,
        rule: Rule,
        at: Moment,
        sequence: Option<u64>,
        session: Option<Uuid>,
        id: impl FnOnce(Timestamp) -> String,
    ) -> Option<Summary> {
        while self.recent.len() >= rule.threshold.max(1) {
            self.recent.pop_front();
        }
        self.recent.push_back(at);
        if self.newest.len() >= MOST_EVIDENCE {
            self.newest.pop_front();
        }
        self.newest.push_back((at, sequence));
        if let Some(open) = &mut self.open {
            open.count += 1;
            open.last = at.time;
            return None;
        }
        let first = *self.recent.front()?;
        let is_enough = self.recent.len() >= rule.threshold;
        if !is_enough || at.boot_ns.saturating_sub(first.boot_ns) > rule.within_ns {
            return None;
        }
        let count = self.recent.len() as u64;
        let open = Open { id: id(first.time), session, count, first: first.time, last: at.time };
        let evidence = self.evidence(self.recent.len());
        let summary = open.summary(evidence);
        self.open = Some(open);
        Some(summary)
    }

    /// Ends the episode if there was little of it lately, and forgets what is too old to count.
    pub(super) fn settle(&mut self, rule: Rule, now_ns: u64) -> Option<Summary> {
        let is_old = |at: &Moment| now_ns.saturating_sub(at.boot_ns) > rule.within_ns;
        while self.recent.front().is_some_and(is_old) {
            self.recent.pop_front();
        }
        if self.open.is_some() {
            return if self.recent.len() * 2 < rule.threshold { self.close() } else { None };
        }
        if self.recent.is_empty() {
            self.newest.clear();
        }
        None
    }

    /// Ends the episode, if there is one.
    pub(super) fn close(&mut self) -> Option<Summary> {
        let open = self.open.take()?;
        let summary = open.summary(self.evidence(usize::try_from(open.count).unwrap_or(usize::MAX)));
        // What was counted is not counted again for the next one.
        self.recent.clear();
        self.newest.clear();
        Some(summary)
    }

    /// The events with a greater number are none any more that could be named.
    pub(super) fn forget_numbers(&mut self, after: u64) {
        for (_, sequence) in &mut self.newest {
            *sequence = sequence.filter(|sequence| *sequence <= after);
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.open.is_none() && self.recent.is_empty()
    }

    fn evidence(&self, most: usize) -> Vec<Evidence> {
        let newest = self.newest.iter().skip(self.newest.len().saturating_sub(most));
        newest
            .filter_map(|(at, sequence)| sequence.map(|sequence| Evidence { sequence, time: at.time }))
            .collect()
    }

    /// The events that are kept.
    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.recent.len() + self.newest.len()
    }
}

impl Open {
    fn summary(&self, evidence: Vec<Evidence>) -> Summary {
        let Self { id, session, count, first, last } = self;
        Summary { id: id.clone(), session: *session, count: *count, first: *first, last: *last, evidence }
    }
}
