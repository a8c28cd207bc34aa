//! Which events somebody asks for. Core: lines come in as arguments, in the order in which they were written.

#![forbid(unsafe_code)]

use std::{collections::BTreeSet, net::IpAddr, str::FromStr};

use ipnet::IpNet;

use crate::record::{EventKind, EventLine, LineSession};

/// Addresses, and a port of them if it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Destination {
    net: IpNet,
    port: Option<u16>,
}

impl FromStr for Destination {
    type Err = String;

    /// `192.0.2.0/24`, `192.0.2.1:443`, `2001:db8::/32`, `[2001:db8::/32]:443`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (net, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((net, "")) => (net, None),
            Some((net, rest)) => (net, Some(rest.strip_prefix(':').unwrap_or("?"))),
            None => match text.split_once(':') {
                Some((net, port)) if !port.contains(':') => (net, Some(port)),
                _ => (text, None),
            },
        };
        let what =
            || "an address or a prefix, such as `192.0.2.0/24`, `192.0.2.1:443` or `[2001:db8::/32]:443`";
        let net = net.parse().or_else(|_| net.parse::<IpAddr>().map(IpNet::from)).map_err(|_| what())?;
        let port = port.map(str::parse).transpose().map_err(|_| what())?;
        Ok(Self { net, port })
    }
}

/// What an event must be like; what is not said may be anything.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    /// Its id, or how that begins.
    pub(crate) session: Option<String>,
    /// And the sessions that have a part of it, and those that have a part of these.
    pub(crate) descendants: bool,
    pub(crate) agent: Option<String>,
    pub(crate) owner: Option<String>,
    pub(crate) destination: Option<Destination>,
    pub(crate) verdict: Option<String>,
    pub(crate) kind: Option<EventKind>,
    pub(crate) since: Option<jiff::Timestamp>,
    pub(crate) until: Option<jiff::Timestamp>,
}

/// A filter at work.
#[derive(Debug)]
pub(crate) struct Selection {
    filter: Filter,
    /// What the text of a line must hold, so that not every line has to be read.
    needles: Vec<String>,
    /// The session and its descendants, as far as they are known.
    sessions: BTreeSet<String>,
}

impl Selection {
    pub(crate) fn new(filter: Filter) -> Self {
        let mut needles = Vec::new();
        let named = |name: &str, value: &str| {
            serde_json::to_string(value).map(|value| format!("\"{name}\":{value}")).unwrap_or_default()
        };
        // Which sessions are below another is found by reading what they did, whatever else is asked for.
        if !filter.descendants {
            needles.extend(filter.session.clone());
            needles.extend(filter.agent.as_deref().map(|agent| named("agent", agent)));
            needles.extend(filter.owner.as_deref().map(|owner| named("owner", owner)));
            needles.extend(filter.verdict.as_deref().map(|verdict| named("verdict", verdict)));
        }
        Self { filter, needles, sessions: BTreeSet::new() }
    }

    /// The event in a line, if it is asked for. A line that is no event is an error.
    pub(crate) fn take(&mut self, line: &str) -> Result<Option<EventLine<LineSession>>, serde_json::Error> {
        if !self.needles.iter().all(|needle| line.contains(needle)) {
            return Ok(None);
        }
        let event = serde_json::from_str(line)?;
        Ok(self.is_wanted(&event).then_some(event))
    }

    fn is_wanted(&mut self, event: &EventLine<LineSession>) -> bool {
        let session = event.session.as_ref();
        if let Some(wanted) = &self.filter.session {
            let Some(session) = session else { return false };
            let is_named = session.id.starts_with(wanted);
            // What its parent did may be in a part of the log that was removed.
            let is_below = self.filter.descendants
                && session
                    .parent
                    .as_ref()
                    .is_some_and(|parent| parent.starts_with(wanted) || self.sessions.contains(parent));
            if !is_named && !is_below {
                return false;
            }
            if self.filter.descendants && !self.sessions.contains(&session.id) {
                self.sessions.insert(session.id.clone());
            }
        }
        let Filter { agent, owner, destination, verdict, kind, since, until, .. } = &self.filter;
        let is = |wanted: &Option<String>, found: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| found == Some(wanted))
        };
        let found_verdict = event.egress.as_ref().map(|egress| egress.verdict.as_ref());
        let found_verdict = found_verdict.or(event.guard.as_ref().map(|guard| guard.verdict.as_ref()));
        is(agent, session.map(|session| session.agent.as_str()))
            && is(owner, session.map(|session| session.owner.as_str()))
            && is(verdict, found_verdict)
            && kind.is_none_or(|kind| kind == event.kind)
            && destination.is_none_or(|wanted| goes_to(event, wanted))
            && is_within(&event.time, *since, *until)
    }
}

fn goes_to(event: &EventLine<LineSession>, wanted: Destination) -> bool {
    let decided = event.egress.as_ref().and_then(|egress| egress.destination.as_ref());
    let to = decided.or_else(|| event.flow.as_ref()?.destination.as_ref());
    to.is_some_and(|to| {
        to.address.parse::<IpAddr>().is_ok_and(|address| wanted.net.contains(&address))
            && wanted.port.is_none_or(|port| port == to.port)
    })
}

/// An event whose time cannot be read is not left out.
fn is_within(time: &str, since: Option<jiff::Timestamp>, until: Option<jiff::Timestamp>) -> bool {
    if since.is_none() && until.is_none() {
        return true;
    }
    let Ok(time) = time.parse::<jiff::Timestamp>() else { return true };
    since.is_none_or(|since| time >= since) && until.is_none_or(|until| time < until)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(session: &str, parent: Option<&str>, agent: &str, to: Option<(&str, u16)>) -> String {
        let parent = parent.map_or(String::new(), |parent| format!(r#""parent":"{parent}","#));
        let egress = to.map_or(String::new(), |(address, port)| {
            format!(
                r#","operation":"connect","protocol":"tcp","destination":{{"address":"{address}","port":{port}}},"verdict":"deny","refused":true,"reason":"no-rule","rule":null,"socket":1"#
            )
        });
        let kind = if to.is_some() { "egress" } else { "session-started" };
        format!(
            r#"{{"version":1,"kind":"{kind}","time":"2026-11-26T01:00:00.000000000Z","sequence":7,"session":{{"id":"{session}",{parent}"agent":"{agent}","owner":"o","operator":"p","model":"m","purpose":"q"}}{egress}}}"#
        )
    }

    fn selected(filter: Filter, lines: &[String]) -> Vec<usize> {
        let mut selection = Selection::new(filter);
        let wanted = |line: &String| selection.take(line).expect("it is an event").is_some();
        let wanted: Vec<bool> = lines.iter().map(wanted).collect();
        wanted.iter().enumerate().filter_map(|(at, wanted)| wanted.then_some(at)).collect()
    }

    #[test]
    fn sessions_are_followed_downwards() {
        let lines = [
            line("s1", None, "a", None),
            line("s2", Some("s1"), "b", None),
            line("s3", Some("s2"), "c", Some(("192.0.2.1", 443))),
            line("other", None, "d", None),
            line("s4", Some("other"), "b", None),
        ];
        let session = |descendants| Filter { session: Some("s1".into()), descendants, ..Filter::default() };
        assert_eq!(selected(session(false), &lines), [0]);
        assert_eq!(selected(session(true), &lines), [0, 1, 2]);
        let of = |agent: &str| Filter { agent: Some(agent.into()), ..session(true) };
        assert_eq!(selected(of("c"), &lines), [2], "what another agent did leads to it");
        assert_eq!(selected(of("d"), &lines), [0; 0]);
    }

    #[test]
    fn sessions_are_followed_from_one_of_which_nothing_is_left() {
        let lines = [line("s2", Some("s1-whole"), "b", None), line("s3", Some("s2"), "c", None)];
        for wanted in ["s1-whole", "s1"] {
            let of = |descendants| Filter { session: Some(wanted.into()), descendants, ..Filter::default() };
            assert_eq!(selected(of(true), &lines), [0, 1], "{wanted}");
            assert_eq!(selected(of(false), &lines), [0; 0], "{wanted}");
        }
    }

    #[test]
    fn each_part_of_a_filter_counts() {
        let lines = [
            line("s1", None, "a", None),
            line("s1", None, "a", Some(("192.0.2.1", 443))),
            line("s1", None, "a", Some(("192.0.2.1", 80))),
            line("s1", None, "a", Some(("2001:db8::7", 443))),
        ];
        let to = |text: &str| Filter { destination: Some(text.parse().unwrap()), ..Filter::default() };
        assert_eq!(selected(Filter::default(), &lines), [0, 1, 2, 3]);
        assert_eq!(selected(to("192.0.2.0/24"), &lines), [1, 2]);
        assert_eq!(selected(to("192.0.2.1:443"), &lines), [1]);
        assert_eq!(selected(to("2001:db8::/32"), &lines), [3]);
        assert_eq!(selected(to("[2001:db8::/32]:443"), &lines), [3]);
        assert_eq!(selected(to("[2001:db8::/32]:80"), &lines), [0; 0]);
        let kind = Filter { kind: Some(EventKind::SessionStarted), ..Filter::default() };
        assert_eq!(selected(kind, &lines), [0]);
        let verdict = |verdict: &str| Filter { verdict: Some(verdict.into()), ..Filter::default() };
        assert_eq!(selected(verdict("deny"), &lines), [1, 2, 3]);
        assert_eq!(selected(verdict("allow"), &lines), [0; 0]);
        let at = |text: &str| Some(text.parse().unwrap());
        let time = |since, until| Filter { since, until, ..Filter::default() };
        assert_eq!(selected(time(at("2026-11-26T01:00:00Z"), None), &lines).len(), 4);
        assert_eq!(selected(time(at("2026-11-26T01:00:01Z"), None), &lines).len(), 0);
        assert_eq!(selected(time(None, at("2026-11-26T01:00:00Z")), &lines).len(), 0);
        for bad in ["x", "192.0.2.1:x", "[::1", "192.0.2.1:70000", "[::1]443"] {
            assert!(bad.parse::<Destination>().is_err(), "{bad}");
        }
    }
}
