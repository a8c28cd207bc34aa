//! Who is who. Core: facts come in as arguments, nothing here does I/O.

#![forbid(unsafe_code)]

mod registry;
mod tree;

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use enforcer_common::{
    identity::SessionRef,
    session::{Control, ControlWord, SessionState},
    verdict::Mode,
};
use uuid::Uuid;

use crate::envelope::Envelope;

pub(crate) use registry::Registry;
pub(crate) use tree::{ProcessKey, ProcessTree, ProcessView};

/// An envelope that sessions are held to, under its number in the kernel.
#[derive(Debug)]
pub(crate) struct EnvelopeInForce {
    pub(crate) number: u32,
    /// SHA-256 of the text, hexadecimal.
    pub(crate) digest: String,
    pub(crate) text: String,
    pub(crate) envelope: Envelope,
    /// How many blocks its table in the kernel has.
    pub(crate) blocks: u64,
}

/// What is fixed for a session's life.
#[derive(Debug)]
pub(crate) struct Grant {
    pub(crate) id: Uuid,
    pub(crate) slot: SessionRef,
    pub(crate) cgroup: PathBuf,
    pub(crate) cgroup_id: u64,
    /// Where the first process was before, as /proc names it: it goes back there when the session is released.
    pub(crate) cgroup_before: String,
    /// ns on the boot clock.
    pub(crate) started_ns: u64,
    /// ns on the boot clock.
    pub(crate) expires_ns: u64,
    pub(crate) command: Vec<String>,
    /// Who asked, as the kernel says.
    pub(crate) registered_by_uid: u32,
    /// The first process.
    pub(crate) root: ProcessKey,
}

/// Where a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Active,
    Expired,
    Revoked,
}

impl Status {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

/// An envelope that a session was held to.
#[derive(Debug)]
pub(crate) struct Replaced {
    pub(crate) envelope: Arc<EnvelopeInForce>,
    /// ns on the boot clock.
    pub(crate) at_ns: u64,
}

/// A session and its processes.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) grant: Grant,
    pub(crate) envelope: Arc<EnvelopeInForce>,
    /// What it was held to before, for as long as there may be records that name its rules.
    pub(crate) replaced: Vec<Replaced>,
    pub(crate) revoked: bool,
    /// An expiry is recorded once.
    pub(crate) expiry_recorded: bool,
    pub(crate) processes: ProcessTree,
    /// Processes that were not where their tag says, and are known to be: said once for each.
    pub(crate) misplaced: BTreeSet<u32>,
}

impl Session {
    pub(crate) fn new(grant: Grant, envelope: Arc<EnvelopeInForce>) -> Self {
        let processes = ProcessTree::new(grant.root);
        Self {
            grant,
            envelope,
            replaced: Vec::new(),
            revoked: false,
            expiry_recorded: false,
            processes,
            misplaced: BTreeSet::new(),
        }
    }

    /// Holds the session to another envelope.
    pub(crate) fn replace_envelope(&mut self, envelope: Arc<EnvelopeInForce>, now_ns: u64) {
        let envelope = std::mem::replace(&mut self.envelope, envelope);
        self.replaced.push(Replaced { envelope, at_ns: now_ns });
    }

    /// Forgets the envelopes that were replaced before `then_ns`: every record of theirs has been taken.
    pub(crate) fn forget_replaced(&mut self, then_ns: u64) {
        self.replaced.retain(|replaced| replaced.at_ns >= then_ns);
    }

    pub(crate) const fn status(&self, now_ns: u64) -> Status {
        if self.revoked {
            Status::Revoked
        } else if now_ns >= self.grant.expires_ns {
            Status::Expired
        } else {
            Status::Active
        }
    }

    /// The agent's name.
    pub(crate) fn agent(&self) -> &str {
        &self.envelope.envelope.metadata.name
    }

    pub(crate) fn mode(&self) -> Mode {
        self.envelope.envelope.mode
    }

    /// The control word that says what this session is.
    pub(crate) fn control(&self) -> ControlWord {
        self.control_under(&self.envelope)
    }

    /// The control word that it would have under another envelope.
    pub(crate) fn control_under(&self, envelope: &EnvelopeInForce) -> ControlWord {
        Control {
            state: if self.revoked { SessionState::Revoked } else { SessionState::Active },
            mode: envelope.envelope.mode,
            envelope: envelope.number,
            generation: self.grant.slot.generation,
        }
        .pack()
    }

    /// The envelope that a record names by its number.
    pub(crate) fn envelope_of(&self, number: u32) -> Option<&EnvelopeInForce> {
        let replaced = self.replaced.iter().rev().map(|replaced| &replaced.envelope);
        std::iter::once(&self.envelope)
            .chain(replaced)
            .map(|known| &**known)
            .find(|known| known.number == number)
    }

    /// The name of a rule for Unix sockets, likewise.
    pub(crate) fn unix_rule_name(&self, envelope: u32, rule: u32) -> Option<&str> {
        let rules = self.envelope_of(envelope)?.envelope.unix.as_ref()?;
        Some(rules.get(usize::try_from(rule).ok()?)?.name.as_str())
    }

    /// The name of a rule that a record names by its number and its envelope's.
    pub(crate) fn rule_name(&self, envelope: u32, rule: u32) -> Option<&str> {
        let rules = &self.envelope_of(envelope)?.envelope.rules;
        Some(rules.get(usize::try_from(rule).ok()?)?.name.as_str())
    }
}
