//! An authority: three keys that were made together, one for certificates, one for JWT-SVIDs, one for WIT-SVIDs. What one of
//! them signs is never taken for what another signed.

use std::fmt;

use base64ct::{Base64UrlUnpadded as Base64Url, Encoding as _};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};
use ring::{
    digest::{SHA256, digest},
    rand::SecureRandom,
    signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey},
};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::{
    LIFETIME_S, Principal, SKEW_S, TrustDomain,
    rotation::AUTHORITY_LIFETIME_S,
    token::{CLAIM, PublicKey, TokenKey, TokenKind, confirmation, private_jwk},
};

/// The extension of a certificate that holds the claims, as JSON in a UTF8String. The number below 2.25 was drawn at random:
/// that arc is for numbers that nobody registers.
pub(super) const CLAIMS_OID: [u64; 3] = [2, 25, 6_213_840_917_755_126_493];
const SERIAL_BYTES: usize = 16;
const ORGANISATION: &str = "enforcer";

/// Why no credential was issued.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IssueError {
    #[error("the session is about to expire")]
    TooLate,
    #[error("no authority may sign")]
    NoAuthority,
    #[error("make a key: no randomness")]
    Random,
    #[error("make a certificate")]
    Certificate(#[from] rcgen::Error),
}

/// Why what was stored is no authority.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthorityError {
    #[error("its trust domain is none")]
    TrustDomain(#[from] super::SpiffeIdError),
    #[error("its {which} key is not PKCS#8 of a P-256 key")]
    Key { which: &'static str },
    #[error("its certificate is not one that its key signed")]
    Certificate,
}

/// An authority as it is kept: what [`Authority::restore`] needs. Keys are PKCS#8.
pub(crate) struct Stored {
    pub(crate) trust_domain: String,
    pub(crate) made_s: i64,
    pub(crate) certificate: Vec<u8>,
    pub(crate) certificate_key: Vec<u8>,
    pub(crate) jwt_key: Vec<u8>,
    pub(crate) wit_key: Vec<u8>,
}

/// A certificate and its key, DER and PKCS#8.
pub(crate) struct X509Svid {
    pub(crate) certificate: Vec<u8>,
    pub(crate) key: Vec<u8>,
    /// Hexadecimal.
    pub(crate) serial: String,
    pub(crate) expires_s: i64,
}

/// A token that is believed by whomever it is for.
pub(crate) struct JwtSvid {
    pub(crate) token: String,
    /// `jti`.
    pub(crate) token_id: String,
    pub(crate) expires_s: i64,
}

/// A token, and the private half of the key that it names, as a JWK.
pub(crate) struct WitSvid {
    pub(crate) token: String,
    pub(crate) key: String,
    pub(crate) token_id: String,
    pub(crate) expires_s: i64,
}

/// Signs credentials.
pub(crate) struct Authority {
    trust_domain: TrustDomain,
    /// Unix time.
    made_s: i64,
    issuer: Issuer<'static, KeyPair>,
    certificate: Vec<u8>,
    jwt: TokenKey,
    wit: TokenKey,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("id", &self.id()).field("made_s", &self.made_s).finish()
    }
}

impl Authority {
    pub(crate) fn generate(
        trust_domain: &TrustDomain,
        now_s: i64,
        random: &dyn SecureRandom,
    ) -> Result<Self, IssueError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = ca_params(&key);
        (params.not_before, params.not_after) = validity(now_s, now_s + AUTHORITY_LIFETIME_S)?;
        params.subject_alt_names = vec![SanType::URI(trust_domain.id().try_into()?)];
        let certificate = params.self_signed(&key)?.der().to_vec();
        Ok(Self {
            trust_domain: trust_domain.clone(),
            made_s: now_s,
            issuer: Issuer::new(params, key),
            certificate,
            jwt: TokenKey::generate(TokenKind::Jwt, random)?,
            wit: TokenKey::generate(TokenKind::Wit, random)?,
        })
    }

    /// The authority that was stored, if all of it is whole.
    pub(crate) fn restore(stored: Stored, random: &dyn SecureRandom) -> Result<Self, AuthorityError> {
        let key = KeyPair::from_pkcs8_der_and_sign_algo(
            &stored.certificate_key.as_slice().into(),
            &PKCS_ECDSA_P256_SHA256,
        );
        let key = key.map_err(|_| AuthorityError::Key { which: "certificate" })?;
        if !is_self_signed(&stored.certificate, key.public_key_raw()) {
            return Err(AuthorityError::Certificate);
        }
        let token_key = |kind, pkcs8: &[u8], which| {
            TokenKey::from_pkcs8(kind, pkcs8, random).ok_or(AuthorityError::Key { which })
        };
        Ok(Self {
            trust_domain: stored.trust_domain.parse()?,
            made_s: stored.made_s,
            jwt: token_key(TokenKind::Jwt, &stored.jwt_key, "JWT")?,
            wit: token_key(TokenKind::Wit, &stored.wit_key, "WIT")?,
            certificate: stored.certificate,
            issuer: Issuer::new(ca_params(&key), key),
        })
    }

    pub(crate) fn stored(&self) -> Stored {
        Stored {
            trust_domain: self.trust_domain.to_string(),
            made_s: self.made_s,
            certificate: self.certificate.clone(),
            certificate_key: self.issuer.key().serialized_der().to_vec(),
            jwt_key: self.jwt.pkcs8().to_vec(),
            wit_key: self.wit.pkcs8().to_vec(),
        }
    }

    /// Its name, by its certificate's key.
    pub(crate) fn id(&self) -> String {
        key_name(self.issuer.key())
    }

    pub(crate) const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    pub(crate) const fn made_s(&self) -> i64 {
        self.made_s
    }

    /// DER.
    pub(crate) fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    pub(super) fn certificate_key(&self) -> PublicKey {
        PublicKey::from_point(self.issuer.key().public_key_raw())
    }

    pub(super) fn token_key(&self, kind: TokenKind) -> PublicKey {
        match kind {
            TokenKind::Jwt => self.jwt.public(),
            TokenKind::Wit => self.wit.public(),
        }
    }

    pub(crate) fn x509(
        &self,
        principal: &Principal,
        now_s: i64,
        random: &dyn SecureRandom,
    ) -> Result<X509Svid, IssueError> {
        let expires_s = self.expiry(principal, now_s)?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut serial = random_bytes::<SERIAL_BYTES>(random)?;
        // A positive number of always the same length.
        serial[0] = serial[0] & 0x7f | 0x40;
        let claims = json!(principal.claims).to_string();
        let claims = yasna::construct_der(|writer| writer.write_utf8_string(&claims));

        let mut params = CertificateParams::default();
        (params.not_before, params.not_after) = validity(now_s, expires_s)?;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, ORGANISATION);
        params.distinguished_name.push(DnType::CommonName, principal.claims.session.as_str());
        params.subject_alt_names = vec![SanType::URI(principal.id.to_string().try_into()?)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.custom_extensions = vec![CustomExtension::from_oid_content(&CLAIMS_OID, claims)];
        let certificate = params.signed_by(&key, &self.issuer)?.der().to_vec();
        Ok(X509Svid { certificate, key: key.serialize_der(), serial: hex(&serial), expires_s })
    }

    pub(crate) fn jwt(
        &self,
        principal: &Principal,
        audience: &str,
        now_s: i64,
        random: &dyn SecureRandom,
    ) -> Result<JwtSvid, IssueError> {
        let (mut claims, token_id, expires_s) = self.token_claims(principal, now_s, random)?;
        claims["aud"] = audience.into();
        Ok(JwtSvid { token: self.jwt.sign(&claims, random)?, token_id, expires_s })
    }

    pub(crate) fn wit(
        &self,
        principal: &Principal,
        now_s: i64,
        random: &dyn SecureRandom,
    ) -> Result<WitSvid, IssueError> {
        let (mut claims, token_id, expires_s) = self.token_claims(principal, now_s, random)?;
        let bound = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let (public, key) = private_jwk(bound.serialized_der(), random).ok_or(IssueError::Random)?;
        claims["nbf"] = (now_s - SKEW_S).into();
        claims["cnf"] = confirmation(&public);
        Ok(WitSvid { token: self.wit.sign(&claims, random)?, key, token_id, expires_s })
    }

    /// The claims of every token, its id, and when it expires.
    fn token_claims(
        &self,
        principal: &Principal,
        now_s: i64,
        random: &dyn SecureRandom,
    ) -> Result<(Value, String, i64), IssueError> {
        let expires_s = self.expiry(principal, now_s)?;
        let token_id = Base64Url::encode_string(&random_bytes::<SERIAL_BYTES>(random)?);
        let claims = json!({
            "sub": principal.id.to_string(),
            "iat": now_s,
            "exp": expires_s,
            "jti": token_id,
            CLAIM: principal.claims,
        });
        Ok((claims, token_id, expires_s))
    }

    /// No credential outlives its session, nor the certificate of who signed it.
    fn expiry(&self, principal: &Principal, now_s: i64) -> Result<i64, IssueError> {
        let ours_s = self.made_s + AUTHORITY_LIFETIME_S;
        let expires_s = (now_s + LIFETIME_S).min(principal.expires_s).min(ours_s);
        if expires_s > now_s { Ok(expires_s) } else { Err(IssueError::TooLate) }
    }
}

/// What a CA certificate says, but for its trust domain and its times: these are not needed to sign with its key.
fn ca_params(key: &KeyPair) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, ORGANISATION);
    params.distinguished_name.push(DnType::CommonName, format!("authority {}", key_name(key)));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

fn key_name(key: &KeyPair) -> String {
    hex(digest(&SHA256, key.public_key_raw()).as_ref().get(..8).unwrap_or_default())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn validity(now_s: i64, expires_s: i64) -> Result<(OffsetDateTime, OffsetDateTime), IssueError> {
    let time =
        |s| OffsetDateTime::from_unix_timestamp(s).map_err(|_| IssueError::Certificate(rcgen::Error::Time));
    Ok((time(now_s - SKEW_S)?, time(expires_s)?))
}

fn random_bytes<const N: usize>(random: &dyn SecureRandom) -> Result<[u8; N], IssueError> {
    let mut bytes = [0; N];
    random.fill(&mut bytes).map_err(|_| IssueError::Random)?;
    Ok(bytes)
}

/// Whether a certificate is one piece that this key signed.
fn is_self_signed(certificate: &[u8], key: &[u8]) -> bool {
    let parts = yasna::parse_der(certificate, |reader| {
        reader.read_sequence(|reader| {
            let signed = reader.next().read_der()?;
            reader.next().read_der()?;
            Ok((signed, reader.next().read_bitvec_bytes()?.0))
        })
    });
    parts.is_ok_and(|(signed, signature)| {
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key);
        key.verify(&signed, &signature).is_ok()
    })
}
