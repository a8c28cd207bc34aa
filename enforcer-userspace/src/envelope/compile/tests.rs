use super::super::{Metadata, Mode, PortRange, RuleExplanation, explain, parse};
use super::*;
use enforcer_common::decision::{Claim, Standing, decide};
use enforcer_common::identity::SessionRef;
use enforcer_common::net::{Address, Destination, Family};
use enforcer_common::rules::{NO_RULE, RuleTable as _};
use enforcer_common::session::{Control, SessionState};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use std::time::Duration;

fn compile(envelope: &Envelope) -> CompiledRules {
    compile_within(envelope, u64::MAX).unwrap()
}

const ENVELOPE: u32 = 12;
const SESSION: SessionRef = SessionRef { slot: 1, generation: 2 };

/// What the language says, rule by rule, for an address as it is.
fn model_of_rules(envelope: &Envelope, destination: &Destination) -> Option<(u32, Verdict)> {
    let best = |verdict: Verdict| {
        let mut best: Option<(u8, u32)> = None;
        for (rule, number) in envelope.rules.iter().zip(0..) {
            let port_matches =
                rule.ports.iter().any(|ports| (ports.first..=ports.last).contains(&destination.port));
            if rule.verdict != verdict || !rule.protocols.contains(&destination.protocol) || !port_matches {
                continue;
            }
            let containing = rule.to.iter().filter(|prefix| prefix.holds(destination.address));
            let Some(bits) = containing.map(|prefix| prefix.bits()).max() else { continue };
            // Strictly longer: of two that are equally long the first written stays.
            if best.is_none_or(|(best_bits, _)| bits > best_bits) {
                best = Some((bits, number));
            }
        }
        best.map(|(_, number)| (number, verdict))
    };
    best(Verdict::Deny).or_else(|| best(Verdict::Allow))
}

/// The verdict and the rule that decides, [`NO_RULE`] for default deny.
fn model(envelope: &Envelope, destination: &Destination) -> (Verdict, u32) {
    let ask = |address| match model_of_rules(envelope, &Destination { address, ..*destination }) {
        Some((rule, verdict)) => (verdict, rule),
        None => (Verdict::Deny, NO_RULE),
    };
    match (destination.address.is_unspecified(), destination.address.family()) {
        (false, _) => ask(destination.address),
        (true, Family::V4) => (Verdict::Deny, NO_RULE),
        // It may come out as either loopback, so both must be allowed.
        (true, Family::V6) => match ask(Address::LOOPBACK_V4) {
            (Verdict::Allow, _) => ask(Address::LOOPBACK_V6),
            denied => denied,
        },
    }
}

fn decided(table: &CompiledTable, destination: &Destination) -> (Verdict, u32) {
    let control = Control {
        state: SessionState::Active,
        mode: Mode::Enforce,
        envelope: ENVELOPE,
        generation: SESSION.generation,
    };
    let standing =
        Standing { claim: Claim::Tagged(SESSION), control: control.pack(), expires_ns: 1, now_ns: 0 };
    let decision = decide(&standing, Some(*destination), table);
    (decision.verdict, decision.rule)
}

/// Few addresses, so that prefixes nest and meet destinations. Mapped ones are IPv4 ones written another way.
fn address() -> impl Strategy<Value = Address> {
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

fn prefix() -> impl Strategy<Value = Prefix> {
    // Mostly the lengths within which `address` varies.
    (address(), prop_oneof![3 => 0u8..=17, 1 => 0u8..=128]).prop_map(|(address, from_end)| {
        let bits = address.family().bits();
        Prefix::holding(address, bits.saturating_sub(from_end)).unwrap()
    })
}

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![
        select(vec![1u16, 2, 79, 80, 81, 443, 1023, 1024, 32767, 32768, 65534, 65535]),
        1u16..=100,
        1u16..=u16::MAX
    ]
}

fn port_range() -> impl Strategy<Value = PortRange> {
    prop_oneof![
        1 => Just(PortRange::ANY),
        2 => port().prop_map(|port| PortRange { first: port, last: port }),
        4 => (port(), port()).prop_map(|(a, b)| PortRange { first: a.min(b), last: a.max(b) }),
    ]
}

fn rule() -> impl Strategy<Value = Rule> {
    let protocols =
        select(vec![vec![Protocol::Tcp], vec![Protocol::Udp], vec![Protocol::Tcp, Protocol::Udp]]);
    let verdict = prop_oneof![3 => Just(Verdict::Allow), 2 => Just(Verdict::Deny)];
    let to = prop::collection::vec(prefix(), 1..4);
    let ports = prop::collection::vec(port_range(), 1..4);
    (verdict, protocols, to, ports).prop_map(|(verdict, protocols, to, ports)| Rule {
        name: "rule".to_owned(),
        line: 1,
        verdict,
        protocols,
        to,
        ports,
    })
}

fn envelope(rules: Vec<Rule>) -> Envelope {
    let text = String::new;
    Envelope {
        metadata: Metadata { name: text(), owner: text(), operator: text(), purpose: text(), model: text() },
        mode: Mode::Enforce,
        ttl: Duration::from_secs(1),
        rules,
    }
}

/// A destination near what the rules name: `place` picks an end of one of their prefixes, `edge` the end of one of their
/// port ranges or the port next to it.
#[derive(Clone, Debug)]
struct Probe {
    protocol: Protocol,
    address: Address,
    port: u16,
    near: Option<(Index, Index, bool, u16)>,
}

fn probe() -> impl Strategy<Value = Probe> {
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
    fn destination(&self, rules: &[Rule]) -> Destination {
        let Self { protocol, address, port, near } = self.clone();
        let mut destination = Destination { protocol, address, port };
        if let Some((rule, item, last, offset)) = near
            && !rules.is_empty()
        {
            let rule = rule.get(rules);
            let ports = item.get(&rule.ports);
            let edge = if last { ports.last } else { ports.first };
            destination.port = edge.saturating_add(offset).saturating_sub(1);
            let prefix = item.get(&rule.to);
            let hosts =
                if last { super::super::prefix::mask([0xff; 16], 128 - prefix.bits()) } else { [0; 16] };
            let shifted = u128::from_be_bytes(hosts).checked_shr(prefix.bits().into()).unwrap_or(0);
            let octets = (u128::from_be_bytes(prefix.address().octets()) | shifted).to_be_bytes();
            destination.address = match prefix.address().family() {
                Family::V4 => Address::v4([octets[0], octets[1], octets[2], octets[3]]),
                Family::V6 => Address::v6(octets),
            };
        }
        destination
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn compiled_entries_agree_with_the_rules(
        rules in prop::collection::vec(rule(), 0..7),
        probes in prop::collection::vec(probe(), 12),
    ) {
        let envelope = envelope(rules);
        let compiled = compile(&envelope);
        let table = CompiledTable::new(ENVELOPE, &compiled);
        for probe in probes {
            let destination = probe.destination(&envelope.rules);
            let found = table.rule(ENVELOPE, &destination).map(|hit| (hit.rule, hit.verdict));
            let expect = model_of_rules(&envelope, &destination).map(|(rule, verdict)| (rule, verdict.raw()));
            prop_assert_eq!(found, expect, "{:?}", destination);
            prop_assert_eq!(decided(&table, &destination), model(&envelope, &destination), "{:?}", destination);
            check_explained(&envelope, destination)?;
        }
        // The kernel's tables take each key once.
        let keys: std::collections::HashSet<_> =
            compiled.dests.iter().map(|entry| (entry.protocol, entry.prefix)).collect();
        prop_assert_eq!(keys.len(), compiled.dests.len());
        let keys: std::collections::HashSet<_> =
            compiled.ports.iter().map(|entry| (entry.port_set, entry.first, entry.bits)).collect();
        prop_assert_eq!(keys.len(), compiled.ports.len());
    }
}

/// `explain` gives the model's verdict and rule, and says of no rule that it decides but of the one that does.
fn check_explained(envelope: &Envelope, destination: Destination) -> Result<(), TestCaseError> {
    let explained = explain(envelope, destination).unwrap();
    let (verdict, rule) = model(envelope, &destination);
    prop_assert_eq!((explained.decision.verdict, explained.decision.rule), (verdict, rule));
    if destination.address.is_unspecified() {
        return Ok(());
    }
    for (number, (written, said)) in (0..).zip(envelope.rules.iter().zip(&explained.rules)) {
        let alone = Envelope { rules: vec![written.clone()], ..envelope.clone() };
        let matches = model_of_rules(&alone, &destination).is_some();
        let expect = match said {
            RuleExplanation::Decides(_) => number == rule,
            RuleExplanation::Beaten { winner, .. } => matches && number != rule && *winner == rule,
            RuleExplanation::NotAsked(_) => false,
            RuleExplanation::OtherProtocol | RuleExplanation::OtherAddress | RuleExplanation::OtherPort => {
                !matches
            }
        };
        prop_assert!(expect, "rule {number} of {destination:?}: {said:?}");
    }
    Ok(())
}

fn read(rules: &str) -> Envelope {
    let head = "{apiVersion: enforcer/v1, kind: Envelope, metadata: {name: a, owner: b, operator: c, purpose: d, model: e}";
    parse(&format!("{head}, spec: {{ttl: 1h, {rules}}}}}")).map_err(|error| error.to_string()).unwrap()
}

fn check(rules: &str, cases: &[(&str, u16, Option<&str>)]) {
    let envelope = read(rules);
    let table = CompiledTable::new(ENVELOPE, &compile(&envelope));
    for (address, port, expect) in cases {
        let address: std::net::IpAddr = address.parse().unwrap();
        let destination = Destination { protocol: Protocol::Tcp, address: address.into(), port: *port };
        let hit =
            table.rule(ENVELOPE, &destination).map(|hit| envelope.rules[hit.rule as usize].name.as_str());
        assert_eq!(hit, *expect, "{address} {port} in {rules}");
    }
}

#[test]
fn deny_beats_a_more_specific_allow() {
    check(
        "egress: [{name: one, to: [10.0.0.1], ports: 443, protocol: any}],
         deny: [{name: net, to: [10.0.0.0/8], ports: 400-500, protocol: tcp}]",
        &[("10.0.0.1", 443, Some("net")), ("10.0.0.2", 443, Some("net")), ("10.0.0.2", 80, None)],
    );
}

#[test]
fn longest_prefix_decides_among_allows_and_first_written_among_equals() {
    check(
        "egress: [{name: net, to: [10.0.0.0/8], ports: any, protocol: tcp},
                  {name: one, to: [10.0.0.1], ports: [443], protocol: tcp},
                  {name: two, to: [10.0.0.1], ports: [443, 80], protocol: tcp}]",
        &[
            ("10.0.0.1", 443, Some("one")),
            ("10.0.0.1", 80, Some("two")),
            ("10.0.0.1", 81, Some("net")),
            ("::ffff:10.0.0.1", 443, Some("one")),
            ("10.0.0.1", 0, None),
        ],
    );
}

#[test]
fn a_whole_family_does_not_speak_of_the_other() {
    check(
        "egress: [{name: v6, to: ['::/0'], ports: any, protocol: tcp}]",
        &[("2001:db8::1", 1, Some("v6")), ("10.0.0.1", 1, None), ("::ffff:10.0.0.1", 1, None)],
    );
}

#[test]
fn loopback_stands_between_allow_and_deny_rules() {
    let envelope = read(
        "loopback: allow, egress: [{name: a, to: [10.0.0.1], ports: 1, protocol: tcp}],
         deny: [{name: d, to: [127.0.0.2], ports: 1, protocol: tcp}]",
    );
    let names: Vec<_> = envelope.rules.iter().map(|rule| rule.name.as_str()).collect();
    assert_eq!(names, ["a", "loopback", "d"]);
}

#[test]
fn what_an_outer_entry_already_says_takes_no_room() {
    let envelope = read(
        "deny: [{name: net, to: [10.0.0.0/8], ports: any, protocol: tcp}],
         egress: [{name: one, to: [10.0.0.1, 10.0.0.2, 10.0.0.0/9], ports: any, protocol: tcp}]",
    );
    let compiled = compile(&envelope);
    assert_eq!((compiled.dests.len(), compiled.ports.len()), (1, 16));
}

#[test]
fn prefixes_with_the_same_rules_share_their_ports() {
    let envelope = read("egress: [{name: a, to: [10.0.0.1, '2001:db8::1'], ports: 443, protocol: any}]");
    let compiled = compile(&envelope);
    assert_eq!((compiled.dests.len(), compiled.ports.len()), (4, 1));
}

#[test]
fn work_is_bounded() {
    let ports = (1..=1000).map(|n| PortRange { first: n * 2, last: n * 2 }).collect();
    let rule = |to, ports, verdict| Rule {
        name: "rule".to_owned(),
        line: 1,
        verdict,
        protocols: vec![Protocol::Tcp],
        to: vec![to],
        ports,
    };
    let prefix = |n: u16, bits| Prefix::holding(Address::v4([10, 0, (n >> 8) as u8, n as u8]), bits).unwrap();
    let mut rules = vec![rule(prefix(0, 0), ports, Verdict::Deny)];
    rules.extend((0..1000).map(|n| rule(prefix(n, 32), vec![PortRange::ANY], Verdict::Allow)));
    let envelope = envelope(rules);
    assert_eq!(compile_within(&envelope, 100_000), Err(TooLarge { max_steps: 100_000 }));
    assert!(compile_within(&envelope, 10_000_000).is_ok());
}

#[test]
fn shipped_policies_compile() {
    let dir = std::path::Path::new(parse::tests::ROOT).join("policies");
    let mut seen = 0;
    for file in std::fs::read_dir(&dir).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let text = std::fs::read_to_string(&path).unwrap();
            let envelope = parse(&text).unwrap_or_else(|error| panic!("{}:\n{error}", path.display()));
            assert_eq!(path.file_stem().unwrap(), envelope.metadata.name.as_str());
            compile(&envelope);
            seen += 1;
        }
    }
    assert!(seen > 0, "no policies in {}", dir.display());
}
