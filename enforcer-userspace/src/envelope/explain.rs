//! Why a destination is allowed or denied. The verdict is `decide`'s, asked of the compiled entries as the kernel asks it; what
//! is said of each rule is read off the rules as they are written. A property test holds the two together.

use enforcer_common::{
    decision::{Claim, Decision, Standing, decide},
    identity::SessionRef,
    net::Destination,
    record::Placement,
    rules::NO_RULE,
    session::{Control, SessionState},
};

use super::{CompiledTable, Envelope, Prefix, Rule, TooLarge, compile};

/// The answer, and what led to it.
#[derive(Clone, Debug)]
pub(crate) struct Explanation {
    pub(crate) decision: Decision,
    /// One for each rule, in their order.
    pub(crate) rules: Vec<RuleExplanation>,
}

/// What became of one rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RuleExplanation {
    /// It decides.
    Decides(Prefix),
    /// It matches by this prefix, and the rule with that number comes before it.
    Beaten { by: Prefix, winner: u32 },
    /// It speaks of names only, which nobody resolves yet.
    ByName,
    /// It says nothing of this protocol.
    OtherProtocol,
    /// None of its prefixes holds the address.
    OtherAddress,
    /// None of its ranges holds the port.
    OtherPort,
    /// It matches, but the destination has a form that no rule can speak of.
    NotAsked(Prefix),
}

/// Explains a destination for a session that stands.
pub(crate) fn explain(envelope: &Envelope, destination: Destination) -> Result<Explanation, TooLarge> {
    const SESSION: SessionRef = SessionRef { slot: 0, generation: 1 };
    const NUMBER: u32 = 1;
    let table = CompiledTable::new(NUMBER, &compile(envelope)?);
    let control = Control {
        state: SessionState::Active,
        mode: envelope.mode,
        envelope: NUMBER,
        generation: SESSION.generation,
    };
    let standing = Standing {
        claim: Claim::Tagged(SESSION),
        control: control.pack(),
        expires_ns: 1,
        now_ns: 0,
        placement: Placement::Home,
    };
    let decision = decide(&standing, Some(destination), &&table);
    let rules =
        envelope.rules.iter().zip(0..).map(|(rule, number)| match longest_match(rule, &destination) {
            Err(mismatch) => mismatch,
            Ok(prefix) if number == decision.rule => RuleExplanation::Decides(prefix),
            Ok(prefix) if decision.rule == NO_RULE => RuleExplanation::NotAsked(prefix),
            Ok(by) => RuleExplanation::Beaten { by, winner: decision.rule },
        });
    Ok(Explanation { decision, rules: rules.collect() })
}

/// The longest prefix of a rule that matches, or the first thing that does not.
fn longest_match(rule: &Rule, destination: &Destination) -> Result<Prefix, RuleExplanation> {
    if !rule.protocols.contains(&destination.protocol) {
        return Err(RuleExplanation::OtherProtocol);
    }
    if rule.to.is_empty() {
        return Err(RuleExplanation::ByName);
    }
    let holding = rule.to.iter().filter(|prefix| prefix.holds(destination.address));
    let longest = holding.max_by_key(|prefix| prefix.bits()).ok_or(RuleExplanation::OtherAddress)?;
    let in_range = |range: &super::PortRange| (range.first..=range.last).contains(&destination.port);
    if !destination.protocol.has_ports() || rule.ports.iter().any(in_range) {
        Ok(*longest)
    } else {
        Err(RuleExplanation::OtherPort)
    }
}
