//! `enforcer status`.

use std::fmt::Write as _;

use super::{
    Format, ask, print_json,
    text::{self, Colour, colour},
};
use crate::{
    control::dto,
    exit::{ExitStatus, Failure},
    metrics::SinkCounts,
    settings::Settings,
};

pub(super) fn execute(settings: &Settings, format: Format) -> Result<ExitStatus, Failure> {
    let status: dto::Status = ask(settings, async |client| client.get("/v1/status").await)?;
    match format {
        Format::Json => print_json(&status)?,
        Format::Text => text::print(&render(&status))?,
    }
    // A hook that is missing is a promise that is not kept.
    let complete = status.coverage.iter().all(|hook| hook.attached || !hook.needed);
    Ok(if complete { ExitStatus::Ok } else { ExitStatus::No })
}

fn render(status: &dto::Status) -> String {
    let mut out = String::new();
    let dto::DaemonInfo { pid, release, abi, start, started, kernel, .. } = &status.daemon;
    // To the second; the fraction is for programs.
    let started = started.split_once('.').map_or(started.as_str(), |(seconds, _)| seconds);
    let _infallible =
        writeln!(out, "daemon    pid {pid}, release {release}, ABI {abi}, {start} at {started}Z");
    let _infallible = writeln!(out, "kernel    {kernel}");
    let _infallible = writeln!(out, "sessions  {}, {} processes", status.sessions, status.tasks);
    let envelopes = match status.trust_keys.as_slice() {
        [] => "unsigned ones are accepted".to_owned(),
        keys => format!("signed by key {}", keys.join(" or ")),
    };
    let _infallible = writeln!(out, "envelopes {envelopes}");
    let guard = match &status.guard.why {
        None => status.guard.state.clone(),
        Some(why) => colour(&format!("{}: {why}", status.guard.state), Colour::Yellow),
    };
    let _infallible = writeln!(out, "guard     {guard}");
    let _infallible = writeln!(out, "hooks");
    // Those of a guard that is not there are not listed one by one.
    for hook in status.coverage.iter().filter(|hook| hook.attached || hook.needed) {
        let state =
            if hook.attached { colour("ok     ", Colour::Green) } else { colour("MISSING", Colour::Red) };
        let _infallible = writeln!(out, "  {state} {:<25} {}", hook.hook, hook.covers);
        if let Some(error) = &hook.error {
            let _infallible = writeln!(out, "          {error}");
        }
    }
    for dto::SinkInfo { counts, why } in &status.sinks {
        let SinkCounts { name, sent, behind, refused, lost, failures: _ } = counts;
        let trouble = why.as_ref().map_or_else(String::new, |why| format!(": {}", text::harmless(why)));
        let line = format!(
            "sink      {name}: {sent} sent, {behind} behind, {refused} refused, {lost} lost{trouble}"
        );
        let line = if why.is_some() || *lost > 0 { colour(&line, Colour::Yellow) } else { line };
        let _infallible = writeln!(out, "{line}");
    }
    let found: Vec<String> =
        status.findings.iter().filter(|(_, n)| **n > 0).map(|(name, n)| format!("{n} {name}")).collect();
    let found = if found.is_empty() { "none".to_owned() } else { colour(&found.join(", "), Colour::Yellow) };
    let _infallible = writeln!(out, "findings  {found}");
    let _infallible = writeln!(out, "counters");
    for (name, count) in &status.counters {
        let fault = status.faults.contains(name);
        let line = format!("  {name:<22} {count}{}", if fault { "  FAULT" } else { "" });
        let line = if fault { colour(&line, Colour::Yellow) } else { line };
        let _infallible = writeln!(out, "{line}");
    }
    out
}
