//! Changing a session's standing: revocation, quarantine, and release from it. Each is one store in the kernel, in force for
//! every operation and every packet after it; then it is written down, and connections are cut.

use std::time::{Duration, Instant};

use axum::http::StatusCode;
use enforcer_common::session::SessionState;
use uuid::Uuid;

use super::{
    Daemon, DaemonError, To,
    cut::{Reply, Which},
    internal, reply_to,
    stop::Stop,
};
use crate::{
    clock,
    control::{dto, server::Refusal},
    record::{EventKind, EventLine},
    session::Status,
    state::SessionFile,
};

impl Daemon {
    /// Revokes a session, and answers when its sockets are destroyed: also one that has ended, for as long as what it sent last may still
    /// be on its way.
    pub(super) fn revoke(&mut self, id: &str, then: dto::Then, to: To) {
        // By the beginning of an id, one that runs is meant before one that has ended.
        if !self.registry.starting_with(id).is_empty() {
            return self.change(id, SessionState::Revoked, then, to);
        }
        let found = one_of(&self.registry.lingering_starting_with(id), id);
        match found.and_then(|id| Ok((id, self.try_revoke_ended(id)?))) {
            Ok((id, revoked)) => self.begin_cut(id, Which::All, Some(Reply { to, stop: None, revoked })),
            Err(refusal) => reply_to(to, Err(refusal)),
        }
    }

    /// Nothing of it is on disk any more: a daemon that starts again finds its slot held by nobody it knows, and keeps it revoked.
    fn try_revoke_ended(&mut self, id: Uuid) -> Result<dto::Revoked, Refusal> {
        let session = self.registry.known(id).ok_or_else(ended)?;
        let line = (session.state != SessionState::Revoked).then(|| {
            let line = EventLine::new(EventKind::SessionRevoked, &clock::wall(clock::boot_ns()));
            line.session(session).detail("it had ended: what it sent last is cut")
        });
        let store = self.store_state(id, SessionState::Revoked)?;
        line.into_iter().for_each(|line| self.events.write(line));
        Ok(receipt(id, SessionState::Revoked, 0, "gone", store))
    }

    /// Puts a session in quarantine, and answers when its sockets are destroyed.
    pub(super) fn quarantine(&mut self, id: &str, to: To) {
        self.change(id, SessionState::Quarantined, dto::Then::Freeze, to);
    }

    /// Likewise, because of a finding: nobody waits for it.
    pub(super) fn quarantine_for(&mut self, id: Uuid, why: &str) -> Result<(), Refusal> {
        let state = SessionState::Quarantined;
        let mut receipt = self.try_change(id, state, Some(why))?;
        for descendant in self.registry.descendants(id) {
            self.change_descendant(descendant, state, dto::Then::Freeze, &mut receipt);
        }
        let stop = self.stop_processes(id, dto::Then::Freeze);
        self.begin_stop(id, stop);
        Ok(())
    }

    fn change(&mut self, id: &str, state: SessionState, then: dto::Then, to: To) {
        match self.find(id).and_then(|id| Ok((id, self.try_change(id, state, None)?))) {
            Ok((id, mut revoked)) => {
                for descendant in self.registry.descendants(id) {
                    revoked.descendants.push(descendant.to_string());
                    self.change_descendant(descendant, state, then, &mut revoked);
                }
                let stop = Some(self.stop_processes(id, then));
                self.begin_cut(id, Which::All, Some(Reply { to, stop, revoked }));
            }
            Err(refusal) => reply_to(to, Err(refusal)),
        }
    }

    /// What became of a session reaches those that have a part of it: in the kernel they are refused everything since the store. A revocation
    /// is theirs as well; a quarantine is not, so that they go on when it is lifted, but for those that are in one of their own.
    fn change_descendant(
        &mut self,
        id: Uuid,
        state: SessionState,
        then: dto::Then,
        receipt: &mut dto::Revoked,
    ) {
        if state == SessionState::Revoked
            && let Err(refusal) = self.try_change(id, state, None)
        {
            receipt.errors.push(format!("session {id}: {}", refusal.message));
        }
        let stop = self.stop_processes(id, then);
        self.begin_stop(id, stop);
    }

    /// Why: of what nobody asked for.
    fn try_change(
        &mut self,
        id: Uuid,
        state: SessionState,
        why: Option<&str>,
    ) -> Result<dto::Revoked, Refusal> {
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
    pub(super) fn lift(&mut self, id: &str) -> Result<dto::Lifted, Refusal> {
        let id = self.find(id)?;
        let session = self.registry.get(id).ok_or_else(ended)?;
        if session.state != SessionState::Quarantined {
            let message = format!("the session is not in quarantine: it is {}", session.state);
            return Err(Refusal::new(StatusCode::CONFLICT, "not-quarantined", message));
        }
        let (cgroup, processes) = (session.grant.cgroup.clone(), session.processes.live().count());
        self.store_state(id, SessionState::Active)?;
        self.write_down(id, EventKind::SessionReleased, None)?;
        self.cgroups.freeze(&cgroup, false).map_err(|error| internal(&error))?;
        for descendant in self.registry.descendants(id) {
            self.thaw_descendant(descendant);
        }
        Ok(dto::Lifted { version: dto::VERSION, id: id.to_string(), processes })
    }

    /// Lets go on what a quarantine above had frozen, unless there is another one.
    fn thaw_descendant(&mut self, id: Uuid) {
        let now_ns = clock::boot_ns();
        let Some(session) = self.registry.get(id) else { return };
        if self.registry.standing_of(session, now_ns) != Status::Quarantined {
            let cgroup = session.grant.cgroup.clone();
            self.thaw(&cgroup);
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
    fn write_down(&mut self, id: Uuid, kind: EventKind, why: Option<&str>) -> Result<(), Refusal> {
        let session = self.registry.get(id).ok_or_else(ended)?;
        let mut line = EventLine::new(kind, &clock::wall(clock::boot_ns())).session(session);
        line.detail = why.map(str::to_owned);
        let file = SessionFile::new(session, &self.host.boot_id);
        self.events.write(line);
        self.state.save(&file).map_err(|error| internal(&error))
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
