//! Signed envelopes: who may say what an agent is held to.
//!
//! A signature is ECDSA over P-256 and SHA-256, of exactly the envelope's bytes, so that `openssl dgst -sha256 -verify`
//! checks it too. It is detached: base64 of its DER form, in a file beside the envelope. Core: keys and texts come in as
//! arguments, and so does randomness. Which revision of an envelope may take the place of which is in [`revision`].

#![forbid(unsafe_code)]

mod key;
pub(crate) mod revision;
#[cfg(test)]
mod tests;

use base64ct::{Base64, Encoding as _};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};

pub(crate) use key::{KeyError, KeyId, SigningKey, TrustKey};

/// The longest text of a signature that is looked at. One takes 96 characters, and people wrap lines.
pub(crate) const MAX_SIGNATURE_BYTES: usize = 512;

/// Why a signature does not vouch for a text.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum SignatureError {
    #[error("the signature is longer than {MAX_SIGNATURE_BYTES} bytes")]
    TooLong,
    #[error("the signature is not base64")]
    NotBase64,
    #[error("the signature was not made by a trusted key over exactly this text")]
    NoMatch,
}

/// A signature as it was handed over. Not checked against anything yet.
#[derive(Debug)]
pub(crate) struct Signature {
    der: Vec<u8>,
}

impl Signature {
    /// Reads base64, wrapped or not.
    pub(crate) fn parse(text: &str) -> Result<Self, SignatureError> {
        if text.len() > MAX_SIGNATURE_BYTES {
            return Err(SignatureError::TooLong);
        }
        let text: String = text.split_ascii_whitespace().collect();
        let der = Base64::decode_vec(&text).map_err(|_| SignatureError::NotBase64)?;
        Ok(Self { der })
    }
}

/// The keys whose holders may sign envelopes. Without any, nobody has to.
#[derive(Debug, Default)]
pub(crate) struct TrustKeys {
    keys: Vec<TrustKey>,
}

impl TrustKeys {
    /// Each key once.
    pub(crate) fn new(keys: impl IntoIterator<Item = TrustKey>) -> Self {
        let mut each = Self::default();
        for key in keys {
            if !each.keys.contains(&key) {
                each.keys.push(key);
            }
        }
        each
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = KeyId> {
        self.keys.iter().map(TrustKey::id)
    }

    /// The key that signed this text.
    pub(crate) fn verify(&self, text: &[u8], signature: &Signature) -> Result<KeyId, SignatureError> {
        let signed = |key: &&TrustKey| {
            let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.point());
            public.verify(text, &signature.der).is_ok()
        };
        self.keys.iter().find(signed).map(TrustKey::id).ok_or(SignatureError::NoMatch)
    }
}
