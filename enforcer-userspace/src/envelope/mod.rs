//! Envelopes: from text to the entries the kernel looks up.
//!
//! `document` reads YAML into a tree that knows where each node stands, `parse` reads that tree into [`Envelope`] by the
//! tables in `language`, `flatten` resolves overlaps, `compile` makes the blocks of the kernel's table. `algebra` compares
//! envelopes and combines them, `write` goes back to text. Nothing here does I/O. What the text means is written down in
//! `policies/README.md`.

#![forbid(unsafe_code)]

mod algebra;
pub(crate) mod compile;
mod diagnostic;
mod document;
mod exec;
mod explain;
mod fields;
mod flatten;
mod language;
mod lint;
mod parse;
mod prefix;
mod schema;
mod sets;
mod spans;
mod table;
#[cfg(test)]
mod test_support;
mod words;
mod write;

use enforcer_common::net::Protocol;
use enforcer_common::verdict::{Mode, Verdict};
use std::fmt;
use std::time::Duration;

pub(crate) use algebra::{Amount, Excess, Region, RuleRef, Service, What, difference, excess, intersect};
pub(crate) use compile::CompiledRules;
pub(crate) use diagnostic::{Diagnostic, Diagnostics};
pub(crate) use document::{MAX_TEXT, decode};
pub(crate) use exec::{Exec, ExecMode, Image, OnMismatch, Sha256, Unlisted};
pub(crate) use explain::{Explanation, RuleExplanation, explain};
pub(crate) use flatten::TooLarge;
pub(crate) use lint::{Warning, lint};
pub(crate) use parse::parse;
pub(crate) use prefix::Prefix;
pub(crate) use schema::schema;
pub(crate) use table::CompiledTable;
pub(crate) use words::{First, amount, excess_lines};
pub(crate) use write::{size, ttl, write};

/// The work that compiling an envelope may take: seconds. A million rules take a fifth of it.
const MAX_COMPILE_STEPS: u64 = 20_000_000;

/// The blocks that a compiled envelope may have: 256 MiB. A million rules take a quarter of it.
pub(crate) const MAX_BLOCKS: usize = 2_097_152;

/// Flattens an envelope into what the kernel looks up.
pub(crate) fn compile(envelope: &Envelope) -> Result<CompiledRules, TooLarge> {
    compile::compile_within(envelope, MAX_COMPILE_STEPS, MAX_BLOCKS)
}

/// What an agent is, who answers for it, where it may connect, and who may connect to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Envelope {
    pub(crate) metadata: Metadata,
    pub(crate) mode: Mode,
    /// How long a session lasts.
    pub(crate) ttl: Duration,
    /// What the host must offer, as written; see [`Envelope::needs`] for all of it.
    pub(crate) requires: Vec<Requirement>,
    /// The allow rules as written, then the rule that `loopback: allow` stands for, then the deny rules. The index is the
    /// rule's number in the kernel and in records.
    pub(crate) rules: Vec<Rule>,
    /// The listen rules as written, then the one that `loopback: allow` stands for. Their numbers follow those of `rules`.
    pub(crate) listen: Vec<ListenRule>,
    /// `None`: the envelope says nothing of it.
    pub(crate) unix: Option<Vec<UnixRule>>,
    pub(crate) exec: Exec,
    pub(crate) limits: Limits,
    pub(crate) on_finding: OnFinding,
}

impl Envelope {
    /// What a host must offer to hold a session to this envelope: what it requires by name, and whatever it restricts, which
    /// is always where a session may connect and who may connect to it. Rules that only allow something are not among it: where
    /// they have no effect, less is allowed.
    pub(crate) fn needs(&self) -> Vec<Requirement> {
        let mut needs = self.requires.clone();
        needs.extend([Requirement::Egress, Requirement::Listen]);
        needs.extend(self.unix.is_some().then_some(Requirement::Unix));
        needs.extend(self.exec.restricts_images().then_some(Requirement::Exec));
        needs.extend((!self.exec.files.is_empty()).then_some(Requirement::Files));
        needs.extend((self.limits != Limits::default()).then_some(Requirement::Limits));
        needs.extend(self.limits.processes.is_some().then_some(Requirement::Processes));
        needs.sort_unstable();
        needs.dedup();
        needs
    }

    /// The name of the rule with this number in the kernel and in records.
    pub(crate) fn rule_name(&self, number: u32) -> Option<&str> {
        Some(self.named(number)?.0)
    }

    /// Its verdict; those behind the allow and deny rules are listen rules.
    pub(crate) fn verdict(&self, number: u32) -> Verdict {
        let number = usize::try_from(number).unwrap_or(usize::MAX);
        self.rules.get(number).map_or(Verdict::Allow, |rule| rule.verdict)
    }

    /// Its name, and the line it stands on.
    pub(crate) fn named(&self, number: u32) -> Option<(&str, u32)> {
        let number = usize::try_from(number).ok()?;
        match number.checked_sub(self.rules.len()) {
            None => self.rules.get(number).map(|rule| (rule.name.as_str(), rule.line)),
            Some(listen) => self.listen.get(listen).map(|rule| (rule.name.as_str(), rule.line)),
        }
    }

    /// Whether a Unix socket may be connected to, by its path or as rules name it: all of them, if it says nothing of any.
    pub(crate) fn lets_reach_unix(&self, address: &str) -> bool {
        let names_it = |rule: &UnixRule| rule.to.iter().any(|to| to == address);
        self.unix.as_ref().is_none_or(|rules| self.mode == Mode::Audit || rules.iter().any(names_it))
    }

    /// Whether no abstract Unix socket may be connected to.
    pub(crate) fn bars_abstract_unix(&self) -> bool {
        let is_abstract = |rule: &UnixRule| rule.to.iter().any(|address| address.starts_with('@'));
        self.unix.as_ref().is_some_and(|rules| !rules.iter().any(is_abstract))
    }
}

/// Who and what for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Metadata {
    /// The agent.
    pub(crate) name: String,
    /// The human who answers for it.
    pub(crate) owner: String,
    pub(crate) operator: String,
    pub(crate) purpose: String,
    pub(crate) model: String,
    /// Which edition of this agent's envelope it is.
    pub(crate) revision: u64,
}

/// What becomes of a session about which there is a finding. Ordered by strictness.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum OnFinding {
    /// It is recorded.
    #[default]
    Record,
    /// The session is put in quarantine as well.
    Quarantine,
}

impl OnFinding {
    pub(crate) const ALL: [Self; 2] = [Self::Record, Self::Quarantine];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Record => "record",
            Self::Quarantine => "quarantine",
        }
    }
}

/// Something that a host holds sessions to, or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Requirement {
    /// TCP and UDP destinations.
    Egress,
    /// ICMP destinations.
    Icmp,
    /// Rules that name hosts.
    Names,
    /// Rules that name agents.
    Agents,
    /// Inbound connections.
    Listen,
    /// Unix sockets.
    Unix,
    /// Connections, rates and bytes.
    Limits,
    /// What is executed.
    Exec,
    /// Files with an expected content.
    Files,
    /// `limits.processes`; no word of `requires`.
    Processes,
}

impl Requirement {
    /// Those that `requires` can ask for.
    pub(crate) const ALL: [Self; 9] = [
        Self::Egress,
        Self::Icmp,
        Self::Names,
        Self::Agents,
        Self::Listen,
        Self::Unix,
        Self::Limits,
        Self::Exec,
        Self::Files,
    ];

    /// The word in `requires`, or the field.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Egress => "egress",
            Self::Icmp => "icmp",
            Self::Names => "names",
            Self::Agents => "agents",
            Self::Listen => "listen",
            Self::Unix => "unix",
            Self::Limits => "limits",
            Self::Exec => "exec",
            Self::Files => "files",
            Self::Processes => "limits.processes",
        }
    }

    /// Whether this release holds sessions to it on every host.
    pub(crate) const fn is_held(self) -> bool {
        !matches!(self, Self::Names | Self::Agents | Self::Unix | Self::Processes)
    }

    /// Whether it does where the guard is.
    pub(crate) const fn is_held_by_guard(self) -> bool {
        matches!(self, Self::Unix)
    }
}

/// One rule: it speaks of every combination of its protocols, destinations and ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) name: String,
    /// Where it stands in the text, from 1.
    pub(crate) line: u32,
    pub(crate) verdict: Verdict,
    /// Of a deny rule: its own mode, instead of the envelope's. Never set in an allow rule.
    pub(crate) mode: Option<Mode>,
    /// Sorted, each once. ICMP is among those of `protocol: any` only if the rule speaks of every port.
    pub(crate) protocols: Vec<Protocol>,
    pub(crate) to: Vec<Prefix>,
    /// Host names. Allow rules only; they allow what a resolver grants, so without one nothing.
    pub(crate) names: Vec<HostPattern>,
    /// Agents whose listening ports on this host are meant. Allow rules only.
    pub(crate) agents: Vec<String>,
    /// Empty if ICMP is the only protocol.
    pub(crate) ports: Vec<PortRange>,
}

impl Rule {
    /// Whether a deny by this rule is carried out in an envelope of this mode.
    pub(crate) fn effective_mode(&self, envelope: Mode) -> Mode {
        self.mode.unwrap_or(envelope)
    }

    /// Whether one of its ranges holds the port. A deny rule for any port is one for port 0 as well: no program can connect to
    /// it, but packets can come from it.
    pub(crate) fn speaks_of_port(&self, port: u16) -> bool {
        self.ports.iter().any(|range| {
            range.holds(port) || port == 0 && self.verdict == Verdict::Deny && *range == PortRange::ANY
        })
    }
}

/// A host name, or every name below one: `api.example.com`, `*.example.com`. In lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct HostPattern(String);

impl HostPattern {
    /// Whether every name that `other` stands for is one of ours.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "for a resolver; comparing envelopes looks suffixes up")
    )]
    pub(crate) fn covers(&self, other: &Self) -> bool {
        match self.0.strip_prefix('*') {
            // The dot before the domain is in the suffix: `*.example.com` is not example.com itself.
            Some(suffix) => other.0.ends_with(suffix),
            None => self == other,
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// From where which local ports may be reached. What no such rule allows is refused, as what no allow rule allows is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListenRule {
    pub(crate) name: String,
    pub(crate) line: u32,
    pub(crate) protocols: Vec<Protocol>,
    pub(crate) from: Vec<Prefix>,
    pub(crate) ports: Vec<PortRange>,
}

/// Which Unix sockets may be connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UnixRule {
    pub(crate) name: String,
    pub(crate) line: u32,
    /// Absolute paths, and abstract names after an `@`. Each exactly.
    pub(crate) to: Vec<String>,
}

/// How much of everything; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) connections: Option<u64>,
    pub(crate) connection_rate: Option<Rate>,
    pub(crate) bytes_out: Option<u64>,
    pub(crate) bytes_in: Option<u64>,
    pub(crate) processes: Option<u64>,
    /// How deep sub-sessions may nest.
    pub(crate) depth: Option<u64>,
}

/// So many in so many seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    pub(crate) count: u64,
    pub(crate) seconds: u64,
}

/// Ports from `first` to `last`, both included. Never holds port 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct PortRange {
    pub(crate) first: u16,
    pub(crate) last: u16,
}

impl PortRange {
    /// Every port there is: port 0 is not a port one can connect to.
    pub(crate) const ANY: Self = Self { first: 1, last: u16::MAX };

    pub(crate) fn holds(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ANY => f.write_str("any"),
            Self { first, last } if first == last => write!(f, "{first}"),
            Self { first, last } => write!(f, "{first}-{last}"),
        }
    }
}
