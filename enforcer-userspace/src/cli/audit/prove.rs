//! `enforcer audit prove` and `check-proof`: one entry, for somebody who has neither the log nor the host.

use std::{fs, path::PathBuf};

use anyhow::Context as _;
use serde::Serialize;

use super::{Format, Settings, Source, no_log, print_json, text};
use crate::{
    audit::Proof,
    exit::{ExitStatus, Failure},
    key_files,
};

/// Far more than a proof takes.
const MAX_PROOF_BYTES: u64 = 16 << 20;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    source: Source,
    /// The number of the entry, as `query` prints it
    #[arg(value_name = "ENTRY")]
    entry: u64,
}

#[derive(Debug, clap::Args)]
pub(super) struct CheckArgs {
    /// The proof; what `enforcer audit prove` printed
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The public key, PEM: that which was in force when the entry was written
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
}

#[derive(Serialize)]
struct Proven {
    version: u32,
    log: String,
    sequence: u64,
    kind: String,
    payload: String,
    checkpoint: u64,
    /// When the checkpoint was made: the entry was there by then.
    checkpoint_time: String,
    key_id: String,
}

pub(super) fn execute(settings: &Settings, args: &Args) -> Result<ExitStatus, Failure> {
    let dir = args.source.dir(settings);
    if !dir.path().is_dir() {
        return Err(no_log(dir.path()));
    }
    let what = || format!("prove entry {}", args.entry);
    let no = |error: anyhow::Error| Failure { status: ExitStatus::No, error, hint: None };
    let proof = match dir.prove(args.entry)? {
        None => return Err(no(anyhow::anyhow!("there is no entry {} in the log", args.entry))),
        Some(proof) => proof.with_context(what).map_err(no)?,
    };
    print_json(&proof)?;
    Ok(ExitStatus::Ok)
}

pub(super) fn check(format: Format, args: &CheckArgs) -> Result<ExitStatus, Failure> {
    let no = |error: anyhow::Error| Failure { status: ExitStatus::No, error, hint: None };
    let key = key_files::trust_key(&args.key)?;
    let what = || format!("read the proof `{}`", args.file.display());
    let length = fs::metadata(&args.file).with_context(what).map_err(no)?.len();
    if length > MAX_PROOF_BYTES {
        return Err(no(anyhow::anyhow!("`{}` is too long for a proof", args.file.display())));
    }
    let bytes = fs::read(&args.file).with_context(what).map_err(no)?;
    let proof: Proof = serde_json::from_slice(&bytes).with_context(what).map_err(no)?;
    let statement = proof.check(&key).context("check the proof").map_err(no)?;
    let proven = Proven {
        version: 1,
        log: proof.log.to_string(),
        sequence: proof.entry.sequence,
        kind: proof.entry.kind_name,
        payload: proof.entry.payload,
        checkpoint: statement.number,
        checkpoint_time: statement.time,
        key_id: key.id().to_string(),
    };
    match format {
        Format::Json => print_json(&proven)?,
        Format::Text => text::print(&format!(
            "proven   entry {} ({}) of log {}\nby       checkpoint {} at {}, key {}\nentry    {}\n",
            proven.sequence,
            proven.kind,
            proven.log,
            proven.checkpoint,
            text::harmless(&proven.checkpoint_time),
            proven.key_id,
            text::harmless(&proven.payload)
        ))?,
    }
    Ok(ExitStatus::Ok)
}
