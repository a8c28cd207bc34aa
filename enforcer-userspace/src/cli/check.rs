//! `enforcer check`: parse and compile an envelope, and warn of what is probably not meant.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use enforcer_common::net::Protocol;
use serde::Serialize;

use super::{Format, print_json, read_envelope, text};
use crate::{
    envelope::{self, CompiledRules, Diagnostics, Envelope, PortRange, Warning},
    exit::{ExitStatus, Failure},
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The envelope
    file: PathBuf,
    /// Say what the compiled rules take in the kernel
    #[arg(long)]
    stats: bool,
    /// Take warnings for errors
    #[arg(long)]
    deny_warnings: bool,
}

#[derive(Serialize)]
struct Report {
    version: u32,
    valid: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    envelope: Option<Summary>,
    diagnostics: Vec<Finding>,
    warnings: Vec<WarningReport>,
}

#[derive(Serialize)]
struct Summary {
    agent: String,
    owner: String,
    operator: String,
    purpose: String,
    model: String,
    mode: &'static str,
    ttl_seconds: u64,
    rules: usize,
    /// What the kernel holds for it.
    stats: StatsReport,
}

/// What the kernel holds for an envelope.
#[derive(Serialize)]
struct StatsReport {
    /// Of 128 bytes.
    blocks: usize,
    intervals: usize,
    ranges: usize,
    /// The most look-ups that a decision takes.
    lookups: usize,
    kernel_bytes: u64,
}

#[derive(Serialize)]
struct WarningReport {
    code: &'static str,
    /// 0: the envelope as a whole.
    line: u32,
    message: String,
    hint: Option<&'static str>,
}

#[derive(Serialize)]
struct Finding {
    line: u32,
    column: u32,
    path: String,
    message: String,
    hint: Option<String>,
}

pub(super) fn execute(format: Format, args: &Args) -> Result<ExitStatus, Failure> {
    let text = envelope::decode(read_envelope(&args.file)?);
    let checked = match text.and_then(|text| envelope::parse(&text)) {
        Ok(envelope) => {
            let rules = envelope::compile(&envelope).map_err(|error| Failure::new(ExitStatus::No, error))?;
            let warnings = envelope::lint(&envelope, &rules);
            Ok(Checked { envelope, rules, warnings })
        }
        Err(diagnostics) => Err(diagnostics),
    };
    match (format, &checked) {
        (Format::Json, _) => print_json(&report(&checked))?,
        (Format::Text, Ok(checked)) => {
            text::print(&describe(checked, args.stats))?;
            eprint!("{}", warn(&args.file, &checked.warnings));
        }
        (Format::Text, Err(diagnostics)) => eprint!("{}", complaint(&args.file, diagnostics)),
    }
    let good = checked.is_ok_and(|checked| checked.warnings.is_empty() || !args.deny_warnings);
    Ok(if good { ExitStatus::Ok } else { ExitStatus::No })
}

/// A valid envelope.
struct Checked {
    envelope: Envelope,
    rules: CompiledRules,
    warnings: Vec<Warning>,
}

fn describe(Checked { envelope, rules, .. }: &Checked, stats: bool) -> String {
    let metadata = &envelope.metadata;
    let mut out = String::new();
    let _infallible =
        writeln!(out, "envelope  {} for {} by {}", metadata.name, metadata.owner, metadata.operator);
    let _infallible =
        writeln!(out, "mode      {}, sessions last {} s", envelope.mode, envelope.ttl.as_secs());
    let _infallible = writeln!(out, "rules     {}", envelope.rules.len() + envelope.listen.len());
    if stats {
        let stats = &rules.stats;
        let _infallible = writeln!(
            out,
            "kernel    {} intervals, {} ranges: {} blocks, {} bytes",
            stats.intervals,
            stats.ranges,
            rules.blocks.len(),
            rules.kernel_bytes()
        );
        let _infallible = writeln!(out, "look-ups  at most {}", stats.lookups());
    }
    for rule in &envelope.rules {
        let addresses = rule.to.iter().map(ToString::to_string);
        let names = rule.names.iter().map(ToString::to_string);
        let agents = rule.agents.iter().map(|agent| format!("agent:{agent}"));
        let to: Vec<String> = addresses.chain(names).chain(agents).collect();
        let _infallible = writeln!(
            out,
            "  {:<5} {}: {} -> {}{}",
            rule.verdict,
            rule.name,
            service(&rule.protocols, &rule.ports),
            to.join(" "),
            rule.mode.map(|mode| format!(" ({mode})")).unwrap_or_default()
        );
    }
    for rule in &envelope.listen {
        let from: Vec<String> = rule.from.iter().map(ToString::to_string).collect();
        let service = service(&rule.protocols, &rule.ports);
        let _infallible = writeln!(out, "  allow {}: {service} <- {}", rule.name, from.join(" "));
    }
    let _infallible = writeln!(out, "  deny  everything else");
    out
}

fn service(protocols: &[Protocol], ports: &[PortRange]) -> String {
    let protocols: Vec<&str> = protocols.iter().map(|protocol| protocol.name()).collect();
    let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
    let space = if ports.is_empty() { "" } else { " " };
    format!("{}{space}{}", protocols.join("+"), ports.join(","))
}

/// Every warning, likewise.
fn warn(file: &Path, warnings: &[Warning]) -> String {
    let mut out = String::new();
    for Warning { code, line, message, hint } in warnings {
        let place = if *line == 0 { String::new() } else { format!(":{line}") };
        let _infallible = writeln!(out, "{}{place}: warning: {message} [{code}]", file.display());
        if let Some(hint) = hint {
            let _infallible = writeln!(out, "  hint: {hint}");
        }
    }
    out
}

/// Every mistake, in the form that editors jump to.
pub(super) fn complaint(file: &Path, diagnostics: &Diagnostics) -> String {
    let mut out = format!("error: `{}` is not a valid envelope\n", file.display());
    for diagnostic in &diagnostics.0 {
        let _infallible = writeln!(out, "{}:{diagnostic}", file.display());
        if let Some(hint) = &diagnostic.hint {
            let _infallible = writeln!(out, "  hint: {hint}");
        }
    }
    out
}

fn report(checked: &Result<Checked, Diagnostics>) -> Report {
    match checked {
        Ok(Checked { envelope, rules, warnings }) => {
            let metadata = envelope.metadata.clone();
            let summary = Summary {
                agent: metadata.name,
                owner: metadata.owner,
                operator: metadata.operator,
                purpose: metadata.purpose,
                model: metadata.model,
                mode: envelope.mode.name(),
                ttl_seconds: envelope.ttl.as_secs(),
                rules: envelope.rules.len() + envelope.listen.len(),
                stats: StatsReport {
                    blocks: rules.blocks.len(),
                    intervals: rules.stats.intervals,
                    ranges: rules.stats.ranges,
                    lookups: rules.stats.lookups(),
                    kernel_bytes: rules.kernel_bytes(),
                },
            };
            let warnings = warnings.iter().map(|Warning { code, line, message, hint }| WarningReport {
                code,
                line: *line,
                message: message.clone(),
                hint: *hint,
            });
            Report {
                version: 1,
                valid: true,
                envelope: Some(summary),
                diagnostics: Vec::new(),
                warnings: warnings.collect(),
            }
        }
        Err(diagnostics) => {
            let finding = |found: &envelope::Diagnostic| Finding {
                line: found.line,
                column: found.column,
                path: found.path.clone(),
                message: found.message.clone(),
                hint: found.hint.clone(),
            };
            let diagnostics = diagnostics.0.iter().map(finding).collect();
            Report { version: 1, valid: false, envelope: None, diagnostics, warnings: Vec::new() }
        }
    }
}
