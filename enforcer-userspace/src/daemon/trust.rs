//! Which envelopes are accepted: where trust keys are set, only those that a trusted key has signed, and never an earlier
//! revision than one accepted before. Sessions that run, and those of an earlier daemon, are not asked.

use axum::http::StatusCode;

use super::{Daemon, StartError, internal};
use crate::{
    control::{peer::Peer, server::Refusal},
    envelope::{self, Envelope, OnFinding, Requirement},
    exit::one_line,
    record::EventKind,
    settings::Settings,
    signature::{
        KeyId, Signature, TrustKeys,
        revision::{self, Accepted, RevisionError},
    },
    state::Revisions,
};

/// Whose envelopes are accepted.
#[derive(Debug)]
pub(crate) struct Trust {
    keys: TrustKeys,
    revisions: Revisions,
}

impl Trust {
    /// Nothing, if no key is set: then every envelope is accepted.
    pub(super) fn new(keys: TrustKeys, settings: &Settings) -> Result<Option<Self>, StartError> {
        if keys.is_empty() {
            return Ok(None);
        }
        Ok(Some(Self { keys, revisions: Revisions::open(&settings.revisions())? }))
    }

    /// The key that signed the text.
    fn signer(&self, text: &str, signature: Option<&str>) -> Result<KeyId, Refusal> {
        let refuse = |code, message: String| Refusal::new(StatusCode::FORBIDDEN, code, message);
        let Some(signature) = signature else {
            let message = "the envelope is not signed, and this daemon accepts only signed ones";
            return Err(refuse("unsigned", message.to_owned()).hint(
                "`enforcer sign --key KEY FILE` writes `FILE.sig`, which `run` and `apply` send along",
            ));
        };
        let signer =
            Signature::parse(signature).and_then(|signature| self.keys.verify(text.as_bytes(), &signature));
        signer.map_err(|error| {
            let trusted: Vec<String> = self.keys.ids().map(|id| id.to_string()).collect();
            refuse("bad-signature", one_line(&error))
                .hint(format!("sign the envelope as it is now; the trusted keys are {}", trusted.join(", ")))
        })
    }

    /// Whether this revision may be accepted; if so, whether it is to be remembered. What cannot be told counts as no.
    fn may_follow(&self, agent: &str, offered: &Accepted) -> Result<bool, Refusal> {
        let accepted = self.revisions.accepted(agent).map_err(|error| {
            let refusal = internal(&error);
            Refusal { code: "revision-unknown", ..refusal }.hint(
                "put the file back as it was; without it, this agent's old envelopes would be accepted again",
            )
        })?;
        revision::may_follow(accepted.as_ref(), offered).map_err(|error| {
            let code = match error {
                RevisionError::RolledBack { .. } => "rolled-back",
                RevisionError::Reused { .. } => "revision-reused",
            };
            Refusal::new(StatusCode::CONFLICT, code, format!("agent `{agent}`: {error}"))
                .hint("raise `metadata.revision`, and sign the envelope again")
        })
    }
}

/// An envelope that is accepted.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) envelope: Envelope,
    /// What is to be on disk before the envelope takes effect; see [`Daemon::remember`].
    pub(super) news: Option<News>,
}

/// A revision that no envelope of its agent had before.
#[derive(Debug)]
pub(super) struct News {
    agent: String,
    accepted: Accepted,
    signer: KeyId,
}

impl Daemon {
    /// Reads an envelope, if it is one that is accepted. Changes nothing.
    pub(super) fn admit(
        &mut self,
        peer: &Peer,
        text: &str,
        signature: Option<&str>,
    ) -> Result<Admitted, Refusal> {
        let signer = self.trust.as_ref().map(|trust| trust.signer(text, signature)).transpose();
        // Read only after that: what nobody vouches for does not get as far as the parser.
        let signer = signer.map_err(|refusal| self.record_unaccepted(peer, refusal))?;
        let envelope = self.read_envelope(text)?;
        let (Some(trust), Some(signer)) = (&self.trust, signer) else {
            return Ok(Admitted { envelope, news: None });
        };
        let metadata = &envelope.metadata;
        let accepted =
            Accepted { revision: metadata.revision, envelope_digest: super::lifecycle::digest(text) };
        let is_new = trust
            .may_follow(&metadata.name, &accepted)
            .map_err(|refusal| self.record_unaccepted(peer, refusal))?;
        let agent = metadata.name.clone();
        Ok(Admitted { envelope, news: is_new.then_some(News { agent, accepted, signer }) })
    }

    /// An envelope that sessions can be held to here.
    pub(super) fn read_envelope(&self, text: &str) -> Result<Envelope, Refusal> {
        let envelope = read_held(text, self.kernel.guard.is_active())?;
        if envelope.on_finding == OnFinding::Quarantine && !self.findings.finds_deeds() {
            let message =
                "the envelope says `onFinding: quarantine`, and every detection that it is about is off";
            let refusal = Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "not-held", message);
            return Err(refusal.hint("the file of `enforcer daemon --detections` says which are"));
        }
        Ok(envelope)
    }

    /// Writes down what was accepted. Comes before anybody is held to it: a daemon that is killed in between has refused
    /// too much, and never too little.
    pub(super) fn remember(&mut self, news: Option<News>) -> Result<(), Refusal> {
        let (Some(trust), Some(News { agent, accepted, signer })) = (&self.trust, news) else {
            return Ok(());
        };
        trust.revisions.save(&agent, &accepted).map_err(|error| internal(&error))?;
        let Accepted { revision, envelope_digest } = accepted;
        let detail = format!("agent {agent}, revision {revision}, {envelope_digest}, signed by key {signer}");
        self.note(EventKind::EnvelopeAccepted, detail);
        Ok(())
    }

    /// The ids of the trusted keys. None: every envelope is accepted.
    pub(super) fn trusted(&self) -> Vec<String> {
        self.trust.iter().flat_map(|trust| trust.keys.ids()).map(|id| id.to_string()).collect()
    }

    fn record_unaccepted(&mut self, peer: &Peer, refusal: Refusal) -> Refusal {
        self.record_refusal(peer, &format!("brought an envelope: {}: {}", refusal.code, refusal.message));
        Refusal { recorded: true, ..refusal }
    }
}

/// An envelope that this host can hold a session to, with the guard or without.
fn read_held(text: &str, guarded: bool) -> Result<Envelope, Refusal> {
    let envelope = envelope::parse(text).map_err(|diagnostics| {
        Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "bad-envelope", diagnostics.to_string())
    })?;
    let is_held = |need: &&Requirement| need.is_held() || (guarded && need.is_held_by_guard());
    let not_held: Vec<&str> =
        envelope.needs().iter().filter(|need| !is_held(need)).map(|need| need.name()).collect();
    if not_held.is_empty() {
        return Ok(envelope);
    }
    let message = format!("the envelope needs what nothing here holds sessions to: {}", not_held.join(", "));
    let refusal = Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "not-held", message);
    Err(refusal.hint("`enforcer check` says which parts of an envelope that are"))
}
