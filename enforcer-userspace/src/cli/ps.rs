//! `enforcer ps`: sessions as trees.

use std::fmt::Write as _;

use super::{
    Format, ask, print_json,
    text::{self, Colour, colour, harmless},
};
use crate::{
    control::dto,
    exit::{ExitStatus, Failure},
    settings::Settings,
};

pub(super) fn execute(settings: &Settings, format: Format) -> Result<ExitStatus, Failure> {
    let sessions: dto::Sessions = ask(settings, async |client| client.get("/v1/sessions").await)?;
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

fn render(session: &dto::SessionInfo) -> String {
    let state = match session.state.as_str() {
        "active" => colour("active", Colour::Green),
        other => colour(other, Colour::Red),
    };
    let mut out = String::new();
    let _infallible = writeln!(out, "{}  {}  {state}, {}", session.id, session.agent, session.mode);
    let _infallible =
        writeln!(out, "  for {} by {}, model {}", session.owner, session.operator, session.model);
    let _infallible = writeln!(out, "  until {}", session.expires);
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
