//! `enforcer includes`: whether one envelope allows nothing that another does not.

use std::path::PathBuf;

use serde::Serialize;

use super::{Format, excess, explain, print_json, text};
use crate::{
    envelope,
    exit::{ExitStatus, Failure},
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The envelope that allows more
    outer: PathBuf,
    /// The envelope that should allow nothing else
    inner: PathBuf,
}

#[derive(Serialize)]
struct Report {
    version: u32,
    included: bool,
    /// A destination that the inner envelope lets through and the outer one refuses.
    example: Option<String>,
    excess: excess::Report,
}

pub(super) fn execute(format: Format, args: &Args) -> Result<ExitStatus, Failure> {
    let Some((outer, inner)) = excess::read_both(&args.outer, &args.inner)? else {
        return Ok(ExitStatus::Error);
    };
    let excess = envelope::excess(&inner, &outer)?;
    let example = excess.first().and_then(envelope::Excess::example).as_ref().map(explain::written);
    let included = excess.is_empty();
    match format {
        Format::Json => {
            print_json(&Report { version: 1, included, example, excess: excess::report(&excess) })?;
        }
        Format::Text if included => text::print("included\n")?,
        Format::Text => {
            let example = example.map(|example| format!(": {example}, for one")).unwrap_or_default();
            let mut out = format!("not included{example}\n");
            let [inner_name, outer_name] = [&args.inner, &args.outer].map(|path| path.display().to_string());
            for line in envelope::excess_lines(&excess, &inner_name, &outer_name) {
                out += &format!("{line}\n");
            }
            text::print(&out)?;
        }
    }
    Ok(if included { ExitStatus::Ok } else { ExitStatus::No })
}
