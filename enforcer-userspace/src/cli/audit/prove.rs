//! `enforcer audit prove` and `check-proof`: one entry, for somebody who has neither the log nor the host.

use std::{fs, path::PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::{Format, Settings, Source, no_log, print_json, text};
use crate::{
    audit::{Kind, Proof},
    exit::{ExitStatus, Failure},
    key_files,
    state::{AuditError, LogDir},
};

/// Far more than a proof takes.
const MAX_PROOF_BYTES: u64 = 16 << 20;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    source: Source,
    /// The number of the entry, as `query` prints it
    #[arg(value_name = "ENTRY", required_unless_present = "event", conflicts_with = "event")]
    entry: Option<u64>,
    /// That of this event, by its `sequence`; `metadata.sequence` in OCSF, `event.sequence` in ECS
    #[arg(long, value_name = "SEQUENCE")]
    event: Option<u64>,
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

/// As much of an event as tells it from all others.
#[derive(Deserialize)]
struct Numbered {
    sequence: u64,
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
    let no = |error: anyhow::Error| Failure { status: ExitStatus::No, error, hint: None };
    let (entry, sought) = match args.event {
        Some(event) => (entry_of(&dir, event)?, format!("event {event}")),
        None => (args.entry, format!("entry {}", args.entry.unwrap_or(0))),
    };
    let proof = entry.map(|entry| dir.prove(entry)).transpose()?.flatten();
    let proof = proof.ok_or_else(|| no(anyhow::anyhow!("there is no {sought} in the log")))?;
    let proof = proof.with_context(|| format!("prove {sought}")).map_err(no)?;
    print_json(&proof)?;
    Ok(ExitStatus::Ok)
}

/// The number of an event's entry. What it says is what the proof is of.
fn entry_of(dir: &LogDir, event: u64) -> Result<Option<u64>, AuditError> {
    // So that not every line has to be read. Events name others that way, too.
    let needle = format!("\"sequence\":{event}");
    dir.find(|entry| {
        let line = str::from_utf8(entry.payload).ok().filter(|line| line.contains(&needle));
        let read = line.and_then(|line| serde_json::from_str::<Numbered>(line).ok());
        entry.kind == Kind::Event && read.is_some_and(|read| read.sequence == event)
    })
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
