//! Envelopes: from text to the entries the kernel looks up.
//!
//! `document` reads YAML into a tree that knows where each node stands, `parse` reads that tree into [`Envelope`],
//! `compile` flattens it into prefix entries. Nothing here does I/O. What the text means is written down in
//! `policies/README.md`.

#![forbid(unsafe_code)]

pub(crate) mod compile;
mod diagnostic;
mod document;
mod explain;
mod fields;
mod parse;
mod prefix;

use enforcer_common::net::Protocol;
use enforcer_common::verdict::{Mode, Verdict};
use std::fmt;
use std::time::Duration;

pub(crate) use compile::{CompiledRules, CompiledTable, TooLarge};
pub(crate) use diagnostic::{Diagnostic, Diagnostics};
pub(crate) use explain::{Explanation, RuleExplanation, explain};
pub(crate) use parse::parse;
pub(crate) use prefix::Prefix;

/// The work that compiling an envelope may take: seconds, and as many entries as the kernel's tables hold.
const MAX_COMPILE_STEPS: u64 = 100_000_000;

/// Flattens an envelope into what the kernel looks up.
pub(crate) fn compile(envelope: &Envelope) -> Result<CompiledRules, TooLarge> {
    compile::compile_within(envelope, MAX_COMPILE_STEPS)
}

/// What an agent is, who answers for it, and where it may connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Envelope {
    pub(crate) metadata: Metadata,
    pub(crate) mode: Mode,
    /// How long a session lasts.
    pub(crate) ttl: Duration,
    /// The allow rules as written, then the rule that `loopback: allow` stands for, then the deny rules. The index is the
    /// rule's number in the kernel and in records.
    pub(crate) rules: Vec<Rule>,
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
}

/// One rule: it speaks of every combination of its protocols, prefixes and ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) name: String,
    /// Where it stands in the text, from 1.
    pub(crate) line: u32,
    pub(crate) verdict: Verdict,
    /// Sorted, each once.
    pub(crate) protocols: Vec<Protocol>,
    pub(crate) to: Vec<Prefix>,
    pub(crate) ports: Vec<PortRange>,
}

/// Ports from `first` to `last`, both included. Never holds port 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PortRange {
    pub(crate) first: u16,
    pub(crate) last: u16,
}

impl PortRange {
    /// Every port there is: port 0 is not a port one can connect to.
    pub(crate) const ANY: Self = Self { first: 1, last: u16::MAX };
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
