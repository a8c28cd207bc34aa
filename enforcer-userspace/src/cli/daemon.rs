//! `enforcer daemon`.

use std::path::PathBuf;

use crate::{
    daemon, env_vars,
    exit::{ExitStatus, Failure},
    settings::Settings,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Accept only envelopes signed with this public key; may be given several times
    ///
    /// Of each agent's envelopes, an earlier revision than one accepted before is refused.
    #[arg(long = "trust-key", value_name = "FILE", env = env_vars::TRUST_KEYS, value_delimiter = ':')]
    trust_keys: Vec<PathBuf>,
}

pub(super) fn execute(settings: Settings, args: &Args) -> Result<ExitStatus, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(daemon::run(settings, &args.trust_keys)).map_err(daemon::StartError::into_failure)?;
    Ok(ExitStatus::Ok)
}
