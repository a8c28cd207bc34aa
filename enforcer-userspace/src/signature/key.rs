//! Keys, and their forms in files: PKCS#8 for the private one, SPKI for the public one, both in PEM, as openssl has them.

use std::fmt;

use base64ct::{Base64, Encoding as _};
use pem_rfc7468::LineEnding;
use ring::{
    agreement::{self, ECDH_P256, EphemeralPrivateKey},
    digest::{SHA256, digest},
    rand::SecureRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _},
};

const PRIVATE_LABEL: &str = "PRIVATE KEY";
const PUBLIC_LABEL: &str = "PUBLIC KEY";

/// What stands in front of the point in the SPKI form of every P-256 key: a sequence of the algorithm (`id-ecPublicKey`,
/// `prime256v1`) and the head of the bit string.
const SPKI_HEAD: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// An uncompressed point: 4, then two coordinates.
const POINT_BYTES: usize = 65;
const ID_BYTES: usize = 8;

/// Why something is not a key, or was not done with one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyError {
    #[error("not one PEM block")]
    Pem,
    #[error("a `{found}` where a `{expected}` is needed")]
    Label { found: String, expected: &'static str },
    #[error("not a P-256 key in PKCS#8 with its public half")]
    Private,
    #[error("not the public half of a P-256 key, uncompressed")]
    Public,
    #[error("not a point of the curve P-256: the key is damaged")]
    Point,
    #[error("get randomness")]
    Random,
}

/// Names a key: the first hexadecimal digits of SHA-256 of its SPKI form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyId(String);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The public half of a key: what it signed is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TrustKey {
    spki: Vec<u8>,
}

impl TrustKey {
    pub(crate) fn from_pem(pem: &[u8], random: &dyn SecureRandom) -> Result<Self, KeyError> {
        let spki = decode(pem, PUBLIC_LABEL)?;
        let point = spki.strip_prefix(&SPKI_HEAD).ok_or(KeyError::Public)?;
        if point.len() != POINT_BYTES || point.first() != Some(&4) {
            return Err(KeyError::Public);
        }
        // `ring` looks at a point only when it is used. Here it is used for nothing but that, so that a damaged key is
        // found when it is read and not when nothing verifies.
        let throw_away = EphemeralPrivateKey::generate(&ECDH_P256, random).map_err(|_| KeyError::Random)?;
        let public = agreement::UnparsedPublicKey::new(&ECDH_P256, point);
        agreement::agree_ephemeral(throw_away, &public, |_| ()).map_err(|_| KeyError::Point)?;
        Ok(Self { spki })
    }

    pub(crate) fn to_pem(&self) -> String {
        encode(PUBLIC_LABEL, &self.spki)
    }

    pub(crate) fn id(&self) -> KeyId {
        let digest = digest(&SHA256, &self.spki);
        KeyId(digest.as_ref().iter().take(ID_BYTES).map(|byte| format!("{byte:02x}")).collect())
    }

    pub(super) fn point(&self) -> &[u8] {
        self.spki.get(SPKI_HEAD.len()..).unwrap_or_default()
    }
}

/// A key that signs.
pub(crate) struct SigningKey {
    pair: EcdsaKeyPair,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SigningKey").field(&self.trust_key().id()).finish()
    }
}

impl SigningKey {
    /// A new key, in PEM.
    pub(crate) fn generate(random: &dyn SecureRandom) -> Result<String, KeyError> {
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, random);
        Ok(encode(PRIVATE_LABEL, pkcs8.map_err(|_| KeyError::Random)?.as_ref()))
    }

    pub(crate) fn from_pem(pem: &[u8], random: &dyn SecureRandom) -> Result<Self, KeyError> {
        let pkcs8 = decode(pem, PRIVATE_LABEL)?;
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &pkcs8, random);
        Ok(Self { pair: pair.map_err(|_| KeyError::Private)? })
    }

    pub(crate) fn trust_key(&self) -> TrustKey {
        TrustKey { spki: [&SPKI_HEAD, self.pair.public_key().as_ref()].concat() }
    }

    /// The signature of a text, in base64.
    pub(crate) fn sign(&self, text: &[u8], random: &dyn SecureRandom) -> Result<String, KeyError> {
        let signature = self.pair.sign(random, text).map_err(|_| KeyError::Random)?;
        Ok(Base64::encode_string(signature.as_ref()))
    }
}

fn decode(pem: &[u8], expected: &'static str) -> Result<Vec<u8>, KeyError> {
    let label = pem_rfc7468::decode_label(pem).map_err(|_| KeyError::Pem)?;
    if label != expected {
        return Err(KeyError::Label { found: label.escape_default().to_string(), expected });
    }
    let (_, der) = pem_rfc7468::decode_vec(pem).map_err(|_| KeyError::Pem)?;
    Ok(der)
}

fn encode(label: &str, der: &[u8]) -> String {
    pem_rfc7468::encode_string(label, LineEnding::LF, der)
        .expect("a key is far smaller than an address space")
}
