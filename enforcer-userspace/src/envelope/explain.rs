//! Why a destination is allowed or denied, or a far end that begins a connection. The verdict is that of
//! `enforcer_common::decision`, asked of the compiled entries as the kernel asks it; what is said of each rule is read off the
//! rules as they are written. A property test holds the two together.

use enforcer_common::{
    decision::{Decision, Standing, decide, decide_packet},
    net::{Destination, Direction},
    packet::Packet,
    rules::NO_RULE,
    verdict::{Mode, Verdict},
};

use super::{CompiledTable, Envelope, ListenRule, PortRange, Prefix, Rule, TooLarge, compile};

/// The answer, and what led to it.
#[derive(Clone, Debug)]
pub(crate) struct Explanation {
    pub(crate) decision: Decision,
    /// The rules that speak of such a thing, by their numbers, in order: of a destination the allow and deny rules, of a far end
    /// the deny and listen rules.
    pub(crate) rules: Vec<(u32, RuleExplanation)>,
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
    /// It denies the far end some of the ports that it may connect from, and not all of them.
    OtherFarPort,
    /// It matches, but the destination has a form that no rule can speak of.
    NotAsked(Prefix),
}

/// Explains what becomes of a session that stands when it sends to a destination; or when somebody begins a connection to it,
/// where the address is theirs and the port is ours.
pub(crate) fn explain(
    envelope: &Envelope,
    direction: Direction,
    destination: Destination,
) -> Result<Explanation, TooLarge> {
    const NUMBER: u32 = 1;
    let table = CompiledTable::new(NUMBER, &compile(envelope)?);
    let standing = Standing::undisturbed(NUMBER, envelope.mode);
    let far = far_end(envelope, destination);
    let decision = match direction {
        Direction::Out => decide(&standing, Some(destination), &&table),
        Direction::In => {
            let packet = Packet {
                direction,
                protocol: destination.protocol,
                opens: true,
                resets: false,
                remote: destination.address,
                remote_port: far.port,
                local_port: destination.port,
            };
            decide_packet(&standing, &packet, None, &&table)
        }
    };
    let about = |rule: &Rule| match direction {
        Direction::Out => longest_match(rule, &destination),
        // Where it connects from is its own choice.
        Direction::In => longest_match(rule, &far).map_err(|mismatch| {
            if mismatch == RuleExplanation::OtherPort { RuleExplanation::OtherFarPort } else { mismatch }
        }),
    };
    let speaks = |rule: &Rule| direction == Direction::Out || rule.verdict == Verdict::Deny;
    let rules = envelope.rules.iter().zip(0..).filter(|(rule, _)| speaks(rule));
    let listen = envelope.listen.iter().zip((0..).skip(envelope.rules.len()));
    let listen = listen.filter(|_| direction == Direction::In);
    let found = rules
        .map(|(rule, number)| (number, about(rule)))
        .chain(listen.map(|(rule, number)| (number, lets_in(rule, &destination))));
    let rules = found.map(|(number, found)| {
        let said = match found {
            Err(mismatch) => mismatch,
            Ok(prefix) if number == decision.rule => RuleExplanation::Decides(prefix),
            Ok(prefix) if decision.rule == NO_RULE => RuleExplanation::NotAsked(prefix),
            Ok(by) => RuleExplanation::Beaten { by, winner: decision.rule },
        };
        (number, said)
    });
    Ok(Explanation { decision, rules: rules.collect() })
}

/// The far end with the port from which it gets furthest: the first that no deny rule matches, or at least none that is carried
/// out.
fn far_end(envelope: &Envelope, destination: Destination) -> Destination {
    let free = |is_asked: &dyn Fn(&Rule) -> bool| {
        let denying = envelope.rules.iter().filter(|rule| rule.verdict == Verdict::Deny && is_asked(rule));
        let denying = denying.filter(|rule| {
            rule.protocols.contains(&destination.protocol) && holding(&rule.to, &destination).is_some()
        });
        let mut denied: Vec<PortRange> = denying.flat_map(|rule| rule.ports.iter().copied()).collect();
        denied.sort_unstable();
        let mut port = Some(1);
        for range in denied {
            if port.is_some_and(|port| range.holds(port)) {
                port = range.last.checked_add(1);
            }
        }
        port
    };
    let carried_out = |rule: &Rule| rule.effective_mode(envelope.mode) == Mode::Enforce;
    let port = free(&|_| true).or_else(|| free(&carried_out)).unwrap_or(u16::MAX);
    Destination { port, ..destination }
}

/// The longest prefix of a rule that matches, or the first thing that does not.
fn longest_match(rule: &Rule, destination: &Destination) -> Result<Prefix, RuleExplanation> {
    if !rule.protocols.contains(&destination.protocol) {
        return Err(RuleExplanation::OtherProtocol);
    }
    if rule.to.is_empty() {
        return Err(RuleExplanation::ByName);
    }
    let longest = holding(&rule.to, destination).ok_or(RuleExplanation::OtherAddress)?;
    if !destination.protocol.has_ports() || rule.speaks_of_port(destination.port) {
        Ok(longest)
    } else {
        Err(RuleExplanation::OtherPort)
    }
}

/// Likewise of a listen rule, for a far end that connects to a port of ours.
fn lets_in(rule: &ListenRule, destination: &Destination) -> Result<Prefix, RuleExplanation> {
    if !rule.protocols.contains(&destination.protocol) {
        return Err(RuleExplanation::OtherProtocol);
    }
    let longest = holding(&rule.from, destination).ok_or(RuleExplanation::OtherAddress)?;
    let in_range = rule.ports.iter().any(|range| range.holds(destination.port));
    if in_range { Ok(longest) } else { Err(RuleExplanation::OtherPort) }
}

/// The longest prefix that holds the address.
fn holding(prefixes: &[Prefix], destination: &Destination) -> Option<Prefix> {
    let holding = prefixes.iter().filter(|prefix| prefix.holds(destination.address));
    holding.max_by_key(|prefix| prefix.bits()).copied()
}
