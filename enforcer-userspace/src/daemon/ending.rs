//! The end of a session: its expiry, its last process, and what lingers of it.

use std::sync::Arc;

use enforcer_common::{
    identity::SessionRef,
    session::{Control, SessionState},
    verdict::Mode,
};
use uuid::Uuid;

use super::{Daemon, DaemonError, cut::Which};
use crate::{
    clock,
    kernel::MapsError,
    record::{EventKind, EventLine},
    session::{Lingering, Session, Status},
    state::SessionFile,
};

/// How long after the end of its last process what a session sent may still be on its way: TCP gives up on what nobody answers after
/// some 100 s if no process has it open any more (tcp_orphan_retries).
const LINGER_NS: u64 = 120_000_000_000;
/// Likewise where the cgroup is somebody else's: until what the envelope does not allow has been destroyed.
const BORROWED_LINGER_NS: u64 = 2_000_000_000;

impl Daemon {
    /// The kernel has enforced it since the moment it came; here it is written down.
    pub(super) fn record_expiries(&mut self) -> Result<(), DaemonError> {
        let now_ns = clock::boot_ns();
        let mut expired = Vec::new();
        for session in self.registry.iter_mut() {
            if session.status(now_ns) == Status::Expired && !session.expiry_recorded {
                session.expiry_recorded = true;
                expired.push(session.grant.id);
                let time = clock::wall(session.grant.expires_ns);
                self.events.write(EventLine::new(EventKind::SessionExpired, &time).session(session));
            }
        }
        for id in &expired {
            self.begin_cut(*id, Which::All, None);
        }
        // So that the next daemon knows.
        for id in expired {
            if let Some(session) = self.registry.get(id) {
                self.state.save(&SessionFile::new(session, &self.host.boot_id))?;
            }
        }
        Ok(())
    }

    /// Ends the sessions whose last process has ended, as their records say.
    pub(super) fn end_finished(&mut self) -> Result<(), DaemonError> {
        let finished: Vec<_> = self
            .registry
            .iter()
            .filter(|session| !session.registering && session.processes.live().next().is_none())
            .map(|session| (session.grant.id, session.grant.slot.slot))
            .collect();
        for (id, slot) in finished {
            if self.kernel.sessions.processes(slot)? == 0 {
                self.end(id)?;
            }
        }
        Ok(())
    }

    /// Ends the sessions that have had no process for a whole tick, though a record of an exit is missing.
    pub(super) fn end_empty(&mut self) -> Result<(), DaemonError> {
        let mut empty = std::collections::BTreeSet::new();
        for session in self.registry.iter().filter(|session| !session.registering) {
            if self.kernel.sessions.processes(session.grant.slot.slot)? == 0 {
                empty.insert(session.grant.id);
            }
        }
        for id in self.empty.intersection(&empty).copied().collect::<Vec<_>>() {
            empty.remove(&id);
            self.end(id)?;
        }
        self.empty = empty;
        for stray in self.registry.strays() {
            if self.kernel.sessions.processes(stray.slot)? == 0 {
                self.free_slot(stray)?;
                self.registry.remove_stray(stray);
            }
        }
        Ok(())
    }

    /// Sets the number of a session's processes right where the kernel counts some and nobody has its tag: a process that ended while it was
    /// handed over was counted for the wrong one.
    pub(super) fn recount(&mut self) -> Result<(), DaemonError> {
        let is_alone = |session: &&Session| !session.registering && session.processes.live().next().is_none();
        let seem_alone = self.registry.iter().filter(is_alone);
        let slots: Vec<_> = seem_alone.map(|session| session.grant.slot).collect();
        for slot in slots {
            let counted = self.kernel.sessions.processes(slot.slot)?;
            if counted != 0 && self.kernel.tagger.tags_of(slot)?.is_empty() {
                self.kernel.sessions.forget_processes(slot.slot)?;
            }
        }
        Ok(())
    }

    /// Takes a session without processes out of the kernel. One whose cgroup still holds a process stays: that process
    /// has no tag, and is refused everything for as long as it is there.
    fn end(&mut self, id: Uuid) -> Result<(), DaemonError> {
        if self.registry.has_descendants(id) {
            // They stand by it, and what they spend is taken from it: it goes after the last of them.
            return Ok(());
        }
        let Some(session) = self.registry.get(id) else {
            return Ok(());
        };
        // Somebody else's stays; while anybody is in it, who has no tag then, so does the session.
        let is_left = match session.grant.borrowed_cgroup {
            true => self.cgroups.all_processes(&session.grant.cgroup)?.is_empty(),
            false => self.cgroups.remove(&session.grant.cgroup)?,
        };
        if !is_left {
            return Ok(());
        }
        let level = self.cgroups.level_of(&session.grant.cgroup);
        let borrowed_level = session.grant.borrowed_cgroup.then_some(level);
        if borrowed_level.is_some() {
            // What was kept outside the envelope must not be free when its cgroup is.
            let envelope = Arc::clone(&session.envelope);
            self.begin_cut(id, Which::Outside(envelope), None);
        }
        // From here on it is over, whatever becomes of the rest.
        let Some(session) = self.registry.remove(id) else {
            return Ok(());
        };
        self.end_detecting(&session, true);
        let why = self.remember_ended(&session);
        let line = EventLine::new(EventKind::SessionEnded, &clock::wall(clock::boot_ns()));
        self.events.write(line.session(&session).detail(why));
        let now_ns = clock::boot_ns();
        let until_ns = match session.status(now_ns) {
            // Whoever comes to be in somebody else's cgroup is not to be refused everything for long.
            Status::Active if borrowed_level.is_some() => now_ns.saturating_add(BORROWED_LINGER_NS),
            Status::Active => now_ns.saturating_add(LINGER_NS).min(session.grant.expires_ns),
            Status::Registering | Status::Expired | Status::Revoked | Status::Quarantined => now_ns,
        };
        self.registry.insert_lingering(Lingering { session, borrowed_level, until_ns });
        self.state.forget(id)?;
        self.end_lingering()
    }

    pub(super) fn note_removed_rules(&mut self) -> Result<(), DaemonError> {
        Ok(self.kernel.rules.take_note()?)
    }

    /// Takes out of the kernel what is left of sessions that ended some time ago.
    pub(super) fn end_lingering(&mut self) -> Result<(), DaemonError> {
        let gone = self.registry.take_lingering(clock::boot_ns());
        let gone: Vec<Session> = gone.into_iter().map(|lingering| lingering.session).collect();
        let written = self.write_totals_of(&gone);
        self.survive(written);
        for session in gone {
            self.free_slot(session.grant.slot)?;
            self.kernel.sessions.remove_cgroup(session.grant.cgroup_id)?;
            self.remove_unused_rules(session.envelope.number);
        }
        self.note_levels()
    }

    /// Gives a slot back. The generation stays in it, so that whoever still holds it is refused.
    fn free_slot(&mut self, slot: SessionRef) -> Result<(), MapsError> {
        let free = Control {
            state: SessionState::Free,
            mode: Mode::Enforce,
            envelope: 0,
            generation: slot.generation,
        };
        self.kernel.sessions.set_control(slot.slot, free.pack())
    }
}
