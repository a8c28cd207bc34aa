//! All sessions, and the envelopes they are held to.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use enforcer_common::{config::MAX_SESSIONS, identity::SessionRef, rules::MAX_ENVELOPES};
use uuid::Uuid;

use super::{EnvelopeInForce, Session, Status};

/// Why there is no room for a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RegistryError {
    #[error("all {MAX_SESSIONS} session slots are taken")]
    NoSlot,
    #[error("all {} envelope numbers are taken", MAX_ENVELOPES - 1)]
    NoEnvelopeNumber,
}

/// All sessions, by slot.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    sessions: BTreeMap<u32, Session>,
    by_id: HashMap<Uuid, u32>,
    /// The envelope number given out last.
    last_envelope: u32,
    /// The slot given out last: the next search starts behind it, so that a slot rests before it is used again.
    last_slot: u32,
    /// Slots that a session holds in the kernel and that we know nothing else of. They are revoked, and given out again
    /// when their processes have ended.
    strays: BTreeMap<u32, SessionRef>,
    /// Sessions without processes whose connections may still have something to send, by slot.
    lingering: BTreeMap<u32, Lingering>,
}

/// A session whose last process has ended by itself: what it sent last may still be on its way, and what the kernel has to send again,
/// or to close, leaves by the rules that the session had; until it is revoked all the same.
#[derive(Debug)]
pub(crate) struct Lingering {
    pub(crate) session: Session,
    /// The level of a cgroup that was somebody else's: its sockets are still told by it.
    pub(crate) borrowed_level: Option<u32>,
    /// ns on the boot clock.
    pub(crate) until_ns: u64,
}

impl Registry {
    pub(crate) fn insert(&mut self, session: Session) {
        self.last_envelope = self.last_envelope.max(session.envelope.number);
        self.last_slot = session.grant.slot.slot;
        self.by_id.insert(session.grant.id, session.grant.slot.slot);
        self.sessions.insert(session.grant.slot.slot, session);
    }

    pub(crate) fn remove(&mut self, id: Uuid) -> Option<Session> {
        self.sessions.remove(&self.by_id.remove(&id)?)
    }

    /// The session that holds the slot in this generation, also one that lingers.
    pub(crate) fn at(&self, slot: SessionRef) -> Option<&Session> {
        let lingering = || self.lingering.get(&slot.slot).map(|lingering| &lingering.session);
        self.sessions.get(&slot.slot).or_else(lingering).filter(|session| session.grant.slot == slot)
    }

    pub(crate) fn at_mut(&mut self, slot: SessionRef) -> Option<&mut Session> {
        self.sessions.get_mut(&slot.slot).filter(|session| session.grant.slot == slot)
    }

    /// Likewise, also one that lingers.
    pub(crate) fn known_at_mut(&mut self, slot: SessionRef) -> Option<&mut Session> {
        let lingering = self.lingering.get_mut(&slot.slot).map(|lingering| &mut lingering.session);
        self.sessions.get_mut(&slot.slot).or(lingering).filter(|session| session.grant.slot == slot)
    }

    pub(crate) fn get(&self, id: Uuid) -> Option<&Session> {
        self.sessions.get(self.by_id.get(&id)?)
    }

    pub(crate) fn get_mut(&mut self, id: Uuid) -> Option<&mut Session> {
        self.sessions.get_mut(self.by_id.get(&id)?)
    }

    /// The session with this id, also one that lingers.
    pub(crate) fn known(&self, id: Uuid) -> Option<&Session> {
        let lingering = || self.lingering().map(|lingering| &lingering.session);
        self.get(id).or_else(|| lingering().find(|session| session.grant.id == id))
    }

    pub(crate) fn known_mut(&mut self, id: Uuid) -> Option<&mut Session> {
        if self.by_id.contains_key(&id) {
            return self.get_mut(id);
        }
        let lingering = self.lingering.values_mut().map(|lingering| &mut lingering.session);
        lingering.into_iter().find(|session| session.grant.id == id)
    }

    /// The sessions that linger and whose id starts with `prefix`.
    pub(crate) fn lingering_starting_with(&self, prefix: &str) -> Vec<Uuid> {
        let ids = self.lingering().map(|lingering| lingering.session.grant.id);
        ids.filter(|id| id.to_string().starts_with(prefix)).collect()
    }

    /// The sessions whose id starts with `prefix`.
    pub(crate) fn starting_with(&self, prefix: &str) -> Vec<Uuid> {
        self.by_id.keys().filter(|id| id.to_string().starts_with(prefix)).copied().collect()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Session> {
        self.sessions.values()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Session> {
        self.sessions.values_mut()
    }

    pub(crate) fn len(&self) -> usize {
        self.sessions.len()
    }

    /// The sessions that a session has handed a part of itself, nearest first; then those that they have, and so on.
    pub(crate) fn descendants(&self, id: Uuid) -> Vec<Uuid> {
        let mut found = vec![id];
        let mut next = 0;
        while let Some(parent) = found.get(next).copied() {
            let is_child = |session: &&Session| session.grant.parent_id() == Some(parent);
            found.extend(self.iter().filter(is_child).map(|session| session.grant.id));
            next += 1;
        }
        found.split_off(1)
    }

    /// Whether any session has a part of this one.
    pub(crate) fn has_descendants(&self, id: Uuid) -> bool {
        self.iter().any(|session| session.grant.parent_id() == Some(id))
    }

    /// Where a session stands, with all those that it descends from. Its own standing is the first to be told of.
    pub(crate) fn standing_of(&self, session: &Session, now_ns: u64) -> Status {
        let above = session.grant.ancestors().map(|slot| self.at(slot).map(|above| above.status(now_ns)));
        std::iter::once(session.status(now_ns))
            // One that is gone lets nothing through any more.
            .chain(above.map(|status| status.unwrap_or(Status::Revoked)))
            .find(|status| *status != Status::Active)
            .unwrap_or(Status::Active)
    }

    /// Keeps a slot from being given out.
    pub(crate) fn insert_stray(&mut self, slot: SessionRef) {
        self.strays.insert(slot.slot, slot);
    }

    pub(crate) fn strays(&self) -> Vec<SessionRef> {
        self.strays.values().copied().collect()
    }

    pub(crate) fn remove_stray(&mut self, slot: SessionRef) {
        self.strays.remove(&slot.slot);
    }

    pub(crate) fn insert_lingering(&mut self, lingering: Lingering) {
        self.lingering.insert(lingering.session.grant.slot.slot, lingering);
    }

    pub(crate) fn lingering(&self) -> impl Iterator<Item = &Lingering> {
        self.lingering.values()
    }

    /// Those that have lingered long enough by now; and the one that has lingered longest, if slots run short.
    pub(crate) fn take_lingering(&mut self, now_ns: u64) -> Vec<Lingering> {
        const SPARE_SLOTS: usize = 256;
        let taken = self.sessions.len() + self.strays.len() + self.lingering.len();
        let over = (taken + SPARE_SLOTS).saturating_sub(MAX_SESSIONS as usize);
        let mut by_time: Vec<(u64, u32)> =
            self.lingering.iter().map(|(slot, lingering)| (lingering.until_ns, *slot)).collect();
        by_time.sort_unstable();
        let due = by_time.iter().take_while(|(until_ns, _)| *until_ns <= now_ns).count();
        let slots = by_time.into_iter().take(due.max(over)).map(|(_, slot)| slot);
        slots.filter_map(|slot| self.lingering.remove(&slot)).collect()
    }

    /// A slot that no session has.
    pub(crate) fn free_slot(&self) -> Result<u32, RegistryError> {
        let is_free = |slot: &u32| {
            !self.sessions.contains_key(slot)
                && !self.strays.contains_key(slot)
                && !self.lingering.contains_key(slot)
        };
        let mut slots = (1..=MAX_SESSIONS).map(|step| (self.last_slot + step) % MAX_SESSIONS);
        slots.find(is_free).ok_or(RegistryError::NoSlot)
    }

    /// The envelope with this digest, if a session is held to it: sessions with equal envelopes share its rules.
    pub(crate) fn envelope(&self, digest: &str) -> Option<Arc<EnvelopeInForce>> {
        let lingering = self.lingering.values().map(|lingering| &lingering.session.envelope);
        let in_force = self.iter().map(|session| &session.envelope).chain(lingering);
        let is_wanted = |envelope: &&Arc<EnvelopeInForce>| {
            envelope.digest == digest && envelope.number != EnvelopeInForce::NO_NUMBER
        };
        in_force.into_iter().find(is_wanted).cloned()
    }

    /// Whether any session is held to the envelope with this number, or its connections are.
    pub(crate) fn uses_envelope(&self, number: u32) -> bool {
        self.iter().any(|session| session.envelope.number == number)
            || self.lingering.values().any(|lingering| lingering.session.envelope.number == number)
    }

    /// A number that no envelope in force has, and that is free in the kernel.
    pub(crate) fn free_envelope_number(
        &mut self,
        is_free: impl Fn(u32) -> bool,
    ) -> Result<u32, RegistryError> {
        for _ in 1..MAX_ENVELOPES {
            self.last_envelope = (self.last_envelope + 1) % MAX_ENVELOPES;
            if is_free(self.last_envelope) && !self.uses_envelope(self.last_envelope) {
                return Ok(self.last_envelope);
            }
        }
        Err(RegistryError::NoEnvelopeNumber)
    }
}
