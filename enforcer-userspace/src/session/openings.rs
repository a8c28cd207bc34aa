//! Connections that a session has open, as their records said, so that the record of the end can name when it began, who began it and which rule let
//! it through. What is not known any more is left out there; both ends have the same socket.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    net::IpAddr,
};

/// How many are kept of a session: the oldest are forgotten first.
const KEPT: usize = 2_048;

/// What tells a connection from the session's others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum OpeningKey {
    /// One that the session began: the socket's cookie.
    Outbound(u64),
    /// One that somebody else began, which has its socket only when it is accepted.
    Inbound { from: (IpAddr, u16), local_port: u16, netns: Option<u32> },
}

/// How a connection began.
#[derive(Clone, Debug)]
pub(crate) struct Opening {
    /// ns on the boot clock.
    pub(crate) since_ns: u64,
    /// The same, as its event has it.
    pub(crate) since: Box<str>,
    /// Who connected.
    pub(crate) opener: Option<Opener>,
    pub(crate) envelope: u32,
    pub(crate) rule: Option<u32>,
}

/// A process, as far as it is worth being kept for each connection: where it comes from, its session knows while it lives.
#[derive(Clone, Debug)]
pub(crate) struct Opener {
    pub(crate) tgid: u32,
    pub(crate) key: Option<Box<str>>,
    pub(crate) tid: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) comm: Box<str>,
}

/// All of them, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Openings {
    by_key: HashMap<OpeningKey, (u64, Opening)>,
    /// With the number that tells an opening from a later one of the same key.
    order: VecDeque<(u64, OpeningKey)>,
    number: u64,
}

/// A far end that asks again for what it was not answered does so for two minutes at most: after that it begins anew.
const ASKED_AGAIN_NS: u64 = 130_000_000_000;

impl Openings {
    pub(crate) fn note(&mut self, key: OpeningKey, opening: Opening) {
        self.number += 1;
        match self.by_key.entry(key) {
            Entry::Occupied(old)
                if matches!(key, OpeningKey::Inbound { .. })
                    && opening.since_ns.saturating_sub(old.get().1.since_ns) < ASKED_AGAIN_NS =>
            {
                return;
            }
            Entry::Occupied(mut old) => drop(old.insert((self.number, opening))),
            Entry::Vacant(free) => drop(free.insert((self.number, opening))),
        }
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
        from: (IpAddr, u16),
        local_port: u16,
        netns: Option<u32>,
    ) -> Option<(&'static str, Opening)> {
        let outbound = self.by_key.remove(&OpeningKey::Outbound(cookie));
        if let Some((_, opening)) = outbound {
            return Some(("outbound", opening));
        }
        let inbound = self.by_key.remove(&OpeningKey::Inbound { from, local_port, netns });
        inbound.map(|(_, opening)| ("inbound", opening))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAR: (IpAddr, u16) = (IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 443);

    fn at(since_ns: u64, rule: Option<u32>) -> Opening {
        Opening { since_ns, since: "".into(), opener: None, envelope: 3, rule }
    }

    fn taken(openings: &mut Openings, cookie: u64, local_port: u16) -> Option<(&'static str, u64)> {
        let taken = openings.take(cookie, FAR, local_port, Some(1));
        taken.map(|(direction, opening)| (direction, opening.since_ns))
    }

    #[test]
    fn each_opening_is_taken_once() {
        let mut openings = Openings::default();
        openings.note(OpeningKey::Outbound(7), at(1, Some(2)));
        openings.note(OpeningKey::Inbound { from: FAR, local_port: 80, netns: Some(1) }, at(2, None));
        openings.note(OpeningKey::Inbound { from: FAR, local_port: 80, netns: Some(2) }, at(3, None));
        assert_eq!(taken(&mut openings, 8, 81), None);
        assert_eq!(taken(&mut openings, 7, 5000), Some(("outbound", 1)));
        assert_eq!(taken(&mut openings, 7, 5000), None);
        assert_eq!(taken(&mut openings, 9, 80), Some(("inbound", 2)));
        assert_eq!(taken(&mut openings, 9, 80), None, "of this namespace");
    }

    #[test]
    fn who_asks_again_has_asked_when_they_first_did() {
        let mut openings = Openings::default();
        let key = OpeningKey::Inbound { from: FAR, local_port: 80, netns: Some(1) };
        openings.note(key, at(1, None));
        openings.note(key, at(2, None));
        assert_eq!(taken(&mut openings, 9, 80), Some(("inbound", 1)));
        openings.note(key, at(1, None));
        openings.note(key, at(1 + ASKED_AGAIN_NS, None));
        assert_eq!(taken(&mut openings, 9, 80), Some(("inbound", 1 + ASKED_AGAIN_NS)));
    }

    #[test]
    fn oldest_are_forgotten_and_memory_is_bounded() {
        let mut openings = Openings::default();
        for cookie in 0..3 * KEPT as u64 {
            openings.note(OpeningKey::Outbound(cookie), at(cookie, None));
        }
        assert_eq!((openings.by_key.len(), openings.order.len()), (KEPT, KEPT));
        assert_eq!(taken(&mut openings, 0, 1), None);
        assert!(taken(&mut openings, 3 * KEPT as u64 - 1, 1).is_some());
    }

    #[test]
    fn one_that_is_taken_does_not_take_a_later_one_with_it() {
        let mut openings = Openings::default();
        openings.note(OpeningKey::Outbound(1), at(1, None));
        assert!(taken(&mut openings, 1, 1).is_some());
        openings.note(OpeningKey::Outbound(1), at(2, None));
        for cookie in 2..=KEPT as u64 {
            openings.note(OpeningKey::Outbound(cookie), at(3, None));
        }
        // The first note of it has gone, the second has not.
        assert_eq!(taken(&mut openings, 1, 1), Some(("outbound", 2)));
    }
}
