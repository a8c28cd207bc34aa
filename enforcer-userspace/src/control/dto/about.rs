//! What is told of one session: to an operator, and to the session itself.

use serde::{Deserialize, Serialize};

use super::SessionInfo;
use crate::chain::Hop;

/// `GET /v1/sessions/{id}`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Session {
    pub(crate) version: u32,
    pub(crate) session: SessionInfo,
    /// Connections and datagram sockets that it has used up, of those that its envelope limits.
    pub(crate) connections: u64,
    /// Sub-sessions that it has, and those that they have.
    pub(crate) descendants: Vec<String>,
}

/// `GET /v1/self`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Whoami {
    pub(crate) version: u32,
    pub(crate) session: SessionInfo,
    pub(crate) expires_in_s: u64,
    /// The sessions that it has a part of, nearest first.
    pub(crate) above: Vec<Above>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Above {
    pub(crate) id: String,
    pub(crate) agent: String,
    pub(crate) state: String,
}

/// `GET /v1/sessions/{id}/chain` and `GET /v1/self/chain`: who gave the session what it may do.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Chain {
    pub(crate) version: u32,
    pub(crate) session: String,
    /// The session that an operator began comes first.
    pub(crate) hops: Vec<Hop>,
    /// The public half of the key that signs the statements, PEM. It proves nothing that comes along with them.
    pub(crate) host_key: String,
}

/// `GET /v1/self/refusals` and `GET /v1/sessions/{id}/refusals`: the last that were refused, the latest first.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Refusals {
    pub(crate) version: u32,
    pub(crate) session: String,
    /// Earlier ones are in the events. RFC 3339.
    pub(crate) since: String,
    pub(crate) refusals: Vec<RefusalInfo>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RefusalInfo {
    pub(crate) operation: String,
    pub(crate) destination: Option<String>,
    /// As in the events.
    pub(crate) reason: String,
    pub(crate) rule: Option<String>,
    /// Who tried last.
    pub(crate) pid: u32,
    pub(crate) comm: String,
    /// RFC 3339.
    pub(crate) first: String,
    /// RFC 3339.
    pub(crate) last: String,
    pub(crate) times: u64,
    /// In one sentence.
    pub(crate) explanation: String,
    /// What can be done about it, and whom to ask.
    pub(crate) advice: String,
}
