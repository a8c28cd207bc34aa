//! From facts to a verdict. Pure: the kernel programs gather the facts, this module judges them.
//!
//! The order, first match wins: identity not established, session over, revoked, in quarantine or expired, image not measured or not
//! listed: deny. Destination,
//! socket or packet that no rule can speak of: deny. Deny rule: deny. Allow rule: allow. Otherwise: deny. (That a deny rule
//! beats every allow rule is settled when an envelope is compiled: an entry holds the winner.) What is allowed may still be
//! more than the session's limits let it have: [`spend`].
//!
//! Every function is inlined into the kernel programs: the kernel refuses the type information (BTF) of a function whose
//! parameters are Rust enums with fields (seen on 6.18: "Invalid member bits_offset").

use crate::identity::SessionRef;
use crate::limits::Limits;
use crate::net::{Address, Destination, Direction, Family, Protocol};
use crate::packet::Packet;
use crate::record::Placement;
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
    /// Where the process stands.
    pub placement: Placement,
    /// [`Reason`] as a number: why nothing is let through because of an ancestor; 0 if all of them stand.
    pub ancestor: u8,
    /// [`Reason`] as a number: why nothing is let through because of what the process executes; 0 if nothing stands against it.
    pub image: u8,
}

impl Standing {
    /// That of a process which nothing but the rules can refuse: its session stands, and it is where its tag says. For whoever asks
    /// what rules say beside the kernel.
    pub const fn undisturbed(envelope: u32, mode: Mode) -> Self {
        const SESSION: SessionRef = SessionRef { slot: 0, generation: 1 };
        let generation = SESSION.generation;
        let control = Control { state: SessionState::Active, mode, envelope, generation };
        Self {
            claim: Claim::Tagged(SESSION),
            control: control.pack(),
            expires_ns: u64::MAX,
            now_ns: 0,
            placement: Placement::Home,
            ancestor: 0,
            image: 0,
        }
    }
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
        (false, _) => decide_rules(&control, Direction::Out, destination, rules),
        // The kernel sends it to the socket's source address, to an address of a device, or to loopback
        // (v6.1/net/ipv4/route.c, ip_route_output_key_hash_rcu). A hook that knows which has put it in its place.
        (true, Family::V4) => denied(&control, Reason::Unclassifiable, NO_RULE),
        // The kernel puts `::1` in its place, or 127.0.0.1 if the socket is bound to a mapped address, whatever the socket's
        // source is (v6.1/net/ipv6/tcp_ipv6.c, tcp_v6_connect). The rules must allow both.
        (true, Family::V6) => {
            let at = |address| {
                decide_rules(&control, Direction::Out, Destination { address, ..destination }, rules)
            };
            let v4 = at(Address::LOOPBACK_V4);
            if v4.is_refused() {
                return v4;
            }
            let v6 = at(Address::LOOPBACK_V6);
            match v4.verdict {
                // Let through in audit mode, and to be recorded, unless the other is refused.
                Verdict::Deny if !v6.is_refused() => v4,
                Verdict::Allow | Verdict::Deny => v6,
            }
        }
    }
}

/// Judges a packet by its header. `unread`: why that cannot be done; what the packet says then is not looked at. (Not a `Result`: where a
/// variant leaves bytes unset, the compiler copies them all the same, and the verifier minds.)
///
/// What begins a connection needs a rule for its direction. Everything else may pass if the session may send to the far end, or
/// may be reached by it at this port: an answer is as good as what it answers, and nobody keeps state for each flow. A deny
/// rule for the far end holds whatever may come from there.
#[inline(always)]
pub fn decide_packet<R: RuleTables>(
    standing: &Standing,
    packet: &Packet,
    unread: Option<Reason>,
    rules: &R,
) -> Decision {
    let control = match check_standing(standing) {
        Ok(control) => control,
        Err(reason) => return Decision::refusal(reason),
    };
    if let Some(reason) = unread {
        return denied(&control, reason, NO_RULE);
    }
    let Packet { direction, protocol, opens, remote, remote_port, local_port, resets: _ } = *packet;
    let far = Destination { protocol, address: remote, port: remote_port };
    let (outbound, deny_holds) = decide_rules_of(&control, Direction::Out, far, rules);
    // A deny rule that is only recorded: it takes nothing away, and lets nothing in.
    let on_trial = matches!(outbound.reason, Reason::DenyRule) && !deny_holds;
    let opens_out = opens && matches!(direction, Direction::Out);
    let opens_in = opens && matches!(direction, Direction::In);
    let settled = match outbound.verdict {
        Verdict::Allow => !opens_in,
        Verdict::Deny if on_trial => opens_out || !opens_in && !outbound.is_refused(),
        Verdict::Deny => opens_out || !matches!(outbound.reason, Reason::NoRule),
    };
    if settled {
        return outbound;
    }
    let inbound = decide_rules(&control, Direction::In, Destination { port: local_port, ..far }, rules);
    match inbound.verdict {
        Verdict::Allow if on_trial => Decision { mode: Mode::Audit, ..outbound },
        Verdict::Deny if on_trial => Decision { mode: control.mode, ..outbound },
        Verdict::Deny if !opens_in => outbound,
        Verdict::Allow | Verdict::Deny => inbound,
    }
}

/// Judges taking a local port to be reached at: some rule must let somebody reach it. The compiler says so at the address that
/// nobody has, of either family.
#[inline(always)]
pub fn decide_bind<R: RuleTables>(
    standing: &Standing,
    protocol: Option<Protocol>,
    port: u16,
    rules: &R,
) -> Decision {
    let control = match check_standing(standing) {
        Ok(control) => control,
        Err(reason) => return Decision::refusal(reason),
    };
    let Some(protocol) = protocol else {
        return denied(&control, Reason::Unclassifiable, NO_RULE);
    };
    let at = |address| Destination { protocol, address, port };
    let v4 = decide_rules(&control, Direction::In, at(Address::UNSPECIFIED_V4), rules);
    if matches!(v4.verdict, Verdict::Allow) {
        return v4;
    }
    decide_rules(&control, Direction::In, at(Address::UNSPECIFIED_V6), rules)
}

/// Judges the creation of a socket of one of the IP families. `kind` is the socket type (`SOCK_STREAM` ...), `protocol`
/// the IP protocol number, 0 for the type's default; wide, because MPTCP is 262.
#[inline(always)]
pub fn decide_socket<R: RuleTables>(standing: &Standing, kind: u32, protocol: u32, rules: &R) -> Decision {
    const SOCK_STREAM: u32 = 1;
    const SOCK_DGRAM: u32 = 2;
    const ICMP: u32 = 1;
    const ICMPV6: u32 = 58;
    let control = match check_standing(standing) {
        Ok(control) => control,
        Err(reason) => return Decision::refusal(reason),
    };
    let known = match (kind, protocol) {
        (SOCK_STREAM, 0 | 6) | (SOCK_DGRAM, 0 | 17) => true,
        // Where a packet of it may go, the packet gate says.
        (SOCK_DGRAM, ICMP | ICMPV6) => match rules.envelope(control.envelope) {
            Some(rules) => matches!(rules.allows_icmp(), Ok(true)),
            None => false,
        },
        _ => false,
    };
    if known {
        Decision { verdict: Verdict::Allow, reason: Reason::AllowRule, ..decision_of(&control) }
    } else {
        denied(&control, Reason::SocketType, NO_RULE)
    }
}

/// Judges reaching a Unix socket of somebody else's. `named` is the number of the rule of this envelope that names the socket,
/// or [`NO_RULE`].
#[inline(always)]
pub fn decide_unix<R: RuleTables>(
    standing: &Standing,
    named: impl FnOnce(u32) -> u32,
    rules: &R,
) -> Decision {
    let control = match check_standing(standing) {
        Ok(control) => control,
        Err(reason) => return Decision::refusal(reason),
    };
    let restricted = match rules.envelope(control.envelope) {
        Some(rules) => rules.restricts_unix(),
        None => Err(Broken),
    };
    let allowed = Decision { verdict: Verdict::Allow, reason: Reason::AllowRule, ..decision_of(&control) };
    match restricted {
        Ok(false) => allowed,
        Ok(true) => match named(control.envelope) {
            NO_RULE => denied(&control, Reason::NoRule, NO_RULE),
            rule => Decision { rule, ..allowed },
        },
        Err(Broken) => denied(&control, Reason::Fault, NO_RULE),
    }
}

/// The limits of the envelope that decided; none are known of one that is missing: nothing may be spent then.
#[inline(always)]
pub fn limits_of<R: RuleTables>(decision: &Decision, rules: &R) -> Result<Limits, Broken> {
    limits_of_envelope(decision.envelope, rules)
}

/// Likewise, by its number.
#[inline(always)]
pub fn limits_of_envelope<R: RuleTables>(envelope: u32, rules: &R) -> Result<Limits, Broken> {
    match rules.envelope(envelope) {
        Some(rules) => rules.limits(),
        None => Err(Broken),
    }
}

/// What becomes of an allowed operation that was paid for, or not.
#[inline(always)]
pub fn spend(decision: Decision, control: ControlWord, paid: Result<bool, Broken>) -> Decision {
    let (reason, mode) = match (paid, control.unpack()) {
        (Ok(true), _) => return decision,
        (Ok(false), Some(control)) => (Reason::Limit, control.mode),
        (Ok(false), None) => (Reason::Limit, Mode::Enforce),
        (Err(Broken), _) => (Reason::Fault, Mode::Enforce),
    };
    Decision { verdict: Verdict::Deny, reason, mode, ..decision }
}

/// Whether the session stands, whatever it asks for.
#[inline(always)]
pub fn check_standing(standing: &Standing) -> Result<Control, Reason> {
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
        _ if matches!(standing.placement, Placement::OtherSession) => Err(Reason::OtherSession),
        SessionState::Revoked => Err(Reason::Revoked),
        SessionState::Quarantined => Err(Reason::Quarantined),
        SessionState::Active if standing.now_ns >= standing.expires_ns => Err(Reason::Expired),
        SessionState::Active if standing.ancestor != 0 => {
            Err(Reason::try_from(standing.ancestor).unwrap_or(Reason::Fault))
        }
        SessionState::Active if standing.image != 0 => {
            Err(Reason::try_from(standing.image).unwrap_or(Reason::Fault))
        }
        SessionState::Active => Ok(control),
    }
}

#[inline(always)]
fn decide_rules<R: RuleTables>(
    control: &Control,
    direction: Direction,
    destination: Destination,
    rules: &R,
) -> Decision {
    decide_rules_of(control, direction, destination, rules).0
}

/// Likewise; and whether a deny rule is carried out, whatever else holds: the compiler says so in its entry.
#[inline(always)]
fn decide_rules_of<R: RuleTables>(
    control: &Control,
    direction: Direction,
    destination: Destination,
    rules: &R,
) -> (Decision, bool) {
    let found = match rules.envelope(control.envelope) {
        Some(rules) => rules.find(direction, &destination),
        None => Err(Broken),
    };
    let hit = match found {
        Ok(Some(hit)) => hit,
        Ok(None) => return (denied(control, Reason::NoRule, NO_RULE), true),
        // Also in audit mode: that there are no rules is not what rules say.
        Err(Broken) => return (denied(control, Reason::Fault, NO_RULE), true),
    };
    // Anything but a clean allow is a deny.
    let decision = match Verdict::try_from(hit.verdict) {
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
    };
    (decision, hit.mode != 0 && hit.mode != Mode::Audit.raw())
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
