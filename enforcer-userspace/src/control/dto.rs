//! The wire format of the control socket, which is also what `--format json` prints.

mod about;

use serde::{Deserialize, Serialize};

pub(crate) use about::{Above, Chain, RefusalInfo, Refusals, Session, Whoami};

use crate::{
    metrics::SinkCounts,
    session::{Container, Context},
};

/// The version of every document here.
pub(crate) const VERSION: u32 = 1;

/// The code of a refusal that is nobody's fault: nothing was done, and the same request may be sent again, on a new connection.
pub(crate) const TRY_AGAIN: &str = "try-again";

/// `POST /v1/sessions`: enrol the process that asks.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Enrol {
    /// The envelope's text.
    pub(crate) envelope: String,
    /// The signature of exactly this text, base64, at most 512 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) signature: Option<String>,
    /// What the process is about to execute, for people to read.
    pub(crate) command: Vec<String>,
    /// Asked from inside a session: where the envelope allows more than that session's, what both allow is meant. Else it is refused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) clip: bool,
    #[serde(default)]
    pub(crate) said: Said,
}

/// What whoever begins a session says of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Said {
    /// For whom it is. What the envelope says holds; another one is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) owner: Option<String>,
    /// Fixed for the session's life.
    #[serde(default)]
    pub(crate) context: Context,
}

/// `POST /v1/registrations`: hold what runs already to an envelope.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Register {
    /// The envelope's text.
    pub(crate) envelope: String,
    /// As in [`Enrol`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) signature: Option<String>,
    pub(crate) target: Target,
    /// Whether connections that the envelope does not allow are left as they are; nothing leaves on them all the same.
    #[serde(default)]
    pub(crate) keep_connections: bool,
    #[serde(default)]
    pub(crate) said: Said,
}

/// What runs already.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Target {
    Process {
        pid: u32,
        /// Whether all that it has made is meant as well.
        #[serde(default)]
        children: bool,
    },
    /// With all that is in it and below it. The path is as in the file system, or from the root of the v2 hierarchy.
    Cgroup { path: String },
    /// Of systemd: the one cgroup of that name.
    Unit { name: String },
}

impl Default for Target {
    fn default() -> Self {
        Self::Cgroup { path: String::new() }
    }
}

/// Answer to [`Register`]: what runs is held to the envelope.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Registered {
    pub(crate) version: u32,
    pub(crate) id: String,
    pub(crate) processes: usize,
    /// Open TCP and UDP sockets that its processes have still.
    pub(crate) sockets_kept: u64,
    /// Those of connections outside the envelope, which were destroyed.
    pub(crate) sockets_destroyed: u64,
    /// Whether everything that it has is held to the envelope, as far as can be known.
    pub(crate) complete: bool,
    pub(crate) incomplete_because: Vec<String>,
}

/// Answer to [`Enrol`]: the kernel state is in place.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Enrolled {
    pub(crate) version: u32,
    pub(crate) id: String,
}

/// `PUT /v1/envelope`: hold every session of the envelope's agent to it.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Apply {
    /// The envelope's text.
    pub(crate) envelope: String,
    /// As in [`Enrol`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) signature: Option<String>,
}

/// Answer to [`Apply`]: it is in force for every decision that begins from now on.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Applied {
    pub(crate) version: u32,
    pub(crate) agent: String,
    /// SHA-256 of the envelope's text.
    pub(crate) envelope_digest: String,
    pub(crate) sessions: Vec<AppliedSession>,
    /// Sessions of the agent that are somebody else's.
    pub(crate) left_alone: Vec<LeftAlone>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LeftAlone {
    pub(crate) id: String,
    pub(crate) why: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct AppliedSession {
    pub(crate) id: String,
    /// False if it was held to this envelope before.
    pub(crate) changed: bool,
}

/// `GET /v1/sessions`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Sessions {
    pub(crate) version: u32,
    pub(crate) sessions: Vec<SessionInfo>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SessionInfo {
    pub(crate) id: String,
    /// The session that handed it a part of itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) parent: Option<String>,
    pub(crate) agent: String,
    /// Of the agent. Null where its name cannot be in one.
    #[serde(default)]
    pub(crate) spiffe_id: Option<String>,
    pub(crate) owner: String,
    pub(crate) operator: String,
    pub(crate) purpose: String,
    pub(crate) model: String,
    pub(crate) mode: String,
    pub(crate) state: String,
    /// SHA-256 of the envelope's text.
    pub(crate) envelope_digest: String,
    pub(crate) command: Vec<String>,
    /// What was said of it when it began.
    #[serde(default)]
    pub(crate) context: Context,
    /// The one that its first process ran in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) container: Option<Container>,
    /// RFC 3339.
    pub(crate) started: String,
    /// RFC 3339, as the wall clock is set now; what counts is the boot clock.
    pub(crate) expires: String,
    pub(crate) cgroup: String,
    pub(crate) registered_by_uid: u32,
    /// Bytes of the IP packets that it sent.
    pub(crate) bytes_out: u64,
    /// Bytes of the IP packets that it received.
    pub(crate) bytes_in: u64,
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ended: Option<String>,
    /// What it was when its last process ended: `exit` if it was active, else `expired`, `revoked` or `quarantined`. Or that nobody saw it
    /// end: `host-restarted`, `gone`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) end_reason: Option<String>,
    pub(crate) processes: Vec<ProcessInfo>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ProcessInfo {
    pub(crate) pid: u32,
    /// Boot, id and start: the same for no two processes.
    #[serde(default)]
    pub(crate) key: String,
    /// The process of this session that made it.
    pub(crate) parent_pid: Option<u32>,
    pub(crate) comm: Option<String>,
    pub(crate) path: Option<String>,
}

/// `GET /v1/status`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) version: u32,
    pub(crate) daemon: DaemonInfo,
    pub(crate) coverage: Vec<HookInfo>,
    pub(crate) guard: GuardInfo,
    pub(crate) sessions: usize,
    /// The ids of the keys that may sign envelopes; without any, unsigned envelopes are accepted.
    pub(crate) trust_keys: Vec<String>,
    /// Entries in the kernel's table of tagged processes.
    pub(crate) tasks: usize,
    pub(crate) counters: std::collections::BTreeMap<String, u64>,
    /// Names of counters that are above zero and mean that something went wrong.
    pub(crate) faults: Vec<String>,
    #[serde(default)]
    pub(crate) sinks: Vec<SinkInfo>,
    /// How many findings of each detection there were since the daemon started.
    #[serde(default)]
    pub(crate) findings: std::collections::BTreeMap<String, u64>,
}

/// How far a sink is.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SinkInfo {
    #[serde(flatten)]
    pub(crate) counts: SinkCounts,
    /// Why the last try failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) why: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct DaemonInfo {
    pub(crate) pid: u32,
    pub(crate) release: String,
    pub(crate) abi: u16,
    /// `fresh`, `adopted` or `upgraded`.
    pub(crate) start: String,
    /// RFC 3339.
    pub(crate) started: String,
    pub(crate) kernel: String,
    /// What the host calls itself.
    #[serde(default)]
    pub(crate) host: Option<String>,
    /// The trust domain of the agents' SPIFFE IDs.
    #[serde(default)]
    pub(crate) trust_domain: Option<String>,
}

/// Whether the guard keeps sessions from others and from enforcement itself.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct GuardInfo {
    /// `active`: seen to run; `absent`; `broken`: its programs were attached and did not run.
    pub(crate) state: String,
    /// Why it is not active.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) why: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct HookInfo {
    pub(crate) hook: String,
    pub(crate) program: String,
    pub(crate) covers: String,
    pub(crate) attached: bool,
    /// Whether sessions are not begun without it.
    pub(crate) needed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) program_id: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// What is done with the processes of a session that is revoked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Then {
    #[default]
    Nothing,
    Freeze,
    Kill,
}

/// Answer to `DELETE /v1/sessions/{id}` and `PUT /v1/sessions/{id}/quarantine`: a receipt.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Revoked {
    pub(crate) version: u32,
    pub(crate) id: String,
    /// `revoked` or `quarantined`.
    pub(crate) state: String,
    /// Live processes that are refused from now on, but for those of descendants.
    pub(crate) processes: usize,
    /// The sessions that have a part of it, which are refused everything as well.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) descendants: Vec<String>,
    /// `running` if any of them are, else `frozen` or `killed`; `gone` if it had ended before.
    pub(crate) processes_are: String,
    /// How many of its processes run still, refused everything.
    pub(crate) processes_running: usize,
    /// Why some run that were to be stopped.
    pub(crate) errors: Vec<String>,
    /// How long the store took that refuses everything from then on, us.
    pub(crate) store_us: u64,
    pub(crate) sockets: Option<SocketsCut>,
}

/// Which open sockets were destroyed.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SocketsCut {
    pub(crate) destroyed: u64,
    /// Those that the kernel would not destroy. Nothing of theirs leaves.
    pub(crate) left: u64,
    /// Network namespaces that were looked at.
    pub(crate) namespaces: usize,
    pub(crate) took_us: u64,
    pub(crate) errors: Vec<String>,
}

/// Answer to `DELETE /v1/sessions/{id}/quarantine`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Lifted {
    pub(crate) version: u32,
    pub(crate) id: String,
    pub(crate) processes: usize,
}

/// Answer to `DELETE /v1/enforcement`, and what `teardown` prints.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct TornDown {
    pub(crate) version: u32,
    /// False if the programs could not be removed: then nothing else was, and sessions are held as before.
    pub(crate) ended: bool,
    /// Sessions whose processes are no longer held to anything.
    pub(crate) released: Vec<Released>,
    /// What could not be removed.
    pub(crate) left: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Released {
    pub(crate) id: String,
    pub(crate) agent: String,
    pub(crate) owner: String,
    pub(crate) processes: usize,
}

/// Answer to `GET /v1/trust-bundle`: a SPIFFE bundle, and more.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct TrustBundle {
    pub(crate) version: u32,
    pub(crate) trust_domain: String,
    /// `keys`, `spiffe_sequence`, `spiffe_refresh_hint`.
    #[serde(flatten)]
    pub(crate) bundle: serde_json::Map<String, serde_json::Value>,
    /// The CA certificates, PEM.
    pub(crate) certificates: String,
    /// The keys of JWT-SVIDs alone, for libraries that do not know SPIFFE.
    pub(crate) jwks: serde_json::Value,
}

/// Answer to `PUT /v1/audit/key`: another key signs the audit log from now on.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct AuditKey {
    pub(crate) version: u32,
    pub(crate) key_id: String,
}

/// Every error.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Problem {
    pub(crate) error: ProblemBody,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ProblemBody {
    /// Stable, for programs.
    pub(crate) code: String,
    /// For people.
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}
