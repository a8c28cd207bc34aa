//! Changing a session's standing: revocation, quarantine, and release from it. Each is one store in the kernel, in force for
//! every operation and every packet after it; then it is written down, and connections are cut.

use std::time::{Duration, Instant};

use axum::http::StatusCode;
use enforcer_common::session::SessionState;
use uuid::Uuid;

use super::{
    Daemon, DaemonError, To,
    asker::asker,
    cut::{Reply, Which},
    internal,
    stop::Stop,
};
use crate::{
    clock,
    control::{dto, peer::Peer, server::Refusal},
    record::{EventKind, EventLine, LineAsker},
    session::Status,
    state::SessionFile,
};

/// Why a session's standing changes.
struct Why {
    detail: String,
    /// Of what somebody asked for.
    asked_by: Option<LineAsker>,
}

fn by(peer: &Peer) -> String {
    format!("asked for by {}", asker(peer))
}

impl Daemon {
    /// Revokes a session, and answers when its sockets are destroyed: also one that has ended, for as long as what it sent last may still
    /// be on its way.
    pub(super) fn revoke(&mut self, peer: &Peer, id: &str, then: dto::Then, to: To) {
        // By the beginning of an id, one that runs is meant before one that has ended.
        if !self.registry.starting_with(id).is_empty() {
            return self.change(peer, id, SessionState::Revoked, then, to);
        }
        let found = one_of(&self.registry.lingering_starting_with(id), id);
        match found.and_then(|id| Ok((id, self.try_revoke_ended(peer, id)?))) {
            Ok((id, revoked)) => self.begin_cut(id, Which::All, Some(Reply { to, stop: None, revoked })),
            Err(refusal) => self.refuse(peer, &format!("revoke `{id}`"), refusal, to),
        }
    }

    /// Nothing of it is on disk any more: a daemon that starts again finds its slot held by nobody it knows, and keeps it revoked.
    fn try_revoke_ended(&mut self, peer: &Peer, id: Uuid) -> Result<dto::Revoked, Refusal> {
        let session = self.registry.known(id).ok_or_else(ended)?;
        let line = (session.state != SessionState::Revoked).then(|| {
            let line = EventLine::new(EventKind::SessionRevoked, &clock::wall(clock::boot_ns()));
            let line = line.session(session).asked_by(asker(peer));
            line.detail(format!("it had ended: what it sent last is cut, {}", by(peer)))
        });
        let store = self.store_state(id, SessionState::Revoked)?;
        line.into_iter().for_each(|line| self.events.write(line));
        Ok(receipt(id, SessionState::Revoked, 0, "gone", store))
    }

    /// Puts a session in quarantine, and answers when its sockets are destroyed.
    pub(super) fn quarantine(&mut self, peer: &Peer, id: &str, to: To) {
        self.change(peer, id, SessionState::Quarantined, dto::Then::Freeze, to);
    }

    /// Likewise, because of a finding: nobody waits for it.
    pub(super) fn quarantine_for(&mut self, id: Uuid, why: &str) -> Result<(), Refusal> {
        let state = SessionState::Quarantined;
        let why = Why { detail: why.to_owned(), asked_by: None };
        let mut receipt = self.try_change(id, state, &why)?;
        for descendant in self.registry.descendants(id) {
            self.change_descendant(descendant, (id, &why), state, dto::Then::Freeze, &mut receipt);
        }
        let stop = self.stop_processes(id, dto::Then::Freeze);
        self.begin_stop(id, stop);
        Ok(())
    }

    fn change(&mut self, peer: &Peer, id: &str, state: SessionState, then: dto::Then, to: To) {
        let why = Why { detail: by(peer), asked_by: Some(asker(peer)) };
        match self.find(id).and_then(|id| Ok((id, self.try_change(id, state, &why)?))) {
            Ok((id, mut revoked)) => {
                for descendant in self.registry.descendants(id) {
                    revoked.descendants.push(descendant.to_string());
                    self.change_descendant(descendant, (id, &why), state, then, &mut revoked);
                }
                let stop = Some(self.stop_processes(id, then));
                self.begin_cut(id, Which::All, Some(Reply { to, stop, revoked }));
            }
            Err(refusal) => {
                let what = if state == SessionState::Revoked { "revoke" } else { "quarantine" };
                self.refuse(peer, &format!("{what} `{id}`"), refusal, to);
            }
        }
    }

    /// What became of a session reaches those that have a part of it: in the kernel they are refused everything since the store. A revocation
    /// is theirs as well; a quarantine is not, so that they go on when it is lifted, but for those that are in one of their own.
    fn change_descendant(
        &mut self,
        id: Uuid,
        (above, why): (Uuid, &Why),
        state: SessionState,
        then: dto::Then,
        receipt: &mut dto::Revoked,
    ) {
        let detail = format!("session {above}, above it, is {}: {}", state.name(), why.detail);
        let why = Why { detail, asked_by: why.asked_by };
        if state == SessionState::Revoked {
            if let Err(refusal) = self.try_change(id, state, &why) {
                receipt.errors.push(format!("session {id}: {}", refusal.message));
            }
        } else {
            self.say_why(id, EventKind::SessionQuarantined, &why);
        }
        let stop = self.stop_processes(id, then);
        self.begin_stop(id, stop);
    }

    fn try_change(&mut self, id: Uuid, state: SessionState, why: &Why) -> Result<dto::Revoked, Refusal> {
        let session = self.registry.get(id).ok_or_else(ended)?;
        if session.state == SessionState::Revoked && state != SessionState::Revoked {
            return Err(Refusal::new(
                StatusCode::CONFLICT,
                "revoked",
                "the session is revoked: there is no way back",
            ));
        }
        let already = session.state == state;
        let processes = session.processes.live().count();
        let store = self.store_state(id, state)?;
        if !already {
            let kind = match state {
                SessionState::Quarantined => EventKind::SessionQuarantined,
                _ => EventKind::SessionRevoked,
            };
            self.write_down(id, kind, why)?;
        }
        // What they are is known when they have been stopped.
        Ok(receipt(id, state, processes, "running", store))
    }

    /// Lets a session in quarantine go on, under the envelope that it is held to.
    pub(super) fn lift(&mut self, peer: &Peer, id: &str) -> Result<dto::Lifted, Refusal> {
        let id = self.find(id)?;
        let session = self.registry.get(id).ok_or_else(ended)?;
        if session.state != SessionState::Quarantined {
            let message = format!("the session is not in quarantine: it is {}", session.state);
            return Err(Refusal::new(StatusCode::CONFLICT, "not-quarantined", message));
        }
        let (cgroup, processes) = (session.grant.cgroup.clone(), session.processes.live().count());
        self.store_state(id, SessionState::Active)?;
        let why = Why { detail: by(peer), asked_by: Some(asker(peer)) };
        self.write_down(id, EventKind::SessionReleased, &why)?;
        self.cgroups.freeze(&cgroup, false).map_err(|error| internal(&error))?;
        for descendant in self.registry.descendants(id) {
            self.thaw_descendant(descendant, (id, &why));
        }
        Ok(dto::Lifted { version: dto::VERSION, id: id.to_string(), processes })
    }

    /// Lets go on what a quarantine above had frozen, unless there is another one.
    fn thaw_descendant(&mut self, id: Uuid, (above, why): (Uuid, &Why)) {
        let now_ns = clock::boot_ns();
        let Some(session) = self.registry.get(id) else { return };
        if self.registry.standing_of(session, now_ns) != Status::Quarantined {
            let cgroup = session.grant.cgroup.clone();
            self.thaw(&cgroup);
            let detail = format!("session {above}, above it, is in quarantine no more: {}", why.detail);
            self.say_why(id, EventKind::SessionReleased, &Why { detail, asked_by: why.asked_by });
        }
    }

    /// The one session whose id begins so.
    pub(super) fn find(&self, id: &str) -> Result<Uuid, Refusal> {
        one_of(&self.registry.starting_with(id), id)
    }

    /// One store. How long it took.
    fn store_state(&mut self, id: Uuid, state: SessionState) -> Result<Duration, Refusal> {
        let session = self.registry.known_mut(id).ok_or_else(ended)?;
        session.state = state;
        let began = Instant::now();
        let stored = self.kernel.sessions.set_control(session.grant.slot.slot, session.control());
        stored.map_err(|error| internal(&error))?;
        Ok(began.elapsed())
    }

    /// In the kernel it is in force, whatever becomes of the file: a daemon that starts again believes whichever is stricter.
    fn write_down(&mut self, id: Uuid, kind: EventKind, why: &Why) -> Result<(), Refusal> {
        self.say_why(id, kind, why);
        let session = self.registry.get(id).ok_or_else(ended)?;
        let file = SessionFile::new(session, &self.host.boot_id);
        self.state.save(&file).map_err(|error| internal(&error))
    }

    /// An event of a session.
    fn say_why(&mut self, id: Uuid, kind: EventKind, why: &Why) {
        let Some(session) = self.registry.get(id) else { return };
        let line = EventLine::new(kind, &clock::wall(clock::boot_ns())).session(session);
        let mut line = line.detail(why.detail.as_str());
        line.asked_by = why.asked_by;
        self.events.write(line);
    }

    /// Freezes its processes, if that is wanted: here, so that nobody who lets them go on later comes before it. What there is to be done
    /// about them beside the loop.
    fn stop_processes(&mut self, id: Uuid, then: dto::Then) -> Stop {
        let Some(cgroup) = self.registry.get(id).map(|session| session.grant.cgroup.clone()) else {
            return Stop::Nothing;
        };
        if then == dto::Then::Freeze {
            // Refused it is, all the same.
            let frozen = self.cgroups.freeze(&cgroup, true);
            self.survive(frozen.map_err(DaemonError::from));
        }
        match (then, self.cgroups.is_to_be_frozen(&cgroup)) {
            (dto::Then::Kill, _) => Stop::Kill,
            (_, Ok(true)) => Stop::Frozen,
            _ => Stop::Nothing,
        }
    }
}

fn receipt(
    id: Uuid,
    state: SessionState,
    processes: usize,
    processes_are: &str,
    store: Duration,
) -> dto::Revoked {
    dto::Revoked {
        version: dto::VERSION,
        id: id.to_string(),
        state: state.name().to_owned(),
        processes,
        descendants: Vec::new(),
        processes_are: processes_are.to_owned(),
        processes_running: 0,
        errors: Vec::new(),
        store_us: u64::try_from(store.as_micros()).unwrap_or(u64::MAX),
        sockets: None,
    }
}

fn one_of(found: &[Uuid], id: &str) -> Result<Uuid, Refusal> {
    let (status, code, message) = match found {
        [id] => return Ok(*id),
        [] => (StatusCode::NOT_FOUND, "no-such-session", format!("there is no session `{id}`")),
        _ => (StatusCode::CONFLICT, "ambiguous", format!("{} sessions start with `{id}`", found.len())),
    };
    Err(Refusal::new(status, code, message).hint("`enforcer ps` lists the sessions"))
}

pub(super) fn ended() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "no-such-session", "the session has just ended")
}
