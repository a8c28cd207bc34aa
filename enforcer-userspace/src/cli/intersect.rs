//! `enforcer intersect`: the envelope that allows what two others both allow.

use std::path::PathBuf;

use serde::Serialize;

use super::{Format, excess, print_json, text};
use crate::{
    envelope,
    exit::{ExitStatus, Failure},
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The envelope that bounds the other
    a: PathBuf,
    /// The envelope that is asked for
    b: PathBuf,
}

#[derive(Serialize)]
struct Report {
    version: u32,
    /// The text of the envelope.
    envelope: String,
}

pub(super) fn execute(format: Format, args: &Args) -> Result<ExitStatus, Failure> {
    let Some((a, b)) = excess::read_both(&args.a, &args.b)? else { return Ok(ExitStatus::Error) };
    let envelope = envelope::write(&envelope::intersect(&a, &b)?);
    match format {
        Format::Json => print_json(&Report { version: 1, envelope })?,
        Format::Text => text::print(&envelope)?,
    }
    Ok(ExitStatus::Ok)
}
