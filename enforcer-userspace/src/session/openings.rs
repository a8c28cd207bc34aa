//! Connections that a session has open, as their records said, so that the record of the end can name when it began, who began it and which rule let
//! it through. What is not known any more is left out there; both ends have the same socket.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    sync::Arc,
};

use crate::record::LineProcess;

/// How many are kept of a session: the oldest are forgotten first.
const KEPT: usize = 4_096;

/// What tells a connection from the session's others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum OpeningKey {
    /// One that the session began: the socket's cookie.
    Outbound(u64),
    /// One that somebody else began, which has its socket only when it is accepted: the far end, and our own port.
    Inbound { from: (IpAddr, u16), local_port: u16 },
}

/// How a connection began.
#[derive(Clone, Debug)]
pub(crate) struct Opening {
    /// ns on the boot clock.
    pub(crate) since_ns: u64,
    /// The same, as its event has it.
    pub(crate) since: Box<str>,
    /// Who connected.
    pub(crate) process: Option<Arc<LineProcess>>,
    pub(crate) envelope: u32,
    pub(crate) rule: Option<u32>,
}

/// All of them, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Openings {
    by_key: HashMap<OpeningKey, (u64, Opening)>,
    /// With the number that tells an opening from a later one of the same key.
    order: VecDeque<(u64, OpeningKey)>,
    number: u64,
    /// Of the last one: mostly it is the same.
    process: Option<Arc<LineProcess>>,
}

impl Openings {
    pub(crate) fn note(
        &mut self,
        key: OpeningKey,
        (since_ns, since): (u64, &str),
        process: Option<&LineProcess>,
        rule: (u32, Option<u32>),
    ) {
        let process = process.map(|process| match &self.process {
            Some(last) if last.as_ref() == process => Arc::clone(last),
            _ => Arc::clone(self.process.insert(Arc::new(process.clone()))),
        });
        self.number += 1;
        let (envelope, rule) = rule;
        self.by_key
            .insert(key, (self.number, Opening { since_ns, since: since.into(), process, envelope, rule }));
        self.order.push_back((self.number, key));
        // Also what was taken meanwhile is in the order until it is at its end.
        while self.order.len() > KEPT {
            let Some((number, key)) = self.order.pop_front() else { break };
            if self.by_key.get(&key).is_some_and(|(kept, _)| *kept == number) {
                self.by_key.remove(&key);
            }
        }
    }

    /// How the connection began that has ended now; and which way.
    pub(crate) fn take(
        &mut self,
        cookie: u64,
        end: (IpAddr, u16),
        local_port: u16,
    ) -> Option<(&'static str, Opening)> {
        let outbound = self.by_key.remove(&OpeningKey::Outbound(cookie));
        if let Some((_, opening)) = outbound {
            return Some(("outbound", opening));
        }
        let inbound = self.by_key.remove(&OpeningKey::Inbound { from: end, local_port });
        inbound.map(|(_, opening)| ("inbound", opening))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAR: (IpAddr, u16) = (IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 443);

    #[test]
    fn each_opening_is_taken_once() {
        let mut openings = Openings::default();
        openings.note(OpeningKey::Outbound(7), (1, ""), None, (3, Some(2)));
        openings.note(OpeningKey::Inbound { from: FAR, local_port: 80 }, (2, ""), None, (3, None));
        assert!(openings.take(8, FAR, 81).is_none());
        let (direction, opening) = openings.take(7, FAR, 5000).expect("it was noted");
        assert_eq!((direction, opening.since_ns, opening.rule), ("outbound", 1, Some(2)));
        assert!(openings.take(7, FAR, 5000).is_none());
        let (direction, opening) = openings.take(9, FAR, 80).expect("it was noted");
        assert_eq!((direction, opening.since_ns), ("inbound", 2));
    }

    #[test]
    fn oldest_are_forgotten_and_memory_is_bounded() {
        let mut openings = Openings::default();
        for cookie in 0..3 * KEPT as u64 {
            openings.note(OpeningKey::Outbound(cookie), (cookie, ""), None, (1, None));
        }
        assert_eq!((openings.by_key.len(), openings.order.len()), (KEPT, KEPT));
        assert!(openings.take(0, FAR, 1).is_none());
        assert!(openings.take(3 * KEPT as u64 - 1, FAR, 1).is_some());
    }

    #[test]
    fn one_that_is_taken_does_not_take_a_later_one_with_it() {
        let mut openings = Openings::default();
        openings.note(OpeningKey::Outbound(1), (1, ""), None, (1, None));
        openings.take(1, FAR, 1);
        openings.note(OpeningKey::Outbound(1), (2, ""), None, (1, None));
        for cookie in 2..=KEPT as u64 {
            openings.note(OpeningKey::Outbound(cookie), (3, ""), None, (1, None));
        }
        // The first note of it has gone, the second has not.
        let (_, opening) = openings.take(1, FAR, 1).expect("it is kept");
        assert_eq!(opening.since_ns, 2);
    }
}
