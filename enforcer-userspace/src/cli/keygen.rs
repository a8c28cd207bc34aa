//! `enforcer keygen`: a key that signs envelopes.

use std::path::PathBuf;

use serde::Serialize;

use super::{Format, print_json, text};
use crate::{
    exit::{ExitStatus, Failure},
    key_files::{self, KeyFileError},
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where to: a file that is not there yet, or a directory, where it is `envelope.key`
    ///
    /// The public half is written beside it, with `.pub` after its name.
    #[arg(long, value_name = "FILE|DIR")]
    out: PathBuf,
}

#[derive(Serialize)]
struct Report {
    version: u32,
    key_id: String,
    private: PathBuf,
    public: PathBuf,
}

pub(super) fn execute(format: Format, args: &Args) -> Result<ExitStatus, Failure> {
    let made = key_files::create(&args.out).map_err(|error| {
        let exists = matches!(error, KeyFileError::Exists { .. });
        let failure = Failure::new(ExitStatus::Error, error);
        if exists { failure.hint("no file is overwritten: name another one") } else { failure }
    })?;
    match format {
        Format::Json => {
            let key_id = made.id.to_string();
            print_json(&Report { version: 1, key_id, private: made.private, public: made.public })?;
        }
        Format::Text => text::print(&format!(
            "key      {}\nprivate  {}\npublic   {}\n",
            made.id,
            made.private.display(),
            made.public.display()
        ))?,
    }
    Ok(ExitStatus::Ok)
}
