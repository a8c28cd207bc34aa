//! Registering what runs already: a process, a process and its descendants, or a cgroup with all that is in it.
//!
//! The order: the session stands in the kernel's tables before anybody is in it. Then its processes are stopped, by freezing their
//! cgroup; tagged, by an iterator in the kernel that is run until it finds no more; the sockets that they hold are taken for the
//! session's, and those of connections that the envelope does not allow are destroyed; then they go on. From the moment that a
//! process is in the session's cgroup it is refused everything until it has its tag, so that there is none at which it is held
//! to nothing; and from the moment that it has its tag, so has every process that it makes.
//!
//! What takes time, from stopping to cutting, is done beside the loop ([`take_over`]), for one session at a time. Tables and files are
//! written by the loop alone, before it and after it. The session is known meanwhile, so that what its processes do is recorded under its
//! name; what would begin another one, or is about this one, waits.

mod take_over;
mod target;

use std::sync::Arc;

use enforcer_common::session::SessionState;
use uuid::Uuid;

use super::{
    Beside, Daemon, DaemonError, To, internal,
    lifecycle::{Asked, check_said, no_room},
    reply_to,
    trust::Admitted,
};
use crate::{
    clock,
    control::{
        dto,
        peer::Peer,
        server::{Answer, Refusal, Request},
    },
    exit::one_line,
    procfs,
    record::{EventKind, EventLine},
    session::{ProcessTree, Session},
    state::SessionFile,
};
use take_over::{Left, Taken, Work};
use target::Target;

/// A registration under way.
pub(super) struct Registration {
    id: Uuid,
    work: Work,
    /// Who asked.
    peer: Peer,
    to: To,
}

/// What the loop hears when processes have been stopped, tagged and cut, or could not be.
pub(super) struct TakenOver {
    registration: Registration,
    taken: Result<Taken, Refusal>,
}

/// What the loop hears when everything has been put back, because of a failure.
pub(super) struct GivenBack {
    registration: Registration,
    left: Left,
    why: Refusal,
}

impl Daemon {
    /// Registers what runs already as a session. When the answer is an error, what it was asked for runs as before, or is refused
    /// everything if that could not be undone; which of them, the error says.
    pub(super) fn register(&mut self, peer: Peer, request: dto::Register, to: To) {
        match self.prepare(&peer, request) {
            Ok((session, work)) => self.begin_taking_over(session, work, (peer, to)),
            Err(refusal) => self.refuse(&peer, Request::REGISTER, refusal, to),
        }
    }

    /// Everything that can be refused before anybody is touched.
    fn prepare(&mut self, peer: &Peer, request: dto::Register) -> Result<(Session, Work), Refusal> {
        let dto::Register { envelope: text, signature, target, keep_connections, said } = request;
        let Admitted { envelope, news } = self.admit(peer, &text, signature.as_deref())?;
        check_said(&said, &[], &envelope)?;
        self.require_every_hook()?;
        let slot = self.registry.free_slot().map_err(|error| no_room(&error))?;
        let id = Uuid::now_v7();
        let Target { place, kind, pid, command } = self.find_target(peer, id, target)?;
        let (cgroup, borrowed) = (place.cgroup.path.clone(), place.borrowed);
        let made = self.envelope_in_force(text, envelope).and_then(|envelope| {
            let context = said.context;
            let asked =
                Asked { id, slot, command, registered_by_uid: peer.uid, parent: None, context, signature };
            let session = self.remember(news).and_then(|()| self.new_session(asked, &envelope, place));
            session.inspect_err(|_| self.remove_unused_rules(envelope.number))
        });
        let session = made.inspect_err(|_| {
            if !borrowed {
                let removed = self.cgroups.remove(&cgroup).map(drop);
                self.survive(removed.map_err(DaemonError::from));
            }
        })?;
        let work = Work::new(self, &session, kind, pid, keep_connections);
        Ok((session, work))
    }

    /// Lists the session, and has what it takes over stopped, tagged and cut.
    fn begin_taking_over(&mut self, mut session: Session, mut work: Work, asker: (Peer, To)) {
        session.registering = true;
        // Whoever is on the way into its cgroup has not escaped.
        session.settled_ns = u64::MAX;
        let id = session.grant.id;
        let listed = self.stop_and_list(&mut session, &mut work);
        self.registry.insert(session);
        self.registering = Some(id);
        let (peer, to) = asker;
        let registration = Registration { id, work, peer, to };
        match listed {
            Ok(()) => self.beside(move || {
                let taken = registration.work.take_over();
                Beside::TakenOver(TakenOver { registration, taken })
            }),
            Err(error) => self.begin_giving_back(registration, internal(&error)),
        }
    }

    fn stop_and_list(&mut self, session: &mut Session, work: &mut Work) -> Result<(), DaemonError> {
        work.stood_still = self.cgroups.is_to_be_frozen(&session.grant.cgroup)?;
        session.stopped = !work.stood_still;
        self.state.save(&SessionFile::new(session, &self.host.boot_id))?;
        // Before anybody is stopped: whoever finds it stopped finds it in the tables, too.
        self.put_in_tables(session)?;
        let grant = &session.grant;
        // Where that fails, they run meanwhile, and the answer says so.
        work.stop_failed = self.cgroups.freeze(&grant.cgroup, true).err().map(|error| one_line(&error));
        if grant.borrowed_cgroup { self.note_levels_with(&grant.cgroup) } else { Ok(()) }
    }

    /// Lets what was taken over go on, as a session; or puts everything back.
    pub(super) fn end_taking_over(&mut self, TakenOver { registration, taken }: TakenOver) {
        let done = taken.and_then(|taken| {
            self.settle(&registration, &taken).map_err(|error| internal(&error))?;
            Ok(taken)
        });
        match done {
            Ok(taken) => {
                self.registering = None;
                let registered = self.say_registered(registration.id, taken);
                reply_to(registration.to, Ok(Answer::Registered(registered)));
            }
            Err(why) => self.begin_giving_back(registration, why),
        }
    }

    fn settle(&mut self, registration: &Registration, taken: &Taken) -> Result<(), DaemonError> {
        let Registration { id, work, .. } = registration;
        if let Some(session) = self.registry.get_mut(*id) {
            session.grant.root = taken.root;
            session.processes = ProcessTree::new(taken.root);
            let mut file = SessionFile::new(session, &self.host.boot_id);
            file.registering = false;
            self.state.save(&file)?;
        }
        self.cgroups.freeze(&work.cgroup, work.stood_still)?;
        if let Some(session) = self.registry.get_mut(*id) {
            session.registering = false;
            session.stopped = false;
            session.settled_ns = clock::boot_ns();
            // If this fails, the next daemon lets them go on once more.
            let saved = self.state.save(&SessionFile::new(session, &self.host.boot_id));
            self.survive(saved.map_err(DaemonError::from));
        }
        Ok(())
    }

    fn say_registered(&mut self, id: Uuid, taken: Taken) -> dto::Registered {
        let complete = taken.reasons.is_empty();
        let mut detail = format!(
            "registered while running: {} processes, {} sockets kept, {} destroyed",
            taken.tagged.len(),
            taken.kept,
            taken.cut
        );
        for reason in &taken.reasons {
            detail.push_str("; ");
            detail.push_str(reason);
        }
        if let Some(session) = self.registry.get_mut(id) {
            let (comm, path) = procfs::describe(taken.root.tgid);
            session.processes.describe(taken.root.tgid, comm, path);
            let time = clock::wall(session.grant.started_ns);
            let line = EventLine::new(EventKind::SessionStarted, &time).session(session).detail(detail);
            self.events.write(line);
        }
        let reconciled = self.reconcile_trees();
        self.survive(reconciled);
        taken.images.iter().for_each(|answer| self.record_image(answer));
        self.look_at_running(id);
        self.look_at_files(id);
        dto::Registered {
            version: dto::VERSION,
            id: id.to_string(),
            processes: taken.tagged.len(),
            sockets_kept: taken.kept,
            sockets_destroyed: taken.cut,
            complete,
            incomplete_because: taken.reasons,
        }
    }

    /// Has everything put back. Whoever is in the session's cgroup is nobody's from here on, and whoever has its tag is refused everything
    /// until it has none.
    fn begin_giving_back(&mut self, registration: Registration, why: Refusal) {
        if let Some(session) = self.registry.get_mut(registration.id) {
            session.state = SessionState::Revoked;
            let (slot, cgroup_id, word) = (session.grant.slot, session.grant.cgroup_id, session.control());
            let revoked = self.kernel.sessions.set_control(slot.slot, word);
            self.survive(revoked.map_err(DaemonError::from));
            let unlisted = self.kernel.sessions.remove_cgroup(cgroup_id);
            self.survive(unlisted.map_err(DaemonError::from));
        }
        self.beside(move || {
            let left = registration.work.give_back();
            Beside::GivenBack(GivenBack { registration, left, why })
        });
    }

    /// Forgets a session that did not come about, and says so.
    pub(super) fn end_giving_back(&mut self, GivenBack { registration, left, why }: GivenBack) {
        self.registering = None;
        if let Some(session) = self.registry.remove(registration.id) {
            if left.tagged == 0 {
                let emptied = self.kernel.sessions.forget_processes(session.grant.slot.slot);
                self.survive(emptied.map_err(DaemonError::from));
            }
            self.abandon_slot(&session);
            let written = self.write_totals_of(std::slice::from_ref(&session));
            self.survive(written);
            self.end_detecting(&session, false);
            let envelope = Arc::clone(&session.envelope);
            drop(session);
            let levels = self.note_levels();
            self.survive(levels);
            self.remove_unused_rules(envelope.number);
        }
        let hint = left.hint();
        for error in left.errors {
            self.survive(Err(error));
        }
        self.refuse(&registration.peer, Request::REGISTER, why.hint(hint), registration.to);
    }

    /// Says at which levels other people's cgroups are sessions'.
    pub(super) fn note_levels(&mut self) -> Result<(), DaemonError> {
        Ok(self.kernel.sessions.set_levels(self.levels())?)
    }

    fn note_levels_with(&mut self, cgroup: &std::path::Path) -> Result<(), DaemonError> {
        let levels = self.levels() | 1 << self.cgroups.level_of(cgroup);
        Ok(self.kernel.sessions.set_levels(levels)?)
    }

    fn levels(&self) -> u64 {
        let borrowed = self.registry.iter().filter(|session| session.grant.borrowed_cgroup);
        let borrowed = borrowed.map(|session| self.cgroups.level_of(&session.grant.cgroup));
        let lingering = self.registry.lingering().filter_map(|lingering| lingering.borrowed_level);
        borrowed.chain(lingering).fold(0, |levels, level| levels | 1 << level)
    }
}
