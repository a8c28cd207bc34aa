//! Who is who. Core: facts come in as arguments, nothing here does I/O.

#![forbid(unsafe_code)]

mod container;
mod context;
mod openings;
mod reach;
mod refusals;
mod registry;
mod tree;

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use enforcer_common::{
    identity::SessionRef,
    session::{Control, ControlWord, SessionState},
    verdict::Mode,
};
use uuid::Uuid;

use crate::{chain::Hop, envelope::Envelope, record::SessionText};

pub(crate) use container::Container;
pub(crate) use context::{Context, ContextError};
pub(crate) use openings::{Opener, Opening, OpeningKey, Openings};
pub(crate) use reach::{Link, Reach};
pub(crate) use refusals::{Attempt, Refusals, Refused};
pub(crate) use registry::{Lingering, Registry};
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

impl EnvelopeInForce {
    /// The number of no envelope: the kernel has no table for it, and whoever is held to it is refused everything.
    pub(crate) const NO_NUMBER: u32 = 0;
}

/// What is fixed for a session's life.
#[derive(Debug)]
pub(crate) struct Grant {
    pub(crate) id: Uuid,
    pub(crate) slot: SessionRef,
    pub(crate) cgroup: PathBuf,
    pub(crate) cgroup_id: u64,
    /// Whether the cgroup is somebody else's, such as a container's: it is used as it stands, and stays.
    pub(crate) borrowed_cgroup: bool,
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
    /// The session that handed it a part of itself.
    pub(crate) parent: Option<Lineal>,
    /// What whoever registered it said of it.
    pub(crate) context: Context,
    /// The one that its first process ran in.
    pub(crate) container: Option<Container>,
}

/// A session that has handed on a part of itself, as its sub-session knows it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Lineal {
    pub(crate) id: Uuid,
    /// Itself, its own parent, and so on.
    pub(crate) ancestors: Vec<Slot>,
    /// Their agents, from the top down. An earlier release did not write them down.
    #[serde(default)]
    pub(crate) agents: Vec<String>,
}

/// A [`SessionRef`] as it is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Slot {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

impl Grant {
    /// The slots of those that it descends from, nearest first.
    pub(crate) fn ancestors(&self) -> impl Iterator<Item = SessionRef> {
        let ancestors = self.parent.iter().flat_map(|parent| &parent.ancestors);
        ancestors.map(|Slot { slot, generation }| SessionRef { slot: *slot, generation: *generation })
    }

    /// The agents of those that it descends from, from the top down. Nothing where that is not known.
    pub(crate) fn agents_above(&self) -> Option<&[String]> {
        match &self.parent {
            None => Some(&[]),
            Some(parent) => Some(parent.agents.as_slice()).filter(|agents| !agents.is_empty()),
        }
    }

    pub(crate) fn parent_id(&self) -> Option<Uuid> {
        self.parent.as_ref().map(|parent| parent.id)
    }
}

/// Where a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// Its processes are on their way into it.
    Registering,
    Active,
    Expired,
    Revoked,
    Quarantined,
}

impl Status {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Registering => "registering",
            Self::Active => "active",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::Quarantined => "quarantined",
        }
    }
}

/// An envelope that a session was held to.
#[derive(Debug)]
pub(crate) struct Replaced {
    pub(crate) envelope: Arc<EnvelopeInForce>,
    text: SessionText,
    /// ns on the boot clock.
    pub(crate) at_ns: u64,
}

/// A session and its processes.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) grant: Grant,
    pub(crate) envelope: Arc<EnvelopeInForce>,
    /// What lines say of it, under this envelope.
    pub(crate) text: SessionText,
    /// What it was held to before, for as long as there may be records that name its rules.
    pub(crate) replaced: Vec<Replaced>,
    /// Active, revoked or in quarantine.
    pub(crate) state: SessionState,
    /// ns on the boot clock. Before, its processes were still on their way into its cgroup.
    pub(crate) settled_ns: u64,
    /// Its processes ran before it did, and not all of them are known to be held to it yet.
    pub(crate) registering: bool,
    /// It was stopped to be registered, and does not go on yet.
    pub(crate) stopped: bool,
    /// An expiry is recorded once.
    pub(crate) expiry_recorded: bool,
    pub(crate) processes: ProcessTree,
    /// Processes that were not where their tag says, and are known to be: said once for each.
    pub(crate) misplaced: BTreeSet<u32>,
    /// Since the daemon started.
    pub(crate) refusals: Refusals,
    /// Connections that are open, likewise.
    pub(crate) openings: Openings,
    /// The statement of what it is held to. None of one that nobody knows.
    pub(crate) hop: Option<Hop>,
}

impl Session {
    pub(crate) fn new(grant: Grant, envelope: Arc<EnvelopeInForce>) -> Self {
        let processes = ProcessTree::new(grant.root);
        let text = SessionText::under(&grant, &envelope);
        Self {
            grant,
            envelope,
            text,
            replaced: Vec::new(),
            state: SessionState::Active,
            settled_ns: 0,
            registering: false,
            stopped: false,
            expiry_recorded: false,
            processes,
            misplaced: BTreeSet::new(),
            refusals: Refusals::default(),
            openings: Openings::default(),
            hop: None,
        }
    }

    /// Holds the session to another envelope.
    pub(crate) fn replace_envelope(&mut self, envelope: Arc<EnvelopeInForce>, now_ns: u64) {
        let text = std::mem::replace(&mut self.text, SessionText::under(&self.grant, &envelope));
        let envelope = std::mem::replace(&mut self.envelope, envelope);
        self.replaced.push(Replaced { envelope, text, at_ns: now_ns });
    }

    /// There may be records that name the rules of this envelope, too.
    pub(crate) fn was_held_to(&mut self, envelope: Arc<EnvelopeInForce>, now_ns: u64) {
        let text = SessionText::under(&self.grant, &envelope);
        self.replaced.push(Replaced { envelope, text, at_ns: now_ns });
    }

    /// Forgets the envelopes that were replaced before `then_ns`: every record of theirs has been taken.
    pub(crate) fn forget_replaced(&mut self, then_ns: u64) {
        self.replaced.retain(|replaced| replaced.at_ns >= then_ns);
    }

    pub(crate) const fn status(&self, now_ns: u64) -> Status {
        match self.state {
            SessionState::Revoked | SessionState::Free => Status::Revoked,
            SessionState::Quarantined => Status::Quarantined,
            SessionState::Active if now_ns >= self.grant.expires_ns => Status::Expired,
            SessionState::Active if self.registering => Status::Registering,
            SessionState::Active => Status::Active,
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
            state: self.state,
            mode: envelope.envelope.mode,
            envelope: envelope.number,
            generation: self.grant.slot.generation,
        }
        .pack()
    }

    /// The envelope that a record names by its number.
    pub(crate) fn envelope_of(&self, number: u32) -> Option<&EnvelopeInForce> {
        self.known(number).map(|(envelope, _)| envelope)
    }

    /// What lines say of it while it was held to that envelope.
    pub(crate) fn text_under(&self, number: u32) -> Option<&SessionText> {
        self.known(number).map(|(_, text)| text)
    }

    fn known(&self, number: u32) -> Option<(&EnvelopeInForce, &SessionText)> {
        let replaced = self.replaced.iter().rev().map(|replaced| (&*replaced.envelope, &replaced.text));
        let mut known = std::iter::once((&*self.envelope, &self.text)).chain(replaced);
        known.find(|(envelope, _)| envelope.number == number)
    }

    /// The name of a rule for Unix sockets, likewise.
    pub(crate) fn unix_rule_name(&self, envelope: u32, rule: u32) -> Option<&str> {
        let rules = self.envelope_of(envelope)?.envelope.unix.as_ref()?;
        Some(rules.get(usize::try_from(rule).ok()?)?.name.as_str())
    }

    /// The name of a rule that a record names by its number and its envelope's.
    pub(crate) fn rule_name(&self, envelope: u32, rule: u32) -> Option<&str> {
        self.envelope_of(envelope)?.envelope.rule_name(rule)
    }
}

/// The one of two states that lets less happen: where two places disagree about a session, this is the one to go by.
pub(crate) const fn stricter(a: SessionState, b: SessionState) -> SessionState {
    match (a, b) {
        (SessionState::Free, _) | (_, SessionState::Free) => SessionState::Free,
        (SessionState::Revoked, _) | (_, SessionState::Revoked) => SessionState::Revoked,
        (SessionState::Quarantined, _) | (_, SessionState::Quarantined) => SessionState::Quarantined,
        (SessionState::Active, SessionState::Active) => SessionState::Active,
    }
}
