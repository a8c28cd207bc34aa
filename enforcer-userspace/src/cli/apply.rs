//! `enforcer apply`.

use std::{fmt::Write as _, path::PathBuf};

use super::{Format, ask, parse_envelope, print_json, read_envelope, text};
use crate::{
    control::dto,
    exit::{ExitStatus, Failure},
    key_files,
    settings::Settings,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The envelope; a signature beside it, with `.sig` after its name, is sent along
    file: PathBuf,
}

pub(super) fn execute(settings: &Settings, format: Format, args: &Args) -> Result<ExitStatus, Failure> {
    let Some((envelope, _)) = parse_envelope(&args.file, read_envelope(&args.file)?) else {
        return Ok(ExitStatus::No);
    };
    let request = dto::Apply { envelope, signature: key_files::signature_of(&args.file)? };
    let applied: dto::Applied = ask(settings, async |client| client.put("/v1/envelope", &request).await)?;
    match format {
        Format::Json => print_json(&applied)?,
        Format::Text => text::print(&describe(&applied))?,
    }
    Ok(ExitStatus::Ok)
}

fn describe(applied: &dto::Applied) -> String {
    let mut out = String::new();
    for session in &applied.sessions {
        let what = if session.changed { "is held to it from now on" } else { "was held to it already" };
        let _infallible = writeln!(out, "{} {what}", session.id);
    }
    for session in &applied.left_alone {
        let _infallible = writeln!(out, "{} is left as it is: {}", session.id, session.why);
    }
    out
}
