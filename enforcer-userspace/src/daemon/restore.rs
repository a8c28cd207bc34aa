//! Joining what the kernel enforces with what the state directory knows, after a restart. Any disagreement is settled for
//! less access, and recorded.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::Arc,
};

use enforcer_common::{config::MAX_SESSIONS, identity::SessionRef, session::SessionState};

use super::{Daemon, DaemonError, apply::replaced_line, cut::Which, lifecycle};
use crate::{
    clock,
    envelope::{self, OnFinding},
    exit::one_line,
    procfs,
    record::{EventKind, EventLine},
    session::{EnvelopeInForce, Grant, ProcessKey, Session, Status, stricter},
    state::{EnvelopeFile, SessionFile},
};

impl Daemon {
    /// Takes up the sessions of an earlier daemon.
    pub(super) fn restore(&mut self) -> Result<(), DaemonError> {
        let mut unreadable = HashMap::new();
        for file in self.state.sessions()? {
            match file {
                Ok(file) => self.restore_session(file)?,
                Err(error) => drop(unreadable.insert(error.session(), one_line(&error))),
            }
        }
        self.revoke_unknown(&unreadable)?;
        self.forget_unreadable(unreadable)?;
        self.revoke_orphans()?;
        self.note_levels()?;
        self.reconcile_trees()?;
        let in_use = self.registry.iter().map(|session| &session.envelope);
        let in_use = in_use.filter(|envelope| envelope.number != EnvelopeInForce::NO_NUMBER);
        let in_use = in_use.map(|envelope| (envelope.number, envelope.blocks)).collect();
        self.kernel.rules.sweep(&in_use)?;
        // What is refused everything by now has its connections cut, whoever was there when it came to that.
        let now_ns = clock::boot_ns();
        let is_over = |session: &&Session| session.status(now_ns) != Status::Active;
        let over: Vec<_> = self.registry.iter().filter(is_over).map(|session| session.grant.id).collect();
        for id in over {
            self.begin_cut(id, Which::All, None);
        }
        self.remove_leftovers()
    }

    /// Sessions whose parent is not there, or is not the one that they were made by: the kernel refuses them everything already, by what it
    /// knows of their ancestors.
    fn revoke_orphans(&mut self) -> Result<(), DaemonError> {
        let stands = |session: &&Session| {
            session.grant.parent.as_ref().is_none_or(|parent| {
                let known = self.registry.get(parent.id);
                known.is_some_and(|known| Some(known.grant.slot) == session.grant.ancestors().next())
            })
        };
        let orphans = self.registry.iter().filter(|session| !stands(session));
        let orphans: Vec<_> = orphans.map(|session| session.grant.id).collect();
        for id in orphans {
            let Some(session) = self.registry.get_mut(id) else { continue };
            session.state = SessionState::Revoked;
            self.kernel.sessions.set_control(session.grant.slot.slot, session.control())?;
            self.state.save(&SessionFile::new(session, &self.host.boot_id))?;
            let line = EventLine::new(EventKind::SessionRevoked, &clock::wall(clock::boot_ns()));
            let line = line.session(session).detail("the session that it has its rights from is gone");
            self.events.write(line);
        }
        Ok(())
    }

    fn restore_session(&mut self, file: SessionFile) -> Result<(), DaemonError> {
        let (id, slot) = (file.id, file.slot());
        let on_disk = file.state();
        let kernel = if file.boot_id == self.host.boot_id && slot.slot < MAX_SESSIONS {
            self.kernel.sessions.control(slot.slot)?.unpack()
        } else {
            None
        };
        let standing = kernel
            .filter(|control| control.generation == slot.generation && control.state != SessionState::Free);
        // Nobody has its tag yet: it did not come about.
        let began = !file.registering || self.kernel.sessions.processes(slot.slot)? > 0;
        let standing = standing.filter(|_| began);
        let envelopes = standing.and_then(|control| {
            let (envelope, other) = file.envelopes(control.envelope)?;
            Some((self.envelope_of_file(envelope)?, other.and_then(|other| self.envelope_of_file(other))))
        });
        let (Some(control), Some((envelope, other))) = (standing, envelopes) else {
            if file.registering && !file.borrowed_cgroup {
                self.move_back(&file.cgroup, &file.cgroup_before);
            }
            if file.stopped {
                self.thaw(&file.cgroup);
            }
            if !file.registering {
                self.remember_gone(&file);
            }
            self.state.forget(id)?;
            let why = if file.registering { "did not come about" } else { "is not in the kernel any more" };
            self.note(EventKind::SessionEnded, format!("session {id} {why}"));
            return Ok(());
        };
        // The earlier daemon was killed when the kernel had changed over, and this was still to be written down.
        let unrecorded = file.envelope.number != envelope.number;
        let (registering, stopped, expiry_recorded) = (file.registering, file.stopped, file.expiry_recorded);
        let hops = [file.hop.clone(), file.other_hop.clone()];
        let mut session = Session::new(grant_of(file), envelope);
        session.hop = self.hop_or_new(&session, hops);
        session.state = stricter(on_disk, control.state);
        let disagreed = on_disk != control.state;
        if disagreed {
            let (file, kernel) = (on_disk.name(), control.state.name());
            let why = format!("its file says {file}, and the kernel {kernel}");
            let quarantined = session.state == SessionState::Quarantined;
            let kind = if quarantined { EventKind::SessionQuarantined } else { EventKind::SessionRevoked };
            self.write_of(&session, kind, why);
        }
        if registering {
            // Not all of its processes are known to be held to it.
            session.state = SessionState::Revoked;
            let why = "it was being registered when the daemon was killed";
            self.write_of(&session, EventKind::SessionRevoked, why);
        }
        if stopped {
            self.thaw(&session.grant.cgroup);
        }
        if session.state == SessionState::Active
            && session.envelope.envelope.unix.is_some()
            && !self.kernel.guard.is_active()
        {
            session.state = SessionState::Revoked;
            let why = "its envelope restricts Unix sockets, and there is no guard any more";
            self.write_of(&session, EventKind::SessionRevoked, why);
        }
        if session.envelope.envelope.on_finding == OnFinding::Quarantine && !self.findings.finds_deeds() {
            let why =
                "its envelope says `onFinding: quarantine`, and every detection that it is about is off";
            self.note(EventKind::DaemonFault, format!("session {id}: {why}"));
        }
        session.expiry_recorded = expiry_recorded;
        if let Some(envelope) = other {
            session.was_held_to(envelope, clock::boot_ns());
        }
        self.kernel.sessions.set_control(slot.slot, session.control())?;
        if unrecorded {
            self.events.write(replaced_line(&session, None));
        }
        if unrecorded || registering || stopped || disagreed {
            self.state.save(&SessionFile::new(&session, &self.host.boot_id))?;
        }
        self.prepare_images(&session.envelope);
        self.registry.insert(session);
        Ok(())
    }

    fn write_of(&mut self, session: &Session, kind: EventKind, why: impl Into<String>) {
        let line = EventLine::new(kind, &clock::wall(clock::boot_ns()));
        self.events.write(line.session(session).detail(why));
    }

    /// Remembers a session that nobody saw end: the host was started again, or somebody took it out of the kernel.
    fn remember_gone(&mut self, file: &SessionFile) {
        let Some(envelope) = self.envelope_of_file(&file.envelope) else { return };
        let why = if file.boot_id == self.host.boot_id { "gone" } else { "host-restarted" };
        let session = Session::new(grant_of(file.clone()), envelope);
        self.end_detecting(&session, true);
        let mut info = self.describe(&session, clock::boot_ns());
        // Clocks are of one boot, but for that in its id.
        if let Some((seconds, nanos)) = file.id.get_timestamp().map(|time| time.to_unix()) {
            let started = jiff::Timestamp::new(i64::try_from(seconds).unwrap_or(0), nanos.cast_signed());
            info.started = started.unwrap_or_default().to_string();
        }
        (info.bytes_out, info.bytes_in) = (0, 0);
        self.remember_as(info, file.hop.clone(), why);
    }

    /// Lets whoever a registration that was cut short had moved into its cgroup go back.
    fn move_back(&mut self, cgroup: &Path, before: &str) {
        let moved = self
            .cgroups
            .all_processes(cgroup)
            .and_then(|inside| inside.into_iter().try_for_each(|pid| self.cgroups.release(before, pid)));
        self.survive(moved.map_err(DaemonError::from));
    }

    /// Lets go on what a registration that was cut short had stopped.
    pub(super) fn thaw(&mut self, cgroup: &Path) {
        if cgroup.is_dir() {
            let thawed = self.cgroups.freeze(cgroup, false);
            self.survive(thawed.map_err(DaemonError::from));
        }
    }

    /// The envelope that a file holds, if this release still reads it.
    fn envelope_of_file(&self, file: &EnvelopeFile) -> Option<Arc<EnvelopeInForce>> {
        let digest = lifecycle::digest(&file.text);
        let known = self.registry.envelope(&digest).filter(|known| known.number == file.number);
        if known.is_some() {
            return known;
        }
        let envelope = envelope::parse(&file.text).ok()?;
        let blocks = envelope::compile(&envelope).ok()?.blocks.len() as u64;
        let text = file.text.clone();
        Some(Arc::new(EnvelopeInForce { number: file.number, digest, text, envelope, blocks }))
    }

    /// Cgroups of enrolments that were cut short, and of sessions that are gone. One that holds a process stays: what has no tag
    /// is refused everything in it.
    fn remove_leftovers(&mut self) -> Result<(), DaemonError> {
        let known: HashSet<_> = self.registry.iter().map(|session| session.grant.cgroup_id).collect();
        for id in self.kernel.sessions.cgroups()?.iter().filter(|id| !known.contains(id)) {
            self.kernel.sessions.remove_cgroup(*id)?;
        }
        let known: HashSet<_> = self.registry.iter().map(|session| session.grant.cgroup.clone()).collect();
        for path in self.cgroups.sessions()?.iter().filter(|path| !known.contains(*path)) {
            if !self.cgroups.remove(path)? {
                // Whoever is in it is refused everything; that it does not stand still for ever.
                self.cgroups.freeze(path, false)?;
            }
        }
        Ok(())
    }

    /// Brings every process tree to what the kernel's tags say.
    pub(super) fn reconcile_trees(&mut self) -> Result<(), DaemonError> {
        let mut tags: HashMap<SessionRef, Vec<(ProcessKey, u32)>> = HashMap::new();
        for (tgid, tag) in self.kernel.sessions.tags()? {
            let key = ProcessKey { tgid, start_ns: tag.start_ns };
            tags.entry(tag.session).or_default().push((key, tag.parent_tgid));
        }
        for session in self.registry.iter_mut() {
            let tags = tags.remove(&session.grant.slot).unwrap_or_default();
            for tgid in session.processes.reconcile(&tags) {
                let (comm, path) = procfs::describe(tgid);
                session.processes.describe(tgid, comm, path);
            }
        }
        Ok(())
    }

    pub(super) fn note(&mut self, kind: EventKind, detail: impl Into<String>) {
        let now_ns = clock::boot_ns();
        let mut line = EventLine::new(kind, &clock::wall(now_ns)).detail(detail);
        let sequence = self.events.write_numbered(&mut line);
        if kind == EventKind::TamperSign {
            self.take_tamper_sign(now_ns, &line, sequence);
        }
    }
}

fn grant_of(file: SessionFile) -> Grant {
    Grant {
        id: file.id,
        slot: file.slot(),
        root: file.root(),
        cgroup: file.cgroup,
        cgroup_id: file.cgroup_id,
        borrowed_cgroup: file.borrowed_cgroup,
        cgroup_before: file.cgroup_before,
        started_ns: file.started_ns,
        expires_ns: file.expires_ns,
        command: file.command,
        registered_by_uid: file.registered_by_uid,
        parent: file.parent,
        context: file.context,
        container: file.container,
    }
}
