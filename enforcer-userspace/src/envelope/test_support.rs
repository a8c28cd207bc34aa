//! What the tests of envelopes share: a slow and obvious model of the language, and envelopes and destinations at random.

pub(super) mod whole;

use std::time::Duration;

use enforcer_common::net::{Address, Destination, Direction, Family, Protocol};
use enforcer_common::packet::Packet;
use enforcer_common::rules::NO_RULE;
use enforcer_common::verdict::{Mode, Verdict};
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::prefix::masked;
use super::{Envelope, Limits, ListenRule, Metadata, OnFinding, PortRange, Prefix, Rule, parse};

/// A verdict, the rule it names, and whether the operation is refused.
pub(super) type Answer = (Verdict, u32, bool);

/// What the language says, rule by rule, for an address as it is.
pub(super) fn model_of_rules(envelope: &Envelope, destination: &Destination) -> Answer {
    let allow = best_rule(envelope, destination, Verdict::Allow, None);
    with_denies(envelope, destination, allow)
}

/// The rule of this verdict and mode that is named.
fn best_rule(
    envelope: &Envelope,
    destination: &Destination,
    verdict: Verdict,
    mode: Option<Mode>,
) -> Option<u32> {
    let asked = |rule: &Rule| {
        rule.verdict == verdict && mode.is_none_or(|mode| mode == rule.mode.unwrap_or(envelope.mode))
    };
    best(envelope.rules.iter().zip(0..).map(|(rule, number)| {
        let bits = if asked(rule) { matches(rule, destination) } else { None };
        (bits, number)
    }))
}

/// Of those that match, the one with the longest prefix. Strictly longer: of two that are equally long the first stays.
fn best(all: impl Iterator<Item = (Option<u8>, u32)>) -> Option<u32> {
    let mut best: Option<(u8, u32)> = None;
    for (bits, number) in all {
        let Some(bits) = bits else { continue };
        if best.is_none_or(|(best_bits, _)| bits > best_bits) {
            best = Some((bits, number));
        }
    }
    best.map(|(_, number)| number)
}

/// What becomes of something that this rule allows, or none, with the deny rules for its far end.
fn with_denies(envelope: &Envelope, far: &Destination, allow: Option<u32>) -> Answer {
    let enforced = best_rule(envelope, far, Verdict::Deny, Some(Mode::Enforce));
    let audited = best_rule(envelope, far, Verdict::Deny, Some(Mode::Audit));
    let default_refused = envelope.mode == Mode::Enforce;
    match (enforced, audited, allow) {
        (Some(rule), ..) => (Verdict::Deny, rule, true),
        (None, Some(rule), Some(_)) => (Verdict::Deny, rule, false),
        (None, Some(rule), None) => (Verdict::Deny, rule, default_refused),
        (None, None, Some(rule)) => (Verdict::Allow, rule, false),
        (None, None, None) => (Verdict::Deny, NO_RULE, default_refused),
    }
}

/// The length of the longest prefix by which a rule matches.
pub(super) fn matches(rule: &Rule, destination: &Destination) -> Option<u8> {
    let holds = |ports: &PortRange| {
        // A deny rule for any port is one for port 0 as well.
        let first = if rule.verdict == Verdict::Deny && *ports == PortRange::ANY { 0 } else { ports.first };
        (first..=ports.last).contains(&destination.port)
    };
    let port_matches = destination.protocol == Protocol::Icmp || rule.ports.iter().any(holds);
    if !rule.protocols.contains(&destination.protocol) || !port_matches {
        return None;
    }
    rule.to.iter().filter(|prefix| prefix.holds(destination.address)).map(|prefix| prefix.bits()).max()
}

/// What the language says of a packet, rule by rule: an allow rule for its far end lets it pass, or a listen rule for its far
/// end and our port; one that begins a connection only that of its direction.
pub(super) fn model_of_packet(envelope: &Envelope, packet: &Packet) -> Answer {
    let far = Destination { protocol: packet.protocol, address: packet.remote, port: packet.remote_port };
    let allow = best_rule(envelope, &far, Verdict::Allow, None);
    let listen = best_listen(envelope, &Destination { port: packet.local_port, ..far });
    let lets_pass = match (packet.opens, packet.direction) {
        (true, Direction::Out) => allow,
        (true, Direction::In) => listen,
        (false, _) => allow.or(listen),
    };
    with_denies(envelope, &far, lets_pass)
}

/// The listen rule that is named for a far end, by its address and our port.
pub(super) fn best_listen(envelope: &Envelope, from: &Destination) -> Option<u32> {
    let first = u32::try_from(envelope.rules.len()).unwrap();
    best(envelope.listen.iter().zip(first..).map(|(rule, number)| (listen_matches(rule, from), number)))
}

/// The length of the longest prefix by which a listen rule matches.
pub(super) fn listen_matches(rule: &ListenRule, from: &Destination) -> Option<u8> {
    let port_matches = rule.ports.iter().any(|ports| (ports.first..=ports.last).contains(&from.port));
    if !rule.protocols.contains(&from.protocol) || !port_matches {
        return None;
    }
    rule.from.iter().filter(|prefix| prefix.holds(from.address)).map(|prefix| prefix.bits()).max()
}

/// What the language says of any destination.
pub(super) fn model(envelope: &Envelope, destination: &Destination) -> Answer {
    let ask = |address| model_of_rules(envelope, &Destination { address, ..*destination });
    match (destination.address.is_unspecified(), destination.address.family()) {
        (false, _) => ask(destination.address),
        (true, Family::V4) => (Verdict::Deny, NO_RULE, envelope.mode == Mode::Enforce),
        // It may come out as either loopback: refused if either is, allowed if both are.
        (true, Family::V6) => match (ask(Address::LOOPBACK_V4), ask(Address::LOOPBACK_V6)) {
            (v4 @ (.., true), _) => v4,
            (_, v6 @ (.., true)) => v6,
            (v4 @ (Verdict::Deny, ..), _) => v4,
            (_, v6) => v6,
        },
    }
}

/// Few addresses, so that prefixes nest and meet destinations. Mapped ones are IPv4 ones written another way.
pub(super) fn address() -> impl Strategy<Value = Address> {
    let few = select(vec![0u8, 1, 2, 3, 127, 128, 129, 254, 255]);
    prop_oneof![
        4 => (few.clone(), few.clone()).prop_map(|(a, b)| Address::v4([10, 0, a, b])),
        3 => (few.clone(), few.clone()).prop_map(|(a, b)| {
            Address::v6([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b])
        }),
        1 => (few.clone(), few).prop_map(|(a, b)| {
            Address::v6([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, a, b])
        }),
        1 => select(vec![
            Address::LOOPBACK_V4, Address::LOOPBACK_V6, Address::v4([127, 255, 0, 1]), Address::v4([0; 4]),
            Address::v6([0; 16]),
        ]),
    ]
}

pub(super) fn prefix() -> impl Strategy<Value = Prefix> {
    // Mostly the lengths within which `address` varies.
    (address(), prop_oneof![3 => 0u8..=17, 1 => 0u8..=128]).prop_map(|(address, from_end)| {
        let bits = address.family().bits();
        Prefix::holding(address, bits.saturating_sub(from_end)).unwrap()
    })
}

pub(super) fn port() -> impl Strategy<Value = u16> {
    prop_oneof![
        select(vec![1u16, 2, 79, 80, 81, 443, 1023, 1024, 32767, 32768, 65534, 65535]),
        1u16..=100,
        1u16..=u16::MAX
    ]
}

pub(super) fn port_range() -> impl Strategy<Value = PortRange> {
    prop_oneof![
        1 => Just(PortRange::ANY),
        2 => port().prop_map(|port| PortRange { first: port, last: port }),
        4 => (port(), port()).prop_map(|(a, b)| PortRange { first: a.min(b), last: a.max(b) }),
    ]
}

pub(super) fn rule() -> impl Strategy<Value = Rule> {
    let [icmp, tcp, udp] = [Protocol::Icmp, Protocol::Tcp, Protocol::Udp];
    let protocols = select(vec![vec![tcp], vec![udp], vec![tcp, udp], vec![icmp, tcp, udp], vec![icmp]]);
    let verdict = select(vec![
        (Verdict::Allow, None),
        (Verdict::Allow, None),
        (Verdict::Allow, None),
        (Verdict::Deny, None),
        (Verdict::Deny, Some(Mode::Enforce)),
        (Verdict::Deny, Some(Mode::Audit)),
    ]);
    let to = prop::collection::vec(prefix(), 1..4);
    let ports = prop::collection::vec(port_range(), 1..4);
    (verdict, protocols, to, ports).prop_map(|((verdict, mode), protocols, to, ports)| Rule {
        name: "rule".to_owned(),
        line: 1,
        verdict,
        mode,
        ports: if protocols == [Protocol::Icmp] { Vec::new() } else { ports },
        protocols,
        to,
        names: Vec::new(),
        agents: Vec::new(),
    })
}

pub(super) fn listen_rule() -> impl Strategy<Value = ListenRule> {
    let [tcp, udp] = [Protocol::Tcp, Protocol::Udp];
    let protocols = select(vec![vec![tcp], vec![udp], vec![tcp, udp]]);
    let from = prop::collection::vec(prefix(), 1..4);
    let ports = prop::collection::vec(port_range(), 1..4);
    (protocols, from, ports).prop_map(|(protocols, from, ports)| ListenRule {
        name: "listen".to_owned(),
        line: 1,
        protocols,
        from,
        ports,
    })
}

/// Listen rules as allow rules, to ask near them.
pub(super) fn listening(rules: &[ListenRule]) -> impl Iterator<Item = Rule> {
    rules.iter().map(|rule| Rule {
        name: rule.name.clone(),
        line: rule.line,
        verdict: Verdict::Allow,
        mode: None,
        protocols: rule.protocols.clone(),
        to: rule.from.clone(),
        names: Vec::new(),
        agents: Vec::new(),
        ports: rule.ports.clone(),
    })
}

pub(super) fn envelope(mode: Mode, rules: Vec<Rule>) -> Envelope {
    let text = String::new;
    Envelope {
        metadata: Metadata {
            name: text(),
            owner: text(),
            operator: text(),
            purpose: text(),
            model: text(),
            revision: 0,
        },
        mode,
        ttl: Duration::from_secs(1),
        requires: Vec::new(),
        rules,
        listen: Vec::new(),
        unix: None,
        exec: super::Exec::default(),
        limits: Limits::default(),
        on_finding: OnFinding::Record,
    }
}

/// A destination near what the rules name: `place` picks an end of one of their prefixes, `edge` the end of one of their
/// port ranges or the port next to it.
#[derive(Clone, Debug)]
pub(super) struct Probe {
    protocol: Protocol,
    address: Address,
    port: u16,
    near: Option<(Index, Index, bool, u16)>,
}

pub(super) fn probe() -> impl Strategy<Value = Probe> {
    let near = prop::option::of((any::<Index>(), any::<Index>(), any::<bool>(), 0u16..3));
    let ports = prop_oneof![1 => Just(0u16), 6 => port()];
    (select(Protocol::ALL), address(), ports, near).prop_map(|(protocol, address, port, near)| Probe {
        protocol,
        address,
        port,
        near,
    })
}

impl Probe {
    pub(super) fn destination(&self, rules: &[Rule]) -> Destination {
        let Self { protocol, address, port, near } = self.clone();
        let mut destination = Destination { protocol, address, port };
        if let Some((rule, item, last, offset)) = near
            && !rules.is_empty()
        {
            let rule = rule.get(rules);
            if !rule.ports.is_empty() {
                let ports = item.get(&rule.ports);
                let edge = if last { ports.last } else { ports.first };
                destination.port = edge.saturating_add(offset).saturating_sub(1);
            }
            let prefix = item.get(&rule.to);
            let hosts = if last { masked([0xff; 16], 128 - prefix.bits()) } else { [0; 16] };
            let shifted = u128::from_be_bytes(hosts).checked_shr(prefix.bits().into()).unwrap_or(0);
            let octets = (u128::from_be_bytes(prefix.address().octets()) | shifted).to_be_bytes();
            destination.address = match prefix.address().family() {
                Family::V4 => Address::v4([octets[0], octets[1], octets[2], octets[3]]),
                Family::V6 => Address::v6(octets),
            };
        }
        if !destination.protocol.has_ports() {
            destination.port = 0;
        }
        destination
    }
}

/// A packet near what the rules name, and near what the listen rules do.
#[derive(Clone, Debug)]
pub(super) struct PacketProbe {
    far: Probe,
    near: Probe,
    /// Whether the address is that of `far`.
    is_far: bool,
    direction: Direction,
    opens: bool,
}

pub(super) fn packet_probe() -> impl Strategy<Value = PacketProbe> {
    (probe(), probe(), any::<bool>(), select(Direction::ALL), any::<bool>())
        .prop_map(|(far, near, is_far, direction, opens)| PacketProbe { far, near, is_far, direction, opens })
}

impl PacketProbe {
    pub(super) fn packet(&self, rules: &[Rule], listen: &[Rule]) -> Packet {
        let (far, near) = (self.far.destination(rules), self.near.destination(listen));
        let protocol = if self.is_far { far.protocol } else { near.protocol };
        let remote = if self.is_far { far.address } else { near.address };
        let port = |port| if protocol.has_ports() { port } else { 0 };
        Packet {
            direction: self.direction,
            protocol,
            opens: self.opens && protocol == Protocol::Tcp,
            resets: false,
            remote,
            remote_port: port(far.port),
            local_port: port(near.port),
        }
    }
}

pub(super) fn read(rules: &str) -> Envelope {
    let head = "{apiVersion: enforcer/v1, kind: Envelope, metadata: {name: a, owner: b, operator: c, purpose: d, model: e}";
    parse(&format!("{head}, spec: {{ttl: 1h, {rules}}}}}")).map_err(|error| error.to_string()).unwrap()
}
