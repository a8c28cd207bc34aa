//! `enforcer verify-token`: whether a token is good, and what it says.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde::Serialize;

use super::{Format, print_json, text};
use crate::{
    clock,
    credentials::{Expected, MAX_TOKEN_BYTES, TokenKeys, TokenKind, TrustDomain, Verified},
    exit::{ExitStatus, Failure},
};

/// Far more than a bundle takes.
const MAX_BUNDLE_BYTES: usize = 4 << 20;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The keys: what `trust-bundle --format json` or `trust-bundle --jwks` printed, or another JWKS
    ///
    /// A JWKS without `use` has keys for JWT-SVIDs only.
    #[arg(long, value_name = "FILE")]
    bundle: PathBuf,
    /// For whom the token must be; without it, that is for you to look at
    #[arg(long, value_name = "NAME")]
    audience: Option<String>,
    /// Of which trust domain the agent must be
    #[arg(long, value_name = "NAME")]
    trust_domain: Option<TrustDomain>,
    /// The token's file; `-` is standard input
    #[arg(default_value = "-")]
    token: PathBuf,
}

#[derive(Serialize)]
struct Report {
    version: u32,
    kind: String,
    spiffe_id: String,
    expires: String,
    /// Whether it was compared with one that was asked for.
    audience_checked: bool,
    claims: serde_json::Value,
}

pub(super) fn execute(format: Format, args: &Args) -> Result<ExitStatus, Failure> {
    let no = |error: anyhow::Error| Failure { status: ExitStatus::No, error, hint: None };
    let bundle = read(&args.bundle, MAX_BUNDLE_BYTES).map_err(no)?;
    let keys =
        TokenKeys::parse(&bundle).with_context(|| format!("use the keys in `{}`", args.bundle.display()));
    let keys = keys.map_err(no)?;
    // One more is too many: then it is said that it is too long.
    let token = read(&args.token, MAX_TOKEN_BYTES + 2).map_err(no)?;
    let token = String::from_utf8_lossy(&token);
    let expected = Expected { audience: args.audience.as_deref(), trust_domain: args.trust_domain.as_ref() };
    let verified = keys.verify(token.trim(), expected, clock::unix_s()).context("verify the token");
    let verified = verified.map_err(no)?;
    let checked = verified.kind == TokenKind::Jwt && args.audience.is_some();
    report(format, verified, checked)?;
    Ok(ExitStatus::Ok)
}

fn report(format: Format, verified: Verified, audience_checked: bool) -> Result<(), Failure> {
    let Verified { kind, id, audience, expires_s, claims, session } = verified;
    let expires =
        jiff::Timestamp::from_second(expires_s).map_or_else(|_| expires_s.to_string(), |at| at.to_string());
    if format == Format::Json {
        let (kind, spiffe_id) = (kind.to_string(), id.to_string());
        return print_json(&Report { version: 1, kind, spiffe_id, expires, audience_checked, claims });
    }
    let mut lines = vec![("kind", kind.to_string()), ("agent", id.to_string()), ("expires", expires)];
    if kind == TokenKind::Jwt {
        let unchecked = if audience_checked { "" } else { " (not compared with anything)" };
        lines.push(("audience", format!("{}{unchecked}", audience.join(", "))));
    } else {
        lines.push(("proof", "whoever shows it must prove to have the key that `cnf` names".to_owned()));
    }
    if let Some(session) = session {
        lines.extend([
            ("session", session.session),
            ("owner", session.owner),
            ("operator", session.operator),
            ("model", session.model),
            ("mode", session.mode),
            ("envelope", format!("{} revision {}", session.envelope_digest, session.envelope_revision)),
        ]);
    }
    let line = |(name, value): (&str, String)| format!("{name:<9} {}\n", text::harmless(&value));
    text::print(&lines.into_iter().map(line).collect::<String>())
}

/// What a file or standard input holds, up to a limit.
fn read(path: &Path, limit: usize) -> Result<Vec<u8>, anyhow::Error> {
    let what = || format!("read `{}`", path.display());
    let source: Box<dyn Read> = match path.to_str() {
        Some("-") => Box::new(io::stdin()),
        _ => Box::new(File::open(path).with_context(what)?),
    };
    let mut bytes = Vec::new();
    source.take(limit as u64).read_to_end(&mut bytes).with_context(what)?;
    Ok(bytes)
}
