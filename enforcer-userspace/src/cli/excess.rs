//! What one envelope allows and another does not, for programs; and reading two envelopes to compare them.

use std::path::PathBuf;

use serde::Serialize;

use super::{explain::written, parse_envelope, read_envelope};
use crate::{
    envelope::{self, Envelope, Excess, First, Region, RuleRef, Service, What, amount},
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

const JSON: Most = Most { findings: 1_000, items: 1_000 };

/// The first of many.
#[derive(Serialize)]
struct Items {
    items: Vec<String>,
    /// How many there are besides.
    more: usize,
}

impl Items {
    fn of(items: impl Iterator<Item = String>) -> Self {
        let First { items, more } = First::of(items, JSON.items);
        Self { items, more }
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
    to: Option<Items>,
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
    ports: Items,
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
            ports: Items::of(service.ports.iter().map(ToString::to_string)),
        });
        each.collect()
    };
    let prefixes = |region: &Region| Some(Items::of(region.prefixes().map(|prefix| prefix.to_string())));
    let some = |items: &[String]| Some(Items::of(items.iter().cloned()));
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
        What::Images(images) => {
            let images: Vec<_> = images.iter().map(ToString::to_string).collect();
            Finding { kind: "images", to: some(&images), ..nothing }
        }
        What::AnyImage => Finding { kind: "any-image", ..nothing },
        What::Files(files) => {
            let files: Vec<_> = files.iter().map(ToString::to_string).collect();
            Finding { kind: "files", to: some(&files), ..nothing }
        }
        What::OnMismatch { inner, outer } => {
            let [says, other_says] = [inner, outer].map(|action| Some(action.name().to_owned()));
            Finding { kind: "on-mismatch", says, other_says, ..nothing }
        }
        What::OnFinding { inner, outer } => {
            let [says, other_says] = [inner, outer].map(|action| Some(action.name().to_owned()));
            Finding { kind: "on-finding", says, other_says, ..nothing }
        }
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
