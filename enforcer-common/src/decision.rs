//! From facts to a verdict. Pure: the kernel programs gather the facts, this module judges them.
//!
//! The order, first match wins: identity not established, session over, revoked or expired: deny. Destination or socket
//! that no rule can speak of: deny. Deny rule: deny. Allow rule: allow. Otherwise: deny. (That a deny rule beats every
//! allow rule is settled when an envelope is compiled: an entry holds the winner.)
//!
//! Every function is inlined into the kernel programs: the kernel refuses the type information (BTF) of a function whose
//! parameters are Rust enums with fields (seen on 6.18: "Invalid member bits_offset").

use crate::identity::SessionRef;
use crate::net::{Address, Destination, Family};
use crate::rules::{Broken, EnvelopeRules as _, NO_RULE, RuleTables};
use crate::session::{Control, ControlWord, SessionState};
use crate::verdict::{Mode, Reason, Verdict};

/// How a process came to be counted to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It carries the session's tag.
    Tagged(SessionRef),
    /// It carries none, but stands in the session's cgroup (or in one of ours that no session has).
    Untagged(SessionRef),
}

impl Claim {
    /// The session.
    pub const fn session(self) -> SessionRef {
        match self {
            Self::Tagged(session) | Self::Untagged(session) => session,
        }
    }
}

/// What the session tables say about a claim, and the time.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    /// Who claims.
    pub claim: Claim,
    /// The slot's control word.
    pub control: ControlWord,
    /// When the session expires, ns on the boot clock.
    pub expires_ns: u64,
    /// Now, ns on the boot clock.
    pub now_ns: u64,
}

/// A verdict and what led to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What the rules say.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// The rule that decided, or [`NO_RULE`].
    pub rule: u32,
    /// The envelope that was asked; 0 if none was.
    pub envelope: u32,
    /// Whether a deny is carried out: the session's mode, or that of the rule; enforce if neither is known.
    pub mode: Mode,
}

impl Decision {
    /// A deny before any rule was asked.
    pub const fn refusal(reason: Reason) -> Self {
        Self { verdict: Verdict::Deny, reason, rule: NO_RULE, envelope: 0, mode: Mode::Enforce }
    }

    /// Whether the operation must be refused.
    pub const fn is_refused(&self) -> bool {
        match (self.verdict, self.mode) {
            (Verdict::Allow, _) => false,
            (Verdict::Deny, Mode::Enforce) => true,
            (Verdict::Deny, Mode::Audit) => !self.reason.is_about_rules(),
        }
    }
}

/// Judges a connection or datagram. `destination` is `None` when the address has a form that no rule can speak of.
#[inline(always)]
pub fn decide<R: RuleTables>(standing: &Standing, destination: Option<Destination>, rules: &R) -> Decision {
    let control = match check_standing(standing) {
        Ok(control) => control,
        Err(reason) => return Decision::refusal(reason),
    };
    let Some(destination) = destination else {
        return denied(&control, Reason::Unclassifiable, NO_RULE);
    };
    match (destination.address.is_unspecified(), destination.address.family()) {
        (false, _) => decide_rules(&control, destination, rules),
        // The kernel sends it to the socket's source address, to an address of a device, or to loopback
        // (v6.1/net/ipv4/route.c, ip_route_output_key_hash_rcu). A hook that knows which has put it in its place.
        (true, Family::V4) => denied(&control, Reason::Unclassifiable, NO_RULE),
        // The kernel puts `::1` in its place, or 127.0.0.1 if the socket is bound to a mapped address, whatever the socket's
        // source is (v6.1/net/ipv6/tcp_ipv6.c, tcp_v6_connect). The rules must allow both.
        (true, Family::V6) => {
            let v4 =
                decide_rules(&control, Destination { address: Address::LOOPBACK_V4, ..destination }, rules);
            if v4.is_refused() {
                return v4;
            }
            let v6 =
                decide_rules(&control, Destination { address: Address::LOOPBACK_V6, ..destination }, rules);
            match v4.verdict {
                // Let through in audit mode, and to be recorded, unless the other is refused.
                Verdict::Deny if !v6.is_refused() => v4,
                Verdict::Allow | Verdict::Deny => v6,
            }
        }
    }
}

/// Judges the creation of a socket of one of the IP families. `kind` is the socket type (`SOCK_STREAM` ...), `protocol`
/// the IP protocol number, 0 for the type's default; wide, because MPTCP is 262.
#[inline(always)]
pub fn decide_socket(standing: &Standing, kind: u32, protocol: u32) -> Decision {
    const SOCK_STREAM: u32 = 1;
    const SOCK_DGRAM: u32 = 2;
    let control = match check_standing(standing) {
        Ok(control) => control,
        Err(reason) => return Decision::refusal(reason),
    };
    match (kind, protocol) {
        (SOCK_STREAM, 0 | 6) | (SOCK_DGRAM, 0 | 17) => {
            Decision { verdict: Verdict::Allow, reason: Reason::AllowRule, ..decision_of(&control) }
        }
        _ => denied(&control, Reason::SocketType, NO_RULE),
    }
}

#[inline(always)]
fn check_standing(standing: &Standing) -> Result<Control, Reason> {
    let session = match standing.claim {
        Claim::Tagged(session) => session,
        Claim::Untagged(_) => return Err(Reason::Untagged),
    };
    let control = standing.control.unpack().ok_or(Reason::SessionOver)?;
    if control.generation != session.generation {
        return Err(Reason::SessionOver);
    }
    match control.state {
        SessionState::Free => Err(Reason::SessionOver),
        SessionState::Revoked => Err(Reason::Revoked),
        SessionState::Active if standing.now_ns >= standing.expires_ns => Err(Reason::Expired),
        SessionState::Active => Ok(control),
    }
}

#[inline(always)]
fn decide_rules<R: RuleTables>(control: &Control, destination: Destination, rules: &R) -> Decision {
    let found = match rules.envelope(control.envelope) {
        Some(rules) => rules.find(&destination),
        None => Err(Broken),
    };
    let hit = match found {
        Ok(Some(hit)) => hit,
        Ok(None) => return denied(control, Reason::NoRule, NO_RULE),
        // Also in audit mode: that there are no rules is not what rules say.
        Err(Broken) => return denied(control, Reason::Fault, NO_RULE),
    };
    // Anything but a clean allow is a deny.
    match Verdict::try_from(hit.verdict) {
        Ok(Verdict::Allow) => Decision {
            verdict: Verdict::Allow,
            reason: Reason::AllowRule,
            rule: hit.rule,
            ..decision_of(control)
        },
        Ok(Verdict::Deny) | Err(_) => {
            let mode = match hit.mode {
                0 => control.mode,
                mode => Mode::try_from(mode).unwrap_or(Mode::Enforce),
            };
            Decision { mode, ..denied(control, Reason::DenyRule, hit.rule) }
        }
    }
}

#[inline(always)]
fn denied(control: &Control, reason: Reason, rule: u32) -> Decision {
    Decision { reason, rule, ..decision_of(control) }
}

/// A deny by no rule, with the control word's envelope and mode: what the others start from.
#[inline(always)]
fn decision_of(control: &Control) -> Decision {
    Decision {
        verdict: Verdict::Deny,
        reason: Reason::NoRule,
        rule: NO_RULE,
        envelope: control.envelope,
        mode: control.mode,
    }
}

#[cfg(test)]
mod tests;
