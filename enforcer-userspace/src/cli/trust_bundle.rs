//! `enforcer trust-bundle`: what others need to check credentials.

use super::{Format, ask, print_json, text};
use crate::{
    control::dto,
    exit::{ExitStatus, Failure},
    settings::Settings,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The keys of JWT-SVIDs, as a JWKS
    #[arg(long)]
    jwks: bool,
}

pub(super) fn execute(settings: &Settings, format: Format, args: &Args) -> Result<ExitStatus, Failure> {
    let bundle: dto::TrustBundle = ask(settings, async |client| client.get("/v1/trust-bundle").await)?;
    match format {
        _ if args.jwks => print_json(&bundle.jwks)?,
        Format::Json => print_json(&bundle)?,
        Format::Text => text::print(&bundle.certificates)?,
    }
    Ok(ExitStatus::Ok)
}
