//! Who asks, and whether they may.

use std::fmt;

use axum::http::StatusCode;

use super::Daemon;
use crate::{
    cgroup::Cgroups,
    control::{
        dto,
        peer::{Peer, Writer},
        server::{Refusal, Request},
    },
    procfs,
    record::LineAsker,
};

/// As an event names it.
pub(super) const fn asker(peer: &Peer) -> LineAsker {
    LineAsker { pid: peer.pid, uid: peer.uid }
}

impl Daemon {
    /// Root and one group operate the daemon. A process of a session may ask about itself and hand on what it has, whoever it runs as, and
    /// does not operate; nor do other users, who may begin sessions if that is granted to them.
    pub(super) fn authorise(&mut self, peer: &Peer, request: &Request) -> Result<(), Refusal> {
        let in_session = self.is_in_session(peer.pid);
        // Asked last: had it ended before, the number could have been another's.
        let refusal = match vouch(peer) {
            Err(Unvouched::TryAgain) => return Err(Unvouched::try_again()),
            Err(Unvouched::No(why)) => why,
            Ok(()) if !in_session && self.is_ungranted(peer, request) => "nothing is granted to this user",
            Ok(()) if may_anybody(request) || (!in_session && self.is_operator(peer)) => return Ok(()),
            Ok(()) if in_session => "a process of a session may not operate the daemon",
            Ok(()) => "only root and members of the daemon's group may operate it",
        };
        let asked = match request {
            Request::Enrol(_) => "enrol",
            Request::Register(_) => "register what runs",
            Request::Sessions { .. } => "list sessions",
            Request::Session { .. } => "show a session",
            Request::Whoami => "who it is",
            Request::Chain { .. } => "who gave a session what it may do",
            Request::Why { .. } => "why something was refused",
            Request::Status => "status",
            Request::Metrics => "metrics",
            Request::Revoke { .. } => "revoke",
            Request::Quarantine { .. } => "quarantine",
            Request::Lift { .. } => "lift a quarantine",
            Request::Apply(_) => "apply an envelope",
            Request::Events => "read events",
            Request::Teardown { .. } => "teardown",
            Request::RotateAuditKey => "change the key of the audit log",
            Request::TrustBundle => "the trust bundle",
            // Answered by `credential`, which asks for the opposite.
            Request::Credential(_) => "a credential",
        };
        self.record_refusal(peer, &format!("asked to {asked}: {refusal}"));
        let refusal = Refusal::new(StatusCode::FORBIDDEN, "forbidden", refusal);
        Err(refusal
            .hint("ask an operator; `enforcer whoami`, `why` and `chain` answer a process of a session about its own"))
    }

    /// Refused before anything of it is kept.
    fn is_ungranted(&self, peer: &Peer, request: &Request) -> bool {
        matches!(request, Request::Enrol(_)) && !self.is_operator(peer) && self.policy.of(peer).is_empty()
    }

    pub(super) fn is_operator(&self, peer: &Peer) -> bool {
        is_operator(peer, self.operators)
    }

    /// By its tag, or by its cgroup. What cannot be told counts as yes.
    pub(super) fn is_in_session(&self, pid: u32) -> bool {
        !matches!(self.kernel.sessions.tag(pid), Ok(None)) || stands_inside(&self.cgroups, pid)
    }
}

/// What any process may ask: about its own session; and for one, which is then compared with the session that it is in, or with what is
/// granted to its user.
const fn may_anybody(request: &Request) -> bool {
    matches!(
        request,
        Request::Enrol(_) | Request::Whoami | Request::Why { id: None } | Request::Chain { id: None }
    )
}

/// Root, and who is in the daemon's group.
pub(super) fn is_operator(peer: &Peer, group: Option<u32>) -> bool {
    peer.uid == 0 || group.is_some_and(|group| peer.gids.contains(&group))
}

/// Why nobody is believed to be who they would have to be.
#[derive(Clone, Copy, Debug)]
pub(super) enum Unvouched {
    /// The kernel does not say who wrote; on another connection it will.
    TryAgain,
    No(&'static str),
}

impl fmt::Display for Unvouched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TryAgain => "the kernel does not say who wrote this",
            Self::No(why) => why,
        })
    }
}

impl Unvouched {
    /// The refusal that is nobody's fault, and no attempt.
    pub(super) fn try_again() -> Refusal {
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, dto::TRY_AGAIN, Self::TryAgain.to_string())
    }
}

/// Whether whoever made the connection is who writes on it, and lives.
pub(super) fn vouch(peer: &Peer) -> Result<(), Unvouched> {
    match peer.writer() {
        Writer::Unknown => Err(Unvouched::TryAgain),
        Writer::Other => Err(Unvouched::No("another process writes than made the connection")),
        Writer::Peer if !peer.is_alive() => {
            Err(Unvouched::No("the process that made the connection is gone"))
        }
        Writer::Peer => Ok(()),
    }
}

/// Whether a process is in a session's cgroup. What cannot be told counts as yes.
pub(super) fn stands_inside(cgroups: &Cgroups, pid: u32) -> bool {
    !matches!(procfs::cgroup2_of(pid), Ok(Some(path)) if !cgroups.holds(&path))
}
