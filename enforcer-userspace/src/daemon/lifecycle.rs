//! The life of a session: enrolment, expiry, revocation, end, release.

use std::sync::{Arc, PoisonError};

use axum::http::StatusCode;
use enforcer_common::{
    identity::SessionRef,
    session::{Control, MAX_DEPTH, SessionRow, SessionState},
    verdict::Mode,
};
use ring::digest::{SHA256, digest as sha256};
use uuid::Uuid;

use super::{Daemon, DaemonError, asker::asker, internal, trust::Admitted};
use crate::{
    cgroup::SessionCgroup,
    clock,
    control::{dto, peer::Peer, server::Refusal},
    envelope::{self, Envelope},
    kernel::MapsError,
    procfs,
    record::{EventKind, EventLine},
    session::{Container, Context, ContextError, EnvelopeInForce, Grant, Lineal, ProcessKey, Session},
    state::SessionFile,
};

/// The longest command that is written down, as `execve` takes more of them.
const MOST_WORDS: usize = 4096;
const MOST_COMMAND_BYTES: usize = 256 << 10;

/// SHA-256 of an envelope's text, hexadecimal.
pub(super) fn digest(text: &str) -> String {
    sha256(&SHA256, text.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The name of an envelope's list of images: the beginning of its digest.
pub(super) fn list_name(digest: &str) -> [u32; 4] {
    let word = |at: usize| digest.get(at * 8..at * 8 + 8).and_then(|part| u32::from_str_radix(part, 16).ok());
    std::array::from_fn(|at| word(at).unwrap_or(0))
}

/// Who asks for a session.
pub(super) struct Asked {
    pub(super) id: Uuid,
    pub(super) slot: u32,
    pub(super) command: Vec<String>,
    pub(super) registered_by_uid: u32,
    /// The session that hands it a part of itself, and when that expires.
    pub(super) parent: Option<(Lineal, u64)>,
    pub(super) context: Context,
    /// The operator's, of its envelope.
    pub(super) signature: Option<String>,
}

/// Where a session's processes stand.
pub(super) struct Place {
    pub(super) cgroup: SessionCgroup,
    /// Whether it is somebody else's.
    pub(super) borrowed: bool,
    pub(super) cgroup_before: String,
}

impl Daemon {
    /// Enrols the process that asks. When this returns `Ok`, the kernel holds it to its envelope; when it returns `Err`, it is in
    /// no session, or in one that is revoked. A client that dies without reading the answer ends its session by dying.
    pub(super) fn enrol(&mut self, peer: &Peer, request: dto::Enrol) -> Result<dto::Enrolled, Refusal> {
        let Admitted { envelope, news } =
            self.admit(peer, &request.envelope, request.signature.as_deref())?;
        check_said(&request.said, &request.command, &envelope)?;
        self.require_every_hook()?;
        let slot = self.registry.free_slot().map_err(|error| no_room(&error))?;
        let envelope = self.envelope_in_force(request.envelope, envelope)?;
        let id = Uuid::now_v7();
        let asked = Asked {
            id,
            slot,
            command: request.command,
            registered_by_uid: peer.uid,
            parent: None,
            context: request.said.context,
            signature: request.signature,
        };
        let enrolled = self.remember(news).and_then(|()| self.try_enrol(peer, asked, &envelope));
        if let Err(refusal) = enrolled {
            self.remove_unused_rules(envelope.number);
            return Err(refusal);
        }
        Ok(dto::Enrolled { version: dto::VERSION, id: id.to_string() })
    }

    /// A session is not begun where one of its promises is not kept.
    pub(super) fn require_every_hook(&self) -> Result<(), Refusal> {
        let detached = procfs::detached_links().map_err(|error| internal(&error))?;
        let missing =
            self.kernel.coverage().into_iter().find(|hook| hook.needed && !hook.is_attached(&detached));
        missing.map_or(Ok(()), |missing| {
            let message = format!("`{}` is not in place at `{}`", missing.hook.program, missing.hook.hook);
            let refusal = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "hook-missing", message);
            Err(refusal
                .hint("a daemon that is started again puts it back; `enforcer status` shows all hooks"))
        })
    }

    pub(super) fn try_enrol(
        &mut self,
        peer: &Peer,
        asked: Asked,
        envelope: &Arc<EnvelopeInForce>,
    ) -> Result<(), Refusal> {
        let failed = |error: &(dyn std::error::Error + 'static)| internal(error);
        let cgroup_before = procfs::cgroup2_of(peer.pid)
            .map_err(|error| failed(&error))?
            .ok_or_else(|| Refusal::new(StatusCode::GONE, "gone", "the process that asked is gone"))?;
        let cgroup = self.cgroups.create(&asked.id.to_string()).map_err(|error| failed(&error))?;
        let mut session =
            self.new_session(asked, envelope, Place { cgroup, borrowed: false, cgroup_before })?;
        session.grant.root.tgid = peer.pid;
        let started_ns = session.grant.started_ns;
        match self.put_in_force(&mut session, peer) {
            Ok(()) => {
                let line =
                    EventLine::new(EventKind::SessionStarted, &clock::wall(started_ns)).session(&session);
                let id = session.grant.id;
                self.registry.insert(session);
                self.events.write(line);
                self.look_at_files(id);
                Ok(())
            }
            Err(refusal) => {
                self.abandon(session, peer);
                Err(refusal)
            }
        }
    }

    /// A session that begins now, in a generation of its slot that nobody had.
    pub(super) fn new_session(
        &self,
        asked: Asked,
        envelope: &Arc<EnvelopeInForce>,
        place: Place,
    ) -> Result<Session, Refusal> {
        let Asked { id, slot, command, registered_by_uid, parent, context, signature } = asked;
        let previous = self.kernel.sessions.control(slot).map_err(|error| internal(&error))?.generation();
        let started_ns = clock::boot_ns();
        let ttl_ns = u64::try_from(envelope.envelope.ttl.as_nanos()).unwrap_or(u64::MAX);
        let expires_ns = started_ns.saturating_add(ttl_ns);
        let no_later_than = parent.as_ref().map_or(u64::MAX, |(_, expires_ns)| *expires_ns);
        // A part of a session is moved from that one's cgroup, whose name says nothing.
        let above = parent.as_ref().and_then(|(parent, _)| self.registry.get(parent.id));
        let container = match above {
            Some(above) => above.grant.container.clone(),
            None if place.borrowed => Container::of_cgroup(&place.cgroup.path.to_string_lossy()),
            None => Container::of_cgroup(&place.cgroup_before),
        };
        let grant = Grant {
            id,
            slot: SessionRef { slot, generation: previous % Control::MAX_GENERATION + 1 },
            cgroup: place.cgroup.path,
            cgroup_id: place.cgroup.id,
            borrowed_cgroup: place.borrowed,
            cgroup_before: place.cgroup_before,
            started_ns,
            expires_ns: expires_ns.min(no_later_than),
            command,
            registered_by_uid,
            root: ProcessKey::NONE,
            parent: parent.map(|(parent, _)| parent),
            context,
            container,
        };
        let hop = self.state_grant(&grant, envelope, signature.as_deref());
        let mut session = Session::new(grant, Arc::clone(envelope));
        session.hop = Some(hop.map_err(|error| internal(&error))?);
        Ok(session)
    }

    /// Writes a session's rows, and its control word last. Nobody is in it yet.
    pub(super) fn put_in_tables(&mut self, session: &Session) -> Result<(), MapsError> {
        let grant = &session.grant;
        let mut ancestors = [SessionRef::UNKNOWN; MAX_DEPTH];
        let depth = ancestors.iter_mut().zip(grant.ancestors()).map(|(place, ancestor)| *place = ancestor);
        let depth = u32::try_from(depth.count()).unwrap_or(u32::MAX);
        let row = SessionRow {
            id: grant.id.into_bytes(),
            expires_ns: grant.expires_ns,
            cgroup_id: grant.cgroup_id,
            cgroup_level: self.cgroups.level_of(&grant.cgroup),
            depth,
            ancestors,
        };
        let maps = &mut self.kernel.sessions;
        maps.prepare(grant.slot.slot, row)?;
        maps.set_cgroup(grant.cgroup_id, grant.slot)?;
        maps.set_control(grant.slot.slot, session.control())
    }

    /// Kernel state before the process is in it, its row before its control word, and the tag last: at each step the
    /// process is held to nothing yet, or to all of it.
    fn put_in_force(&mut self, session: &mut Session, peer: &Peer) -> Result<(), Refusal> {
        let failed = |error: &(dyn std::error::Error + 'static)| internal(error);
        self.put_in_tables(session).map_err(|error| failed(&error))?;
        let grant = &session.grant;
        self.cgroups.enter(&grant.cgroup, peer.pid).map_err(|error| failed(&error))?;
        let gone = || Refusal::new(StatusCode::GONE, "gone", "the process that asked is gone");
        // Had it ended before, whoever has its number now was moved: it is let go while it has no tag.
        if !peer.is_alive() {
            return Err(gone());
        }
        let tag = match grant.parent {
            None => self.kernel.tagger.enrol(peer.pid, grant.slot),
            Some(_) => self.kernel.tagger.hand_over(peer.pid, grant.slot),
        };
        let tag = tag.map_err(|error| failed(&error))?;
        if tag.session != grant.slot {
            return Err(Refusal::new(
                StatusCode::CONFLICT,
                "enrolled",
                "the process belongs to a session already",
            ));
        }
        session.grant.root.start_ns = tag.start_ns;
        session.processes = crate::session::ProcessTree::new(session.grant.root);
        let (comm, path) = procfs::describe(peer.pid);
        session.processes.describe(peer.pid, comm, path);
        if !peer.is_alive() {
            return Err(gone());
        }
        let file = SessionFile::new(session, &self.host.boot_id);
        self.state.save(&file).map_err(|error| failed(&error))
    }

    /// Ends a session that did not come about. Every step is tried, whatever became of the others; the kernel gives out the
    /// slot again when no process has its tag. A process that was tagged already stays so, and is refused everything until it
    /// ends: it was never told that it may go on.
    fn abandon(&mut self, mut session: Session, peer: &Peer) {
        session.state = SessionState::Revoked;
        let grant = &session.grant;
        let revoked = self.kernel.sessions.set_control(grant.slot.slot, session.control());
        self.survive(revoked.map_err(DaemonError::from));
        let moved = self.cgroups.release(&grant.cgroup_before, peer.pid);
        self.survive(moved.map_err(DaemonError::from));
        self.abandon_slot(&session);
        let grant = &session.grant;
        // What is in it still keeps it; the next daemon tries again.
        let removed = self.cgroups.remove(&grant.cgroup);
        self.survive(removed.map(|_| ()).map_err(DaemonError::from));
    }

    /// Takes a session that did not come about out of the tables. Its slot rests until no process has its tag.
    pub(super) fn abandon_slot(&mut self, session: &Session) {
        let grant = &session.grant;
        let revoked = Control {
            state: SessionState::Revoked,
            mode: Mode::Enforce,
            envelope: 0,
            generation: grant.slot.generation,
        };
        let revoked = self.kernel.sessions.set_control(grant.slot.slot, revoked.pack());
        self.survive(revoked.map_err(DaemonError::from));
        self.registry.insert_stray(grant.slot);
        let forgotten = self.state.forget(grant.id);
        self.survive(forgotten.map_err(DaemonError::from));
        let unlisted = self.kernel.sessions.remove_cgroup(grant.cgroup_id);
        self.survive(unlisted.map_err(DaemonError::from));
    }

    /// The envelope's rules in the kernel: shared, if a session with the same text is held to them already.
    pub(super) fn envelope_in_force(
        &mut self,
        text: String,
        envelope: Envelope,
    ) -> Result<Arc<EnvelopeInForce>, Refusal> {
        let digest = digest(&text);
        if let Some(known) = self.registry.envelope(&digest) {
            return Ok(known);
        }
        let mut rules = envelope::compile(&envelope).map_err(|error| {
            Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "bad-envelope", error.to_string())
        })?;
        let is_free = |number| self.kernel.rules.is_free(number);
        rules.name_list(list_name(&digest));
        let number = self.registry.free_envelope_number(is_free).map_err(|error| no_room(&error))?;
        self.kernel.rules.install(number, &rules).map_err(|error| {
            let refusal = internal(&error);
            Refusal { status: StatusCode::INSUFFICIENT_STORAGE, code: "no-room", ..refusal }
        })?;
        let blocks = rules.blocks.len() as u64;
        let envelope = Arc::new(EnvelopeInForce { number, digest, text, envelope, blocks });
        self.prepare_images(&envelope);
        Ok(envelope)
    }

    pub(super) fn remove_unused_rules(&mut self, envelope: u32) {
        if envelope != EnvelopeInForce::NO_NUMBER && !self.registry.uses_envelope(envelope) {
            self.kernel.rules.remove(envelope);
        }
    }

    /// Takes enforcement away, with everything this instance made.
    pub(super) fn release(&mut self, peer: &Peer, keep_events: bool) -> dto::TornDown {
        self.say_refused();
        let written = self.write_all_totals();
        self.survive(written);
        self.say_released(peer);
        let sessions = self.registry.iter().map(|session| crate::teardown::Held {
            released: dto::Released {
                id: session.grant.id.to_string(),
                agent: session.envelope.envelope.metadata.name.clone(),
                owner: session.envelope.envelope.metadata.owner.clone(),
                processes: session.processes.live().count(),
            },
            cgroup: session.grant.cgroup.clone(),
            borrowed_cgroup: session.grant.borrowed_cgroup,
            cgroup_before: session.grant.cgroup_before.clone(),
        });
        let sessions = sessions.collect();
        self.kernel.let_go();
        self.close_audit();
        self.sinks.iter().for_each(|sink| sink.keep_place(keep_events));
        // Nobody writes into what is being removed.
        let baselines = self.baseline_files();
        let mut baselines = baselines.lock().unwrap_or_else(PoisonError::into_inner);
        let torn_down = crate::teardown::remove_all(&self.settings, &self.cgroups, sessions, keep_events);
        if torn_down.ended && !keep_events {
            baselines.close();
        }
        if !torn_down.ended {
            let held = self.kernel.hold_links();
            self.survive(held.map_err(DaemonError::from));
            self.reopen_audit();
            self.sinks.iter().for_each(|sink| sink.keep_place(true));
            self.note(EventKind::DaemonFault, "teardown did not end enforcement: it goes on, also for the sessions that were said to be released");
        }
        torn_down
    }

    /// Whoever reads the log later must not take sessions for held that are not.
    fn say_released(&mut self, peer: &Peer) {
        let by = format!("asked for by {}", asker(peer));
        let time = clock::wall(clock::boot_ns());
        for session in self.registry.iter() {
            let line = EventLine::new(EventKind::SessionEnded, &time).session(session).asked_by(asker(peer));
            self.events.write(line.detail(format!("released by teardown, {by}")));
        }
        self.tell_checkpoint();
        let line = EventLine::new(EventKind::DaemonStopped, &time).asked_by(asker(peer));
        self.events.write(line.detail(format!("teardown, {by}: enforcement ends")));
    }
}

/// Whether what was said of a session may be, and is no other owner than its envelope's.
pub(super) fn check_said(said: &dto::Said, command: &[String], envelope: &Envelope) -> Result<(), Refusal> {
    let bytes = command.iter().fold(0, |bytes: usize, word| bytes.saturating_add(word.len()));
    if command.len() > MOST_WORDS || bytes > MOST_COMMAND_BYTES {
        let message = format!("the command has more than {MOST_WORDS} words, or {MOST_COMMAND_BYTES} bytes");
        return Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "bad-request", message));
    }
    said.context.check().map_err(|error| bad_context(&error))?;
    let owner = &envelope.metadata.owner;
    match &said.owner {
        Some(said) if said != owner => {
            let message = format!("it is to be for `{said}`, and the envelope is for `{owner}`");
            Err(Refusal::new(StatusCode::FORBIDDEN, "other-principal", message)
                .hint("the owner of a session is that of its envelope"))
        }
        _ => Ok(()),
    }
}

pub(super) fn bad_context(error: &ContextError) -> Refusal {
    Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "bad-request", error.to_string())
}

pub(super) fn no_room(error: &(dyn std::error::Error + 'static)) -> Refusal {
    Refusal { status: StatusCode::INSUFFICIENT_STORAGE, code: "no-room", ..internal(error) }
}
