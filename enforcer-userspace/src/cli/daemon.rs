//! `enforcer daemon`.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use super::text;
use crate::{
    credentials::TrustDomain,
    daemon, env_vars,
    exit::{ExitStatus, Failure},
    settings::Settings,
    state::Limits,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Accept only envelopes signed with this public key; may be given several times
    ///
    /// Of each agent's envelopes, an earlier revision than one accepted before is refused.
    #[arg(long = "trust-key", value_name = "FILE", env = env_vars::TRUST_KEYS, value_delimiter = ':')]
    trust_keys: Vec<PathBuf>,
    /// The trust domain of the agents' SPIFFE IDs, which are `spiffe://NAME/agent/AGENT`
    ///
    /// Without it, the one that was in use last; where there was none, the host's name. Under another one, what was signed before
    /// is believed no more.
    #[arg(long, value_name = "NAME", env = env_vars::TRUST_DOMAIN)]
    trust_domain: Option<TrustDomain>,
    /// Which users may begin sessions of their own without being operators, and under which envelopes
    ///
    /// Without it, only root and the daemon's group may. Read when the daemon starts.
    #[arg(long, value_name = "FILE", env = env_vars::REGISTRATION_POLICY)]
    registration_policy: Option<PathBuf>,
    /// Where events go beside the event file: to a SIEM, say
    ///
    /// Each sink goes on where it was when the daemon is started anew. `enforcer sink test` tries one.
    #[arg(long, value_name = "FILE", env = env_vars::SINKS)]
    sinks: Option<PathBuf>,
    /// Which detections make findings of the events, and when
    ///
    /// Without it, all of them as `docs/detections.md` says.
    #[arg(long, value_name = "FILE", env = env_vars::DETECTIONS)]
    detections: Option<PathBuf>,
    /// Serve metrics here as well, such as `127.0.0.1:9477`, to any process that reaches it; a loopback address
    ///
    /// Operators have them at `/metrics` on the control socket in any case.
    #[arg(long, value_name = "ADDRESS:PORT", env = env_vars::METRICS_LISTEN)]
    metrics_listen: Option<SocketAddr>,
    /// After how many bytes the audit log goes on in another segment; the one before is compressed
    #[arg(long, value_name = "BYTES", default_value_t = 16 << 20, value_parser = clap::value_parser!(u64).range(4096..))]
    audit_segment: u64,
    /// How long segments of the audit log are kept, such as `90d` or `12h`
    #[arg(long, value_name = "TIME", default_value = "400d", value_parser = text::duration)]
    audit_keep: Duration,
    /// How many bytes all of them may take; then the oldest go
    #[arg(long, value_name = "BYTES", default_value_t = 20 << 30)]
    audit_keep_bytes: u64,
}

pub(super) fn execute(settings: Settings, args: &Args) -> Result<ExitStatus, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let policy = args.registration_policy.as_deref();
    let audit = Limits {
        segment_bytes: args.audit_segment,
        keep_for: args.audit_keep,
        keep_bytes: args.audit_keep_bytes,
    };
    let (sinks, detections) = (args.sinks.as_deref(), args.detections.as_deref());
    let reports = daemon::Reports { audit, metrics: args.metrics_listen, sinks, detections };
    let run = daemon::run(settings, &args.trust_keys, args.trust_domain.clone(), policy, reports);
    runtime.block_on(run).map_err(daemon::StartError::into_failure)?;
    Ok(ExitStatus::Ok)
}
