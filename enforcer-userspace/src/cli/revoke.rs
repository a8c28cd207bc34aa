//! `enforcer revoke`.

use super::{Format, ask, print_json, text};
use crate::{
    control::dto,
    exit::{ExitStatus, Failure},
    settings::Settings,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The session's id, or its beginning
    id: String,
}

pub(super) fn execute(settings: &Settings, format: Format, args: &Args) -> Result<ExitStatus, Failure> {
    // The id goes into a path: anything but the characters of an id cannot be one.
    if args.id.is_empty() || !args.id.chars().all(|c| c.is_ascii_hexdigit() || c == '-') {
        let error = anyhow::anyhow!("`{}` is not a session id", text::harmless(&args.id));
        return Err(Failure {
            status: ExitStatus::Error,
            error,
            hint: Some("`enforcer ps` lists the sessions".into()),
        });
    }
    let path = format!("/v1/sessions/{}", args.id);
    let revoked: dto::Revoked = ask(settings, async |client| client.delete(&path).await)?;
    match format {
        Format::Json => print_json(&revoked)?,
        Format::Text => text::print(&format!(
            "revoked {}\n{} {} refused every new connection from now on\n",
            revoked.id,
            revoked.processes,
            if revoked.processes == 1 { "process is" } else { "processes are" },
        ))?,
    }
    Ok(ExitStatus::Ok)
}
