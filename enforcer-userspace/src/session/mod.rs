//! Who is who. Core: facts come in as arguments, nothing here does I/O.

#![forbid(unsafe_code)]

mod registry;
mod tree;

use std::{path::PathBuf, sync::Arc};

use enforcer_common::{
    identity::SessionRef,
    session::{Control, ControlWord, SessionState},
    verdict::Mode,
};
use uuid::Uuid;

use crate::envelope::{CompiledRules, Envelope};

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
    pub(crate) rules: CompiledRules,
}

/// What is fixed for a session's life.
#[derive(Debug)]
pub(crate) struct Grant {
    pub(crate) id: Uuid,
    pub(crate) slot: SessionRef,
    pub(crate) envelope: Arc<EnvelopeInForce>,
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

/// A session and its processes.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) grant: Grant,
    pub(crate) revoked: bool,
    /// An expiry is recorded once.
    pub(crate) expiry_recorded: bool,
    pub(crate) processes: ProcessTree,
}

impl Session {
    pub(crate) fn new(grant: Grant) -> Self {
        let processes = ProcessTree::new(grant.root);
        Self { grant, revoked: false, expiry_recorded: false, processes }
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

    pub(crate) fn mode(&self) -> Mode {
        self.grant.envelope.envelope.mode
    }

    /// The control word that says what this session is.
    pub(crate) fn control(&self) -> ControlWord {
        Control {
            state: if self.revoked { SessionState::Revoked } else { SessionState::Active },
            mode: self.mode(),
            envelope: self.grant.envelope.number,
            generation: self.grant.slot.generation,
        }
        .pack()
    }

    /// The name of a rule that a record names by its number.
    pub(crate) fn rule_name(&self, rule: u32) -> Option<&str> {
        let rules = &self.grant.envelope.envelope.rules;
        Some(rules.get(usize::try_from(rule).ok()?)?.name.as_str())
    }
}
