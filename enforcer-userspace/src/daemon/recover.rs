//! Sessions that the kernel holds and that no file tells of: it is gone, torn, or of another release. What the kernel knows of one is
//! enough to go on refusing it everything, in somebody else's cgroup as well, to list it, and to end it. Who it was, nobody can say.

use std::{collections::HashMap, sync::Arc};

use enforcer_common::{
    config::MAX_SESSIONS,
    identity::SessionRef,
    session::{Control, SessionRow, SessionState},
    verdict::Mode,
};
use uuid::Uuid;

use super::{Daemon, DaemonError};
use crate::{
    clock, envelope,
    record::{EventKind, EventLine},
    session::{Container, Context, EnvelopeInForce, Grant, ProcessKey, Session},
    state::SessionFile,
};

/// What stands for an envelope that nobody knows. It allows nothing, and the kernel has no rules of it.
const UNKNOWN: &str = "\
apiVersion: enforcer/v1
kind: Envelope
metadata:
  name: unknown
  owner: unknown
  operator: unknown
  purpose: its file could not be read
  model: unknown
spec:
  mode: enforce
  ttl: 1s
  egress: []
";

/// Why files could not be read, by the session that the name of each is of.
pub(super) type Unreadable = HashMap<Option<Uuid>, String>;

impl Daemon {
    /// Revokes what the kernel holds for a session and the state directory does not know.
    pub(super) fn revoke_unknown(&mut self, unreadable: &Unreadable) -> Result<(), DaemonError> {
        for slot in 0..MAX_SESSIONS {
            let word = self.kernel.sessions.control(slot)?;
            let held =
                word.unpack().map(|control| control.state).filter(|state| *state != SessionState::Free);
            let stray = SessionRef { slot, generation: word.generation() };
            let Some(state) = held.filter(|_| self.registry.at(stray).is_none()) else { continue };
            let revoked = Control {
                state: SessionState::Revoked,
                mode: Mode::Enforce,
                envelope: EnvelopeInForce::NO_NUMBER,
                generation: stray.generation,
            };
            self.kernel.sessions.set_control(slot, revoked.pack())?;
            let row = self.kernel.sessions.row(slot)?;
            let why = unreadable.get(&Some(Uuid::from_bytes(row.id)));
            match self.recover(stray, &row, why.is_some())? {
                Some(session) => self.keep(session, state, why)?,
                None => {
                    self.registry.insert_stray(stray);
                    let detail = format!("slot {slot} belongs to a session that is not known here");
                    self.note(EventKind::SessionRevoked, detail);
                }
            }
        }
        Ok(())
    }

    /// The session, as far as the kernel knows it; nothing if it is over, or did not come about.
    fn recover(
        &self,
        slot: SessionRef,
        row: &SessionRow,
        has_file: bool,
    ) -> Result<Option<Session>, DaemonError> {
        let has_cgroup = self.kernel.sessions.session_of(row.cgroup_id)? == Some(slot);
        // Without a file and without a process, it has ended, and what it sent last is on its way.
        let has_ended = !has_file && self.kernel.sessions.processes(slot.slot)? == 0;
        if !has_cgroup || has_ended {
            return Ok(None);
        }
        let Some(cgroup) = self.cgroups.with_id(row.cgroup_id)? else { return Ok(None) };
        let envelope = envelope::parse(UNKNOWN).expect("it is a good envelope: a test reads it");
        let container = Container::of_cgroup(&cgroup.to_string_lossy());
        let grant = Grant {
            id: Uuid::from_bytes(row.id),
            slot,
            borrowed_cgroup: !self.cgroups.is_own(&cgroup),
            cgroup,
            cgroup_id: row.cgroup_id,
            cgroup_before: "/".to_owned(),
            started_ns: 0,
            expires_ns: row.expires_ns,
            command: Vec::new(),
            registered_by_uid: 0,
            root: ProcessKey::NONE,
            parent: None,
            context: Context::default(),
            container,
        };
        let envelope = EnvelopeInForce {
            number: EnvelopeInForce::NO_NUMBER,
            digest: String::new(),
            text: UNKNOWN.to_owned(),
            envelope,
            blocks: 0,
        };
        let mut session = Session::new(grant, Arc::new(envelope));
        session.state = SessionState::Revoked;
        Ok(Some(session))
    }

    /// Lists it again, and writes down what is known of it.
    fn keep(&mut self, session: Session, was: SessionState, why: Option<&String>) -> Result<(), DaemonError> {
        // One that stood still and was not to be refused everything, a registration had stopped. That somebody else had, cannot be told
        // from it; what nobody knows the reason of must not stand still for ever.
        if was == SessionState::Active {
            self.thaw(&session.grant.cgroup);
        }
        let why = why.map_or("its file is gone", String::as_str);
        let line = EventLine::new(EventKind::SessionRevoked, &clock::wall(clock::boot_ns()));
        let detail = format!("{why}: who it was is not known any more");
        self.events.write(line.session(&session).detail(detail));
        self.state.save(&SessionFile::new(&session, &self.host.boot_id))?;
        self.registry.insert(session);
        Ok(())
    }

    /// Files that cannot be read, of sessions that the kernel does not hold either.
    pub(super) fn forget_unreadable(&mut self, unreadable: Unreadable) -> Result<(), DaemonError> {
        for (id, why) in unreadable {
            match id {
                Some(id) if self.registry.get(id).is_some() => {}
                id => {
                    self.note(EventKind::SessionEnded, format!("{why}: there is no such session any more"));
                    id.map_or(Ok(()), |id| self.state.forget(id))?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_for_an_unknown_envelope_allows_nothing() {
        let envelope = envelope::parse(UNKNOWN).expect("it is a good envelope");
        assert!(envelope.rules.is_empty() && envelope.listen.is_empty());
        assert_eq!(envelope.mode, Mode::Enforce);
    }
}
