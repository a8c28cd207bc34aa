//! From [`Envelope`] to its text.

use std::borrow::Cow;
use std::fmt::Write as _;

use enforcer_common::net::Protocol;
use enforcer_common::verdict::Verdict;

use super::algebra::{is_loopback, listens_on_loopback};
use super::{Envelope, Exec, Image, Limits, ListenRule, OnFinding, PortRange, Rate, Rule, UnixRule};

/// The text of an envelope that was read, or that `intersect` made: reading it gives the same, but for the lines of the rules.
pub(crate) fn write(envelope: &Envelope) -> String {
    let mut out = Text(String::new());
    let metadata = &envelope.metadata;
    out.line(0, "apiVersion", "enforcer/v1");
    out.line(0, "kind", "Envelope");
    out.line(0, "metadata", "");
    for (field, text) in [
        ("name", &metadata.name),
        ("owner", &metadata.owner),
        ("operator", &metadata.operator),
        ("purpose", &metadata.purpose),
        ("model", &metadata.model),
    ] {
        out.line(1, field, &quote(text));
    }
    if metadata.revision != 0 {
        out.line(1, "revision", &metadata.revision.to_string());
    }
    out.line(0, "spec", "");
    out.line(1, "mode", envelope.mode.name());
    out.line(1, "ttl", &ttl(envelope.ttl.as_secs()));
    if !envelope.requires.is_empty() {
        out.list(1, "requires", envelope.requires.iter().map(|need| need.name().to_owned()));
    }
    if envelope.rules.iter().any(is_loopback) {
        out.line(1, "loopback", "allow");
    }
    let of = |verdict| {
        let rules = envelope.rules.iter().filter(move |rule| rule.verdict == verdict && !is_loopback(rule));
        rules.collect::<Vec<_>>()
    };
    out.rules("egress", of(Verdict::Allow), Text::rule);
    let denied = of(Verdict::Deny);
    if !denied.is_empty() {
        out.rules("deny", denied, Text::rule);
    }
    let listen: Vec<_> = envelope.listen.iter().filter(|rule| !listens_on_loopback(rule)).collect();
    if !listen.is_empty() {
        out.rules("listen", listen, Text::listen_rule);
    }
    if let Some(unix) = &envelope.unix {
        out.rules("unix", unix.iter().collect(), Text::unix_rule);
    }
    out.exec(&envelope.exec);
    out.limits(&envelope.limits);
    if envelope.on_finding != OnFinding::default() {
        out.line(1, "onFinding", envelope.on_finding.name());
    }
    out.0
}

struct Text(String);

impl Text {
    /// A field; one without a value opens a map.
    fn line(&mut self, depth: usize, field: &str, value: &str) {
        let (indent, space) = ("  ".repeat(depth), if value.is_empty() { "" } else { " " });
        let _infallible = writeln!(self.0, "{indent}{field}:{space}{value}");
    }

    /// A list of text: in one line if it is short.
    fn list(&mut self, depth: usize, field: &str, items: impl Iterator<Item = String>) {
        const SHORT: usize = 90;
        let items: Vec<String> = items.map(|item| quote(&item).into_owned()).collect();
        if items.iter().map(|item| item.len() + 2).sum::<usize>() <= SHORT {
            return self.line(depth, field, &format!("[{}]", items.join(", ")));
        }
        self.line(depth, field, "");
        for item in items {
            let _infallible = writeln!(self.0, "{}- {item}", "  ".repeat(depth + 1));
        }
    }

    fn rules<T>(&mut self, field: &str, rules: Vec<T>, each: impl Fn(&mut Self, T)) {
        if rules.is_empty() {
            return self.line(1, field, "[]");
        }
        self.line(1, field, "");
        for rule in rules {
            each(self, rule);
        }
    }

    fn rule_name(&mut self, name: &str) {
        let _infallible = writeln!(self.0, "    - name: {}", quote(name));
    }

    fn rule(&mut self, rule: &Rule) {
        self.rule_name(&rule.name);
        let prefixes = rule.to.iter().map(ToString::to_string);
        let hosts = rule.names.iter().map(ToString::to_string);
        let agents = rule.agents.iter().map(|agent| format!("agent:{agent}"));
        self.list(3, "to", prefixes.chain(hosts).chain(agents));
        self.service(&rule.protocols, &rule.ports);
        if let Some(mode) = rule.mode {
            self.line(3, "mode", mode.name());
        }
    }

    fn listen_rule(&mut self, rule: &ListenRule) {
        self.rule_name(&rule.name);
        self.list(3, "from", rule.from.iter().map(ToString::to_string));
        self.service(&rule.protocols, &rule.ports);
    }

    fn unix_rule(&mut self, rule: &UnixRule) {
        self.rule_name(&rule.name);
        self.list(3, "to", rule.to.iter().cloned());
    }

    fn service(&mut self, protocols: &[Protocol], ports: &[PortRange]) {
        match ports {
            [] => {}
            [PortRange::ANY] => self.line(3, "ports", "any"),
            // `any` cannot stand in a list.
            ports => {
                let range = |PortRange { first, last }: &PortRange| {
                    if first == last { first.to_string() } else { format!("{first}-{last}") }
                };
                match ports {
                    [only] => self.line(3, "ports", &range(only)),
                    ports => self.list(3, "ports", ports.iter().map(range)),
                }
            }
        }
        let protocol = match protocols {
            [only] => only.name(),
            _ => "any",
        };
        self.line(3, "protocol", protocol);
    }

    fn exec(&mut self, exec: &Exec) {
        if *exec == Exec::default() {
            return;
        }
        self.line(1, "exec", "");
        self.line(2, "mode", exec.mode.name());
        self.line(2, "onMismatch", exec.on_mismatch.name());
        self.images("images", &exec.images);
        self.images("files", &exec.files);
    }

    fn images(&mut self, field: &str, images: &[Image]) {
        if images.is_empty() {
            return;
        }
        self.line(2, field, "");
        for Image { path, sha256 } in images {
            let _infallible = writeln!(self.0, "      - path: {}", quote(path));
            if let Some(sha256) = sha256 {
                // In quotes: one of digits alone is a number to some.
                self.line(4, "sha256", &format!("'{sha256}'"));
            }
        }
    }

    fn limits(&mut self, limits: &Limits) {
        if *limits == Limits::default() {
            return;
        }
        let count = |count: Option<u64>| count.map(|count| count.to_string());
        self.line(1, "limits", "");
        for (field, value) in [
            ("connections", count(limits.connections)),
            ("connectionRate", limits.connection_rate.map(|rate| rate.to_string())),
            ("bytesOut", limits.bytes_out.map(size)),
            ("bytesIn", limits.bytes_in.map(size)),
            ("processes", count(limits.processes)),
            ("depth", count(limits.depth)),
        ] {
            if let Some(value) = value {
                self.line(2, field, &value);
            }
        }
    }
}

/// As the language has it: `8h`, `1h30m`.
pub(crate) fn ttl(mut seconds: u64) -> String {
    let mut out = String::new();
    for (unit, scale) in [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)] {
        if seconds >= scale {
            let _infallible = write!(out, "{}{unit}", seconds / scale);
            seconds %= scale;
        }
    }
    out
}

/// As the language has it, in the largest unit without a remainder. No bytes at all cannot be said and does not occur.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 8] = [
        ("TiB", 1 << 40),
        ("GiB", 1 << 30),
        ("MiB", 1 << 20),
        ("KiB", 1 << 10),
        ("TB", 1_000_000_000_000),
        ("GB", 1_000_000_000),
        ("MB", 1_000_000),
        ("kB", 1_000),
    ];
    let unit = UNITS.iter().filter(|(_, scale)| bytes.is_multiple_of(*scale)).max_by_key(|(_, scale)| *scale);
    let (unit, scale) = unit.copied().unwrap_or(("B", 1));
    format!("{}{unit}", bytes / scale)
}

impl std::fmt::Display for Rate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let unit = match self.seconds {
            1 => "s",
            60 => "m",
            _ => "h",
        };
        write!(f, "{}/{unit}", self.count)
    }
}

/// In single quotes unless it cannot be taken for anything but text. Text of an envelope is one line, without characters
/// that YAML would escape.
fn quote(text: &str) -> Cow<'_, str> {
    let safe = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'/' | b'@' | b' ');
    // A colon is part of an address, not the end of a key, unless a space or nothing follows.
    let colons = text.bytes().zip(text.bytes().skip(1)).all(|pair| pair.0 != b':' || pair.1 != b' ');
    let plain = text.bytes().all(|b| safe(b) || b == b':')
        && colons
        && text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && !text.ends_with([':', ' '])
        && !text.eq_ignore_ascii_case("null");
    if plain { Cow::Borrowed(text) } else { Cow::Owned(format!("'{}'", text.replace('\'', "''"))) }
}

#[cfg(test)]
mod tests;
