//! `enforcer revoke` and `enforcer quarantine`.

use std::fmt::Write as _;

use super::{Format, ask, id_in_path, print_json, text};
use crate::{
    control::dto,
    exit::{ExitStatus, Failure},
    precedence,
    settings::Settings,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The session's id, or its beginning
    id: String,
    /// Kill its processes as well
    #[arg(long, conflicts_with = "freeze")]
    kill: bool,
    /// Stop its processes as well, without ending them
    #[arg(long)]
    freeze: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct QuarantineArgs {
    /// The session's id, or its beginning
    id: String,
    /// Let a session that is in quarantine go on
    #[arg(long)]
    lift: bool,
}

/// A session that takes all processors must not keep the command that ends it from being sent. Only root may; where we may not, the command
/// is no less right, and its receipt says when it was in force.
fn go_first() {
    _ = precedence::go_before_others();
}

pub(super) fn execute(settings: &Settings, format: Format, args: &Args) -> Result<ExitStatus, Failure> {
    go_first();
    let id = id_in_path(&args.id)?;
    let then = match (args.kill, args.freeze) {
        (true, _) => "?then=kill",
        (_, true) => "?then=freeze",
        _ => "",
    };
    let path = format!("/v1/sessions/{id}{then}");
    let revoked: dto::Revoked = ask(settings, async |client| client.delete(&path).await)?;
    print(format, args.kill || args.freeze, &revoked)
}

pub(super) fn quarantine(
    settings: &Settings,
    format: Format,
    args: &QuarantineArgs,
) -> Result<ExitStatus, Failure> {
    go_first();
    let path = format!("/v1/sessions/{}/quarantine", id_in_path(&args.id)?);
    if !args.lift {
        let held: dto::Revoked = ask(settings, async |client| client.put(&path, &()).await)?;
        return print(format, true, &held);
    }
    let lifted: dto::Lifted = ask(settings, async |client| client.delete(&path).await)?;
    match format {
        Format::Json => print_json(&lifted)?,
        Format::Text => text::print(&format!("released {} from quarantine\n", lifted.id))?,
    }
    Ok(ExitStatus::Ok)
}

/// The receipt. What could not be done makes it a no: the session is refused everything all the same. `stop`: its processes were to be
/// frozen or killed.
fn print(format: Format, stop: bool, revoked: &dto::Revoked) -> Result<ExitStatus, Failure> {
    match format {
        Format::Json => print_json(revoked)?,
        Format::Text => text::print(&render(stop, revoked))?,
    }
    let complete = revoked.sockets.as_ref().is_some_and(|cut| cut.left == 0 && cut.errors.is_empty())
        && (!stop || revoked.processes_running == 0);
    Ok(if complete { ExitStatus::Ok } else { ExitStatus::No })
}

fn render(stop: bool, revoked: &dto::Revoked) -> String {
    let mut out = String::new();
    let _infallible = writeln!(out, "{} {}", revoked.state, revoked.id);
    let processes = revoked.processes;
    let noun = if processes == 1 { "process is" } else { "processes are" };
    let _infallible = match revoked.processes_are.as_str() {
        "gone" => writeln!(
            out,
            "it had ended; what it sent last is refused everything from now on ({} us)",
            revoked.store_us
        ),
        are => writeln!(
            out,
            "{processes} {noun} refused everything from now on ({} us), and {are}",
            revoked.store_us
        ),
    };
    for descendant in &revoked.descendants {
        let _infallible = writeln!(out, "and so is {descendant}, which has its rights from it");
    }
    if stop && revoked.processes_running > 0 {
        let _infallible = writeln!(
            out,
            "{} were to be stopped and run still, refused everything",
            revoked.processes_running
        );
    }
    for error in &revoked.errors {
        let _infallible = writeln!(out, "error: {}", text::harmless(error));
    }
    if let Some(cut) = &revoked.sockets {
        let _infallible = writeln!(
            out,
            "{} open sockets destroyed in {:.1} ms, in {} network namespaces",
            cut.destroyed,
            cut.took_us as f64 / 1e3,
            cut.namespaces
        );
        if cut.left > 0 {
            let _infallible = writeln!(out, "{} could not be destroyed; nothing of theirs leaves", cut.left);
        }
        for error in &cut.errors {
            let _infallible = writeln!(out, "error: {}", text::harmless(error));
        }
    }
    out
}
