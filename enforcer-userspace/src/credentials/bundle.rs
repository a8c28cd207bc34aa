//! The trust bundle: what others need to check credentials. As documents: certificates, a JWKS, a SPIFFE bundle.

use base64ct::{Base64, Encoding as _};
use pem_rfc7468::LineEnding;
use serde::Deserialize as _;
use serde_json::{Map, Value, json};

use super::{
    Authorities, TrustDomain,
    token::{self, Expected, PublicKey, TokenError, TokenKind, Verified},
};

/// How often a bundle should be fetched again: far more often than a new authority needs to be known.
const REFRESH_HINT_S: i64 = 3600;

/// Why a document has no keys to check tokens with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BundleError {
    #[error("it is not JSON")]
    Json(#[source] serde_json::Error),
    #[error("it is not a JWKS: there is no list `keys`")]
    NoKeys,
    #[error(
        "it has no key that may sign tokens: a P-256 key with `kid`, and `use` of `jwt-svid`, `wit-svid` or none"
    )]
    NoTokenKeys,
}

/// What is public of all authorities.
#[derive(Clone, Debug)]
pub(crate) struct Bundle {
    pub(crate) trust_domain: TrustDomain,
    certificates: Vec<Certificate>,
    keys: TokenKeys,
    /// Rises with every change: when the newest authority was made.
    sequence: i64,
}

#[derive(Clone, Debug)]
struct Certificate {
    der: Vec<u8>,
    key: PublicKey,
}

impl Bundle {
    pub(crate) fn of(authorities: &Authorities) -> Self {
        let key = |kind: TokenKind| {
            authorities.iter().map(move |authority| {
                let key = authority.token_key(kind);
                NamedKey { kind, id: key.id(), key }
            })
        };
        let certificate = |authority: &super::Authority| Certificate {
            der: authority.certificate().to_vec(),
            key: authority.certificate_key(),
        };
        Self {
            trust_domain: authorities.trust_domain().clone(),
            certificates: authorities.iter().map(certificate).collect(),
            keys: TokenKeys(key(TokenKind::Jwt).chain(key(TokenKind::Wit)).collect()),
            sequence: authorities.iter().map(super::Authority::made_s).max().unwrap_or(0),
        }
    }

    /// The keys that tokens are checked with.
    pub(crate) const fn keys(&self) -> &TokenKeys {
        &self.keys
    }

    /// The certificates, one behind the other.
    pub(crate) fn der(&self) -> Vec<u8> {
        self.certificates.iter().flat_map(|certificate| certificate.der.iter().copied()).collect()
    }

    /// The certificates, one behind the other, for people and for most programs.
    pub(crate) fn pem(&self) -> String {
        let pem = |certificate: &Certificate| {
            pem_rfc7468::encode_string("CERTIFICATE", LineEnding::LF, &certificate.der)
                .expect("a certificate is far smaller than an address space")
        };
        self.certificates.iter().map(pem).collect()
    }

    /// The keys of one kind of token, for libraries that know JWKS and not SPIFFE: without a `use`, which they would not know.
    pub(crate) fn jwks(&self, wanted: TokenKind) -> Value {
        let keys = self.keys.0.iter().filter(|key| key.kind == wanted);
        json!({ "keys": keys.map(|key| key.jwk(None)).collect::<Vec<_>>() })
    }

    /// All of it, as a SPIFFE bundle.
    pub(crate) fn spiffe(&self) -> Map<String, Value> {
        let certificates = self.certificates.iter().map(|certificate| {
            let mut jwk = certificate.key.jwk();
            jwk.insert("use".to_owned(), "x509-svid".into());
            jwk.insert("x5c".to_owned(), json!([Base64::encode_string(&certificate.der)]));
            Value::Object(jwk)
        });
        let tokens = self.keys.0.iter().map(|key| key.jwk(Some(key.kind.key_use())));
        Map::from_iter([
            ("keys".to_owned(), certificates.chain(tokens).collect()),
            ("spiffe_sequence".to_owned(), self.sequence.into()),
            ("spiffe_refresh_hint".to_owned(), REFRESH_HINT_S.into()),
        ])
    }
}

/// A key for one kind of token.
#[derive(Clone, Debug)]
struct NamedKey {
    kind: TokenKind,
    /// `kid`.
    id: String,
    key: PublicKey,
}

impl NamedKey {
    fn jwk(&self, key_use: Option<&str>) -> Value {
        let mut jwk = self.key.jwk();
        jwk.insert("kid".to_owned(), self.id.as_str().into());
        jwk.insert("alg".to_owned(), "ES256".into());
        if let Some(key_use) = key_use {
            jwk.insert("use".to_owned(), key_use.into());
        }
        Value::Object(jwk)
    }
}

/// Keys that tokens are checked with, each for one kind.
#[derive(Clone, Debug)]
pub(crate) struct TokenKeys(Vec<NamedKey>);

impl TokenKeys {
    /// Reads a JWKS or a SPIFFE bundle. Keys of other kinds are left out.
    pub(crate) fn parse(document: &[u8]) -> Result<Self, BundleError> {
        let document: Value = serde_json::from_slice(document).map_err(BundleError::Json)?;
        let keys = document.get("keys").and_then(Value::as_array).ok_or(BundleError::NoKeys)?;
        let keys: Vec<_> = keys.iter().filter_map(read_key).collect();
        if keys.is_empty() { Err(BundleError::NoTokenKeys) } else { Ok(Self(keys)) }
    }

    /// Checks a token.
    pub(crate) fn verify(
        &self,
        token: &str,
        expected: Expected<'_>,
        now_s: i64,
    ) -> Result<Verified, TokenError> {
        let key = |kind: TokenKind, id: &str| {
            self.0.iter().find(|key| key.kind == kind && key.id == id).map(|key| &key.key)
        };
        token::verify(token, key, expected, now_s)
    }
}

#[derive(serde::Deserialize)]
struct Jwk {
    kty: String,
    crv: String,
    kid: String,
    x: String,
    y: String,
    #[serde(default, rename = "use")]
    key_use: Option<String>,
}

fn read_key(value: &Value) -> Option<NamedKey> {
    let jwk = Jwk::deserialize(value).ok()?;
    let kind = match jwk.key_use.as_deref() {
        None | Some("sig" | "jwt-svid") => TokenKind::Jwt,
        Some("wit-svid") => TokenKind::Wit,
        Some(_) => return None,
    };
    if jwk.kty != "EC" || jwk.crv != "P-256" {
        return None;
    }
    Some(NamedKey { kind, id: jwk.kid, key: PublicKey::from_coordinates(&jwk.x, &jwk.y)? })
}
