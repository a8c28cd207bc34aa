//! `enforcer explain`: what an envelope says of a destination, or of who connects to a port, and why.

use std::{fmt::Write as _, net::IpAddr, path::PathBuf};

use enforcer_common::{
    net::{Address, Destination, Direction, Protocol},
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
    #[arg(
        long,
        value_name = "ADDRESS:PORT/PROTOCOL",
        value_parser = destination,
        required_unless_present = "from",
        conflicts_with_all = ["from", "on"],
    )]
    to: Option<Destination>,
    /// Who connects to a port of the session: an address
    #[arg(long, value_name = "ADDRESS", value_parser = far_end, requires = "on")]
    from: Option<Address>,
    /// Which port that is: such as `8080/tcp`
    #[arg(long, value_name = "PORT/PROTOCOL", value_parser = local_port, requires = "from")]
    on: Option<(u16, Protocol)>,
}

impl Args {
    /// What is asked about; clap sees to it that something is.
    fn question(&self) -> Option<(Direction, Destination)> {
        if let Some(to) = self.to {
            return Some((Direction::Out, to));
        }
        let (port, protocol) = self.on?;
        Some((Direction::In, Destination { protocol, address: self.from?, port }))
    }
}

#[derive(Serialize)]
struct Report<'a> {
    version: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination: Option<String>,
    /// Who connects, and to which port of the session.
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    on: Option<String>,
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
    let Some((direction, destination)) = args.question() else {
        return Err(Failure::new(ExitStatus::Error, anyhow::Error::msg("nothing is asked about")));
    };
    let explanation = envelope::explain(&envelope, direction, destination)
        .map_err(|error| Failure::new(ExitStatus::No, error))?;
    let report = report(&envelope, &explanation, direction, &destination);
    match format {
        Format::Json => print_json(&report)?,
        Format::Text => text::print(&render(args, &report))?,
    }
    Ok(if report.refused { ExitStatus::No } else { ExitStatus::Ok })
}

fn report<'a>(
    envelope: &'a Envelope,
    explanation: &'a Explanation,
    direction: Direction,
    destination: &Destination,
) -> Report<'a> {
    let decision = &explanation.decision;
    let name = |number| envelope.rule_name(number);
    let why = |rule: &RuleExplanation| match rule {
        RuleExplanation::Decides(prefix) => format!("decides: {prefix} holds the address"),
        RuleExplanation::Beaten { by, winner } => {
            format!("matches by {by}, but `{}` comes before it", name(*winner).unwrap_or("another"))
        }
        RuleExplanation::ByName => "speaks of names, which allow nothing yet".to_owned(),
        RuleExplanation::OtherProtocol => "does not speak of this protocol".to_owned(),
        RuleExplanation::OtherAddress => "does not hold the address".to_owned(),
        RuleExplanation::OtherPort => "holds the address, not the port".to_owned(),
        RuleExplanation::OtherFarPort => {
            "holds the address, not every port that it may connect from".to_owned()
        }
        RuleExplanation::NotAsked(prefix) => format!("{prefix} holds the address, but no rule is asked"),
    };
    let rules = explanation.rules.iter().filter_map(|(number, explained)| {
        let (name, line) = envelope.named(*number)?;
        Some(RuleReport { name, line, verdict: envelope.verdict(*number).name(), why: why(explained) })
    });
    let is_out = direction == Direction::Out;
    let Destination { protocol, address, port } = destination;
    Report {
        version: 1,
        destination: is_out.then(|| written(destination)),
        from: (!is_out).then(|| IpAddr::from(*address).to_string()),
        on: (!is_out).then(|| format!("{port}/{protocol}")),
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
    let asked = match (&report.destination, &report.from, &report.on) {
        (None, Some(from), Some(on)) => format!("{from} -> {on}"),
        (to, ..) => to.clone().unwrap_or_default(),
    };
    let _infallible = writeln!(out, "{asked}  {verdict}: {}{rule}", report.reason);
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

fn far_end(text: &str) -> Result<Address, String> {
    let ip: IpAddr = text.parse().map_err(|_| "write an IP address, without a port".to_owned())?;
    let address = Address::from(ip);
    if address.is_unspecified() { Err("nobody has that address".to_owned()) } else { Ok(address) }
}

fn local_port(text: &str) -> Result<(u16, Protocol), String> {
    let form = || "write it as PORT/tcp or PORT/udp".to_owned();
    let (port, protocol) = text.split_once('/').ok_or_else(form)?;
    let known = Protocol::ALL.iter().filter(|known| known.has_ports());
    let protocol = known.copied().find(|known| known.name() == protocol).ok_or_else(form)?;
    let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(form)?;
    Ok((port, protocol))
}
