//! `enforcer check`: parse and compile an envelope.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::{Format, print_json, read_envelope, text};
use crate::{
    envelope::{self, CompiledRules, Diagnostics, Envelope},
    exit::{ExitStatus, Failure},
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The envelope
    file: PathBuf,
}

#[derive(Serialize)]
struct Report {
    version: u32,
    valid: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    envelope: Option<Summary>,
    diagnostics: Vec<Finding>,
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
    destination_entries: usize,
    port_entries: usize,
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
    let text = read_envelope(&args.file)?;
    let checked = match envelope::parse(&text) {
        Ok(envelope) => {
            let rules = envelope::compile(&envelope).map_err(|error| Failure::new(ExitStatus::No, error))?;
            Ok((envelope, rules))
        }
        Err(diagnostics) => Err(diagnostics),
    };
    match (format, &checked) {
        (Format::Json, _) => print_json(&report(&checked))?,
        (Format::Text, Ok((envelope, rules))) => text::print(&describe(envelope, rules))?,
        (Format::Text, Err(diagnostics)) => eprint!("{}", complaint(&args.file, diagnostics)),
    }
    Ok(if checked.is_ok() { ExitStatus::Ok } else { ExitStatus::No })
}

fn describe(envelope: &Envelope, rules: &CompiledRules) -> String {
    let metadata = &envelope.metadata;
    let mut out = String::new();
    let _infallible =
        writeln!(out, "envelope  {} for {} by {}", metadata.name, metadata.owner, metadata.operator);
    let _infallible =
        writeln!(out, "mode      {}, sessions last {} s", envelope.mode, envelope.ttl.as_secs());
    let _infallible = writeln!(
        out,
        "rules     {}, {} destination and {} port entries in the kernel",
        envelope.rules.len(),
        rules.dests.len(),
        rules.ports.len()
    );
    for rule in &envelope.rules {
        let to: Vec<String> = rule.to.iter().map(ToString::to_string).collect();
        let ports: Vec<String> = rule.ports.iter().map(ToString::to_string).collect();
        let protocols: Vec<&str> = rule.protocols.iter().map(|protocol| protocol.name()).collect();
        let _infallible = writeln!(
            out,
            "  {:<5} {}: {} {} -> {}",
            rule.verdict,
            rule.name,
            protocols.join("+"),
            ports.join(","),
            to.join(" ")
        );
    }
    let _infallible = writeln!(out, "  deny  everything else");
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

fn report(checked: &Result<(Envelope, CompiledRules), Diagnostics>) -> Report {
    match checked {
        Ok((envelope, rules)) => {
            let metadata = envelope.metadata.clone();
            let summary = Summary {
                agent: metadata.name,
                owner: metadata.owner,
                operator: metadata.operator,
                purpose: metadata.purpose,
                model: metadata.model,
                mode: envelope.mode.name(),
                ttl_seconds: envelope.ttl.as_secs(),
                rules: envelope.rules.len(),
                destination_entries: rules.dests.len(),
                port_entries: rules.ports.len(),
            };
            Report { version: 1, valid: true, envelope: Some(summary), diagnostics: Vec::new() }
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
            Report { version: 1, valid: false, envelope: None, diagnostics }
        }
    }
}
