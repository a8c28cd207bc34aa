//! `enforcer explain`: what an envelope says of a destination, and why.

use std::{fmt::Write as _, net::IpAddr, path::PathBuf};

use enforcer_common::{
    net::{Address, Destination, Protocol},
    rules::NO_RULE,
};
use serde::Serialize;

use super::{
    Format, parse_envelope, print_json, read_envelope,
    text::{self, Colour, colour},
};
use crate::{
    envelope::{self, Envelope, Explanation, RuleExplanation},
    exit::{ExitStatus, Failure},
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The envelope
    #[arg(long, value_name = "FILE")]
    envelope: PathBuf,
    /// Where to: such as `10.0.4.7:5432/tcp` or `[2001:db8::7]:53/udp`
    #[arg(long, value_name = "ADDRESS:PORT/PROTOCOL", value_parser = destination)]
    to: Destination,
}

#[derive(Serialize)]
struct Report<'a> {
    version: u32,
    destination: String,
    verdict: &'a str,
    /// Whether it would be refused; a deny in audit mode is not.
    refused: bool,
    reason: &'a str,
    rule: Option<&'a str>,
    rules: Vec<RuleReport<'a>>,
}

#[derive(Serialize)]
struct RuleReport<'a> {
    name: &'a str,
    line: u32,
    verdict: &'a str,
    why: String,
}

pub(super) fn execute(format: Format, args: &Args) -> Result<ExitStatus, Failure> {
    let Some((_, envelope)) = parse_envelope(&args.envelope, read_envelope(&args.envelope)?) else {
        return Ok(ExitStatus::No);
    };
    let explanation =
        envelope::explain(&envelope, args.to).map_err(|error| Failure::new(ExitStatus::No, error))?;
    let report = report(&envelope, &explanation, &args.to);
    match format {
        Format::Json => print_json(&report)?,
        Format::Text => text::print(&render(args, &report))?,
    }
    Ok(if report.refused { ExitStatus::No } else { ExitStatus::Ok })
}

fn report<'a>(envelope: &'a Envelope, explanation: &'a Explanation, to: &Destination) -> Report<'a> {
    let decision = &explanation.decision;
    let name = |number: u32| {
        let rule = envelope.rules.get(usize::try_from(number).ok()?)?;
        Some(rule.name.as_str())
    };
    let why = |rule: &RuleExplanation| match rule {
        RuleExplanation::Decides(prefix) => format!("decides: {prefix} holds the address"),
        RuleExplanation::Beaten { by, winner } => {
            format!("matches by {by}, but `{}` comes before it", name(*winner).unwrap_or("another"))
        }
        RuleExplanation::ByName => "speaks of names, which allow nothing yet".to_owned(),
        RuleExplanation::OtherProtocol => "does not speak of this protocol".to_owned(),
        RuleExplanation::OtherAddress => "does not hold the address".to_owned(),
        RuleExplanation::OtherPort => "holds the address, not the port".to_owned(),
        RuleExplanation::NotAsked(prefix) => format!("{prefix} holds the address, but no rule is asked"),
    };
    let rules = envelope.rules.iter().zip(&explanation.rules).map(|(rule, explained)| RuleReport {
        name: &rule.name,
        line: rule.line,
        verdict: rule.verdict.name(),
        why: why(explained),
    });
    Report {
        version: 1,
        destination: written(to),
        verdict: decision.verdict.name(),
        refused: decision.is_refused(),
        reason: decision.reason.name(),
        rule: if decision.rule == NO_RULE { None } else { name(decision.rule) },
        rules: rules.collect(),
    }
}

fn render(args: &Args, report: &Report<'_>) -> String {
    let mut out = String::new();
    let verdict = match (report.verdict, report.refused) {
        ("allow", _) => colour("allow", Colour::Green),
        (_, true) => colour("deny", Colour::Red),
        (_, false) => colour("deny, let through in audit mode", Colour::Yellow),
    };
    let rule = report.rule.map_or_else(String::new, |rule| format!(" `{rule}`"));
    let _infallible = writeln!(out, "{}  {verdict}: {}{rule}", report.destination, report.reason);
    for RuleReport { name, line, verdict, why } in &report.rules {
        let _infallible = writeln!(out, "{}:{line}: {verdict} `{name}` {why}", args.envelope.display());
    }
    if report.rule.is_none() {
        let _infallible = writeln!(out, "what no rule allows is denied");
    }
    out
}

/// A destination as it is written after `--to`.
pub(super) fn written(to: &Destination) -> String {
    let address = IpAddr::from(to.address);
    let address = if address.is_ipv6() { format!("[{address}]") } else { address.to_string() };
    if to.protocol.has_ports() {
        format!("{address}:{}/{}", to.port, to.protocol)
    } else {
        format!("{address}/{}", to.protocol)
    }
}

fn destination(text: &str) -> Result<Destination, String> {
    let form = || {
        "write it as ADDRESS:PORT/tcp, ADDRESS:PORT/udp or ADDRESS/icmp, an IPv6 address with a port in brackets".to_owned()
    };
    let (place, protocol) = text.rsplit_once('/').ok_or_else(form)?;
    let protocol = Protocol::ALL.iter().find(|known| known.name() == protocol).copied().ok_or_else(form)?;
    let (ip, port) = if protocol.has_ports() {
        let socket: std::net::SocketAddr = place.parse().map_err(|_| form())?;
        (socket.ip(), socket.port())
    } else {
        let plain = place.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(place);
        (plain.parse().map_err(|_| form())?, 0)
    };
    let address = Address::from(ip);
    if address.is_unspecified() {
        return Err(
            "it stands for another address, mostly loopback: ask about `127.0.0.1` or `[::1]`".to_owned()
        );
    }
    Ok(Destination { protocol, address, port })
}
