//! Packets, local ports and limits: what else is asked of compiled rules.

use super::super::super::ListenRule;
use super::*;

proptest! {
    // 60,000 packets; each explanation compiles anew.
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn compiled_entries_agree_with_the_rules_on_packets(
        mode in select(vec![Mode::Enforce, Mode::Enforce, Mode::Audit]),
        rules in prop::collection::vec(rule(), 0..6),
        listen in prop::collection::vec(listen_rule(), 0..6),
        probes in prop::collection::vec(packet_probe(), 20),
    ) {
        let envelope = Envelope { listen, ..envelope(mode, rules) };
        let compiled = compile(&envelope);
        let table = CompiledTable::new(ENVELOPE, &compiled);
        let listening: Vec<_> = listening(&envelope.listen).collect();
        for (probe, turn) in probes.iter().zip(0..) {
            let packet = probe.packet(&envelope.rules, &listening);
            // No packet comes from there, or goes there.
            if !packet.remote.is_unspecified() {
                let decided = decide_packet(&standing(mode), &packet, None, &&table);
                prop_assert_eq!(answer(&decided), model_of_packet(&envelope, &packet), "{:?}", packet);
                if turn < 3 {
                    check_far_end(&envelope, &packet)?;
                }
            }
            check_bind(&envelope, &table, packet)?;
        }
    }
}

/// A port may be taken if anybody at all may reach it.
fn check_bind(envelope: &Envelope, table: &CompiledTable, packet: Packet) -> Result<(), TestCaseError> {
    let (protocol, port) = (packet.protocol, packet.local_port);
    let first = u32::try_from(envelope.rules.len()).unwrap();
    let reaches = |(rule, _): &(&ListenRule, u32)| {
        rule.from.iter().any(|prefix| {
            let address = prefix.address();
            listen_matches(rule, &Destination { protocol, address, port }).is_some()
        })
    };
    let rule = envelope.listen.iter().zip(first..).find(reaches).map(|(_, number)| number);
    let expect = match rule {
        Some(rule) => (Verdict::Allow, rule, false),
        None => (Verdict::Deny, NO_RULE, envelope.mode == Mode::Enforce),
    };
    let decided = decide_bind(&standing(envelope.mode), Some(protocol), port, &table);
    prop_assert_eq!(answer(&decided), expect, "{} {}", port, protocol);
    Ok(())
}

/// `explain` says of a far end that it is let in exactly if it is from some port, and says of no rule that it decides but of
/// the one that does.
fn check_far_end(envelope: &Envelope, packet: &Packet) -> Result<(), TestCaseError> {
    if !packet.protocol.has_ports() {
        return Ok(());
    }
    let from = Destination { protocol: packet.protocol, address: packet.remote, port: packet.local_port };
    let explained = explain(envelope, Direction::In, from).unwrap();
    let (direction, opens) = (Direction::In, true);
    let asked = |remote_port| Packet { direction, opens, remote_port, ..*packet };
    let edges = envelope.rules.iter().flat_map(|rule| &rule.ports);
    let ports = edges.filter_map(|range| range.last.checked_add(1)).chain([1]).map(asked);
    let ports: Vec<_> = ports.collect();
    let lets_in = ports.iter().any(|packet| !model_of_packet(envelope, packet).2);
    prop_assert_eq!(!explained.decision.is_refused(), lets_in, "{:?}: {:?}", from, explained);
    let best = best_listen(envelope, &from);
    for (number, said) in &explained.rules {
        let right = match said {
            RuleExplanation::Decides(_) => *number == explained.decision.rule,
            RuleExplanation::Beaten { winner, .. } => {
                *number != *winner && *winner == explained.decision.rule
            }
            _ => *number != explained.decision.rule && Some(*number) != best,
        };
        prop_assert!(right, "rule {number} of {from:?}: {explained:?}");
    }
    Ok(())
}

#[test]
fn the_header_says_what_else_is_allowed() {
    let socket = |kind, protocol| {
        move |text: &str| {
            let envelope = read(text);
            let table = CompiledTable::new(ENVELOPE, &compile(&envelope));
            !decide_socket(&standing(Mode::Enforce), kind, protocol, &&table).is_refused()
        }
    };
    let ping = socket(2, 1);
    assert!(ping("egress: [{name: a, to: [10.0.0.1], protocol: icmp}]"));
    assert!(ping("loopback: allow"));
    assert!(ping("egress: [{name: a, to: [10.0.0.1], ports: any, protocol: any}]"));
    for none in [
        "egress: []",
        "deny: [{name: a, to: [10.0.0.1], protocol: icmp}]",
        "egress: [{name: a, to: [10.0.0.1], ports: 1-65534, protocol: any}]",
        "egress: [{name: a, to: [a.example.com], protocol: icmp}]",
    ] {
        assert!(!ping(none), "{none}");
    }

    let limits = |text: &str| {
        let table = CompiledTable::new(ENVELOPE, &compile(&read(text)));
        let decided = decide_bind(&standing(Mode::Enforce), Some(Protocol::Tcp), 80, &&table);
        limits_of(&decided, &&table).unwrap()
    };
    assert_eq!(limits("egress: []"), Limits::UNLIMITED);
    assert_eq!(
        limits(
            "limits: {connections: 0, connectionRate: 3/s, bytesOut: 1kB, bytesIn: 1TiB, processes: 3, depth: 0}"
        ),
        // Three at once are within the burst, a fourth is not.
        Limits {
            connections: 0,
            rate_interval_ns: 333_333_334,
            rate_burst_ns: 1_000_000_002,
            bytes_out: 1000,
            bytes_in: 1 << 40,
        }
    );
    assert_eq!(limits("limits: {connectionRate: 60/m}").rate_interval_ns, 1_000_000_000);
    let most = limits("limits: {connectionRate: 4294967295/s}");
    assert_eq!((most.rate_interval_ns, most.rate_burst_ns), (1, 4_294_967_295));
}

#[test]
fn a_deny_rule_holds_whoever_begins() {
    let envelope = read(
        "egress: [{name: out, to: [192.0.2.1], ports: 53, protocol: udp}],
         deny: [{name: never, to: [10.1.0.0/16], ports: any, protocol: any},
                {name: low, to: [10.2.0.0/16], ports: 1-1023, protocol: tcp}],
         listen: [{name: web, from: [10.0.0.0/8], ports: 8080, protocol: any}]",
    );
    let table = CompiledTable::new(ENVELOPE, &compile(&envelope));
    let [out, never, low, web] = [0, 1, 2, 3];
    let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
    let (of, to) = (Direction::In, Direction::Out);
    for (direction, protocol, opens, remote, remote_port, local_port, expect) in [
        (of, tcp, true, [10, 0, 0, 1], 40_000, 8080, Some(web)),
        (of, tcp, true, [10, 0, 0, 1], 40_000, 8081, None),
        (of, tcp, true, [11, 0, 0, 1], 40_000, 8080, None),
        (to, tcp, true, [10, 0, 0, 1], 40_000, 8080, None),
        (to, tcp, false, [10, 0, 0, 1], 40_000, 8080, Some(web)),
        (to, udp, false, [10, 0, 0, 1], 40_000, 8080, Some(web)),
        (of, udp, false, [192, 0, 2, 1], 53, 40_000, Some(out)),
        (of, udp, false, [192, 0, 2, 1], 54, 40_000, None),
        (of, tcp, true, [10, 1, 0, 1], 40_000, 8080, Some(never)),
        (of, tcp, true, [10, 1, 0, 1], 0, 8080, Some(never)),
        (of, udp, false, [10, 1, 0, 1], 0, 8080, Some(never)),
        (of, tcp, true, [10, 2, 0, 1], 1023, 8080, Some(low)),
        (of, tcp, true, [10, 2, 0, 1], 1024, 8080, Some(web)),
        (of, tcp, true, [10, 2, 0, 1], 0, 8080, Some(web)),
    ] {
        let remote = Address::v4(remote);
        let packet = Packet { direction, protocol, opens, resets: false, remote, remote_port, local_port };
        let decided = decide_packet(&standing(Mode::Enforce), &packet, None, &&table);
        let rule = (decided.rule != NO_RULE).then_some(decided.rule);
        let refused = !matches!(rule, Some(rule) if rule == out || rule == web);
        assert_eq!((rule, decided.is_refused()), (expect, refused), "{packet:?}");
    }
    let names: Vec<_> = (0..5).map(|number| envelope.rule_name(number)).collect();
    assert_eq!(names, [Some("out"), Some("never"), Some("low"), Some("web"), None]);
}

#[test]
fn loopback_may_be_listened_on_where_it_is_allowed() {
    let envelope = read(
        "loopback: allow, listen: [{name: web, from: ['2001:db8::/32'], ports: 80, protocol: tcp}],
         deny: [{name: all, to: [0.0.0.0/1, '::/0'], ports: any, protocol: any}]",
    );
    let names: Vec<_> = envelope.listen.iter().map(|rule| rule.name.as_str()).collect();
    assert_eq!(names, ["web", "loopback"]);
    let table = CompiledTable::new(ENVELOPE, &compile(&envelope));
    let bind = |protocol, port| decide_bind(&standing(Mode::Enforce), Some(protocol), port, &&table).rule;
    // Whatever deny rules say of the far ends.
    assert_eq!(bind(Protocol::Tcp, 80), 2);
    assert_eq!((bind(Protocol::Tcp, 81), bind(Protocol::Udp, 80)), (3, 3));
    assert_eq!(bind(Protocol::Icmp, 0), NO_RULE);
}
