//! What an envelope says beyond a list of destinations: deny rules, port ranges, protocols, audit mode.

#[path = "../benches/rules/list.rs"]
mod list;

use std::process::Command;

use integration::{
    Conversation, Daemon, Envelope, Event, LOAD_DEADLINE, Pair, Process, Refusal, Server, fewer,
    inner_memory, probe, unique,
};
use list::RuleList;
use nix::sched::{CloneFlags, unshare};

/// One attempt and what becomes of it: `None` if it is let through, else the reason and the rule.
struct Case {
    spec: String,
    refused: Option<(&'static str, Option<&'static str>)>,
}

/// Makes the attempts outside a session (all must succeed), inside one, and after it is released.
#[track_caller]
fn check(envelope: &Envelope, agent: &str, cases: &[Case]) {
    let mut control = Conversation::outside(&unique("control"));
    for case in cases {
        assert!(control.attempt(&case.spec), "control: {}", case.spec);
    }

    let mut daemon = Daemon::start();
    let magic = unique("enrolled");
    let mut inside = daemon.converse(envelope, &magic);
    for case in cases {
        assert_eq!(inside.attempt(&case.spec), case.refused.is_none(), "{}", case.spec);
    }
    let denies: Vec<Refusal> = cases.iter().filter_map(deny_of).collect();
    daemon.expect_denies(agent, denies);

    daemon.teardown();
    for case in cases {
        assert!(inside.attempt(&case.spec), "released: {}", case.spec);
    }
    inside.end();
    control.end();
}

fn deny_of(case: &Case) -> Option<Refusal> {
    let (reason, rule) = case.refused?;
    let (kind, destination) = case.spec.split_once('/').expect("KIND/ADDRESS");
    let operation = if kind == "udp-sendto" { "send" } else { "connect" };
    Some(Refusal {
        operation: operation.into(),
        protocol: kind[..3].into(),
        destination: destination.into(),
        reason: reason.into(),
        rule: rule.map(str::to_owned),
    })
}

#[test]
fn deny_rule_beats_every_allow_rule() {
    let (tcp, udp) = (Pair::v4("tcp"), Pair::v4("udp"));
    // The allow rule for the one address is more specific than the deny rule.
    let envelope = Envelope::of("deny")
        .allow("wide", "127.0.0.0/8", "any", "any")
        .allow_server("exact", &tcp.refused)
        .deny("not-there", "127.0.0.16/28", "any", "any");
    let deny = Some(("deny-rule", Some("not-there")));
    let [tcp_in, tcp_out] = tcp.arguments();
    let [udp_in, udp_out] = udp.arguments();
    let cases = [
        Case { spec: format!("tcp/{tcp_in}"), refused: None },
        Case { spec: format!("tcp/{tcp_out}"), refused: deny },
        Case { spec: format!("udp-sendto/{udp_in}"), refused: None },
        Case { spec: format!("udp-sendto/{udp_out}"), refused: deny },
    ];
    check(&envelope, "deny", &cases);
}

#[test]
fn ports_and_protocols_are_part_of_a_rule() {
    const NEIGHBOURS: [bool; 5] = [false, true, true, true, false];
    let (tcp, udp) = servers_on_neighbouring_ports::<5>("127.0.0.10");
    let [first, last] = [&tcp[1], &tcp[3]].map(|server| server.address().port());
    let ports = format!("[\"{first}-{last}\"]");
    let envelope = Envelope::of("ports").allow("range", "127.0.0.10/32", &ports, "tcp");
    let no_rule = Some(("no-rule", None));
    let mut cases = vec![
        // The range is for TCP.
        Case { spec: format!("udp-connect/{}", udp.address()), refused: no_rule },
        Case { spec: format!("udp-sendto/{}", udp.address()), refused: no_rule },
    ];
    cases.extend(tcp.iter().zip(NEIGHBOURS).map(|(server, inside)| Case {
        spec: format!("tcp/{}", server.address()),
        refused: if inside { None } else { no_rule },
    }));
    check(&envelope, "ports", &cases);
}

#[test]
fn audit_mode_lets_through_and_records() {
    let pair = Pair::v4("tcp");
    let daemon = Daemon::start();
    let envelope = Envelope::of("audit").allow_server("only", &pair.allowed).audit();
    let magic = unique("audit");
    let mut inside = daemon.converse(&envelope, &magic);
    let specs = [&pair.allowed, &pair.refused].map(|server| format!("tcp/{}", server.address()));
    for spec in &specs {
        assert!(inside.attempt(spec), "{spec}");
    }
    // Multipath TCP is outside what an envelope can describe, and audited as well.
    assert!(inside.attempt("socket/mptcp4"));
    assert_eq!(pair.refused.received(&magic), [specs[1].as_str()]);

    let events = daemon.wait_for_events(2, "the denies", |event| event.is_of("audit") && event.is_deny());
    assert!(events.iter().all(|event| !event.is_refused()));
    let mut reasons: Vec<&str> = events.iter().map(|event| event.text("/reason")).collect();
    reasons.sort_unstable();
    assert_eq!(reasons, ["no-rule", "socket-type"]);
    assert_eq!(daemon.counter("audited"), 2);
    assert_eq!(daemon.counter("refused"), 0);
    assert_eq!(daemon.session("audit").expect("it is running")["mode"], "audit");
    inside.end();
}

#[test]
fn allowed_connection_is_recorded_with_its_rule() {
    let pair = Pair::v4("tcp");
    let daemon = Daemon::start();
    let envelope = Envelope::of("allowed").allow_server("the-rule", &pair.allowed);
    let mut inside = daemon.converse(&envelope, &unique("allowed"));
    let session = daemon.session_id("allowed");
    assert!(inside.attempt(&format!("tcp/{}", pair.allowed.address())));
    let is_allow = |event: &Event| event.is_of("allowed") && event.kind() == "egress" && !event.is_deny();
    let events = daemon.wait_for_events(1, "the connection is recorded", is_allow);
    let event = &events[0];
    let expected = Refusal {
        operation: "connect".into(),
        protocol: "tcp".into(),
        destination: pair.allowed.address().to_string(),
        reason: "allow-rule".into(),
        rule: Some("the-rule".into()),
    };
    assert_eq!(event.decision(), expected);
    assert_eq!(event.pid(), Some(inside.pid()));
    for (field, value) in [
        ("/session/id", session.as_str()),
        ("/session/owner", Envelope::OWNER),
        ("/session/operator", "tests"),
        ("/session/model", "none"),
        ("/session/purpose", "integration test"),
        ("/verdict", "allow"),
    ] {
        assert_eq!(event.text(field), value, "{field}");
    }
    assert!(!event.is_refused());
    inside.end();
}

/// TCP servers on ports that follow each other, and a UDP server on the port of the second.
fn servers_on_neighbouring_ports<const N: usize>(ip: &str) -> ([Server; N], Server) {
    for _ in 0..100 {
        let first = Server::start("tcp", ip).address().port();
        let ports = (first..u16::MAX).take(N);
        let tcp: Option<Vec<Server>> = ports.map(|port| Server::try_start("tcp", ip, port)).collect();
        let tcp = tcp.and_then(|tcp| <[Server; N]>::try_from(tcp).ok());
        if let (Some(tcp), Some(udp)) = (tcp, Server::try_start("udp", ip, first + 1)) {
            return (tcp, udp);
        }
    }
    panic!("nowhere are so many ports free");
}

#[test]
fn check_predicts_the_memory_that_the_kernel_takes() {
    let daemon = Daemon::start();
    let mut envelope = Envelope::of("large");
    for rule in 0..2_000u32 {
        // Single addresses, networks, and now and then several ranges of ports.
        let (b, c) = (rule / 200, rule % 200);
        let to = if rule % 3 == 0 { format!("10.{b}.{c}.0/24") } else { format!("10.{b}.{c}.7") };
        let ports = if rule % 5 == 0 { "[22, 80-90, 443]" } else { "443" };
        envelope = envelope.allow(&format!("r{rule}"), &to, ports, "tcp");
    }
    let file = daemon.layout().write_envelope(&envelope).display().to_string();
    let checked = daemon.layout().outcome(&["check", "--format", "json", &file]).success().join("\n");
    let checked: serde_json::Value = serde_json::from_str(&checked).expect("JSON");
    let predicted = checked["envelope"]["stats"]["kernel_bytes"].as_u64().expect("a number");

    let conversation = daemon.converse(&envelope, &unique("enrolled"));
    let taken = inner_memory(&daemon.layout().pin_dir.join("maps/RULES"));
    assert_eq!(taken, [predicted]);
    conversation.end();
}

/// Thousands of rules, of both families and many prefix lengths, some inside others: trees of several levels. Every address is
/// local in a network namespace of the test's own, so that only the rules can refuse one.
#[test]
fn thousands_of_rules_decide_as_a_list_would() {
    let count = fewer(10_000, 1_000);
    // Of this thread, and of what it starts.
    unshare(CloneFlags::CLONE_NEWNET).expect("root may make a network namespace");
    for arguments in ["link set lo up", "route add local default dev lo", "-6 route add local default dev lo"]
    {
        let status = Command::new("ip").args(arguments.split(' ')).status().expect("iproute2 is installed");
        assert!(status.success(), "ip {arguments}: {status}");
    }
    let daemon = Daemon::start();
    let list = RuleList::new(5_000);
    let envelope = daemon.layout().write_envelope(list.envelope("many"));
    let addresses = daemon.layout().file("addresses");
    let kinds = [("allowed", count as usize), ("refused", count as usize)];
    std::fs::write(&addresses, list.addresses(&kinds)).expect("the directory is ours");
    let command = probe(&["connect-times", addresses.to_str().expect("the path is text")]);
    let counts = |mut probe: Process| {
        assert_eq!(probe.read_line(LOAD_DEADLINE), "ready");
        let counts = kinds.map(|(kind, count)| {
            probe.write_line(&format!("{kind} {count}"));
            let line = probe.read_line(LOAD_DEADLINE);
            line.split_once(' ').expect("the time, then the counts").1.to_owned()
        });
        probe.finish(LOAD_DEADLINE).success();
        counts
    };
    let outside = || {
        let mut outside = Command::new(&command[0]);
        outside.args(&command[1..]);
        counts(Process::spawn(outside))
    };
    let all = format!("{count} 0");
    assert_eq!(outside(), [all.clone(), all.clone()], "control");
    let mut run = daemon.layout().command(&["run", "--envelope"]);
    run.arg(&envelope).arg("--").args(&command);
    assert_eq!(counts(Process::spawn(run)), [all.clone(), format!("0 {count}")]);
    assert_eq!(outside(), [all.clone(), all], "control, afterwards");
}
