mod packets;

use super::super::test_support::{
    Answer, best_listen, envelope, listen_matches, listen_rule, listening, matches, model, model_of_packet,
    packet_probe, probe, read, rule,
};
use super::super::{CompiledTable, Mode, PortRange, Prefix, RuleExplanation, Verdict, explain, parse};
use super::*;
use enforcer_common::decision::{
    Decision, Standing, decide, decide_bind, decide_packet, decide_socket, limits_of,
};
use enforcer_common::net::{Address, Destination, Direction, Protocol};
use enforcer_common::packet::Packet;
use enforcer_common::rules::{EnvelopeRules as _, MAX_LEVELS};
use proptest::prelude::*;
use proptest::sample::select;
use std::time::Duration;

fn compile(envelope: &Envelope) -> CompiledRules {
    compile_within(envelope, u64::MAX, usize::MAX).unwrap()
}

const ENVELOPE: u32 = 12;

fn standing(mode: Mode) -> Standing {
    Standing::undisturbed(ENVELOPE, mode)
}

fn decision(table: &CompiledTable, mode: Mode, destination: &Destination) -> Decision {
    decide(&standing(mode), Some(*destination), &table)
}

fn answer(decision: &Decision) -> Answer {
    (decision.verdict, decision.rule, decision.is_refused())
}

proptest! {
    // 100,000 decisions.
    #![proptest_config(ProptestConfig { cases: 5_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn compiled_entries_and_explanations_agree_with_the_rules(
        mode in select(vec![Mode::Enforce, Mode::Enforce, Mode::Audit]),
        rules in prop::collection::vec(rule(), 0..8),
        listen in prop::collection::vec(listen_rule(), 0..4),
        probes in prop::collection::vec(probe(), 20),
    ) {
        let envelope = Envelope { listen, ..envelope(mode, rules) };
        let compiled = compile(&envelope);
        let table = CompiledTable::new(ENVELOPE, &compiled);
        for probe in probes {
            let destination = probe.destination(&envelope.rules);
            let expect = model(&envelope, &destination);
            prop_assert_eq!(answer(&decision(&table, mode, &destination)), expect, "{:?}", destination);
            check_explained(&envelope, destination, expect)?;
        }
        prop_assert!(compiled.stats.levels <= MAX_LEVELS);
    }
}

/// `explain` gives the model's answer, and says of no rule that it decides but of the one that does.
fn check_explained(
    envelope: &Envelope,
    destination: Destination,
    expect: Answer,
) -> Result<(), TestCaseError> {
    let explained = explain(envelope, Direction::Out, destination).unwrap();
    prop_assert_eq!(answer(&explained.decision), expect);
    if destination.address.is_unspecified() {
        return Ok(());
    }
    prop_assert_eq!(explained.rules.len(), envelope.rules.len());
    for (number, said) in explained.rules {
        let matches = matches(&envelope.rules[number as usize], &destination).is_some();
        let right = match said {
            RuleExplanation::Decides(_) => matches && number == expect.1,
            RuleExplanation::Beaten { winner, .. } => matches && number != expect.1 && winner == expect.1,
            RuleExplanation::NotAsked(_) | RuleExplanation::ByName | RuleExplanation::OtherFarPort => false,
            RuleExplanation::OtherProtocol | RuleExplanation::OtherAddress | RuleExplanation::OtherPort => {
                !matches
            }
        };
        prop_assert!(right, "rule {number} of {destination:?}: {said:?}");
    }
    Ok(())
}

fn check(rules: &str, cases: &[(&str, u16, Option<&str>)]) {
    let envelope = read(rules);
    let table = CompiledTable::new(ENVELOPE, &compile(&envelope));
    for (address, port, expect) in cases {
        let address: std::net::IpAddr = address.parse().unwrap();
        let destination = Destination { protocol: Protocol::Tcp, address: address.into(), port: *port };
        let hit = (&table).find(Direction::Out, &destination).unwrap();
        let hit = hit.map(|hit| envelope.rules[hit.rule as usize].name.as_str());
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
    // From 10.0.0.0 on, and from 11.0.0.0 on.
    assert_eq!(compile(&envelope).stats.intervals, 2);
}

#[test]
fn prefixes_with_the_same_rules_share_their_ranges() {
    let envelope =
        read("egress: [{name: a, to: [10.0.0.1, '2001:db8::1'], ports: [80, 443], protocol: any}]");
    let compiled = compile(&envelope);
    assert_eq!((compiled.stats.intervals, compiled.stats.ranges), (4, 4));
}

#[test]
fn any_port_takes_no_more_room_than_one() {
    let size = |ports| {
        compile(&read(&format!("egress: [{{name: a, to: [10.0.0.1], ports: {ports}, protocol: tcp}}]")))
            .blocks
            .len()
    };
    assert_eq!((size("443"), size("1-1000")), (size("any"), size("any")));
}

/// Trees with as many intervals as fill their levels, one fewer and one more; and a large one.
#[test]
fn every_place_of_a_tree_is_found() {
    for count in [0u32, 1, 3, 4, 15, 16, 31, 32, 511, 512, 513, 30_000] {
        for family in Family::ALL {
            // Every second address, to each of three rules in turn.
            let address = |n: u32| match family {
                Family::V4 => Address::v4((0x0a00_0000 + n).to_be_bytes()),
                Family::V6 => Address::v6(((0x2001_0db8 << 96) + (u128::from(n) << 60)).to_be_bytes()),
            };
            let to_rule = |rule: u32| {
                let numbers = (0..count).filter(move |n| n % 3 == rule);
                numbers.map(|n| Prefix::holding(address(2 * n + 1), family.bits()).unwrap()).collect()
            };
            let rules: Vec<_> = (0..3).map(|rule| allow_all(to_rule(rule))).collect();
            let compiled = compile(&envelope(Mode::Enforce, rules));
            assert!(compiled.stats.levels <= MAX_LEVELS);
            let table = CompiledTable::new(ENVELOPE, &compiled);
            let rule_at = |address| {
                let destination = Destination { protocol: Protocol::Tcp, address, port: 1 };
                (&table).find(Direction::Out, &destination).unwrap().map(|hit| hit.rule)
            };
            for n in 0..=2 * count {
                assert_eq!(
                    rule_at(address(n)),
                    (n % 2 == 1).then_some(n / 2 % 3),
                    "{n} of {count}, {family}"
                );
            }
            let ends =
                [Address::v4([0; 4]), Address::v4([255; 4]), Address::v6([0; 16]), Address::v6([255; 16])];
            assert_eq!(ends.map(rule_at), [None; 4]);
        }
    }
}

fn allow_all(to: Vec<Prefix>) -> Rule {
    Rule {
        name: "rule".to_owned(),
        line: 1,
        verdict: Verdict::Allow,
        mode: None,
        protocols: Protocol::ALL.to_vec(),
        to,
        names: Vec::new(),
        agents: Vec::new(),
        ports: vec![PortRange::ANY],
    }
}

#[test]
fn the_last_address_is_an_address() {
    check(
        "egress: [{name: v4, to: [255.255.255.255, 255.255.255.252], ports: any, protocol: tcp},
                  {name: v6, to: ['ffff::/16'], ports: any, protocol: tcp}]",
        &[
            ("255.255.255.255", 1, Some("v4")),
            ("255.255.255.254", 1, None),
            ("255.255.255.252", 1, Some("v4")),
            ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 1, Some("v6")),
            ("fffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 1, None),
        ],
    );
}

#[test]
fn an_audited_deny_takes_nothing_away() {
    let envelope = read(
        "egress: [{name: net, to: [10.0.0.0/8], ports: any, protocol: tcp}],
         deny: [{name: trial, to: [10.1.0.0/16, 192.0.2.0/24], ports: any, protocol: tcp, mode: audit},
                {name: hard, to: [10.1.1.0/24], ports: 22, protocol: tcp}]",
    );
    let table = CompiledTable::new(ENVELOPE, &compile(&envelope));
    for (address, port, expect) in [
        ([10, 0, 0, 1], 22, (Verdict::Allow, 0, false)),
        ([10, 1, 0, 1], 22, (Verdict::Deny, 1, false)),
        ([10, 1, 1, 1], 22, (Verdict::Deny, 2, true)),
        ([10, 1, 1, 1], 23, (Verdict::Deny, 1, false)),
        // No allow rule matches: the default, under the rule's name.
        ([192, 0, 2, 1], 22, (Verdict::Deny, 1, true)),
    ] {
        let destination = Destination { protocol: Protocol::Tcp, address: Address::v4(address), port };
        assert_eq!(answer(&decision(&table, Mode::Enforce, &destination)), expect, "{address:?}:{port}");
    }
}

#[test]
fn work_is_bounded() {
    let ports = (1..=1000).map(|n| PortRange { first: n * 2, last: n * 2 }).collect();
    let rule = |to, ports, verdict| Rule { verdict, ports, ..allow_all(vec![to]) };
    let prefix = |n: u16, bits| Prefix::holding(Address::v4([10, 0, (n >> 8) as u8, n as u8]), bits).unwrap();
    let mut rules = vec![rule(prefix(0, 0), ports, Verdict::Deny)];
    rules.extend((0..1000).map(|n| rule(prefix(n, 32), vec![PortRange::ANY], Verdict::Allow)));
    let envelope = envelope(Mode::Enforce, rules);
    assert_eq!(compile_within(&envelope, 100_000, usize::MAX), Err(TooLarge::Steps { max_steps: 100_000 }));
    assert!(compile_within(&envelope, 10_000_000, usize::MAX).is_ok());
}

/// What holds at many prefixes is looked at once, however many ranges it has.
#[test]
fn many_prefixes_with_many_ranges_take_no_time() {
    let odd = (0..32_768).map(|n| PortRange { first: 2 * n + 1, last: 2 * n + 1 }).collect();
    let everywhere = Rule { ports: odd, ..allow_all(vec![Prefix::holding(Address::v4([0; 4]), 0).unwrap()]) };
    let single = |n: u32| Prefix::holding(Address::v4((0x0a00_0000 + 2 * n).to_be_bytes()), 32).unwrap();
    let same = Rule {
        ports: vec![PortRange { first: 65_535, last: 65_535 }],
        ..allow_all((0..100_000).map(single).collect())
    };
    let start = std::time::Instant::now();
    let compiled =
        compile_within(&envelope(Mode::Enforce, vec![everywhere, same]), 1_000_000, usize::MAX).unwrap();
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert!(compiled.stats.intervals > 200_000);
}

#[test]
fn compiled_rules_are_bounded() {
    // A thousand ranges everywhere and one more at each of 100 addresses: each list of ranges is another one.
    let ports = (1..=1000).map(|n| PortRange { first: n * 2, last: n * 2 }).collect();
    let mut rules = vec![Rule { ports, ..allow_all(vec![Prefix::holding(Address::v4([0; 4]), 0).unwrap()]) }];
    rules.extend((0..100).map(|n| {
        let to = vec![Prefix::holding(Address::v4([10, 0, 0, n]), 32).unwrap()];
        Rule { ports: vec![PortRange { first: 3001, last: 3001 }], ..allow_all(to) }
    }));
    let envelope = envelope(Mode::Enforce, rules);
    let blocks = compile(&envelope).blocks.len();
    assert!(compile_within(&envelope, u64::MAX, blocks).is_ok());
    for max_blocks in [0, 1, 100, blocks - 1] {
        assert_eq!(compile_within(&envelope, u64::MAX, max_blocks), Err(TooLarge::Blocks { max_blocks }));
    }
}

#[test]
fn ranges_of_what_holds_nowhere_are_left_out() {
    let envelope = read(
        "egress: [{name: pair, to: [10.0.0.0/31], ports: [80, 443], protocol: tcp},
                  {name: a, to: [10.0.0.0], ports: any, protocol: tcp},
                  {name: b, to: [10.0.0.1], ports: any, protocol: tcp}]",
    );
    let compiled = compile(&envelope);
    assert_eq!((compiled.stats.ranges, compiled.deciding), (0, HashSet::from([1, 2])));
}

#[test]
fn lookups_are_counted_as_they_are_made() {
    struct Counting<'t>(&'t CompiledTable, std::cell::Cell<usize>);
    impl enforcer_common::rules::EnvelopeRules for Counting<'_> {
        fn block(&self, index: u32) -> Option<&Block> {
            self.1.set(self.1.get() + 1);
            self.0.block(index)
        }
    }
    for ports in 1..20u16 {
        let ports = (1..=ports).map(|n| PortRange { first: 2 * n, last: 2 * n }).collect();
        let rule = Rule { protocols: vec![Protocol::Tcp], ports, ..allow_all(vec![]) };
        let to =
            (0..200u32).map(|n| Prefix::holding(Address::v4((2 * n).to_be_bytes()), 32).unwrap()).collect();
        let compiled = compile(&envelope(Mode::Enforce, vec![Rule { to, ..rule }]));
        let table = CompiledTable::new(ENVELOPE, &compiled);
        let made = |n: u32, port| {
            let counting = Counting(&table, std::cell::Cell::new(0));
            let address = Address::v4(n.to_be_bytes());
            counting.find(Direction::Out, &Destination { protocol: Protocol::Tcp, address, port }).unwrap();
            counting.1.get()
        };
        let most =
            (0..400).flat_map(|n| (0..42).map(move |port| (n, port))).map(|(n, port)| made(n, port)).max();
        assert_eq!(most, Some(compiled.stats.lookups()));
    }
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
