//! `enforcer ps` and `enforcer show`: sessions as trees, and all that is known of one.

use std::fmt::Write as _;

use super::{
    Format, ask, id_in_path, print_json,
    text::{self, Colour, colour, harmless},
};
use crate::{
    control::dto,
    exit::{ExitStatus, Failure},
    settings::Settings,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Those that have ended as well, as far back as they are remembered
    #[arg(long, short)]
    all: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct ShowArgs {
    /// The session's id, or enough of the beginning of it
    #[arg(value_name = "ID")]
    id: String,
}

pub(super) fn execute(settings: &Settings, format: Format, args: &Args) -> Result<ExitStatus, Failure> {
    let path = format!("/v1/sessions?all={}", args.all);
    let sessions: dto::Sessions = ask(settings, async |client| client.get(&path).await)?;
    match format {
        Format::Json => print_json(&sessions)?,
        Format::Text if sessions.sessions.is_empty() => eprintln!("no sessions"),
        Format::Text => {
            let text: Vec<String> = sessions.sessions.iter().map(render).collect();
            text::print(&text.join("\n"))?;
        }
    }
    Ok(ExitStatus::Ok)
}

pub(super) fn show(settings: &Settings, format: Format, args: &ShowArgs) -> Result<ExitStatus, Failure> {
    let path = format!("/v1/sessions/{}", id_in_path(&args.id)?);
    let shown: dto::Session = ask(settings, async |client| client.get(&path).await)?;
    match format {
        Format::Json => print_json(&shown)?,
        Format::Text => text::print(&details(&shown))?,
    }
    Ok(ExitStatus::Ok)
}

fn details(shown: &dto::Session) -> String {
    let session = &shown.session;
    let mut lines = vec![
        ("spiffe id", session.spiffe_id.clone().unwrap_or_default()),
        ("purpose", session.purpose.clone()),
        ("envelope", session.envelope_digest.clone()),
        ("command", session.command.join(" ")),
        ("registered by", format!("uid {}", session.registered_by_uid)),
        ("started", session.started.clone()),
        ("cgroup", session.cgroup.clone()),
        ("connections", shown.connections.to_string()),
        ("bytes", format!("{} out, {} in", session.bytes_out, session.bytes_in)),
    ];
    if let Some(parent) = &session.parent {
        lines.push(("part of", parent.clone()));
    }
    lines.extend(shown.descendants.iter().map(|id| ("has handed on to", id.clone())));
    let mut out = render(session);
    for (name, value) in lines {
        let _infallible = writeln!(out, "  {name:<16} {}", harmless(&value));
    }
    out
}

/// Who a session is, in lines of its own.
pub(super) fn heading(session: &dto::SessionInfo) -> String {
    let state = match (session.state.as_str(), &session.end_reason) {
        ("active", _) => colour("active", Colour::Green),
        (ended, Some(why)) => colour(&format!("{ended} ({why})"), Colour::Dim),
        (other, None) => colour(other, Colour::Red),
    };
    let mut out = String::new();
    let _infallible = writeln!(out, "{}  {}  {state}, {}", session.id, session.agent, session.mode);
    let _infallible =
        writeln!(out, "  for {} by {}, model {}", session.owner, session.operator, session.model);
    for (name, text) in [("task", &session.context.task), ("trigger", &session.context.trigger)] {
        if let Some(text) = text {
            let _infallible = writeln!(out, "  {name} {}", harmless(text));
        }
    }
    if let Some(container) = &session.container {
        let _infallible = writeln!(out, "  in {}", harmless(&container.to_string()));
    }
    for (name, value) in &session.context.labels {
        let _infallible = writeln!(out, "  label {}", harmless(&format!("{name}={value}")));
    }
    let _infallible = match &session.ended {
        Some(ended) => writeln!(out, "  from {} until {ended}", session.started),
        None => writeln!(out, "  until {}", session.expires),
    };
    out
}

fn render(session: &dto::SessionInfo) -> String {
    let mut out = heading(session);
    let known = |pid| session.processes.iter().any(|process| process.pid == pid);
    let roots = session.processes.iter().filter(|process| !process.parent_pid.is_some_and(known));
    for root in roots {
        branch(&mut out, session, root, 1);
    }
    out
}

fn branch(out: &mut String, session: &dto::SessionInfo, process: &dto::ProcessInfo, depth: usize) {
    let name = process.path.as_deref().or(process.comm.as_deref()).unwrap_or("?");
    // Deeper than this, a tree does not fit a terminal.
    let indent = "  ".repeat(depth.min(16));
    let _infallible = writeln!(out, "{indent}{:<7} {}", process.pid, harmless(name));
    for child in session.processes.iter().filter(|child| child.parent_pid == Some(process.pid)) {
        // A process is never its own ancestor; the bound holds whatever the daemon says.
        if depth < 10_000 && child.pid != process.pid {
            branch(out, session, child, depth + 1);
        }
    }
}
