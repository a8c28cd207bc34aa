//! Delegation: a process of a session begins a session of its own, with a part of what the first may do. It is compared with the first
//! one's envelope beside the loop; in the kernel it stands as long as all those above it do, and what it spends is theirs too.

use std::sync::Arc;

use axum::http::StatusCode;
use enforcer_common::session::MAX_DEPTH;
use uuid::Uuid;

use super::{
    Beside, Daemon, To,
    asker::{Unvouched, vouch},
    internal,
    lifecycle::{Asked, bad_context, check_said, no_room},
    reply_to,
};
use crate::{
    clock,
    control::{
        dto,
        peer::Peer,
        server::{Answer, Call, Refusal, Request},
    },
    envelope::{self, Envelope},
    session::{EnvelopeInForce, Lineal, Slot, Status},
};

/// The longest envelope that a session may bring: it costs the daemon time to compare.
const MAX_TEXT: usize = 256 << 10;
/// How many sub-sessions all those below one that nobody delegated to may have at a time, so that none takes all slots.
const MAX_DESCENDANTS: usize = 256;

/// What a session wants to hand on, compared with what it has.
pub(super) struct Compared {
    peer: Peer,
    parent: Uuid,
    /// What it was compared with.
    outer: Arc<EnvelopeInForce>,
    enrol: dto::Enrol,
    envelope: Result<(String, Envelope), Refusal>,
    to: To,
}

impl Daemon {
    /// Has a process of a session begin a sub-session. It is answered when that is in force.
    pub(super) fn delegate(&mut self, peer: Peer, enrol: dto::Enrol, to: To) {
        let begun = self.delegating(&peer, &enrol);
        let (parent, outer, inner) = match begun {
            Ok(begun) => begun,
            Err(refusal) => {
                self.record_undelegated(&peer, &refusal);
                return reply_to(to, Err(refusal));
            }
        };
        self.beside(move || {
            let envelope = part_of(inner, &outer.envelope, &enrol);
            Beside::Compared(Box::new(Compared { peer, parent, outer, enrol, envelope, to }))
        });
    }

    /// Everything that can be refused without comparing. Who hands on, what it is held to, and what is to be handed on.
    fn delegating(
        &self,
        peer: &Peer,
        enrol: &dto::Enrol,
    ) -> Result<(Uuid, Arc<EnvelopeInForce>, Envelope), Refusal> {
        let forbidden = |message: &str| Refusal::new(StatusCode::FORBIDDEN, "forbidden", message);
        let tag = self.kernel.sessions.tag(peer.pid).map_err(|error| internal(&error))?;
        let session = tag.and_then(|tag| self.registry.at(tag.session));
        // Who stands in a session's cgroup without its tag speaks for nobody.
        let session =
            session.ok_or_else(|| forbidden("the process has no session that could be handed on"))?;
        if session.registering || self.registry.standing_of(session, clock::boot_ns()) != Status::Active {
            return Err(forbidden("the session may do nothing any more, and so hand nothing on"));
        }
        self.check_depth(session.grant.id)?;
        if enrol.envelope.len() > MAX_TEXT {
            let message = format!("a session\'s envelope is at most {MAX_TEXT} bytes long");
            return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", message));
        }
        self.require_every_hook()?;
        let inner = self.read_envelope(&enrol.envelope)?;
        check_said(&enrol.said, &enrol.command, &inner)?;
        let metadata = (&inner.metadata, &session.envelope.envelope.metadata);
        for (field, new, old) in [
            ("owner", &metadata.0.owner, &metadata.1.owner),
            ("operator", &metadata.0.operator, &metadata.1.operator),
        ] {
            if new != old {
                let message = format!("the {field} is `{new}`, and that of the session is `{old}`");
                let refusal = Refusal::new(StatusCode::FORBIDDEN, "other-principal", message);
                return Err(refusal.hint("a sub-session acts for whom the session acts for"));
            }
        }
        Ok((session.grant.id, Arc::clone(&session.envelope), inner))
    }

    /// Whether a session may have sub-sessions, by its own limits and those of all above it.
    fn check_depth(&self, id: Uuid) -> Result<(), Refusal> {
        let refused = |message: String| Refusal::new(StatusCode::FORBIDDEN, "too-deep", message);
        let mut above = self.registry.get(id);
        let mut top = id;
        let mut levels = 1_u64;
        while let Some(session) = above {
            if let Some(depth) = session.envelope.envelope.limits.depth.filter(|depth| levels > *depth) {
                let message = format!("session {} allows sub-sessions {depth} deep", session.grant.id);
                return Err(refused(message));
            }
            top = session.grant.id;
            levels += 1;
            above = session.grant.parent_id().and_then(|parent| self.registry.get(parent));
        }
        if levels > MAX_DEPTH as u64 + 1 {
            return Err(refused(format!("sub-sessions are at most {MAX_DEPTH} deep")));
        }
        if self.registry.descendants(top).len() >= MAX_DESCENDANTS {
            let message = format!("session {top} has {MAX_DESCENDANTS} sub-sessions already");
            return Err(Refusal::new(StatusCode::INSUFFICIENT_STORAGE, "no-room", message));
        }
        Ok(())
    }

    /// Begins the sub-session, if what it was compared with is still so.
    pub(super) fn end_delegating(&mut self, compared: Compared) {
        let Compared { peer, parent, outer, enrol, envelope, to } = compared;
        let is_same = |session: &crate::session::Session| session.envelope.number == outer.number;
        if self.registering.is_some() || !self.registry.get(parent).is_some_and(is_same) {
            // From the start, and with what is so by then.
            return self.waiting.push_back(Call { peer, request: Request::Enrol(enrol), reply: to });
        }
        let made = envelope.and_then(|(text, envelope)| {
            // What was so before the comparison may not be so any more, and the number may be another process's.
            vouch(&peer).map_err(|why| match why {
                Unvouched::TryAgain => Unvouched::try_again(),
                Unvouched::No(why) => Refusal::new(StatusCode::FORBIDDEN, "forbidden", why),
            })?;
            self.delegating(&peer, &enrol)?;
            self.begin_part(&peer, parent, text, envelope, enrol)
        });
        if let Err(refusal) = &made {
            self.record_undelegated(&peer, refusal);
        }
        reply_to(to, made.map(Answer::Enrolled));
    }

    fn begin_part(
        &mut self,
        peer: &Peer,
        parent: Uuid,
        text: String,
        envelope: Envelope,
        enrol: dto::Enrol,
    ) -> Result<dto::Enrolled, Refusal> {
        let slot = self.registry.free_slot().map_err(|error| no_room(&error))?;
        let above = self.registry.get(parent).map(|session| session.grant.context.clone());
        let context = enrol.said.context.below(&above.unwrap_or_default());
        let context = context.map_err(|error| bad_context(&error))?;
        let command = enrol.command;
        let envelope = self.envelope_in_force(text, envelope)?;
        let id = Uuid::now_v7();
        let begun = self.lineal(parent).and_then(|parent| {
            let parent = Some(parent);
            let asked =
                Asked { id, slot, command, registered_by_uid: peer.uid, parent, context, signature: None };
            self.try_enrol(peer, asked, &envelope)
        });
        if let Err(refusal) = begun {
            self.remove_unused_rules(envelope.number);
            return Err(refusal);
        }
        // It is the sub-session\'s from now on.
        if let Some(parent) = self.registry.get_mut(parent) {
            parent.processes.exit(peer.pid);
        }
        Ok(dto::Enrolled { version: dto::VERSION, id: id.to_string() })
    }

    fn lineal(&self, parent: Uuid) -> Result<(Lineal, u64), Refusal> {
        let gone = || Refusal::new(StatusCode::GONE, "gone", "the session is gone");
        let session = self.registry.get(parent).ok_or_else(gone)?;
        let slots = std::iter::once(session.grant.slot).chain(session.grant.ancestors());
        let ancestors = slots.map(|it| Slot { slot: it.slot, generation: it.generation }).collect();
        let agents = session.grant.agents_above().map(|above| {
            let own = session.agent().to_owned();
            above.iter().cloned().chain([own]).collect()
        });
        let lineal = Lineal { id: parent, ancestors, agents: agents.unwrap_or_default() };
        Ok((lineal, session.grant.expires_ns))
    }

    fn record_undelegated(&mut self, peer: &Peer, refusal: &Refusal) {
        self.record_refusal(peer, &format!("of a session asked to delegate: {}", refusal.message));
    }
}

/// What is handed on: the envelope that was brought, if it allows nothing that the other does not; or, if that is wanted, what both do.
fn part_of(inner: Envelope, outer: &Envelope, enrol: &dto::Enrol) -> Result<(String, Envelope), Refusal> {
    let too_much = |error: &dyn std::error::Error| {
        Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "too-large", error.to_string())
    };
    let excess = envelope::excess(&inner, outer).map_err(|error| too_much(&error))?;
    if excess.is_empty() {
        look_at_no_more(&inner, outer)?;
        return Ok((enrol.envelope.clone(), inner));
    }
    if !enrol.clip {
        let lines = envelope::excess_lines(&excess, "it", "the session\'s envelope").join("; ");
        let message = format!("the envelope allows more than the session may do: {lines}");
        let refusal = Refusal::new(StatusCode::FORBIDDEN, "too-wide", message);
        return Err(refusal.hint("`enforcer run --clip` takes what both allow"));
    }
    let both = envelope::intersect(outer, &inner).map_err(|error| too_much(&error))?;
    look_at_no_more(&both, outer)?;
    Ok((envelope::write(&both), both))
}

/// What a session hands on names no other files: those of its own were looked at when it began, and it has the daemon read no others.
fn look_at_no_more(inner: &Envelope, outer: &Envelope) -> Result<(), Refusal> {
    match inner.exec.files.iter().find(|file| !outer.exec.files.contains(file)) {
        None => Ok(()),
        Some(file) => {
            let message = format!("a sub-session names no files that its session does not: `{}`", file.path);
            Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "not-held", message))
        }
    }
}
