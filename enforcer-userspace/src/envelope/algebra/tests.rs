mod delegation;
mod examples;

use super::super::test_support::whole::{AGENTS, HOSTS, SOCKETS, whole, without_lines};
use super::super::test_support::{
    best_listen, envelope, listen_rule, listening, matches, model, model_of_packet, model_of_rules,
    packet_probe, probe, read, rule,
};
use super::super::{Envelope, HostPattern, ListenRule, Mode, Rule, parse, write};
use super::*;
use enforcer_common::net::{Address, Direction, Protocol};
use enforcer_common::packet::Packet;
use enforcer_common::rules::NO_RULE;
use enforcer_common::verdict::Verdict;
use proptest::prelude::*;
use proptest::sample::select;
use std::collections::BTreeSet;

fn lets_through(envelope: &Envelope, destination: &Destination) -> bool {
    !model(envelope, destination).2
}

/// Two envelopes that share some rules, so that one is often included in the other.
fn two() -> impl Strategy<Value = (Envelope, Envelope)> {
    let mode = || select(vec![Mode::Enforce, Mode::Enforce, Mode::Audit]);
    let own = || prop_oneof![1 => Just(Vec::new()), 2 => prop::collection::vec(rule(), 0..4)];
    let shared = prop::collection::vec(rule(), 0..6);
    let listen = || prop::collection::vec(listen_rule(), 0..3);
    let listen = (listen(), listen(), listen());
    (mode(), mode(), own(), own(), shared, listen).prop_map(
        |(a_mode, b_mode, a, b, shared, (a_listen, b_listen, shared_listen))| {
            let numbered = |mode, own: Vec<Rule>, listen: Vec<ListenRule>| {
                let rules = shared.iter().cloned().chain(own).zip(0..);
                let rules = rules.map(|(rule, line)| Rule { name: format!("rule-{line}"), line, ..rule });
                let envelope = envelope(mode, rules.collect());
                let first = u32::try_from(envelope.rules.len()).unwrap();
                let listen = shared_listen.iter().cloned().chain(listen).zip(first..);
                let listen =
                    listen.map(|(rule, line)| ListenRule { name: format!("listen-{line}"), line, ..rule });
                Envelope { listen: listen.collect(), ..envelope }
            };
            (numbered(a_mode, a, a_listen), numbered(b_mode, b, b_listen))
        },
    )
}

fn all_listen(a: &Envelope, b: &Envelope) -> Vec<Rule> {
    listening(&a.listen).chain(listening(&b.listen)).collect()
}

/// Somebody who begins a connection, and every port that they may do it from for which envelopes may say different things.
fn knocks(a: &Envelope, b: &Envelope, from: &Destination) -> Vec<Packet> {
    let edges = a.rules.iter().chain(&b.rules).flat_map(|rule| &rule.ports);
    let ports = edges.flat_map(|range| [range.first, range.last, range.last.wrapping_add(1)]);
    let knock = |remote_port| Packet {
        direction: Direction::In,
        protocol: from.protocol,
        opens: true,
        resets: false,
        remote: from.address,
        remote_port,
        local_port: from.port,
    };
    let ports: BTreeSet<u16> = ports.chain([0, 1]).collect();
    ports.into_iter().map(knock).collect()
}

fn lets_pass(envelope: &Envelope, packet: &Packet) -> bool {
    !model_of_packet(envelope, packet).2
}

fn all_rules(a: &Envelope, b: &Envelope) -> Vec<Rule> {
    a.rules.iter().chain(&b.rules).cloned().collect()
}

/// The corners of a region.
fn corners(region: &Region) -> Vec<Destination> {
    let ends = region.ranges.iter().flat_map(|range| [range.first_address(), range.last_address()]);
    let addresses: Vec<Address> = ends.flatten().filter(|address| !address.is_unspecified()).collect();
    let at = |selector: u32, address| Destination {
        protocol: Protocol::try_from(u8::try_from(selector >> 16).unwrap()).unwrap(),
        address,
        port: u16::try_from(selector & 0xffff).unwrap(),
    };
    let selectors = region.selectors.0.iter().flat_map(|(first, last)| [*first, *last]);
    selectors.flat_map(|selector| addresses.iter().map(move |address| at(selector, *address))).collect()
}

proptest! {
    // 120,000 destinations.
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn excess_is_what_the_model_lets_through_and_refuses(
        (inner, outer) in two(),
        probes in prop::collection::vec(probe(), 20),
    ) {
        let excess = excess(&inner, &outer).unwrap();
        let regions: Vec<_> = excess
            .iter()
            .filter_map(|excess| match &excess.what {
                What::Destinations(region) => Some((excess, region)),
                _ => None,
            })
            .collect();
        for (excess, region) in &regions {
            let number = |by: &Option<RuleRef>| by.as_ref().map_or(NO_RULE, |rule| rule.line);
            for corner in corners(region).into_iter().chain(excess.example()) {
                let (.., by, refused) = model_of_rules(&inner, &corner);
                prop_assert_eq!((by, refused), (number(&excess.inner), false), "{:?}", corner);
                let (.., by, refused) = model_of_rules(&outer, &corner);
                prop_assert_eq!((by, refused), (number(&excess.outer), true), "{:?}", corner);
                prop_assert!(region.holds(&corner), "{:?}", corner);
            }
            let example = excess.example().unwrap();
            prop_assert!(!example.address.is_unspecified());
            for prefix in region.prefixes() {
                let of = region::Range::of(prefix);
                let within = region.ranges.iter().any(|range| {
                    of.family == range.family && range.first <= of.first && of.last <= range.last
                });
                prop_assert!(within, "{}", prefix);
            }
            prop_assert!(region.prefixes().any(|prefix| prefix.holds(example.address)));
        }
        for destination in probes.iter().map(|probe| probe.destination(&all_rules(&inner, &outer))) {
            let differ = lets_through(&inner, &destination) && !lets_through(&outer, &destination);
            let holding = regions.iter().filter(|(_, region)| region.holds(&destination)).count();
            if destination.address.is_unspecified() {
                // Follows from what holds elsewhere.
                prop_assert!(!differ || !excess.is_empty(), "{:?}", destination);
            } else {
                prop_assert_eq!(holding, usize::from(differ), "{:?}", destination);
            }
        }
    }

    #[test]
    fn excess_is_who_the_model_lets_in_and_keeps_out(
        (inner, outer) in two(),
        probes in prop::collection::vec(probe(), 10),
    ) {
        let excess = excess(&inner, &outer).unwrap();
        let regions: Vec<_> = excess
            .iter()
            .filter_map(|excess| match &excess.what {
                What::Listen { region, .. } => Some((excess, region)),
                _ => None,
            })
            .collect();
        let listen = all_listen(&inner, &outer);
        let probes = probes.iter().map(|probe| probe.destination(&listen));
        let corners = regions.iter().flat_map(|(_, region)| corners(region)).take(20);
        for from in probes.chain(corners) {
            if from.address.is_unspecified() || !from.protocol.has_ports() {
                continue;
            }
            let knocks = knocks(&inner, &outer, &from);
            let differ = |packet: &&Packet| lets_pass(&inner, packet) && !lets_pass(&outer, packet);
            let knock = knocks.iter().find(differ);
            let holding: Vec<_> = regions.iter().filter(|(_, region)| region.holds(&from)).collect();
            prop_assert_eq!(holding.len(), usize::from(knock.is_some()), "{:?}: {:?}", from, knock);
            let Some((excess, _)) = holding.first() else { continue };
            let by = excess.inner.as_ref().map(|rule| rule.line);
            prop_assert_eq!(by, best_listen(&inner, &from), "{:?}", from);
            let denied = excess.outer.as_ref().map(|rule| &outer.rules[rule.line as usize]);
            let denies = |rule: &Rule| {
                let ports = knocks.iter().map(|knock| Destination { port: knock.remote_port, ..from });
                rule.effective_mode(outer.mode) == Mode::Enforce
                    && ports.filter_map(|from| matches(rule, &from)).next().is_some()
            };
            prop_assert!(denied.is_none_or(denies), "{:?}", excess);
            let enters = |knock: &Packet| lets_pass(&inner, knock) && lets_pass(&outer, knock);
            let in_part = matches!(excess.what, What::Listen { in_part: true, .. });
            prop_assert_eq!(in_part, knocks.iter().any(enters), "{:?}", excess);
        }
    }

    #[test]
    fn intersection_lets_through_what_both_do(
        (a, b) in two(),
        probes in prop::collection::vec(probe(), 20),
        knocking in prop::collection::vec(packet_probe(), 10),
    ) {
        let both = intersect(&a, &b).unwrap();
        let listen = all_listen(&a, &b);
        for probe in knocking {
            let packet = Packet { opens: true, ..probe.packet(&all_rules(&a, &b), &listen) };
            if !packet.remote.is_unspecified() {
                let expect = lets_pass(&a, &packet) && lets_pass(&b, &packet);
                prop_assert_eq!(lets_pass(&both, &packet), expect, "{:?}", packet);
            }
        }
        let same = intersect(&a, &a).unwrap();
        for destination in probes.iter().map(|probe| probe.destination(&all_rules(&a, &b))) {
            let expect = lets_through(&a, &destination) && lets_through(&b, &destination);
            prop_assert_eq!(lets_through(&both, &destination), expect, "{:?}", destination);
            prop_assert_eq!(lets_through(&same, &destination), lets_through(&a, &destination), "{:?}", destination);
        }
        prop_assert_eq!(excess(&both, &a).unwrap(), []);
        prop_assert_eq!(excess(&both, &b).unwrap(), []);
        prop_assert_eq!(difference(&same, &a).unwrap(), (vec![], vec![]));
    }
}

/// Whether the rules allow a host or an agent; an envelope in audit mode lets everything through.
fn allows_named(envelope: &Envelope, of: impl Fn(&Rule) -> bool, protocol: Protocol, port: u16) -> bool {
    let matches = |rule: &Rule| {
        let ports = rule.ports.iter().any(|ports| (ports.first..=ports.last).contains(&port));
        rule.verdict == Verdict::Allow
            && rule.protocols.contains(&protocol)
            && (ports || protocol == Protocol::Icmp)
            && of(rule)
    };
    envelope.mode == Mode::Audit || envelope.rules.iter().any(matches)
}

fn allows_socket(envelope: &Envelope, socket: &str) -> bool {
    envelope.unix.as_ref().is_none_or(|rules| rules.iter().any(|rule| rule.to.iter().any(|to| to == socket)))
}

/// Answers of one of two envelopes, or of their intersection, to questions of every kind, at random.
fn answers(envelope: &Envelope, (a, b): (&Envelope, &Envelope), probes: &[Destination]) -> Vec<bool> {
    let mut answers = Vec::new();
    for (probe, turn) in probes.iter().zip(0..) {
        for host in HOSTS {
            let host = HostPattern(host.replace('*', "z.y"));
            let of = |rule: &Rule| rule.names.iter().any(|pattern| pattern.covers(&host));
            answers.push(allows_named(envelope, of, probe.protocol, probe.port));
        }
        for agent in AGENTS {
            let of = |rule: &Rule| rule.agents.iter().any(|known| known == agent);
            answers.push(allows_named(envelope, of, probe.protocol, probe.port));
        }
        // Each is a few dozen questions.
        if turn < 5 && probe.protocol.has_ports() && !probe.address.is_unspecified() {
            answers.extend(knocks(a, b, probe).iter().map(|knock| lets_pass(envelope, knock)));
        }
        answers.push(lets_through(envelope, probe));
    }
    answers.extend(SOCKETS.map(|socket| allows_socket(envelope, socket)));
    answers
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whole_envelopes_meet_in_what_both_allow(
        a in whole(),
        b in whole(),
        probes in prop::collection::vec(probe(), 20),
    ) {
        let both = intersect(&a, &b).unwrap();
        let mut near = all_rules(&a, &b);
        near.extend(all_listen(&a, &b));
        near.retain(|rule| !rule.to.is_empty());
        let probes: Vec<_> = probes.iter().map(|probe| probe.destination(&near)).collect();
        let [in_a, in_b, in_both] = [&a, &b, &both].map(|envelope| answers(envelope, (&a, &b), &probes));
        for ((in_a, in_b), in_both) in in_a.iter().zip(&in_b).zip(&in_both) {
            prop_assert_eq!(*in_a && *in_b, *in_both);
        }
        prop_assert_eq!(excess(&both, &a).unwrap(), []);
        prop_assert_eq!(excess(&both, &b).unwrap(), []);
        // What one allows and the other does not is found.
        let more = in_a.iter().zip(&in_b).any(|(a, b)| *a && !*b);
        prop_assert!(!more || !excess(&a, &b).unwrap().is_empty());

        let text = write(&both);
        let again = parse(&text).map_err(|error| TestCaseError::fail(format!("{error}\n{text}")))?;
        prop_assert_eq!(without_lines(again), without_lines(both), "{}", text);
        prop_assert_eq!(difference(&a, &intersect(&a, &a).unwrap()).unwrap(), (vec![], vec![]));
    }

    #[test]
    fn rates_meet_in_one_that_is_within_both(
        a in (1u64..200, select(vec![1, 60, 3600])),
        b in (1u64..200, select(vec![1, 60, 3600])),
    ) {
        let [a, b] = [a, b].map(|(count, seconds)| Rate { count, seconds });
        let both = a.stricter(b);
        prop_assert!(both.count > 0 && both.is_within(a) && both.is_within(b), "{:?}", both);
        prop_assert_eq!(both, b.stricter(a));
    }
}

#[test]
fn work_is_near_linear() {
    const RULES: u32 = 5_000;
    let many = |bits: u8, ports: u16| {
        let mut all = String::new();
        for number in 0..RULES {
            let address = std::net::Ipv4Addr::from((10 << 24) + (number << 8));
            all += &format!(
                "{{name: r{number}, to: ['{address}/{bits}', 'h{number}.a.example.com'], ports: {ports}-{}, protocol: tcp}},",
                u32::from(ports) + number % 7
            );
        }
        read(&format!("egress: [{all}]"))
    };
    let (wide, narrow) = (many(24, 100), many(25, 100));
    assert_eq!(excess(&narrow, &wide).unwrap(), []);
    assert_eq!(excess(&wide, &narrow).unwrap().len(), RULES as usize);
    assert_eq!(intersect(&wide, &narrow).unwrap().rules.len(), RULES as usize);
}

#[test]
fn hostile_overlaps_are_given_up_on() {
    let ports: Vec<String> = (1..=20_000).map(|port| (port * 2).to_string()).collect();
    let ports = ports.join(", ");
    let hosts: Vec<String> = (0..20_000).map(|host| format!("h{host}.example.com")).collect();
    let a = read(&format!("egress: [{{name: a, to: ['*.example.com'], ports: [{ports}], protocol: tcp}}]"));
    let rules: Vec<String> = hosts
        .iter()
        .zip(1..)
        .map(|(host, port)| format!("{{name: r{port}, to: [{host}], ports: {port}, protocol: tcp}}"))
        .collect();
    let b = read(&format!("egress: [{}]", rules.join(", ")));
    assert!(excess::excess_within(&b, &a, 1_000_000).is_err());
    assert!(intersect::intersect_within(&a, &b, 1_000_000).is_err());
}
