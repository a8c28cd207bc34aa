//! Envelopes at random that the language can say, with everything that is in it.

use std::time::Duration;

use enforcer_common::net::Protocol;
use enforcer_common::verdict::{Mode, Verdict};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::super::exec::tests::exec;
use super::super::{
    Envelope, HostPattern, Limits, ListenRule, Metadata, OnFinding, PortRange, Prefix, Rate, Requirement,
    Rule, UnixRule, parse,
};
use super::{port_range, prefix};

/// Patterns that cover each other, and some that do not.
pub(in super::super) const HOSTS: [&str; 9] = [
    "example.com",
    "a.example.com",
    "b.a.example.com",
    "*.example.com",
    "*.a.example.com",
    "*.b.a.example.com",
    "badexample.com",
    "*.example.org",
    "c.example.org",
];
pub(in super::super) const AGENTS: [&str; 2] = ["reviewer", "a.example.com"];
pub(in super::super) const SOCKETS: [&str; 4] = ["/dev/log", "/run/x y", "@abstract: #1", "/it's"];

/// One line of text, often one that YAML could take for something else.
fn text() -> impl Strategy<Value = String> {
    let tricky = select(vec![
        "no",
        "- a",
        "a: b",
        "#x",
        "a #b",
        "'",
        "''",
        "\"q\"",
        "{a}",
        "[a",
        " lead",
        "trail ",
        "1e3",
        "0443",
        "key:",
        "~",
        "null",
        "|",
        ">-",
        "%TAG x",
        "@x",
        "`x`",
        "!!str x",
        "*a",
        "&a",
        "? x",
        "\\n",
        "a\\",
        "---",
        "...",
        "中文: é",
        ", a",
        "::1",
        "2001:db8::",
        "<<",
        "=",
    ]);
    prop_oneof![tricky.prop_map(str::to_owned), "[ -~]{0,12}[!-~][ -~]{0,12}", "[a-z@. -]{0,8}[a-z]",]
}

fn prefixes(least: usize) -> impl Strategy<Value = Vec<Prefix>> {
    // The unspecified address alone cannot be said.
    let said = |prefix: &Prefix| {
        !prefix.address().is_unspecified() || prefix.bits() < prefix.address().family().bits()
    };
    prop::collection::vec(prefix().prop_filter("cannot be said", said), least..4)
}

fn ports() -> impl Strategy<Value = Vec<PortRange>> {
    prop_oneof![1 => Just(vec![PortRange::ANY]), 3 => prop::collection::vec(port_range(), 1..4)]
}

/// Protocols and ports as one rule can have them.
fn service() -> impl Strategy<Value = (Vec<Protocol>, Vec<PortRange>)> {
    let [icmp, tcp, udp] = [Protocol::Icmp, Protocol::Tcp, Protocol::Udp];
    (select(vec![vec![tcp], vec![udp], vec![tcp, udp], vec![icmp]]), ports()).prop_map(
        move |(mut protocols, mut ports)| {
            if protocols == [icmp] {
                ports.clear();
            } else if protocols.len() == 2 && ports.contains(&PortRange::ANY) {
                protocols.insert(0, icmp);
            }
            (protocols, ports)
        },
    )
}

fn allow_rule() -> impl Strategy<Value = Rule> {
    let hosts = prop_oneof![2 => Just(Vec::new()), 1 => subsequence(HOSTS.to_vec(), 0..=3)];
    let agents = prop_oneof![3 => Just(Vec::new()), 1 => subsequence(AGENTS.to_vec(), 0..=2)];
    (service(), prefixes(0), hosts, agents)
        .prop_filter("no destination", |(_, to, hosts, agents)| to.len() + hosts.len() + agents.len() > 0)
        .prop_map(|((protocols, ports), to, hosts, agents)| Rule {
            name: String::new(),
            line: 0,
            verdict: Verdict::Allow,
            mode: None,
            protocols,
            to,
            names: hosts.into_iter().map(|host| HostPattern(host.to_owned())).collect(),
            agents: agents.into_iter().map(str::to_owned).collect(),
            ports,
        })
}

fn deny_rule() -> impl Strategy<Value = Rule> {
    let mode = select(vec![None, Some(Mode::Enforce), Some(Mode::Audit)]);
    (service(), prefixes(1), mode).prop_map(|((protocols, ports), to, mode)| Rule {
        name: String::new(),
        line: 0,
        verdict: Verdict::Deny,
        mode,
        protocols,
        to,
        names: Vec::new(),
        agents: Vec::new(),
        ports,
    })
}

fn listen_rule() -> impl Strategy<Value = ListenRule> {
    let [tcp, udp] = [Protocol::Tcp, Protocol::Udp];
    (select(vec![vec![tcp], vec![udp], vec![tcp, udp]]), prefixes(1), ports()).prop_map(
        |(protocols, from, ports)| ListenRule { name: String::new(), line: 0, protocols, from, ports },
    )
}

fn unix_rule() -> impl Strategy<Value = UnixRule> {
    subsequence(SOCKETS.to_vec(), 1..=3).prop_map(|to| UnixRule {
        name: String::new(),
        line: 0,
        to: to.into_iter().map(str::to_owned).collect(),
    })
}

fn limits() -> impl Strategy<Value = Limits> {
    let count = |least: u64| prop::option::of(prop_oneof![least..5, least..=1_000_000]);
    let bytes = || {
        prop::option::of(
            (1u64..2000, select(vec![1u64, 1000, 1 << 10, 1_000_000, 1 << 20, 1 << 30]))
                .prop_map(|(a, b)| a * b),
        )
    };
    let rate = (prop_oneof![1u64..5, 1u64..5000], select(vec![1, 60, 3600]))
        .prop_map(|(count, seconds)| Rate { count, seconds });
    (count(0), prop::option::of(rate), bytes(), bytes(), count(1), prop::option::of(0u64..=16)).prop_map(
        |(connections, connection_rate, bytes_out, bytes_in, processes, depth)| Limits {
            connections,
            connection_rate,
            bytes_out,
            bytes_in,
            processes,
            depth,
        },
    )
}

fn metadata() -> impl Strategy<Value = Metadata> {
    ("[a-z0-9]([a-z0-9.-]{0,5}[a-z0-9])?", text(), text(), text(), text(), select(vec![0, 1, (1 << 53) - 1]))
        .prop_map(|(name, owner, operator, purpose, model, revision)| Metadata {
            name,
            owner,
            operator,
            purpose,
            model,
            revision,
        })
}

/// An envelope as it could have been read.
pub(in super::super) fn whole() -> impl Strategy<Value = Envelope> {
    let mode = select(vec![Mode::Enforce, Mode::Enforce, Mode::Audit]);
    let ttl = prop_oneof![1u64..5, 1u64..=365 * 86_400].prop_map(Duration::from_secs);
    let rules =
        (prop::collection::vec(allow_rule(), 0..5), any::<bool>(), prop::collection::vec(deny_rule(), 0..4));
    let listen = prop::collection::vec(listen_rule(), 0..3);
    let unix = prop::option::of(prop::collection::vec(unix_rule(), 0..3));
    let on_finding = select(OnFinding::ALL.to_vec());
    let requires = subsequence(Requirement::ALL.to_vec(), 0..=2);
    // Names are long, so that cutting them can make them equal.
    let long = any::<bool>();
    (metadata(), mode, ttl, requires, rules, listen, unix, (limits(), exec(), on_finding), long).prop_map(
        |(
            metadata,
            mode,
            ttl,
            requires,
            (mut rules, with_loopback, deny),
            mut listen,
            mut unix,
            (limits, exec, on_finding),
            long,
        )| {
            let loopback = with_loopback.then(|| parse::loopback_rules(0));
            rules.extend(loopback.iter().map(|(rule, _)| rule.clone()));
            rules.extend(deny);
            let names = rules.iter_mut().map(|rule| &mut rule.name).filter(|name| name.is_empty());
            let listen_names = listen.iter_mut().map(|rule: &mut ListenRule| &mut rule.name);
            let unix_names = unix.iter_mut().flatten().map(|rule| &mut rule.name);
            let mut number = 0;
            for name in names.chain(listen_names).chain(unix_names) {
                number += 1;
                *name = if long { format!("{}{number}", "x-".repeat(30)) } else { format!("rule-{number}") };
            }
            listen.extend(loopback.map(|(_, rule)| rule));
            Envelope { metadata, mode, ttl, requires, rules, listen, unix, exec, limits, on_finding }
        },
    )
}

/// Without the lines, which the text decides.
pub(in super::super) fn without_lines(mut envelope: Envelope) -> Envelope {
    envelope.rules.iter_mut().for_each(|rule| rule.line = 0);
    envelope.listen.iter_mut().for_each(|rule| rule.line = 0);
    envelope.unix.iter_mut().flatten().for_each(|rule| rule.line = 0);
    envelope
}
