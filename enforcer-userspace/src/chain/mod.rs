//! Who gave a session what it may do: a signed statement for each session, from the one that an operator began down to the one asked
//! about. Whoever has the host's public key can check a chain, without the host. Core: texts and keys come in as arguments.
//!
//! A statement is JSON, and its signature is of exactly these bytes, as that of an envelope is. An envelope that comes along is compared
//! with its digest in the statement, and with the envelope above: that it allows nothing more is seen, and not believed.

#![forbid(unsafe_code)]

use ring::{
    digest::{SHA256, digest},
    rand::SecureRandom,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    envelope::{self, Envelope},
    session::{EnvelopeInForce, Grant},
    signature::{KeyError, KeyId, Signature, SignatureError, SigningKey, TrustKeys},
};

/// What a statement is, so that no other text that the key signed is taken for one.
const KIND: &str = "enforcer-grant";
const VERSION: u32 = 1;
/// More than a chain can have.
const MAX_HOPS: usize = 64;

/// What the host says of one session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Statement {
    pub(crate) kind: String,
    pub(crate) version: u32,
    pub(crate) session: Uuid,
    /// The session that handed it a part of itself. Null: an operator began it.
    pub(crate) parent: Option<Uuid>,
    /// How many sessions are above it.
    pub(crate) depth: usize,
    pub(crate) agent: String,
    pub(crate) owner: String,
    pub(crate) operator: String,
    pub(crate) model: String,
    /// SHA-256 of the envelope's text.
    pub(crate) envelope_digest: String,
    pub(crate) envelope_revision: u64,
    pub(crate) registered_by_uid: u32,
    /// The clocks that follow are of this boot.
    pub(crate) boot_id: String,
    /// ns on the boot clock: since when it is held to this envelope.
    pub(crate) issued_ns: u64,
    /// ns on the boot clock.
    pub(crate) expires_ns: u64,
    /// RFC 3339, for people.
    pub(crate) issued: String,
    /// RFC 3339, for people.
    pub(crate) expires: String,
}

/// A statement, and what vouches for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Hop {
    /// The text that is signed: a [`Statement`].
    pub(crate) statement: String,
    /// The host's. Base64.
    pub(crate) signature: String,
    /// The operator's, of the envelope, where one was needed. Base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) envelope_signature: Option<String>,
    /// The envelope's text, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) envelope: Option<String>,
}

/// When, by both clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) boot_ns: u64,
    pub(crate) wall: jiff::Timestamp,
}

/// Why a chain is not to be believed. Links are counted from the first, which an operator began.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChainError {
    #[error("there is no hop, or there are more than {MAX_HOPS}")]
    Length,
    #[error("hop {hop}: its signature")]
    Signature {
        hop: usize,
        #[source]
        source: SignatureError,
    },
    #[error("hop {hop} is not a statement")]
    Statement {
        hop: usize,
        #[source]
        source: Option<serde_json::Error>,
    },
    #[error("hop {hop}: its parent is not the session of the hop before")]
    Parent { hop: usize },
    #[error("hop {hop}: it says {depth} sessions are above it")]
    Depth { hop: usize, depth: usize },
    #[error("hop {hop}: its {what} is not that of the hop before")]
    Principal { hop: usize, what: &'static str },
    #[error("hop {hop}: it expires after the hop before")]
    Expiry { hop: usize },
    #[error("the last hop is of session {found}")]
    Session { found: Uuid },
    #[error("hop {hop}: its envelope is not the one that it was held to")]
    Digest { hop: usize },
    #[error("hop {hop}: its envelope cannot be read")]
    Envelope { hop: usize },
    #[error("hop {hop}: its envelope allows more than the one before: {more}")]
    TooWide { hop: usize, more: String },
    #[error("hop {hop}: its envelope cannot be compared with the one before")]
    NotCompared {
        hop: usize,
        #[source]
        source: envelope::TooLarge,
    },
    #[error("the envelope of the first hop: the operator's signature")]
    Operator(#[source] SignatureError),
    #[error("the envelope of the first hop, or the operator's signature of it, is missing")]
    NoOperator,
}

/// What was found out of a chain that is to be believed.
#[derive(Debug)]
pub(crate) struct Verified {
    pub(crate) statements: Vec<Statement>,
    /// The key that signed the last statement.
    pub(crate) host_key: KeyId,
    /// The key that signed the first envelope, where that was asked for.
    pub(crate) operator_key: Option<KeyId>,
    /// How many envelopes were compared with the one above.
    pub(crate) compared: usize,
}

/// Makes statements.
pub(crate) struct Signer {
    key: SigningKey,
    random: Box<dyn SecureRandom + Send>,
    boot_id: String,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").field("key", &self.key.trust_key().id()).finish_non_exhaustive()
    }
}

impl Signer {
    pub(crate) fn new(key: SigningKey, random: Box<dyn SecureRandom + Send>, boot_id: &str) -> Self {
        Self { key, random, boot_id: boot_id.to_owned() }
    }

    /// The public half, PEM.
    pub(crate) fn public_key(&self) -> String {
        self.key.trust_key().to_pem()
    }

    /// States what a session is held to from now on.
    pub(crate) fn hop(
        &self,
        grant: &Grant,
        envelope: &EnvelopeInForce,
        envelope_signature: Option<String>,
        now: Moment,
    ) -> Result<Hop, KeyError> {
        let metadata = &envelope.envelope.metadata;
        let left = std::time::Duration::from_nanos(grant.expires_ns.saturating_sub(now.boot_ns));
        let statement = Statement {
            kind: KIND.to_owned(),
            version: VERSION,
            session: grant.id,
            parent: grant.parent_id(),
            depth: grant.ancestors().count(),
            agent: metadata.name.clone(),
            owner: metadata.owner.clone(),
            operator: metadata.operator.clone(),
            model: metadata.model.clone(),
            envelope_digest: envelope.digest.clone(),
            envelope_revision: metadata.revision,
            registered_by_uid: grant.registered_by_uid,
            boot_id: self.boot_id.clone(),
            issued_ns: now.boot_ns,
            expires_ns: grant.expires_ns,
            issued: now.wall.to_string(),
            expires: now.wall.checked_add(left).unwrap_or(jiff::Timestamp::MAX).to_string(),
        };
        let statement = serde_json::to_string(&statement).expect("a statement holds only text and numbers");
        let signature = self.key.sign(statement.as_bytes(), self.random.as_ref())?;
        Ok(Hop { statement, signature, envelope_signature, envelope: None })
    }

    /// Whether a hop is one of ours, of this session and what it is held to.
    pub(crate) fn is_of(&self, hop: &Hop, grant: &Grant, envelope_digest: &str) -> bool {
        let keys = TrustKeys::new([self.key.trust_key()]);
        read_hop(0, hop, &keys).is_ok_and(|(statement, _)| {
            statement.session == grant.id
                && statement.parent == grant.parent_id()
                && statement.envelope_digest == envelope_digest
        })
    }
}

/// Checks a chain, the first hop first: each statement by its signature, and each against the one before.
pub(crate) fn verify(
    hops: &[Hop],
    session: Uuid,
    host: &TrustKeys,
    operators: &TrustKeys,
) -> Result<Verified, ChainError> {
    if hops.is_empty() || hops.len() > MAX_HOPS {
        return Err(ChainError::Length);
    }
    let mut statements: Vec<Statement> = Vec::new();
    let mut above: Option<Envelope> = None;
    let mut host_key = None;
    let mut compared = 0;
    for (at, hop) in hops.iter().enumerate() {
        let (statement, key) = read_hop(at, hop, host)?;
        check_against(at, &statement, statements.last())?;
        let envelope = hop.envelope.as_deref().map(|text| read_envelope(at, &statement, text)).transpose()?;
        if let (Some(above), Some(envelope)) = (&above, &envelope) {
            let more = envelope::excess(envelope, above)
                .map_err(|source| ChainError::NotCompared { hop: at, source })?;
            if !more.is_empty() {
                let more = envelope::excess_lines(&more, "it", "the one before").join("; ");
                return Err(ChainError::TooWide { hop: at, more });
            }
            compared += 1;
        }
        above = envelope;
        host_key = Some(key);
        statements.push(statement);
    }
    let (Some(last), Some(host_key)) = (statements.last(), host_key) else { return Err(ChainError::Length) };
    if last.session != session {
        return Err(ChainError::Session { found: last.session });
    }
    let operator_key = if operators.is_empty() { None } else { Some(operator_of(&hops[0], operators)?) };
    Ok(Verified { statements, host_key, operator_key, compared })
}

fn read_hop(at: usize, hop: &Hop, host: &TrustKeys) -> Result<(Statement, KeyId), ChainError> {
    let signed = Signature::parse(&hop.signature)
        .and_then(|signature| host.verify(hop.statement.as_bytes(), &signature));
    let key = signed.map_err(|source| ChainError::Signature { hop: at, source })?;
    // Read only now: nobody vouched for it before.
    let statement: Statement = serde_json::from_str(&hop.statement)
        .map_err(|source| ChainError::Statement { hop: at, source: Some(source) })?;
    if statement.kind != KIND || statement.version != VERSION {
        return Err(ChainError::Statement { hop: at, source: None });
    }
    Ok((statement, key))
}

fn check_against(at: usize, statement: &Statement, before: Option<&Statement>) -> Result<(), ChainError> {
    if statement.parent != before.map(|before| before.session) {
        return Err(ChainError::Parent { hop: at });
    }
    if statement.depth != at {
        return Err(ChainError::Depth { hop: at, depth: statement.depth });
    }
    let Some(before) = before else { return Ok(()) };
    for (what, own, others) in [
        ("owner", &statement.owner, &before.owner),
        ("operator", &statement.operator, &before.operator),
        ("boot", &statement.boot_id, &before.boot_id),
    ] {
        if own != others {
            return Err(ChainError::Principal { hop: at, what });
        }
    }
    if statement.expires_ns > before.expires_ns {
        return Err(ChainError::Expiry { hop: at });
    }
    Ok(())
}

fn read_envelope(at: usize, statement: &Statement, text: &str) -> Result<Envelope, ChainError> {
    let found: String =
        digest(&SHA256, text.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    if found != statement.envelope_digest {
        return Err(ChainError::Digest { hop: at });
    }
    envelope::parse(text).map_err(|_diagnostics| ChainError::Envelope { hop: at })
}

fn operator_of(first: &Hop, operators: &TrustKeys) -> Result<KeyId, ChainError> {
    let (Some(text), Some(signature)) = (&first.envelope, &first.envelope_signature) else {
        return Err(ChainError::NoOperator);
    };
    let signature = Signature::parse(signature).map_err(ChainError::Operator)?;
    operators.verify(text.as_bytes(), &signature).map_err(ChainError::Operator)
}

#[cfg(test)]
mod tests;
