//! `enforcer chain`: who gave a session what it may do, and whether that is to be believed.

use std::{
    fmt::Write as _,
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use ring::rand::SystemRandom;

use super::{
    Format, ask, id_in_path, print_json,
    text::{self, harmless},
};
use crate::{
    chain::{self, Verified},
    clock,
    control::dto,
    exit::{ExitStatus, Failure},
    key_files,
    settings::Settings,
    signature::{TrustKey, TrustKeys},
};

/// More than the envelopes of a chain can take.
const MAX_FILE_BYTES: u64 = 1 << 30;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The session's id, or enough of the beginning of it; without it, from inside a session, that one
    #[arg(value_name = "ID", conflicts_with = "file")]
    id: Option<String>,
    /// Check what `--format json` printed before; needs neither root nor a daemon, and the host's key
    #[arg(long, value_name = "FILE", requires = "host_key")]
    file: Option<PathBuf>,
    /// The public key of the host that made the chain; without it, what the daemon says it is
    #[arg(long, value_name = "FILE")]
    host_key: Option<PathBuf>,
    /// A public key of the operator's: it must have signed the envelope of the first session; may be given several times
    #[arg(long, value_name = "FILE")]
    trust_key: Vec<PathBuf>,
    /// Print the host's public key, and nothing else
    #[arg(long, conflicts_with_all = ["file", "host_key", "trust_key"])]
    print_host_key: bool,
}

pub(super) fn execute(settings: &Settings, format: Format, args: &Args) -> Result<ExitStatus, Failure> {
    let no = |error: anyhow::Error| Failure { status: ExitStatus::No, error, hint: None };
    let document = match &args.file {
        Some(file) => read(file).map_err(no)?,
        None => {
            let path = match &args.id {
                Some(id) => format!("/v1/sessions/{}/chain", id_in_path(id)?),
                None => "/v1/self/chain".to_owned(),
            };
            ask(settings, async |client| client.get(&path).await)?
        }
    };
    if args.print_host_key {
        text::print(&document.host_key)?;
        return Ok(ExitStatus::Ok);
    }
    let verified = verify(&document, args).map_err(no)?;
    match format {
        Format::Json => print_json(&document)?,
        Format::Text => text::print(&render(&document, &verified, args))?,
    }
    Ok(ExitStatus::Ok)
}

fn verify(document: &dto::Chain, args: &Args) -> Result<Verified, anyhow::Error> {
    let host = match &args.host_key {
        Some(path) => key_files::trust_keys(std::slice::from_ref(path))?,
        None => {
            let key = TrustKey::from_pem(document.host_key.as_bytes(), &SystemRandom::new());
            TrustKeys::new([key.context("read the host's key")?])
        }
    };
    let operators = key_files::trust_keys(&args.trust_key)?;
    let session = document.session.parse().context("read the session's id")?;
    chain::verify(&document.hops, session, &host, &operators).context("verify the chain")
}

fn render(document: &dto::Chain, verified: &Verified, args: &Args) -> String {
    let now = jiff::Timestamp::from_second(clock::unix_s()).unwrap_or_default();
    let mut out = String::new();
    for statement in &verified.statements {
        let indent = "  ".repeat(statement.depth.min(16));
        let expired = statement.expires.parse::<jiff::Timestamp>().is_ok_and(|expires| expires <= now);
        let until = if expired { "expired" } else { "until" };
        let who = format!(
            "{} for {} by {}, model {}",
            statement.agent, statement.owner, statement.operator, statement.model
        );
        let _infallible = writeln!(out, "{indent}{}  {}", statement.session, harmless(&who));
        let _infallible = writeln!(
            out,
            "{indent}  from {}, {until} {}; envelope {} revision {}",
            harmless(&statement.issued),
            harmless(&statement.expires),
            harmless(&statement.envelope_digest),
            statement.envelope_revision
        );
    }
    let key = &verified.host_key;
    let _infallible = match &args.host_key {
        Some(_) => writeln!(out, "verified: every statement is signed by the host's key {key}"),
        None => {
            writeln!(out, "consistent: every statement is signed by {key}, which the daemon says is its key")
        }
    };
    let pairs = document.hops.len().saturating_sub(1);
    if pairs > 0 {
        let _infallible = writeln!(
            out,
            "{} of {pairs} envelopes were compared with the one above, and allow no more",
            verified.compared
        );
    }
    let _infallible = match &verified.operator_key {
        Some(key) => writeln!(out, "the first envelope is signed by the operator's key {key}"),
        None => writeln!(out, "who signed the first envelope was not looked at (`--trust-key`)"),
    };
    out
}

fn read(path: &Path) -> Result<dto::Chain, anyhow::Error> {
    let what = || format!("read the chain `{}`", path.display());
    let mut bytes = Vec::new();
    let file = File::open(path).with_context(what)?;
    file.take(MAX_FILE_BYTES).read_to_end(&mut bytes).with_context(what)?;
    serde_json::from_slice(&bytes).with_context(what)
}
