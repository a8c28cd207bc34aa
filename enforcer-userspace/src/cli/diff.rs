//! `enforcer diff`: what one envelope allows more and less than another.

use std::path::PathBuf;

use serde::Serialize;

use super::{Format, excess, print_json, text};
use crate::{
    envelope,
    exit::{ExitStatus, Failure},
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The envelope as it was
    a: PathBuf,
    /// The envelope as it is to be
    b: PathBuf,
}

#[derive(Serialize)]
struct Report {
    version: u32,
    equal: bool,
    /// What B allows and A does not.
    more: excess::Report,
    /// What A allows and B does not.
    less: excess::Report,
}

pub(super) fn execute(format: Format, args: &Args) -> Result<ExitStatus, Failure> {
    let Some((a, b)) = excess::read_both(&args.a, &args.b)? else { return Ok(ExitStatus::Error) };
    let (more, less) = envelope::difference(&a, &b)?;
    let equal = more.is_empty() && less.is_empty();
    match format {
        Format::Json => {
            let (more, less) = (excess::report(&more), excess::report(&less));
            print_json(&Report { version: 1, equal, more, less })?;
        }
        Format::Text => {
            let [name_a, name_b] = [&args.a, &args.b].map(|path| path.display().to_string());
            let more =
                envelope::excess_lines(&more, &name_b, &name_a).into_iter().map(|line| format!("+ {line}\n"));
            let less =
                envelope::excess_lines(&less, &name_a, &name_b).into_iter().map(|line| format!("- {line}\n"));
            text::print(&more.chain(less).collect::<String>())?;
        }
    }
    Ok(if equal { ExitStatus::Ok } else { ExitStatus::No })
}
