//! Replacing the envelope of sessions that run.
//!
//! The new rules are complete in the kernel before any session is held to them, and each session changes over by one
//! store: a decision is taken by the old envelope or by the new one. What is written down names both until that store is
//! done, so that a daemon that is killed at any moment finds the one that the kernel goes by.

use std::{collections::HashMap, sync::Arc};

use axum::http::StatusCode;
use uuid::Uuid;

use super::{Daemon, DaemonError, asker::asker, cut::Which, internal, trust::Admitted};
use crate::{
    clock,
    control::{dto, peer::Peer, server::Refusal},
    envelope::{self, Envelope},
    record::{EventKind, EventLine, LineAsker},
    session::{EnvelopeInForce, Session},
    state::{EnvelopeFile, SessionFile},
};

impl Daemon {
    /// Holds the sessions of the envelope's agent, owner, operator and model to it. All of them or, if this returns `Err`,
    /// none; but for a fault of the machine's between two of them, which says so.
    pub(super) fn apply(&mut self, peer: &Peer, request: dto::Apply) -> Result<dto::Applied, Refusal> {
        let Admitted { envelope, news } =
            self.admit(peer, &request.envelope, request.signature.as_deref())?;
        self.require_every_hook()?;
        let agent = envelope.metadata.name.clone();
        let (concerned, left_alone) = self.concerned(&envelope)?;
        let envelope = self.envelope_in_force(request.envelope, envelope)?;
        // From here on the rules are in the kernel, and go again if nobody is held to them.
        let applied = self
            .remember(news)
            .and_then(|()| self.hold_to(&concerned, &envelope, request.signature.as_deref(), asker(peer)));
        self.remove_unused_rules(envelope.number);
        let sessions = applied?;
        let envelope_digest = envelope.digest.clone();
        Ok(dto::Applied { version: dto::VERSION, agent, envelope_digest, sessions, left_alone })
    }

    /// The sessions of the envelope's agent that are its owner's, operator's and model's, and the others with the reason: whose a
    /// session is does not change while it runs, since what it did is recorded under that name.
    fn concerned(&self, envelope: &Envelope) -> Result<(Vec<Uuid>, Vec<dto::LeftAlone>), Refusal> {
        let new = &envelope.metadata;
        let of_agent = || self.registry.iter().filter(|session| session.agent() == new.name);
        let other = |session: &Session| {
            let old = &session.envelope.envelope.metadata;
            let fields = [
                ("owner", &old.owner, &new.owner),
                ("operator", &old.operator, &new.operator),
                ("model", &old.model, &new.model),
            ];
            let differs = fields.into_iter().find(|(_, old, new)| old != new);
            let why = differs
                .map(|(field, old, new)| format!("it has the {field} `{old}`, the envelope has `{new}`"))
                .or_else(|| self.exceeds_parent(session, envelope))?;
            Some(dto::LeftAlone { id: session.grant.id.to_string(), why })
        };
        let left: Vec<_> = of_agent().filter_map(other).collect();
        let concerned: Vec<_> =
            of_agent().filter(|session| other(session).is_none()).map(|session| session.grant.id).collect();
        match (&concerned[..], &left[..]) {
            ([], []) => {
                let message = format!("no session of agent `{}` runs", new.name);
                Err(Refusal::new(StatusCode::NOT_FOUND, "no-such-agent", message)
                    .hint("`enforcer run` begins one; `enforcer ps` lists them"))
            }
            ([], [dto::LeftAlone { id, why }, ..]) => {
                Err(Refusal::new(StatusCode::CONFLICT, "other-principal", format!("session {id}: {why}"))
                    .hint("a session keeps who it is: revoke it, and begin another one"))
            }
            _ => Ok((concerned, left)),
        }
    }

    /// Why a session cannot be held to an envelope because of the session above it.
    fn exceeds_parent(&self, session: &Session, envelope: &Envelope) -> Option<String> {
        let parent = self.registry.get(session.grant.parent_id()?)?;
        match envelope::excess(envelope, &parent.envelope.envelope) {
            Ok(excess) if excess.is_empty() => None,
            Ok(excess) => {
                let above = format!("that of session {}", parent.grant.id);
                let lines = envelope::excess_lines(&excess, "the envelope", &above).join("; ");
                Some(format!("it has a part of what session {} may do: {lines}", parent.grant.id))
            }
            Err(error) => Some(error.to_string()),
        }
    }

    /// What the sessions below one are held to when that is held to this envelope: what they are held to now, and no more than it allows.
    /// They never get more than they had. Those above come first.
    fn narrowed(
        &mut self,
        id: Uuid,
        envelope: &Arc<EnvelopeInForce>,
    ) -> Result<Vec<(Uuid, Arc<EnvelopeInForce>)>, Refusal> {
        let too_large = |error: &dyn std::error::Error| {
            Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "too-large", error.to_string())
        };
        let mut changes = Vec::new();
        let mut now = HashMap::from([(id, Arc::clone(envelope))]);
        for below in self.registry.descendants(id) {
            let Some(session) = self.registry.get(below) else { continue };
            let held_to = Arc::clone(&session.envelope);
            let Some(above) = session.grant.parent_id().and_then(|parent| now.get(&parent).cloned()) else {
                continue;
            };
            let excess = envelope::excess(&held_to.envelope, &above.envelope);
            if excess.map_err(|error| too_large(&error))?.is_empty() {
                now.insert(below, held_to);
                continue;
            }
            let both = envelope::intersect(&above.envelope, &held_to.envelope);
            let both = both.map_err(|error| too_large(&error))?;
            let narrower = self.envelope_in_force(envelope::write(&both), both)?;
            now.insert(below, Arc::clone(&narrower));
            changes.push((below, narrower));
        }
        Ok(changes)
    }

    /// Sessions below those concerned are narrowed first, so that none of them is ever allowed more than one above it.
    fn hold_to(
        &mut self,
        concerned: &[Uuid],
        envelope: &Arc<EnvelopeInForce>,
        signature: Option<&str>,
        asked_by: LineAsker,
    ) -> Result<Vec<dto::AppliedSession>, Refusal> {
        let mut concerned = concerned.to_vec();
        let depth = |id: &Uuid| self.registry.get(*id).map_or(0, |session| session.grant.ancestors().count());
        concerned.sort_by_key(|id| std::cmp::Reverse(depth(id)));
        let mut below = Vec::new();
        for id in &concerned {
            below.append(&mut self.narrowed(*id, envelope)?);
        }
        below.retain(|(id, _)| !concerned.contains(id));
        for (id, narrower) in below {
            let held = self.hold_each_to(&[id], &narrower, None, asked_by);
            self.remove_unused_rules(narrower.number);
            held?;
        }
        self.hold_each_to(&concerned, envelope, signature, asked_by)
    }

    fn hold_each_to(
        &mut self,
        concerned: &[Uuid],
        envelope: &Arc<EnvelopeInForce>,
        signature: Option<&str>,
        asked_by: LineAsker,
    ) -> Result<Vec<dto::AppliedSession>, Refusal> {
        let failed = |error: &(dyn std::error::Error + 'static)| internal(error);
        let is_other = |session: &Session| session.envelope.number != envelope.number;
        let (changing, same): (Vec<Uuid>, Vec<Uuid>) =
            concerned.iter().partition(|id| self.registry.get(**id).is_some_and(is_other));
        let mut hops = HashMap::new();
        for id in &changing {
            let Some(session) = self.registry.get(*id) else { continue };
            let hop =
                self.state_grant(&session.grant, envelope, signature).map_err(|error| failed(&error))?;
            let mut file = SessionFile::new(session, &self.host.boot_id);
            file.other = Some(EnvelopeFile::new(envelope));
            file.other_hop = Some(hop.clone());
            hops.insert(*id, hop);
            self.state.save(&file).map_err(|error| failed(&error))?;
        }
        let mut before = Vec::new();
        for id in &changing {
            let Some(session) = self.registry.get_mut(*id) else { continue };
            let word = session.control_under(envelope);
            self.kernel
                .sessions
                .set_control(session.grant.slot.slot, word)
                .map_err(|error| failed(&error))?;
            before.push(session.envelope.number);
            session.replace_envelope(Arc::clone(envelope), clock::boot_ns());
            session.hop = hops.remove(id);
        }
        // In force. What is left is writing down.
        for id in &changing {
            let Some(session) = self.registry.get(*id) else { continue };
            self.events.write(replaced_line(session, Some(asked_by)));
            let saved = self.state.save(&SessionFile::new(session, &self.host.boot_id));
            self.survive(saved.map_err(DaemonError::from));
            // What is open and no longer allowed sends nothing from now on; this tells its ends.
            self.begin_cut(*id, Which::Outside(Arc::clone(envelope)), None);
            self.look_at_files(*id);
        }
        before.sort_unstable();
        before.dedup();
        for number in before {
            self.remove_unused_rules(number);
        }
        let answer = |changed| move |id: Uuid| dto::AppliedSession { id: id.to_string(), changed };
        let changed = changing.into_iter().map(answer(true));
        Ok(changed.chain(same.into_iter().map(answer(false))).collect())
    }
}

/// That a session is held to another envelope than before.
pub(super) fn replaced_line(session: &Session, asked_by: Option<LineAsker>) -> EventLine {
    let replaced = session.replaced.last();
    let line = EventLine::new(
        EventKind::EnvelopeReplaced,
        &clock::wall(replaced.map_or_else(clock::boot_ns, |replaced| replaced.at_ns)),
    );
    let said = |envelope: &EnvelopeInForce| {
        let revision = envelope.envelope.metadata.revision;
        let revision = if revision > 0 { format!(" of revision {revision}") } else { String::new() };
        format!("{}{revision}", envelope.digest)
    };
    let before =
        replaced.map_or_else(String::new, |replaced| format!(", before {}", said(&replaced.envelope)));
    let by = asked_by.map_or_else(String::new, |by| format!(", asked for by {by}"));
    let mut line = line.session(session).detail(format!("now {}{before}{by}", said(&session.envelope)));
    line.asked_by = asked_by;
    line
}
