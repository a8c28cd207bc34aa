//! What was refused to a session last, so that it can ask why. One and the same thing is kept once, with how often it was.

use std::{collections::VecDeque, net::IpAddr};

use enforcer_common::{guard::GuardHook, record::Operation, verdict::Reason};

/// How many different refusals are kept: enough to see what went wrong last; the events have all of them.
const KEPT: usize = 32;

/// What was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Attempt {
    Egress {
        operation: Operation,
        /// Of IP.
        protocol: u16,
        to: Option<(IpAddr, u16)>,
    },
    Guard {
        hook: GuardHook,
        /// What it was to be done to.
        name: Option<String>,
        pid: Option<u32>,
        family: Option<u32>,
    },
}

/// A refusal, as often as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) attempt: Attempt,
    pub(crate) reason: Reason,
    /// The envelope that decided, and the rule in it.
    pub(crate) envelope: u32,
    pub(crate) rule: Option<u32>,
    /// Who tried last.
    pub(crate) tgid: u32,
    pub(crate) comm: String,
    /// ns on the boot clock.
    pub(crate) first_ns: u64,
    pub(crate) last_ns: u64,
    pub(crate) times: u64,
}

impl Refused {
    fn is_like(&self, other: &Self) -> bool {
        (&self.attempt, self.reason, self.envelope, self.rule)
            == (&other.attempt, other.reason, other.envelope, other.rule)
    }
}

/// The last of them, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Refusals(VecDeque<Refused>);

impl Refusals {
    pub(crate) fn note(&mut self, new: Refused) {
        // What comes again and again is most often the last.
        match self.0.iter().rposition(|old| old.is_like(&new)) {
            Some(at) => {
                let Some(old) = self.0.remove(at) else { return };
                let times = old.times.saturating_add(new.times);
                self.0.push_back(Refused { first_ns: old.first_ns, times, ..new });
            }
            None => {
                if self.0.len() == KEPT {
                    self.0.pop_front();
                }
                self.0.push_back(new);
            }
        }
    }

    /// The latest first.
    pub(crate) fn latest(&self) -> impl Iterator<Item = &Refused> {
        self.0.iter().rev()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(port: u16, at_ns: u64) -> Refused {
        let to = Some((IpAddr::from([192, 0, 2, 1]), port));
        Refused {
            attempt: Attempt::Egress { operation: Operation::Connect, protocol: 6, to },
            reason: Reason::NoRule,
            envelope: 1,
            rule: None,
            tgid: 7,
            comm: "agent".to_owned(),
            first_ns: at_ns,
            last_ns: at_ns,
            times: 1,
        }
    }

    #[test]
    fn the_same_is_kept_once_and_the_oldest_goes_first() {
        let mut refusals = Refusals::default();
        refusals.note(to(1, 10));
        refusals.note(to(2, 20));
        refusals.note(to(1, 30));
        let latest: Vec<_> = refusals.latest().collect();
        assert_eq!(latest.len(), 2);
        assert_eq!((latest[0].times, latest[0].first_ns, latest[0].last_ns), (2, 10, 30));
        for port in 0..200 {
            refusals.note(to(1000 + port, 40));
        }
        assert_eq!(refusals.latest().count(), KEPT);
        assert_eq!(refusals.latest().next().map(|it| it.times), Some(1));
    }
}
