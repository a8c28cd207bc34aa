//! What sessions are given, stated and signed: when one begins, and whenever it is held to another envelope.

use uuid::Uuid;

use super::{Daemon, StartError, internal, standing::ended};
use crate::{
    chain::{Hop, Moment, Signer},
    clock,
    control::{dto, peer::Peer, server::Refusal},
    session::{EnvelopeInForce, Grant, Session},
    settings::Settings,
    signature::KeyError,
    state,
};

/// With the key that there is, or a new one.
pub(super) fn open(settings: &Settings, boot_id: &str) -> Result<Signer, StartError> {
    let key = state::own_key(&settings.grant_key())?;
    Ok(Signer::new(key, Box::new(ring::rand::SystemRandom::new()), boot_id))
}

impl Daemon {
    /// The statement that a session is held to this envelope from now on, which its operator signed so if that was asked for.
    pub(super) fn state_grant(
        &self,
        grant: &Grant,
        envelope: &EnvelopeInForce,
        signature: Option<&str>,
    ) -> Result<Hop, KeyError> {
        let boot_ns = clock::boot_ns();
        let now = Moment { boot_ns, wall: clock::wall(boot_ns) };
        // Signatures are looked at where they are asked for; there, nothing else is one.
        let signature = signature.filter(|_| self.trust.is_some()).map(str::to_owned);
        self.signer.hop(grant, envelope, signature, now)
    }

    /// Everything from the session that an operator began down to this one; for an operator with the texts of the envelopes, which a
    /// session is not to know of others.
    pub(super) fn chain(&self, peer: &Peer, id: Option<&str>) -> Result<dto::Chain, Refusal> {
        let (last, with_texts) = match id {
            None => (self.own_session(peer)?.grant.id, false),
            Some(id) => (self.find_any(id)?, true),
        };
        let mut hops = Vec::new();
        let mut next = Some(last);
        while let Some(id) = next {
            let (hop, parent) = match self.registry.known(id) {
                Some(session) => (self.own_hop(session, with_texts)?, session.grant.parent_id()),
                None => {
                    let past = self.past.of(id).ok_or_else(ended)?;
                    let parent = past.session.parent.as_deref().and_then(|parent| parent.parse().ok());
                    (past.hop.clone(), parent)
                }
            };
            hops.push(hop.ok_or_else(unknown)?);
            next = parent;
        }
        hops.reverse();
        let session = last.to_string();
        Ok(dto::Chain { version: dto::VERSION, session, hops, host_key: self.signer.public_key() })
    }

    fn own_hop(&self, session: &Session, with_text: bool) -> Result<Option<Hop>, Refusal> {
        let Some(hop) = &session.hop else { return Ok(None) };
        if !self.signer.is_of(hop, &session.grant, &session.envelope.digest) {
            return Err(unknown());
        }
        let envelope = with_text.then(|| session.envelope.text.clone());
        Ok(Some(Hop { envelope, ..hop.clone() }))
    }

    /// The one session whose id begins so, also if it has ended.
    fn find_any(&self, id: &str) -> Result<Uuid, Refusal> {
        let past = || self.past.sessions().filter(|past| past.id.starts_with(id)).collect::<Vec<_>>();
        match self.find(id) {
            Err(refusal) if self.registry.starting_with(id).is_empty() => match past()[..] {
                [past] => past.id.parse().map_err(|_| refusal),
                _ => Err(refusal),
            },
            found => found,
        }
    }

    /// Its statement, or a new one where that which was kept is not of what it is held to.
    pub(super) fn hop_or_new(&mut self, session: &Session, kept: [Option<Hop>; 2]) -> Option<Hop> {
        let is_right = |hop: &Hop| self.signer.is_of(hop, &session.grant, &session.envelope.digest);
        if let Some(hop) = kept.into_iter().flatten().find(is_right) {
            return Some(hop);
        }
        let stated = self.state_grant(&session.grant, &session.envelope, None);
        stated.map_err(|error| self.survive(Err(error.into()))).ok()
    }
}

fn unknown() -> Refusal {
    let error = std::io::Error::other("nothing is stated of what the session was given");
    Refusal { code: "no-statement", ..internal(&error) }
}
