//! What a credential says beyond the SPIFFE ID. The same object is a private claim of tokens, and an extension of certificates.

use serde::{Deserialize, Serialize};

use super::SpiffeId;

/// Whom a credential is for.
#[derive(Clone, Debug)]
pub(crate) struct Principal {
    pub(crate) id: SpiffeId,
    pub(crate) claims: Claims,
    /// When the session expires: no credential lives longer.
    pub(crate) expires_s: i64,
}

/// The session, as it stood when the credential was issued. Fields are added; none changes its meaning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claims {
    pub(crate) session: String,
    /// The human who answers for the agent.
    pub(crate) owner: String,
    pub(crate) operator: String,
    pub(crate) model: String,
    /// `enforce`, or `audit`: then the envelope holds it to nothing.
    pub(crate) mode: String,
    /// SHA-256 of the envelope's text.
    pub(crate) envelope_digest: String,
    pub(crate) envelope_revision: u64,
    pub(crate) root: Root,
    /// SHA-256 of what the process that asked executes, where it was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) executable_digest: Option<String>,
    /// The session that began this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) parent_session: Option<String>,
}

/// The session's first process, told apart from every other of this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Root {
    pub(crate) tgid: u32,
    /// ns on the boot clock.
    pub(crate) start_ns: u64,
    pub(crate) boot_id: String,
}
