//! Replacing the envelope of sessions that run.
//!
//! The new rules are complete in the kernel before any session is held to them, and each session changes over by one
//! store: a decision is taken by the old envelope or by the new one. What is written down names both until that store is
//! done, so that a daemon that is killed at any moment finds the one that the kernel goes by.

use axum::http::StatusCode;

use super::{Daemon, DaemonError, internal, trust::Admitted};
use crate::{
    clock,
    control::{dto, peer::Peer, server::Refusal},
    envelope::Metadata,
    record::{EventKind, EventLine},
    state::{EnvelopeFile, SessionFile},
};

impl Daemon {
    /// Holds every session of the envelope's agent to it. All of them or, if this returns `Err`, none; but for a fault of the
    /// machine's between two of them, which says so.
    pub(super) fn apply(&mut self, peer: &Peer, request: dto::Apply) -> Result<dto::Applied, Refusal> {
        let Admitted { envelope, news } =
            self.admit(peer, &request.envelope, request.signature.as_deref())?;
        self.require_every_hook()?;
        let agent = envelope.metadata.name.clone();
        self.require_same_principal(&envelope.metadata)?;
        let envelope = self.envelope_in_force(request.envelope, envelope)?;
        // From here on the rules are in the kernel, and go again if nobody is held to them.
        let applied = self.remember(news).and_then(|()| self.hold_to(&agent, &envelope));
        self.remove_unused_rules(envelope.number);
        let sessions = applied?;
        Ok(dto::Applied { version: dto::VERSION, agent, envelope_digest: envelope.digest.clone(), sessions })
    }

    /// Whose a session is does not change while it runs: what it did is recorded under that name.
    fn require_same_principal(&self, new: &Metadata) -> Result<(), Refusal> {
        let mut of_agent = self.registry.iter().filter(|session| session.agent() == new.name).peekable();
        if of_agent.peek().is_none() {
            let message = format!("no session of agent `{}` runs", new.name);
            return Err(Refusal::new(StatusCode::NOT_FOUND, "no-such-agent", message)
                .hint("`enforcer run` begins one; `enforcer ps` lists them"));
        }
        for session in of_agent {
            let old = &session.envelope.envelope.metadata;
            let fields = [
                ("owner", &old.owner, &new.owner),
                ("operator", &old.operator, &new.operator),
                ("model", &old.model, &new.model),
            ];
            if let Some((field, old, new)) = fields.iter().find(|(_, old, new)| old != new) {
                let id = session.grant.id;
                let message = format!("session {id} has the {field} `{old}`, the envelope has `{new}`");
                return Err(Refusal::new(StatusCode::CONFLICT, "other-principal", message)
                    .hint("a session keeps who it is: revoke it, and begin another one"));
            }
        }
        Ok(())
    }

    fn hold_to(
        &mut self,
        agent: &str,
        envelope: &std::sync::Arc<crate::session::EnvelopeInForce>,
    ) -> Result<Vec<dto::AppliedSession>, Refusal> {
        let failed = |error: &(dyn std::error::Error + 'static)| internal(error);
        let concerned: Vec<_> = self
            .registry
            .iter()
            .filter(|session| session.agent() == agent)
            .map(|session| (session.grant.id, session.envelope.number != envelope.number))
            .collect();
        let changing = || concerned.iter().filter(|(_, changed)| *changed).map(|(id, _)| *id);
        for id in changing() {
            let Some(session) = self.registry.get_mut(id) else { continue };
            let mut file = SessionFile::new(session, &self.host.boot_id);
            file.next = Some(EnvelopeFile::new(envelope));
            self.state.save(&file).map_err(|error| failed(&error))?;
        }
        let mut before = Vec::new();
        for id in changing() {
            let Some(session) = self.registry.get_mut(id) else { continue };
            let word = session.control_under(envelope);
            self.kernel
                .sessions
                .set_control(session.grant.slot.slot, word)
                .map_err(|error| failed(&error))?;
            before.push(session.envelope.number);
            session.replace_envelope(std::sync::Arc::clone(envelope), clock::boot_ns());
        }
        // In force. What is left is writing down.
        for id in changing() {
            let Some(session) = self.registry.get_mut(id) else { continue };
            let line = EventLine::new(EventKind::EnvelopeReplaced, &clock::wall(clock::boot_ns()));
            let line = line.session(session).detail(format!("now {}", envelope.digest));
            let file = SessionFile::new(session, &self.host.boot_id);
            self.events.write(line);
            let saved = self.state.save(&file);
            self.survive(saved.map_err(DaemonError::from));
        }
        before.sort_unstable();
        before.dedup();
        for number in before {
            self.remove_unused_rules(number);
        }
        let answer = |(id, changed): &(uuid::Uuid, bool)| dto::AppliedSession {
            id: id.to_string(),
            changed: *changed,
        };
        Ok(concerned.iter().map(answer).collect())
    }
}
