//! Tokens: JWT-SVIDs and WIT-SVIDs, in the compact form of JWS, signed by ES256 and nothing else. Libraries for JWT that
//! use `ring` are no longer maintained, and little is needed: a header of three fields, one algorithm.

use std::fmt;

use base64ct::{Base64UrlUnpadded as Base64Url, Encoding as _};
use ring::{
    digest::{SHA256, digest},
    rand::SecureRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
        UnparsedPublicKey,
    },
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Claims, IssueError, MAX_TOKEN_BYTES, SKEW_S, SpiffeId, TrustDomain};

const ALGORITHM: &str = "ES256";
/// The private claim that holds [`Claims`].
pub(super) const CLAIM: &str = "enforcer";
/// A coordinate of a point of P-256, and a private key.
const SCALAR_BYTES: usize = 32;

/// Why a token does not vouch for anybody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("the token is longer than {MAX_TOKEN_BYTES} bytes")]
    TooLong,
    #[error("it is not a JWS of three parts in base64url")]
    Form,
    #[error("its header is not that of a JWT-SVID or WIT-SVID")]
    Header,
    #[error("it is signed by `{found}`, and only {ALGORITHM} is accepted")]
    Algorithm { found: String },
    #[error("no key of the bundle has its id `{kid}` and may sign a {kind}")]
    NoKey { kid: String, kind: TokenKind },
    #[error("its signature is wrong")]
    Signature,
    #[error("its claims are not those of a {kind}")]
    Claims { kind: TokenKind },
    #[error("it expired {ago_s} s ago")]
    Expired { ago_s: i64 },
    #[error("it is not valid yet")]
    Early,
    #[error("it is for the audience {found:?}")]
    Audience { found: Vec<String> },
    #[error("it speaks of `{found}`, which is not in this trust domain")]
    TrustDomain { found: SpiffeId },
}

/// Which kind of token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenKind {
    /// Whoever bears it is believed, by its audience.
    Jwt,
    /// It names a key, which whoever shows it must prove to have.
    Wit,
}

impl TokenKind {
    /// `typ` in the header.
    const fn header(self) -> &'static str {
        match self {
            Self::Jwt => "JWT",
            Self::Wit => "wit+jwt",
        }
    }

    /// `use` of its keys in a SPIFFE bundle.
    pub(super) const fn key_use(self) -> &'static str {
        match self {
            Self::Jwt => "jwt-svid",
            Self::Wit => "wit-svid",
        }
    }
}

impl fmt::Display for TokenKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Jwt => "JWT-SVID",
            Self::Wit => "WIT-SVID",
        })
    }
}

/// What a token's header may hold. Anything more, such as a place to get the key from, makes it no SVID.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    alg: String,
    kid: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    typ: Option<String>,
}

/// The public half of a key for tokens: two coordinates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PublicKey {
    /// As `ring` has it: 4, then the coordinates.
    point: Vec<u8>,
}

impl PublicKey {
    fn of(pair: &EcdsaKeyPair) -> Self {
        Self::from_point(pair.public_key().as_ref())
    }

    pub(super) fn from_point(point: &[u8]) -> Self {
        Self { point: point.to_vec() }
    }

    pub(super) fn from_coordinates(x: &str, y: &str) -> Option<Self> {
        let mut point = vec![4];
        for coordinate in [x, y] {
            let bytes = Base64Url::decode_vec(coordinate).ok().filter(|bytes| bytes.len() == SCALAR_BYTES)?;
            point.extend(bytes);
        }
        Some(Self { point })
    }

    fn coordinates(&self) -> [String; 2] {
        let (x, y) = self.point.get(1..).unwrap_or_default().split_at(SCALAR_BYTES);
        [x, y].map(Base64Url::encode_string)
    }

    /// As a JWK, without a name or a use.
    pub(super) fn jwk(&self) -> Map<String, Value> {
        let [x, y] = self.coordinates();
        let jwk = [("kty", "EC"), ("crv", "P-256"), ("x", &x), ("y", &y)];
        jwk.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect()
    }

    /// Its name in a bundle: the thumbprint of RFC 7638, so that no two keys have the same.
    pub(super) fn id(&self) -> String {
        let [x, y] = self.coordinates();
        let canonical = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        Base64Url::encode_string(digest(&SHA256, canonical.as_bytes()).as_ref())
    }
}

/// A key that signs tokens of one kind.
pub(super) struct TokenKey {
    kind: TokenKind,
    pair: EcdsaKeyPair,
    pkcs8: Vec<u8>,
    id: String,
}

impl TokenKey {
    pub(super) fn generate(kind: TokenKind, random: &dyn SecureRandom) -> Result<Self, IssueError> {
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, random);
        let pkcs8 = pkcs8.map_err(|_| IssueError::Random)?;
        Self::from_pkcs8(kind, pkcs8.as_ref(), random).ok_or(IssueError::Random)
    }

    pub(super) fn from_pkcs8(kind: TokenKind, pkcs8: &[u8], random: &dyn SecureRandom) -> Option<Self> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8, random).ok()?;
        let id = PublicKey::of(&pair).id();
        Some(Self { kind, pair, pkcs8: pkcs8.to_vec(), id })
    }

    pub(super) fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    pub(super) fn public(&self) -> PublicKey {
        PublicKey::of(&self.pair)
    }

    /// The token that says this.
    pub(super) fn sign(&self, claims: &Value, random: &dyn SecureRandom) -> Result<String, IssueError> {
        let typ = Some(self.kind.header().to_owned());
        let header = json!(Header { alg: ALGORITHM.to_owned(), kid: self.id.clone(), typ });
        let part = |value: &Value| Base64Url::encode_string(value.to_string().as_bytes());
        let signed = format!("{}.{}", part(&header), part(claims));
        let signature = self.pair.sign(random, signed.as_bytes()).map_err(|_| IssueError::Random)?;
        Ok(format!("{signed}.{}", Base64Url::encode_string(signature.as_ref())))
    }
}

/// The private half of a key, as a JWK. `None` if it is not PKCS#8 of such a key.
pub(super) fn private_jwk(pkcs8: &[u8], random: &dyn SecureRandom) -> Option<(PublicKey, String)> {
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8, random).ok()?;
    // RFC 5958, and in it RFC 5915.
    let inner = yasna::parse_der(pkcs8, |reader| {
        reader.read_sequence(|reader| {
            reader.next().read_der()?;
            reader.next().read_der()?;
            reader.next().read_bytes()
        })
    });
    let scalar = yasna::parse_der(&inner.ok()?, |reader| {
        reader.read_sequence(|reader| {
            reader.next().read_der()?;
            let scalar = reader.next().read_bytes()?;
            reader.next().read_der()?;
            Ok(scalar)
        })
    });
    let scalar = scalar.ok().filter(|scalar| scalar.len() == SCALAR_BYTES)?;
    let public = PublicKey::of(&pair);
    let mut jwk = public.jwk();
    jwk.insert("alg".to_owned(), ALGORITHM.into());
    jwk.insert("d".to_owned(), Base64Url::encode_string(&scalar).into());
    Some((public, Value::Object(jwk).to_string()))
}

/// `cnf` of a WIT-SVID that is bound to this key.
pub(super) fn confirmation(public: &PublicKey) -> Value {
    let mut jwk = public.jwk();
    jwk.insert("alg".to_owned(), ALGORITHM.into());
    json!({ "jwk": jwk })
}

/// What is asked of a token beyond its signature and its time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Expected<'a> {
    /// Of a JWT-SVID; without it, whoever looks has to see to that.
    pub(crate) audience: Option<&'a str>,
    pub(crate) trust_domain: Option<&'a TrustDomain>,
}

/// A token whose signature and claims are good.
#[derive(Clone, Debug)]
pub(crate) struct Verified {
    pub(crate) kind: TokenKind,
    pub(crate) id: SpiffeId,
    /// Empty for a WIT-SVID.
    pub(crate) audience: Vec<String>,
    pub(crate) expires_s: i64,
    /// All of them.
    pub(crate) claims: Value,
    /// Ours, where they are there and whole.
    pub(crate) session: Option<Claims>,
}

/// The claims that every SVID has, of the right types.
#[derive(Deserialize)]
struct Common {
    sub: String,
    exp: i64,
    #[serde(default)]
    nbf: Option<i64>,
    #[serde(default)]
    aud: Option<OneOrMore>,
    #[serde(default)]
    cnf: Option<Confirmation>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

#[derive(Deserialize)]
struct Confirmation {
    jwk: Map<String, Value>,
}

/// Checks a token against the keys that may have signed it, each with its id.
pub(super) fn verify<'a>(
    token: &str,
    key: impl FnOnce(TokenKind, &str) -> Option<&'a PublicKey>,
    expected: Expected<'_>,
    now_s: i64,
) -> Result<Verified, TokenError> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(TokenError::TooLong);
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Form)?;
    let (header, claims) = signed.split_once('.').ok_or(TokenError::Form)?;
    let decode = |part: &str| Base64Url::decode_vec(part).map_err(|_| TokenError::Form);
    let (header, claims, signature) = (decode(header)?, decode(claims)?, decode(signature)?);

    let header: Header = serde_json::from_slice(&header).map_err(|_| TokenError::Header)?;
    if header.alg != ALGORITHM {
        return Err(TokenError::Algorithm { found: header.alg });
    }
    let kind = match header.typ.as_deref() {
        None | Some("JWT" | "JOSE") => TokenKind::Jwt,
        Some("wit+jwt") => TokenKind::Wit,
        Some(_) => return Err(TokenError::Header),
    };
    let Some(key) = key(kind, &header.kid) else {
        return Err(TokenError::NoKey { kid: header.kid, kind });
    };
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &key.point)
        .verify(signed.as_bytes(), &signature)
        .map_err(|_| TokenError::Signature)?;
    // Read only now: nobody vouched for it before.
    check_claims(kind, &claims, expected, now_s)
}

fn check_claims(
    kind: TokenKind,
    claims: &[u8],
    expected: Expected<'_>,
    now_s: i64,
) -> Result<Verified, TokenError> {
    let bad = || TokenError::Claims { kind };
    let claims: Value = serde_json::from_slice(claims).map_err(|_| bad())?;
    let common = Common::deserialize(&claims).map_err(|_| bad())?;
    let id: SpiffeId = common.sub.parse().map_err(|_| bad())?;
    let audience = match common.aud {
        None => Vec::new(),
        Some(OneOrMore::One(audience)) => vec![audience],
        Some(OneOrMore::More(audience)) => audience,
    };
    let is_whole = match kind {
        TokenKind::Jwt => !audience.is_empty(),
        TokenKind::Wit => audience.is_empty() && common.cnf.is_some_and(|cnf| cnf.jwk.contains_key("kty")),
    };
    if !is_whole {
        return Err(bad());
    }
    if now_s >= common.exp {
        return Err(TokenError::Expired { ago_s: now_s.saturating_sub(common.exp) });
    }
    if common.nbf.is_some_and(|nbf| nbf > now_s.saturating_add(SKEW_S)) {
        return Err(TokenError::Early);
    }
    if expected.trust_domain.is_some_and(|domain| domain != id.trust_domain()) {
        return Err(TokenError::TrustDomain { found: id });
    }
    if kind == TokenKind::Jwt
        && expected.audience.is_some_and(|wanted| !audience.iter().any(|one| one == wanted))
    {
        return Err(TokenError::Audience { found: audience });
    }
    let session = claims.get(CLAIM).and_then(|claims| Claims::deserialize(claims).ok());
    Ok(Verified { kind, id, audience, expires_s: common.exp, claims, session })
}
