//! What one envelope allows and another does not, for people and for programs; and reading two envelopes to compare them.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{explain::written, parse_envelope, read_envelope};
use crate::{
    envelope::{self, Amount, Envelope, Excess, Region, RuleRef, Service, What},
    exit::{ExitStatus, Failure},
};

/// Two envelopes. A bad one is an error and not an answer, since there are two answers already: it is complained of, and
/// `None`.
pub(super) fn read_both(a: &PathBuf, b: &PathBuf) -> Result<Option<(Envelope, Envelope)>, Failure> {
    let read = |path| {
        let text = read_envelope(path).map_err(|failure| Failure { status: ExitStatus::Error, ..failure })?;
        Ok::<_, Failure>(parse_envelope(path, text).map(|(_, envelope)| envelope))
    };
    let (a, b) = (read(a)?, read(b)?);
    Ok(a.zip(b))
}

/// How much is printed of what may be very much.
#[derive(Clone, Copy, Debug)]
struct Most {
    findings: usize,
    /// Of the prefixes, ports and names in each.
    items: usize,
}

const TEXT: Most = Most { findings: 100, items: 16 };
const JSON: Most = Most { findings: 1_000, items: 1_000 };

/// What the envelope at `inner` allows and that at `outer` does not, a line each.
pub(super) fn lines(excess: &[Excess], inner: &Path, outer: &Path) -> Vec<String> {
    let mut lines: Vec<String> =
        excess.iter().take(TEXT.findings).map(|excess| line(excess, inner, outer)).collect();
    if excess.len() > TEXT.findings {
        lines.push(format!("and {} more", excess.len() - TEXT.findings));
    }
    lines
}

fn line(Excess { what, inner, outer }: &Excess, inner_path: &Path, outer_path: &Path) -> String {
    let (inner_path, outer_path) = (inner_path.display(), outer_path.display());
    let services = |services: &[Service]| {
        let each: Vec<_> = services.iter().map(|service| service_text(service, TEXT.items)).collect();
        each.join("; ")
    };
    let prefixes =
        |region: &Region| First::of(region.prefixes().map(|prefix| prefix.to_string()), TEXT.items).text(" ");
    let some = |items: &[String]| First::of(items.iter().cloned(), TEXT.items).text(" ");
    // What is let through, and how that envelope differs where no rule refuses it.
    let (does, other) = match what {
        What::Destinations(region) => {
            (format!("allows {} -> {}", services(&region.services()), prefixes(region)), None)
        }
        What::Named { names, services: of } => (format!("allows {} -> {}", services(of), some(names)), None),
        What::Listen { region, .. } => {
            (format!("may be reached at {} from {}", services(&region.services()), prefixes(region)), None)
        }
        What::Unix(sockets) => (format!("allows the Unix sockets {}", some(sockets)), None),
        What::AnyUnix => ("allows every Unix socket".to_owned(), Some("restricts them".to_owned())),
        What::Audit => ("lets through what its rules deny".to_owned(), Some("is in enforce mode".to_owned())),
        What::Ttl { inner, outer } => {
            let last = |ttl: &std::time::Duration| envelope::ttl(ttl.as_secs());
            (format!("sessions last {}", last(inner)), Some(format!("says {}", last(outer))))
        }
        What::Limit { which, inner, outer } => (
            format!("has {} for `{}`", inner.map_or("no limit".to_owned(), amount), which.name()),
            Some(format!("says {}", amount(*outer))),
        ),
        What::Requires(needs) => {
            let needs: Vec<_> = needs.iter().map(|need| format!("`{}`", need.name())).collect();
            (format!("does not require {}", needs.join(", ")), Some("does".to_owned()))
        }
    };
    let subject = match inner {
        Some(RuleRef { name, line }) => format!("{inner_path}:{line}: `{name}` {does}"),
        None if matches!(what, What::Destinations(_)) => format!("{inner_path}: audit mode {does}"),
        None if matches!(what, What::Listen { .. }) => format!("{inner_path}: in audit mode it {does}"),
        None => format!("{inner_path}: {does}"),
    };
    match (outer, other) {
        (Some(RuleRef { name, line }), _) => {
            let some =
                if matches!(what, What::Listen { in_part: true, .. }) { " from some ports" } else { "" };
            format!("{subject}; {outer_path}:{line}: `{name}` denies it{some}")
        }
        (None, Some(other)) => format!("{subject}; {outer_path} {other}"),
        (None, None) => format!("{subject}; no rule of {outer_path} does"),
    }
}

fn amount(amount: Amount) -> String {
    match amount {
        Amount::Count(count) => count.to_string(),
        Amount::Bytes(bytes) => envelope::size(bytes),
        Amount::Rate(rate) => rate.to_string(),
    }
}

fn service_text(service: &Service, most: usize) -> String {
    let protocols: Vec<_> = service.protocols.iter().map(|protocol| protocol.name()).collect();
    let ports = First::of(service.ports.iter().map(ToString::to_string), most).text(",");
    if ports.is_empty() { protocols.join("+") } else { format!("{} {ports}", protocols.join("+")) }
}

/// The first of many.
#[derive(Serialize)]
struct First {
    items: Vec<String>,
    /// How many there are besides.
    more: usize,
}

impl First {
    fn of(mut items: impl Iterator<Item = String>, most: usize) -> Self {
        let first: Vec<String> = items.by_ref().take(most).collect();
        Self { items: first, more: items.count() }
    }

    fn text(&self, separator: &str) -> String {
        let more = if self.more == 0 { String::new() } else { format!(" and {} more", self.more) };
        format!("{}{more}", self.items.join(separator))
    }
}

/// What the envelope `inner` allows and the other does not, for programs.
#[derive(Serialize)]
pub(super) struct Report {
    findings: Vec<Finding>,
    /// How many there are besides.
    more: usize,
}

#[derive(Serialize)]
struct Finding {
    kind: &'static str,
    /// The rule that lets it through.
    rule: Option<RuleReport>,
    /// The rule of the other envelope that denies it.
    denied_by: Option<RuleReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    example: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    services: Vec<ServiceReport>,
    /// Prefixes, host names, agents or sockets.
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<First>,
    /// Denied from some of the ports that they may connect from.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    in_part: bool,
    /// What is limited.
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<&'static str>,
    /// What the one and the other say of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    says: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    other_says: Option<String>,
}

#[derive(Serialize)]
struct RuleReport {
    name: String,
    line: u32,
}

#[derive(Serialize)]
struct ServiceReport {
    protocols: Vec<&'static str>,
    ports: First,
}

pub(super) fn report(excess: &[Excess]) -> Report {
    let findings: Vec<_> = excess.iter().take(JSON.findings).map(finding).collect();
    Report { more: excess.len() - findings.len(), findings }
}

fn finding(excess: &Excess) -> Finding {
    let rule = |rule: &Option<RuleRef>| {
        rule.as_ref().map(|RuleRef { name, line }| RuleReport { name: name.clone(), line: *line })
    };
    let nothing = Finding {
        kind: "",
        rule: rule(&excess.inner),
        denied_by: rule(&excess.outer),
        example: excess.example().as_ref().map(written),
        services: Vec::new(),
        to: None,
        in_part: false,
        limit: None,
        says: None,
        other_says: None,
    };
    let services = |services: &[Service]| {
        let each = services.iter().map(|service| ServiceReport {
            protocols: service.protocols.iter().map(|protocol| protocol.name()).collect(),
            ports: First::of(service.ports.iter().map(ToString::to_string), JSON.items),
        });
        each.collect()
    };
    let prefixes =
        |region: &Region| Some(First::of(region.prefixes().map(|prefix| prefix.to_string()), JSON.items));
    let some = |items: &[String]| Some(First::of(items.iter().cloned(), JSON.items));
    let at = |nothing, kind, region: &Region| Finding {
        kind,
        services: services(&region.services()),
        to: prefixes(region),
        ..nothing
    };
    match &excess.what {
        What::Destinations(region) => at(nothing, "destinations", region),
        What::Listen { region, in_part } => Finding { in_part: *in_part, ..at(nothing, "listen", region) },
        What::Named { names, services: of } => {
            Finding { kind: "names", services: services(of), to: some(names), ..nothing }
        }
        What::Unix(sockets) => Finding { kind: "unix", to: some(sockets), ..nothing },
        What::AnyUnix => Finding { kind: "any-unix", ..nothing },
        What::Audit => Finding { kind: "audit", ..nothing },
        What::Ttl { inner, outer } => {
            let [says, other_says] = [inner, outer].map(|ttl| Some(envelope::ttl(ttl.as_secs())));
            Finding { kind: "ttl", says, other_says, ..nothing }
        }
        What::Limit { which, inner, outer } => Finding {
            kind: "limit",
            limit: Some(which.name()),
            says: inner.map(amount),
            other_says: Some(amount(*outer)),
            ..nothing
        },
        What::Requires(needs) => Finding {
            kind: "requires",
            to: some(&needs.iter().map(|need| need.name().to_owned()).collect::<Vec<_>>()),
            ..nothing
        },
    }
}
