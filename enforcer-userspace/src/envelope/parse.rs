//! The envelope language, first form: from the tree to [`Envelope`].
//!
//! Reads everything before it gives up on anything, so that every error is reported at once.

mod value;

use super::diagnostic::{Collector, Diagnostics, Problem};
use super::fields::{Fields, Value};
use super::{Envelope, Metadata, PortRange, Prefix, Rule, document};
use enforcer_common::net::Protocol;
use enforcer_common::verdict::{Mode, Verdict};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::Duration;

pub(super) use value::number;

const ROOT: &[&str] = &["apiVersion", "kind", "metadata", "spec"];
const METADATA: &[&str] = &["name", "owner", "operator", "purpose", "model"];
const SPEC: &[&str] = &["mode", "ttl", "loopback", "egress", "deny"];
const RULE: &[&str] = &["name", "to", "ports", "protocol"];

/// The name of the rule that `loopback: allow` stands for.
const LOOPBACK: &str = "loopback";

/// Reads an envelope, or reports everything that is wrong with it.
pub(crate) fn parse(text: &str) -> Result<Envelope, Diagnostics> {
    let mut out = Collector::default();
    let envelope =
        document::read(text, &mut out).and_then(|root| read_envelope(&Value::root(&root), &mut out));
    out.finish(envelope)
}

fn read_envelope(root: &Value<'_>, out: &mut Collector) -> Option<Envelope> {
    let fields = root.fields(out, ROOT)?;
    let version = fields.parse(out, "apiVersion", |text| value::constant(text, "enforcer/v1"));
    let kind = fields.parse(out, "kind", |text| value::constant(text, "Envelope"));
    let metadata = fields.required(out, "metadata").and_then(|value| read_metadata(&value, out));
    let spec = fields.required(out, "spec").and_then(|value| read_spec(&value, out));
    ((), ()) = (version?, kind?);
    let Spec { mode, ttl, rules } = spec?;
    Some(Envelope { metadata: metadata?, mode, ttl, rules })
}

fn read_metadata(value: &Value<'_>, out: &mut Collector) -> Option<Metadata> {
    let fields = value.fields(out, METADATA)?;
    let name = fields.parse(out, "name", value::name);
    let owner = fields.parse(out, "owner", |text| value::line(text, 256));
    let operator = fields.parse(out, "operator", |text| value::line(text, 256));
    let purpose = fields.parse(out, "purpose", |text| value::line(text, 1024));
    let model = fields.parse(out, "model", |text| value::line(text, 256));
    Some(Metadata { name: name?, owner: owner?, operator: operator?, purpose: purpose?, model: model? })
}

struct Spec {
    mode: Mode,
    ttl: Duration,
    rules: Vec<Rule>,
}

fn read_spec(value: &Value<'_>, out: &mut Collector) -> Option<Spec> {
    let fields = value.fields(out, SPEC)?;
    let mode = fields.parse_or(out, "mode", Mode::Enforce, |text| {
        value::choice(text, &[("enforce", Mode::Enforce), ("audit", Mode::Audit)])
    });
    let ttl = fields.parse(out, "ttl", value::ttl);
    let loopback = read_loopback(&fields, out);
    let mut names = HashMap::new();
    let allow = read_rules(fields.optional("egress"), Verdict::Allow, &mut names, out);
    let deny = read_rules(fields.optional("deny"), Verdict::Deny, &mut names, out);
    let mut rules = allow?;
    rules.extend(loopback?);
    rules.extend(deny?);
    Some(Spec { mode: mode?, ttl: ttl?, rules })
}

/// The rule that `loopback: allow` stands for. The outer `Option` is for errors.
fn read_loopback(fields: &Fields<'_>, out: &mut Collector) -> Option<Option<Rule>> {
    let allowed = fields
        .parse_or(out, "loopback", false, |text| value::choice(text, &[("deny", false), ("allow", true)]))?;
    let field = fields.optional("loopback").filter(|_| allowed);
    Some(field.map(|field| Rule {
        name: LOOPBACK.to_owned(),
        line: field.at().line,
        verdict: Verdict::Allow,
        protocols: Protocol::ALL.to_vec(),
        to: vec![Prefix::LOOPBACK_V4, Prefix::LOOPBACK_V6],
        ports: vec![PortRange::ANY],
    }))
}

fn read_rules(
    list: Option<Value<'_>>,
    verdict: Verdict,
    names: &mut HashMap<String, u32>,
    out: &mut Collector,
) -> Option<Vec<Rule>> {
    // A list whose last rule was taken out or commented out is a list of no rules.
    let Some(list) = list.filter(|list| !list.is_null()) else {
        return Some(Vec::new());
    };
    let items = list.items(out)?;
    every(items, |item| read_rule(&item, verdict, names, out))
}

fn read_rule(
    value: &Value<'_>,
    verdict: Verdict,
    names: &mut HashMap<String, u32>,
    out: &mut Collector,
) -> Option<Rule> {
    let fields = value.fields(out, RULE)?;
    let name = read_rule_name(&fields, names, out);
    let to = fields.required(out, "to").and_then(|value| read_list(&value, out, Prefix::parse));
    let ports = fields.required(out, "ports").and_then(|value| read_ports(&value, out));
    let protocols = fields.parse(out, "protocol", |text| {
        let [tcp, udp] = [Protocol::Tcp, Protocol::Udp];
        value::choice(text, &[("tcp", vec![tcp]), ("udp", vec![udp]), ("any", vec![tcp, udp])])
    });
    Some(Rule { name: name?, line: value.at().line, verdict, protocols: protocols?, to: to?, ports: ports? })
}

fn read_rule_name(
    fields: &Fields<'_>,
    names: &mut HashMap<String, u32>,
    out: &mut Collector,
) -> Option<String> {
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
    read: impl Fn(&str) -> Result<T, Problem>,
) -> Option<Vec<T>> {
    let items = value.items(out)?;
    let read = every(items, |item| item.parse(out, &read))?;
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
