//! What is valid and probably not meant: rules that decide nothing, rules that allow very much, parts that nothing holds a
//! session to.

use enforcer_common::net::Family;
use enforcer_common::verdict::{Mode, Verdict};

use super::{
    CompiledRules, Envelope, ListenRule, OnFinding, OnMismatch, PortRange, Prefix, Requirement, Rule, sets,
};

/// A warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Warning {
    /// Stable, for programs.
    pub(crate) code: &'static str,
    /// Where the rule stands, from 1; 0: the envelope as a whole.
    pub(crate) line: u32,
    pub(crate) message: String,
    pub(crate) hint: Option<&'static str>,
}

/// Everything there is to warn of, in the order of the text.
pub(crate) fn lint(envelope: &Envelope, compiled: &CompiledRules) -> Vec<Warning> {
    let mut out = Warnings(Vec::new());
    out.whole(envelope);
    for (rule, number) in envelope.rules.iter().zip(0..) {
        out.names(rule);
        out.breadth(rule);
        out.ports(&rule.name, rule.line, &rule.ports);
        if !rule.to.is_empty() && !compiled.deciding.contains(&number) {
            out.shadowed(envelope, rule);
        }
    }
    for (rule, number) in envelope.listen.iter().zip((0..).skip(envelope.rules.len())) {
        out.exposure(rule);
        out.ports(&rule.name, rule.line, &rule.ports);
        out.closed(envelope, rule, compiled.deciding.contains(&number));
    }
    out.0.sort_by_key(|warning| warning.line);
    out.0
}

struct Warnings(Vec<Warning>);

impl Warnings {
    fn add(&mut self, code: &'static str, line: u32, message: String, hint: &'static str) {
        self.0.push(Warning { code, line, message, hint: Some(hint) });
    }

    fn whole(&mut self, envelope: &Envelope) {
        if envelope.mode == Mode::Audit {
            self.add(
                "audit",
                0,
                "in audit mode only deny rules with `mode: enforce` refuse anything".to_owned(),
                "write `mode: enforce` once the records show what the agent needs",
            );
        }
        if envelope.mode == Mode::Audit && envelope.on_finding == OnFinding::Quarantine {
            self.add(
                "quarantine-in-audit",
                0,
                "with `onFinding: quarantine`, a finding stops the session, in audit mode as well".to_owned(),
                "leave it out for as long as the agent is only watched",
            );
        }
        let exec = &envelope.exec;
        if exec.on_mismatch == OnMismatch::Audit {
            self.add(
                "exec-audit",
                0,
                "with `onMismatch: audit`, what is not listed is recorded, and runs".to_owned(),
                "write `deny-egress` or `kill` once the records show what the agent executes",
            );
        }
        if exec.restricts_images() && exec.images.is_empty() {
            self.add(
                "exec-nothing",
                0,
                format!("`exec.mode: {}` without images: nothing may be executed", exec.mode.name()),
                "list what the agent executes",
            );
        }
        for need in envelope.needs().iter().filter(|need| !need.is_held()) {
            if need.is_held_by_guard() {
                self.add(
                    "needs-guard",
                    0,
                    format!(
                        "`{}`: only hosts with BPF LSM hold a session to it; elsewhere none begins",
                        need.name()
                    ),
                    "`enforcer doctor` says whether a host has it",
                );
                continue;
            }
            self.add(
                "not-held",
                0,
                format!("`{}`: no host holds a session to it yet, so none begins", need.name()),
                "leave it out until a later release",
            );
        }
    }

    /// Rules that allow nothing, or less than they say.
    fn names(&mut self, rule: &Rule) {
        let name = &rule.name;
        if !rule.names.is_empty() && !Requirement::Names.is_held() {
            let hosts: Vec<_> = rule.names.iter().map(|host| format!("`{host}`")).collect();
            let message = format!("rule `{name}`: host names allow nothing yet: {}", hosts.join(", "));
            self.add("name-allows-nothing", rule.line, message, "write the addresses");
        }
        for host in rule.names.iter().filter(|host| never_resolves(&host.to_string())) {
            let message = format!("rule `{name}`: `{host}` is in a domain that never resolves");
            self.add("dead-name", rule.line, message, "RFC 2606 and RFC 6761 set it aside");
        }
        if !rule.agents.is_empty() && !Requirement::Agents.is_held() {
            let message = format!("rule `{name}`: agents allow nothing yet: {}", rule.agents.join(", "));
            self.add(
                "agent-allows-nothing",
                rule.line,
                message,
                "write the address and port that it listens on",
            );
        }
    }

    fn breadth(&mut self, rule: &Rule) {
        if rule.verdict == Verdict::Deny {
            return;
        }
        for prefix in &rule.to {
            let narrowest = match prefix.address().family() {
                Family::V4 => 8,
                Family::V6 => 16,
            };
            let name = &rule.name;
            if prefix.bits() <= 1 {
                let message = format!("rule `{name}`: `{prefix}` allows all or half of the Internet");
                self.add("allows-all", rule.line, message, "name the networks that the agent needs");
            } else if prefix.bits() < narrowest && !is_private(*prefix) {
                let message = format!("rule `{name}`: `{prefix}` is wider than any one network");
                self.add("wide", rule.line, message, "name the networks that the agent needs");
            }
        }
    }

    /// Listening ports that everybody may reach.
    fn exposure(&mut self, rule: &ListenRule) {
        for prefix in rule.from.iter().filter(|prefix| !is_private(**prefix)) {
            let message = format!("rule `{}`: anybody in `{prefix}` may connect to it", rule.name);
            self.add(
                "public-exposure",
                rule.line,
                message,
                "name loopback, private networks or single hosts",
            );
        }
    }

    /// Listen rules that let nobody in.
    fn closed(&mut self, envelope: &Envelope, rule: &ListenRule, decides: bool) {
        let denied = |prefix: &Prefix| {
            envelope.rules.iter().find(|other| {
                other.verdict == Verdict::Deny
                    && other.effective_mode(envelope.mode) == Mode::Enforce
                    && other.ports.contains(&PortRange::ANY)
                    && rule.protocols.iter().all(|protocol| other.protocols.contains(protocol))
                    && other.to.iter().any(|outer| outer.contains(*prefix))
            })
        };
        let denied: Option<Vec<&Rule>> = rule.from.iter().map(denied).collect();
        if let Some(by) = denied.as_ref().and_then(|all| all.first()) {
            let message = format!("rule `{}` lets nobody in: `{}` denies them all", rule.name, by.name);
            self.add("shadowed", rule.line, message, "leave it out, or narrow the other");
        } else if !decides {
            let message = format!("rule `{}` decides nothing: others come before it everywhere", rule.name);
            self.add("shadowed", rule.line, message, "leave it out, or narrow the others");
        }
    }

    fn ports(&mut self, name: &str, line: u32, ports: &[PortRange]) {
        for range in ports.iter().filter(|range| range.first == range.last) {
            let port = range.first;
            let why = if port < 1024 && SYSTEM_PORTS.binary_search(&port).is_err() {
                "no service is known on it"
            } else if port >= 49_152 {
                "ports from 49152 on belong to whoever takes them first"
            } else {
                continue;
            };
            let message = format!("rule `{name}`: port {port}: {why}");
            self.add("unknown-port", line, message, "look for a slip in the number");
        }
    }

    fn shadowed(&mut self, envelope: &Envelope, rule: &Rule) {
        // Of the same prefix and port, whoever decides there comes before it.
        let winner = rule.to.iter().find_map(|prefix| {
            let protocol = *rule.protocols.first()?;
            let port = rule.ports.first().map_or(0, |range| range.first);
            let others = envelope.rules.iter().filter(|other| other.name != rule.name);
            let mut holding = others.filter(|other| {
                other.protocols.contains(&protocol)
                    && (!protocol.has_ports() || other.ports.iter().any(|range| range.holds(port)))
                    && other.to.iter().any(|outer| outer.contains(*prefix))
            });
            holding.find(|other| other.verdict == Verdict::Deny || rule.verdict == Verdict::Allow)
        });
        let by = winner.map_or_else(|| "others".to_owned(), |winner| format!("`{}`", winner.name));
        let message = format!("rule `{}` decides nothing: {by} comes before it everywhere", rule.name);
        self.add("shadowed", rule.line, message, "leave it out, or narrow the other");
    }
}

/// Whether every address of a prefix is on this host, on this link, or in somebody's own network.
fn is_private(prefix: Prefix) -> bool {
    ["private", "link-local", "loopback"].iter().any(|name| {
        let set = sets::ALL.iter().find(|(known, _)| known == name);
        set.is_some_and(|(_, set)| sets::addresses(set).iter().any(|outer| outer.contains(prefix)))
    })
}

/// Domains that the DNS does not have.
fn never_resolves(host: &str) -> bool {
    const DOMAINS: [&str; 6] = ["invalid", "test", "example", "localhost", "local", "onion"];
    host.rsplit('.').next().is_some_and(|last| DOMAINS.contains(&last))
}

/// Ports below 1024 on which something is commonly found, in order.
const SYSTEM_PORTS: &[u16] = &[
    7, 9, 13, 19, 20, 21, 22, 23, 25, 37, 43, 49, 53, 67, 68, 69, 70, 79, 80, 88, 102, 104, 109, 110, 111,
    113, 119, 123, 135, 137, 138, 139, 143, 161, 162, 163, 164, 177, 179, 194, 199, 264, 318, 381, 383, 389,
    411, 412, 427, 443, 445, 464, 465, 500, 502, 512, 513, 514, 515, 520, 521, 540, 543, 544, 546, 547, 548,
    554, 563, 587, 591, 593, 623, 631, 636, 639, 646, 647, 648, 666, 674, 691, 694, 698, 749, 750, 783, 808,
    830, 843, 847, 848, 853, 860, 861, 862, 873, 902, 903, 953, 981, 989, 990, 991, 992, 993, 994, 995,
];

#[cfg(test)]
mod tests {
    use super::super::{compile, parse};
    use super::*;

    fn codes(spec: &str) -> Vec<(&'static str, u32)> {
        let head = "{apiVersion: enforcer/v1, kind: Envelope,\nmetadata: {name: a, owner: b, operator: c, purpose: d, model: e},\n";
        let envelope =
            parse(&format!("{head}spec: {{ttl: 1h,\n{spec}}}}}")).unwrap_or_else(|error| panic!("{error}"));
        lint(&envelope, &compile(&envelope).unwrap())
            .iter()
            .map(|warning| (warning.code, warning.line))
            .collect()
    }

    #[test]
    fn what_is_meant_is_not_warned_of() {
        assert_eq!(
            codes(
                "loopback: allow,
                 egress: [{name: a, to: [203.0.113.0/24, private], ports: [443, 8080], protocol: tcp}],
                 deny: [{name: d, to: ['2000::/3', metadata-service], ports: any, protocol: any}],
                 listen: [{name: l, from: [loopback, 10.0.0.0/8], ports: 8080, protocol: tcp}],
                 limits: {connections: 1, depth: 1}"
            ),
            []
        );
        // Nothing holds a session to that.
        assert_eq!(codes("limits: {processes: 5}"), [("not-held", 0)]);
        assert_eq!(codes("egress: [{name: a, to: [10.0.0.1], protocol: icmp}]"), []);
    }

    #[test]
    fn rules_that_decide_nothing_are_found() {
        assert_eq!(
            codes(
                "egress: [{name: a, to: [10.0.0.0/8], ports: 1-2000, protocol: tcp},
                 {name: same, to: [10.0.0.0/8], ports: 443, protocol: tcp},
                 {name: narrower, to: [10.0.0.0/9], ports: 443, protocol: tcp},
                 {name: denied, to: [192.0.2.1], ports: 443, protocol: tcp}],
                 deny: [{name: d, to: [192.0.2.0/24], ports: any, protocol: any}]"
            ),
            [("shadowed", 5), ("shadowed", 7)]
        );
        assert_eq!(
            codes(
                "deny: [{name: d, to: [10.0.0.0/8], ports: any, protocol: tcp}],
                 listen: [{name: denied, from: [10.1.0.0/16], ports: 80, protocol: tcp},
                 {name: part, from: [10.1.0.0/16], ports: 80, protocol: any},
                 {name: more, from: [10.0.0.0/7], ports: 80, protocol: tcp},
                 {name: again, from: [10.1.0.0/16], ports: 80, protocol: udp}]"
            ),
            [("shadowed", 5), ("public-exposure", 7), ("shadowed", 8)]
        );
    }

    #[test]
    fn each_slip_has_its_warning() {
        for (spec, expect) in [
            ("egress: [{name: a, to: [0.0.0.0/0], ports: any, protocol: any}]", ("allows-all", 4)),
            ("egress: [{name: a, to: [128.0.0.0/1], ports: 443, protocol: tcp}]", ("allows-all", 4)),
            ("egress: [{name: a, to: [64.0.0.0/3], ports: 443, protocol: tcp}]", ("wide", 4)),
            ("egress: [{name: a, to: [10.0.0.1], ports: 442, protocol: tcp}]", ("unknown-port", 4)),
            ("egress: [{name: a, to: [10.0.0.1], ports: 50000, protocol: tcp}]", ("unknown-port", 4)),
            (
                "egress: [{name: a, to: [api.example.com], ports: 443, protocol: tcp}]",
                ("name-allows-nothing", 4),
            ),
            ("egress: [{name: a, to: ['agent:b'], ports: 443, protocol: tcp}]", ("agent-allows-nothing", 4)),
            ("unix: []", ("needs-guard", 0)),
            ("requires: [names]", ("not-held", 0)),
            ("mode: audit", ("audit", 0)),
        ] {
            assert_eq!(codes(spec), [expect], "{spec}");
        }
        assert_eq!(codes("onFinding: quarantine"), []);
        assert_eq!(codes("mode: audit, onFinding: quarantine"), [("audit", 0), ("quarantine-in-audit", 0)]);
        assert_eq!(
            codes("egress: [{name: a, to: [db.test], ports: 443, protocol: tcp}]"),
            [("name-allows-nothing", 4), ("dead-name", 4)]
        );
        assert_eq!(
            codes("listen: [{name: a, from: [203.0.113.0/24, loopback], ports: 443, protocol: tcp}]"),
            [("public-exposure", 4)]
        );
    }

    #[test]
    fn known_ports_are_in_order() {
        assert!(SYSTEM_PORTS.is_sorted());
    }
}
