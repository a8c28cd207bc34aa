//! The envelope language: from the tree to [`Envelope`].
//!
//! Reads everything before it gives up on anything, so that every error is reported at once.

mod exec;
mod value;

use super::diagnostic::{Collector, Diagnostics, Problem};
use super::fields::{Fields, Value};
use super::language::{self, Field};
use super::{
    Envelope, Exec, HostPattern, Limits, ListenRule, Metadata, OnFinding, PortRange, Prefix, Requirement,
    Rule, UnixRule, document, sets,
};
use enforcer_common::net::Protocol;
use enforcer_common::verdict::{Mode, Verdict};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::Duration;

pub(super) use value::number;

/// The name of the rules that `loopback: allow` stands for.
pub(super) const LOOPBACK: &str = "loopback";

/// Reads an envelope, or reports everything that is wrong with it.
pub(crate) fn parse(text: &str) -> Result<Envelope, Diagnostics> {
    let mut out = Collector::default();
    let envelope =
        document::read(text, &mut out).and_then(|root| read_envelope(&Value::root(&root), &mut out));
    out.finish(envelope)
}

fn read_envelope(root: &Value<'_>, out: &mut Collector) -> Option<Envelope> {
    let fields = root.fields(out, language::ROOT)?;
    let version = fields.parse(out, "apiVersion", |text| value::constant(text, "enforcer/v1"));
    let kind = fields.parse(out, "kind", |text| value::constant(text, "Envelope"));
    let metadata = fields.required(out, "metadata").and_then(|value| read_metadata(&value, out));
    let spec = fields.required(out, "spec").and_then(|value| read_spec(&value, out));
    ((), ()) = (version?, kind?);
    let Spec { mode, ttl, requires, rules, listen, unix, exec, limits, on_finding } = spec?;
    Some(Envelope { metadata: metadata?, mode, ttl, requires, rules, listen, unix, exec, limits, on_finding })
}

fn read_metadata(value: &Value<'_>, out: &mut Collector) -> Option<Metadata> {
    let fields = value.fields(out, language::METADATA)?;
    let name = fields.parse(out, "name", value::name);
    let owner = fields.parse(out, "owner", |text| value::line(text, 256));
    let operator = fields.parse(out, "operator", |text| value::line(text, 256));
    let purpose = fields.parse(out, "purpose", |text| value::line(text, 1024));
    let model = fields.parse(out, "model", |text| value::line(text, 256));
    let revision = fields.parse_or(out, "revision", 0, |text| value::whole(text, 0, language::MAX_REVISION));
    Some(Metadata {
        name: name?,
        owner: owner?,
        operator: operator?,
        purpose: purpose?,
        model: model?,
        revision: revision?,
    })
}

struct Spec {
    mode: Mode,
    ttl: Duration,
    requires: Vec<Requirement>,
    rules: Vec<Rule>,
    listen: Vec<ListenRule>,
    unix: Option<Vec<UnixRule>>,
    exec: Exec,
    limits: Limits,
    on_finding: OnFinding,
}

/// The names of the rules read so far, and the line of each.
type Names = HashMap<String, u32>;

fn read_spec(value: &Value<'_>, out: &mut Collector) -> Option<Spec> {
    let fields = value.fields(out, language::SPEC)?;
    let mode = fields.parse_or(out, "mode", Mode::Enforce, value::mode);
    let ttl = fields.parse(out, "ttl", value::ttl);
    let requires = read_requires(&fields, out);
    let loopback = read_loopback(&fields, out);
    let mut names = Names::new();
    let allow = read_rules(fields.optional("egress"), out, |rule, out| {
        read_rule(rule, Verdict::Allow, &mut names, out)
    });
    let deny =
        read_rules(fields.optional("deny"), out, |rule, out| read_rule(rule, Verdict::Deny, &mut names, out));
    let listen =
        read_rules(fields.optional("listen"), out, |rule, out| read_listen_rule(rule, &mut names, out));
    let unix = read_unix(&fields, &mut names, out);
    let exec = exec::read(&fields, out);
    let limits = match fields.optional("limits") {
        None => Some(Limits::default()),
        Some(value) => read_limits(&value, out),
    };
    let on_finding = fields.parse_or(out, "onFinding", OnFinding::default(), |text| {
        value::choice(text, &OnFinding::ALL.map(|action| (action.name(), action)))
    });
    let (mut rules, mut listen) = (allow?, listen?);
    if let Some((rule, listen_rule)) = loopback? {
        rules.push(rule);
        listen.push(listen_rule);
    }
    rules.extend(deny?);
    Some(Spec {
        mode: mode?,
        ttl: ttl?,
        requires: requires?,
        rules,
        listen,
        unix: unix?,
        exec: exec?,
        limits: limits?,
        on_finding: on_finding?,
    })
}

fn read_requires(fields: &Fields<'_>, out: &mut Collector) -> Option<Vec<Requirement>> {
    let Some(list) = fields.optional("requires") else {
        return Some(Vec::new());
    };
    let words = Requirement::ALL.map(|requirement| (requirement.name(), requirement));
    let mut requires = every(list.items(out)?, |item| item.parse(out, |text| value::choice(text, &words)))?;
    requires.sort_unstable();
    requires.dedup();
    Some(requires)
}

fn read_limits(value: &Value<'_>, out: &mut Collector) -> Option<Limits> {
    let fields = value.fields(out, language::LIMITS)?;
    let mut count = |name, least, most| {
        fields.parse_or(out, name, None, |text| value::whole(text, least, most).map(Some))
    };
    let connections = count("connections", 0, language::MAX_COUNT);
    let processes = count("processes", 1, language::MAX_PROCESSES);
    let depth = count("depth", 0, language::MAX_DEPTH);
    let connection_rate = fields.parse_or(out, "connectionRate", None, |text| value::rate(text).map(Some));
    let bytes_out = fields.parse_or(out, "bytesOut", None, |text| value::size(text).map(Some));
    let bytes_in = fields.parse_or(out, "bytesIn", None, |text| value::size(text).map(Some));
    Some(Limits {
        connections: connections?,
        connection_rate: connection_rate?,
        bytes_out: bytes_out?,
        bytes_in: bytes_in?,
        processes: processes?,
        depth: depth?,
    })
}

/// The rules that `loopback: allow` stands for. The outer `Option` is for errors.
fn read_loopback(fields: &Fields<'_>, out: &mut Collector) -> Option<Option<(Rule, ListenRule)>> {
    let allowed = fields
        .parse_or(out, "loopback", false, |text| value::choice(text, &[("deny", false), ("allow", true)]))?;
    let field = fields.optional("loopback").filter(|_| allowed);
    Some(field.map(|field| loopback_rules(field.at().line)))
}

/// What `loopback: allow` on this line stands for.
pub(super) fn loopback_rules(line: u32) -> (Rule, ListenRule) {
    let rule = Rule {
        name: LOOPBACK.to_owned(),
        line,
        verdict: Verdict::Allow,
        mode: None,
        protocols: Protocol::ALL.to_vec(),
        to: sets::addresses(sets::LOOPBACK),
        names: Vec::new(),
        agents: Vec::new(),
        ports: vec![PortRange::ANY],
    };
    let listen = ListenRule {
        name: LOOPBACK.to_owned(),
        line,
        protocols: vec![Protocol::Tcp, Protocol::Udp],
        from: sets::addresses(sets::LOOPBACK),
        ports: vec![PortRange::ANY],
    };
    (rule, listen)
}

fn read_rules<T>(
    list: Option<Value<'_>>,
    out: &mut Collector,
    mut read: impl FnMut(&Value<'_>, &mut Collector) -> Option<T>,
) -> Option<Vec<T>> {
    // A list whose last rule was taken out or commented out is a list of no rules.
    let Some(list) = list.filter(|list| !list.is_null()) else {
        return Some(Vec::new());
    };
    let items = list.items(out)?;
    every(items, |item| read(&item, out))
}

/// They restrict by being there, though there may be none. The outer `Option` is for errors.
fn read_unix(fields: &Fields<'_>, names: &mut Names, out: &mut Collector) -> Option<Option<Vec<UnixRule>>> {
    match fields.optional("unix") {
        None => Some(None),
        list => read_rules(list, out, |rule, out| read_unix_rule(rule, names, out)).map(Some),
    }
}

fn read_rule(value: &Value<'_>, verdict: Verdict, names: &mut Names, out: &mut Collector) -> Option<Rule> {
    let known: &'static [Field] = match verdict {
        Verdict::Allow => language::ALLOW,
        Verdict::Deny => language::DENY,
    };
    let fields = value.fields(out, known)?;
    let name = read_rule_name(&fields, names, out);
    let to = fields.required(out, "to").and_then(|value| read_targets(&value, verdict, out));
    let protocols = fields.parse(out, "protocol", value::protocols);
    let ports = read_rule_ports(&fields, protocols.as_deref(), out);
    let mode = match verdict {
        Verdict::Allow => Some(None),
        Verdict::Deny => fields.parse_or(out, "mode", None, |text| value::mode(text).map(Some)),
    };
    let (Targets { to, names, agents }, mut protocols, ports) = (to?, protocols?, ports?);
    // ICMP has no ports: a rule for some ports does not speak of it.
    if protocols.len() > 1 && !ports.contains(&PortRange::ANY) {
        protocols.retain(|protocol| *protocol != Protocol::Icmp);
    }
    Some(Rule {
        name: name?,
        line: value.at().line,
        verdict,
        mode: mode?,
        protocols,
        to,
        names,
        agents,
        ports,
    })
}

/// The ports of a rule: none for ICMP, required otherwise.
fn read_rule_ports(
    fields: &Fields<'_>,
    protocols: Option<&[Protocol]>,
    out: &mut Collector,
) -> Option<Vec<PortRange>> {
    if protocols != Some(&[Protocol::Icmp]) {
        return fields.required(out, "ports").and_then(|value| read_ports(&value, out));
    }
    if let Some(value) = fields.optional("ports") {
        value.report(out, Problem::new("ICMP has no ports").hint("leave `ports` out"));
        return None;
    }
    Some(Vec::new())
}

#[derive(Default)]
struct Targets {
    to: Vec<Prefix>,
    names: Vec<HostPattern>,
    agents: Vec<String>,
}

/// What stands in the `to` of a rule.
fn read_targets(value: &Value<'_>, verdict: Verdict, out: &mut Collector) -> Option<Targets> {
    let mut targets = Targets::default();
    let read = read_list(value, out, |text| {
        match value::target(text)? {
            value::Target::Prefix(prefix) => targets.to.push(prefix),
            value::Target::Set(set) => targets.to.extend(sets::addresses(set)),
            value::Target::Host(_) | value::Target::Agent(_) if verdict == Verdict::Deny => {
                return Err(Problem::new("a deny rule speaks of addresses, not of names").hint(
                    "what a name stands for today may be reached by its address or another name: write the addresses",
                ));
            }
            value::Target::Host(host) => targets.names.push(HostPattern(host)),
            value::Target::Agent(agent) => targets.agents.push(agent),
        }
        Ok(())
    });
    read.map(|_| targets)
}

fn read_listen_rule(value: &Value<'_>, names: &mut Names, out: &mut Collector) -> Option<ListenRule> {
    let fields = value.fields(out, language::LISTEN)?;
    let name = read_rule_name(&fields, names, out);
    let mut from = Vec::new();
    let read = fields.required(out, "from").and_then(|value| {
        read_list(&value, out, |text| {
            match value::target(text)? {
                value::Target::Prefix(prefix) => from.push(prefix),
                value::Target::Set(set) => from.extend(sets::addresses(set)),
                value::Target::Host(_) | value::Target::Agent(_) => {
                    return Err(Problem::new("expected an address, a CIDR or a named set")
                        .hint("who connects is told by the address alone"));
                }
            }
            Ok(())
        })
    });
    let ports = fields.required(out, "ports").and_then(|value| read_ports(&value, out));
    let protocols = fields.parse(out, "protocol", |text| {
        let [tcp, udp] = [Protocol::Tcp, Protocol::Udp];
        value::choice(text, &[("tcp", vec![tcp]), ("udp", vec![udp]), ("any", vec![tcp, udp])])
    });
    read?;
    Some(ListenRule { name: name?, line: value.at().line, protocols: protocols?, from, ports: ports? })
}

fn read_unix_rule(value: &Value<'_>, names: &mut Names, out: &mut Collector) -> Option<UnixRule> {
    let fields = value.fields(out, language::UNIX)?;
    let name = read_rule_name(&fields, names, out);
    let mut to = Vec::new();
    let read = fields.required(out, "to").and_then(|value| {
        read_list(&value, out, |text| {
            if text == sets::BASICS {
                to.extend(sets::BASIC_SOCKETS.iter().map(|path| (*path).to_owned()));
            } else {
                to.push(value::unix_socket(text)?);
            }
            Ok(())
        })
    });
    read?;
    Some(UnixRule { name: name?, line: value.at().line, to })
}

fn read_rule_name(fields: &Fields<'_>, names: &mut Names, out: &mut Collector) -> Option<String> {
    let value = fields.required(out, "name")?;
    let name = value.parse(out, value::name)?;
    if name == LOOPBACK {
        let problem = Problem::new(format!("the rule name `{LOOPBACK}` is taken"))
            .hint("it is the rule that `loopback: allow` stands for");
        value.report(out, problem);
        return None;
    }
    match names.entry(name.clone()) {
        Entry::Vacant(vacant) => {
            vacant.insert(value.at().line);
            Some(name)
        }
        Entry::Occupied(first) => {
            let problem = Problem::new(format!("a second rule with the name `{name}`"))
                .hint(format!("the first is on line {}", first.get()));
            value.report(out, problem);
            None
        }
    }
}

/// A list of ports and ranges; or one of them, or `any`, without brackets.
fn read_ports(value: &Value<'_>, out: &mut Collector) -> Option<Vec<PortRange>> {
    if value.is_list() {
        return read_list(value, out, value::ports);
    }
    let ports =
        value.parse(out, |text| if text == "any" { Ok(PortRange::ANY) } else { value::ports(text) })?;
    Some(vec![ports])
}

/// A list of text that must not be empty.
fn read_list<T>(
    value: &Value<'_>,
    out: &mut Collector,
    mut read: impl FnMut(&str) -> Result<T, Problem>,
) -> Option<Vec<T>> {
    let items = value.items(out)?;
    let read = every(items, |item| item.parse(out, &mut read))?;
    if read.is_empty() {
        value.report(out, Problem::new("the list is empty"));
        return None;
    }
    Some(read)
}

/// What `read` makes of all items; `None` if it made nothing of one, but only after all were read.
fn every<I, T>(items: impl Iterator<Item = I>, mut read: impl FnMut(I) -> Option<T>) -> Option<Vec<T>> {
    let mut all = Some(Vec::new());
    for item in items {
        match (read(item), &mut all) {
            (Some(value), Some(values)) => values.push(value),
            _ => all = None,
        }
    }
    all
}

#[cfg(test)]
pub(super) mod tests;
