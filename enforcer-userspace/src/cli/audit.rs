//! `enforcer audit`: what can be said by the audit log. All but the change of a key needs no daemon.

mod prove;
mod query;
mod verify;

use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde::Serialize;

use super::{Format, ask, particulars, print_json, text};
use crate::{
    control::dto,
    exit::{ExitStatus, Failure},
    key_files,
    settings::Settings,
    signature::TrustKey,
    state::{self, LogDir},
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Check that nothing was changed, left out or put in; names the first entry that is wrong
    ///
    /// Exit code 0: it is sound; 1: it is not.
    Verify(verify::Args),
    /// Search it, from its first event to its last; each is checked before it is printed
    Query(query::Args),
    /// Print a proof that an entry is in the log, which can be checked without the log
    Prove(prove::Args),
    /// Check what `prove` printed; needs nothing but the key
    CheckProof(prove::CheckArgs),
    /// Print the public key that signs it, as PEM
    Key,
    /// Have another key sign from now on; the one before vouches for it
    RotateKey,
    /// Print the last checkpoint, to keep it elsewhere: `verify --checkpoint` compares the log with it
    Checkpoint,
}

/// Where a log is, and whom to believe.
#[derive(Debug, clap::Args)]
struct Source {
    /// The log's directory; without it, that of this host
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// A public key that signed it, PEM; without it, that of the key beside the log
    ///
    /// It vouches for all before a checkpoint that it signed, and for the keys that came after it. May be given several times.
    #[arg(long = "key", value_name = "FILE")]
    keys: Vec<PathBuf>,
}

impl Source {
    fn dir(&self, settings: &Settings) -> LogDir {
        LogDir::at(&self.dir.clone().unwrap_or_else(|| settings.audit()))
    }

    /// The keys that are trusted.
    fn keys(&self, dir: &LogDir) -> Result<Vec<TrustKey>, Failure> {
        if self.keys.is_empty() {
            return Ok(vec![own_key(dir)?]);
        }
        let keys: Result<Vec<_>, _> = self.keys.iter().map(|path| key_files::trust_key(path)).collect();
        Ok(keys?)
    }
}

pub(super) fn execute(settings: &Settings, format: Format, args: &Args) -> Result<ExitStatus, Failure> {
    match &args.action {
        Action::Verify(args) => verify::execute(settings, format, args),
        Action::Query(args) => query::execute(settings, format, args),
        Action::Prove(args) => prove::execute(settings, args),
        Action::CheckProof(args) => prove::check(format, args),
        Action::Key => key(settings, format),
        Action::RotateKey => rotate_key(settings, format),
        Action::Checkpoint => checkpoint(settings),
    }
}

/// The public half of the key beside the log.
fn own_key(dir: &LogDir) -> Result<TrustKey, Failure> {
    let path = dir.key_path();
    let key = state::existing_key(&path)?;
    let key = key.ok_or_else(|| {
        let error = anyhow::anyhow!("there is no key `{}`", path.display());
        let failure = Failure { status: ExitStatus::Error, error, hint: None };
        failure.hint("name a public key that you have from elsewhere with `--key`")
    });
    Ok(key?.trust_key())
}

#[derive(Serialize)]
struct KeyReport {
    version: u32,
    key_id: String,
    public_key: String,
}

fn key(settings: &Settings, format: Format) -> Result<ExitStatus, Failure> {
    let key = own_key(&LogDir::at(&settings.audit()))?;
    let (key_id, public_key) = (key.id().to_string(), key.to_pem());
    match format {
        Format::Json => print_json(&KeyReport { version: 1, key_id, public_key })?,
        Format::Text => {
            // Standard output is a file that openssl reads.
            eprintln!("key {key_id}");
            text::print(&public_key)?;
        }
    }
    Ok(ExitStatus::Ok)
}

fn rotate_key(settings: &Settings, format: Format) -> Result<ExitStatus, Failure> {
    let rotated: dto::AuditKey = ask(settings, async |client| client.put("/v1/audit/key", &()).await)?;
    match format {
        Format::Json => print_json(&rotated)?,
        Format::Text => text::print(&format!("key {} signs from now on\n", rotated.key_id))?,
    }
    Ok(ExitStatus::Ok)
}

fn checkpoint(settings: &Settings) -> Result<ExitStatus, Failure> {
    let dir = LogDir::at(&settings.audit());
    let Some(head) = dir.head()? else { return Err(no_log(dir.path())) };
    print_json(&head)?;
    Ok(ExitStatus::Ok)
}

fn no_log(dir: &Path) -> Failure {
    let error = anyhow::anyhow!("there is no audit log in `{}`", dir.display());
    Failure { status: ExitStatus::No, error, hint: None }
}
