//! `enforcer sign` and `enforcer verify`: signatures of envelopes.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Format, parse_envelope, print_json, read_envelope, text};
use crate::{
    env_vars,
    envelope::Envelope,
    exit::{ExitStatus, Failure},
    key_files,
    signature::{KeyId, Signature},
};

#[derive(Debug, clap::Args)]
pub(super) struct SignArgs {
    /// The private key, as `keygen` writes it
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The envelope
    file: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(super) struct VerifyArgs {
    /// A public key whose holder may sign; may be given several times
    #[arg(long = "trust-key", value_name = "FILE", env = env_vars::TRUST_KEYS, value_delimiter = ':', required = true)]
    trust_keys: Vec<PathBuf>,
    /// The envelope; its signature is beside it, with `.sig` after its name
    file: PathBuf,
}

#[derive(Serialize)]
struct Report {
    version: u32,
    agent: String,
    revision: u64,
    key_id: String,
    signature: PathBuf,
}

pub(super) fn sign(format: Format, args: &SignArgs) -> Result<ExitStatus, Failure> {
    let text = read_envelope(&args.file)?;
    let Some((_, envelope)) = parse_envelope(&args.file, text.clone()) else {
        return Ok(ExitStatus::No);
    };
    let key = key_files::signing_key(&args.key)?;
    key_files::sign(&key, &args.file, &text)?;
    report(format, &args.file, &envelope, &key.trust_key().id())
}

pub(super) fn verify(format: Format, args: &VerifyArgs) -> Result<ExitStatus, Failure> {
    let no = |error| Failure { status: ExitStatus::No, error, hint: None };
    let trusted = key_files::trust_keys(&args.trust_keys).map_err(|error| no(error.into()))?;
    let text = read_envelope(&args.file)?;
    let signature = key_files::signature_of(&args.file).map_err(|error| no(error.into()))?;
    let Some(signature) = signature else {
        let path = key_files::signature_path(&args.file);
        let error =
            anyhow::anyhow!("`{}` is not signed: there is no `{}`", args.file.display(), path.display());
        return Err(no(error).hint("`enforcer sign --key KEY FILE` signs an envelope"));
    };
    let signer = Signature::parse(&signature).and_then(|signature| trusted.verify(&text, &signature));
    let signer = signer.map_err(|error| {
        no(anyhow::Error::from(error).context(format!("verify `{}`", args.file.display())))
    })?;
    // Read only now: what nobody vouches for is nobody's envelope.
    let Some((_, envelope)) = parse_envelope(&args.file, text) else {
        return Ok(ExitStatus::No);
    };
    report(format, &args.file, &envelope, &signer)
}

fn report(format: Format, file: &Path, envelope: &Envelope, signer: &KeyId) -> Result<ExitStatus, Failure> {
    let (agent, revision) = (&envelope.metadata.name, envelope.metadata.revision);
    let signature = key_files::signature_path(file);
    match format {
        Format::Json => {
            let (agent, key_id) = (agent.clone(), signer.to_string());
            print_json(&Report { version: 1, agent, revision, key_id, signature })?;
        }
        Format::Text => {
            text::print(&format!("agent     {agent}\nrevision  {revision}\nkey       {signer}\n"))?;
        }
    }
    Ok(ExitStatus::Ok)
}
