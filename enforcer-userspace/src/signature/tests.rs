use std::{fs, process::Command};

use proptest::prelude::*;
use ring::rand::SystemRandom;

use super::*;

/// A key, a text and its signature, made by openssl.
const OPENSSL_PUBLIC: &str = include_str!("testdata/openssl.pub");
const OPENSSL_TEXT: &[u8] = b"apiVersion: enforcer/v1\n";
const OPENSSL_SIGNATURE: &str = include_str!("testdata/openssl.sig");

fn new_key() -> SigningKey {
    let random = SystemRandom::new();
    SigningKey::from_pem(SigningKey::generate(&random).unwrap().as_bytes(), &random).unwrap()
}

fn trust(key: &SigningKey) -> TrustKeys {
    TrustKeys::new([key.trust_key()])
}

fn verify(keys: &TrustKeys, text: &[u8], signature: &str) -> Result<KeyId, SignatureError> {
    keys.verify(text, &Signature::parse(signature)?)
}

#[test]
fn a_signature_vouches_for_its_text_and_names_its_key() {
    let (key, other) = (new_key(), new_key());
    let signature = key.sign(b"text", &SystemRandom::new()).unwrap();
    assert!(signature.len() <= 96, "{signature}");
    let both = TrustKeys::new([other.trust_key(), key.trust_key(), key.trust_key()]);
    assert_eq!(both.ids().count(), 2, "each once");
    assert_eq!(verify(&both, b"text", &signature), Ok(key.trust_key().id()));
    assert_eq!(verify(&trust(&other), b"text", &signature), Err(SignatureError::NoMatch));
    assert_eq!(verify(&TrustKeys::default(), b"text", &signature), Err(SignatureError::NoMatch));
    let (head, tail) = signature.split_at(40);
    assert!(verify(&both, b"text", &format!(" {head}\r\n{tail}\n")).is_ok(), "wrapped");
}

#[test]
fn every_changed_byte_is_noticed() {
    let key = new_key();
    let text = b"metadata:\n  name: agent\n";
    let signature = key.sign(text, &SystemRandom::new()).unwrap();
    let keys = trust(&key);
    for at in 0..text.len() {
        let mut changed = text.to_vec();
        changed[at] ^= 1;
        assert_eq!(verify(&keys, &changed, &signature), Err(SignatureError::NoMatch), "byte {at}");
    }
    assert_eq!(verify(&keys, &text[..text.len() - 1], &signature), Err(SignatureError::NoMatch));
    assert_eq!(verify(&keys, &[text, &b"\n"[..]].concat(), &signature), Err(SignatureError::NoMatch));

    let der = Base64::decode_vec(&signature).unwrap();
    for at in 0..der.len() {
        let mut changed = der.clone();
        changed[at] ^= 1;
        let changed = Base64::encode_string(&changed);
        assert_eq!(verify(&keys, text, &changed), Err(SignatureError::NoMatch), "byte {at} of the DER");
        let cut = Base64::encode_string(&der[..at]);
        assert_eq!(verify(&keys, text, &cut), Err(SignatureError::NoMatch), "the DER's first {at} bytes");
    }
}

#[test]
fn what_is_no_signature_is_told_apart() {
    let too_long = "A".repeat(MAX_SIGNATURE_BYTES + 1);
    for (text, expected) in [
        (too_long.as_str(), SignatureError::TooLong),
        ("no base64!", SignatureError::NotBase64),
        ("MEUCIQ=", SignatureError::NotBase64),
        ("MEUC\u{feff}", SignatureError::NotBase64),
        ("-----BEGIN SIGNATURE-----", SignatureError::NotBase64),
        ("", SignatureError::NoMatch),
        ("MAYCAQACAQA=", SignatureError::NoMatch),
    ] {
        assert_eq!(verify(&trust(&new_key()), b"", text), Err(expected), "{text}");
    }
}

#[test]
fn keys_are_read_back_and_bad_ones_say_what_they_are() {
    let random = SystemRandom::new();
    let private = SigningKey::generate(&random).unwrap();
    let key = SigningKey::from_pem(private.as_bytes(), &random).unwrap().trust_key();
    let public = key.to_pem();
    assert_eq!(TrustKey::from_pem(public.as_bytes(), &random).unwrap(), key);
    assert_eq!(key.id().to_string().len(), 16);

    let spki = pem_rfc7468::decode_vec(public.as_bytes()).unwrap().1;
    let altered = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut spki = spki.clone();
        change(&mut spki);
        pem_rfc7468::encode_string("PUBLIC KEY", pem_rfc7468::LineEnding::LF, &spki).unwrap()
    };
    for (pem, expected) in [
        (String::new(), "not one PEM block"),
        ("garbage".to_owned(), "not one PEM block"),
        (public.replace("PUBLIC", "PUBLISHED"), "a `PUBLISHED KEY` where a `PUBLIC KEY` is needed"),
        (private.clone(), "a `PRIVATE KEY` where a `PUBLIC KEY` is needed"),
        (format!("{public}{public}"), "not one PEM block"),
        (format!("{public}more"), "not one PEM block"),
        (public.replacen("MF", "M!", 1), "not one PEM block"),
        (altered(&|spki| spki.truncate(90)), "not the public half of a P-256 key, uncompressed"),
        (altered(&|spki| spki.push(0)), "not the public half of a P-256 key, uncompressed"),
        (altered(&|spki| spki[22] ^= 1), "not the public half of a P-256 key, uncompressed"),
        (altered(&|spki| spki[26] = 2), "not the public half of a P-256 key, uncompressed"),
        (altered(&|spki| spki[90] ^= 1), "not a point of the curve P-256: the key is damaged"),
        (altered(&|spki| spki[27..].fill(0)), "not a point of the curve P-256: the key is damaged"),
    ] {
        let error = TrustKey::from_pem(pem.as_bytes(), &random).unwrap_err();
        assert_eq!(error.to_string(), expected, "{pem}");
    }

    let pkcs8 = pem_rfc7468::decode_vec(private.as_bytes()).unwrap().1;
    let cut = pem_rfc7468::encode_string("PRIVATE KEY", pem_rfc7468::LineEnding::LF, &pkcs8[..80]).unwrap();
    for (pem, expected) in [
        (public, "a `PUBLIC KEY` where a `PRIVATE KEY` is needed"),
        (private.replace("PRIVATE", "EC PRIVATE"), "a `EC PRIVATE KEY` where a `PRIVATE KEY` is needed"),
        (cut, "not a P-256 key in PKCS#8 with its public half"),
    ] {
        let error = SigningKey::from_pem(pem.as_bytes(), &random).unwrap_err();
        assert_eq!(error.to_string(), expected, "{pem}");
    }
}

#[test]
fn openssl_s_key_and_signature_are_read() {
    let key = TrustKey::from_pem(OPENSSL_PUBLIC.as_bytes(), &SystemRandom::new()).unwrap();
    assert_eq!(key.to_pem(), OPENSSL_PUBLIC);
    let id = key.id();
    let keys = TrustKeys::new([key]);
    assert_eq!(verify(&keys, OPENSSL_TEXT, OPENSSL_SIGNATURE), Ok(id));
    assert_eq!(verify(&keys, b"another text", OPENSSL_SIGNATURE), Err(SignatureError::NoMatch));
}

#[test]
fn openssl_agrees_in_both_directions() {
    if let Err(error) = Command::new("openssl").arg("version").output() {
        println!("skipped: no `openssl` to compare with: {error}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let openssl = |arguments: &[&str]| {
        let output = Command::new("openssl").args(arguments).current_dir(dir.path()).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let write = |name: &str, bytes: &[u8]| fs::write(dir.path().join(name), bytes).unwrap();
    let read = |name: &str| fs::read(dir.path().join(name)).unwrap();
    let random = SystemRandom::new();
    let pem = SigningKey::generate(&random).unwrap();
    let key = SigningKey::from_pem(pem.as_bytes(), &random).unwrap();
    write("ours.key", pem.as_bytes());
    write("ours.pub", key.trust_key().to_pem().as_bytes());
    write("text", b"text");
    write("changed", b"texT");

    // Our signature, their check.
    let signature = key.sign(b"text", &random).unwrap();
    write("ours.sig", &Base64::decode_vec(&signature).unwrap());
    let check = ["dgst", "-sha256", "-verify", "ours.pub", "-signature", "ours.sig"];
    let (good, said) = openssl(&[&check[..], &["text"]].concat());
    assert!(good, "{said}");
    assert!(!openssl(&[&check[..], &["changed"]].concat()).0, "control");

    // Our key in their hands, and a key of theirs.
    let make = ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "theirs.key"];
    assert!(openssl(&make).0);
    for name in ["ours", "theirs"] {
        let (private, public) = (format!("{name}.key"), format!("{name}.their-pub"));
        assert!(openssl(&["pkey", "-in", &private, "-pubout", "-out", &public]).0);
        assert!(openssl(&["dgst", "-sha256", "-sign", &private, "-out", "their.sig", "text"]).0);
        let key = SigningKey::from_pem(&read(&private), &random).unwrap().trust_key();
        assert_eq!(key.to_pem().as_bytes(), read(&public), "{name}: the same public half");
        let signature = Base64::encode_string(&read("their.sig"));
        assert_eq!(verify(&TrustKeys::new([key.clone()]), b"text", &signature), Ok(key.id()), "{name}");
    }
}

proptest! {
    #[test]
    fn nothing_from_outside_panics_or_verifies(
        text in proptest::collection::vec(any::<u8>(), 0..300),
        der in proptest::collection::vec(any::<u8>(), 0..100),
        signature in ".{0,200}",
    ) {
        let random = SystemRandom::new();
        let key = TrustKey::from_pem(OPENSSL_PUBLIC.as_bytes(), &random).unwrap();
        let keys = TrustKeys::new([key]);
        prop_assert!(verify(&keys, &text, &signature).is_err());
        prop_assert!(verify(&keys, &text, &Base64::encode_string(&der)).is_err());
        prop_assert!(TrustKey::from_pem(&text, &random).is_err());
        prop_assert!(SigningKey::from_pem(&text, &random).is_err());
        for label in ["PUBLIC KEY", "PRIVATE KEY"] {
            let pem = pem_rfc7468::encode_string(label, pem_rfc7468::LineEnding::LF, &text).unwrap();
            prop_assert!(TrustKey::from_pem(pem.as_bytes(), &random).is_err());
            prop_assert!(SigningKey::from_pem(pem.as_bytes(), &random).is_err());
        }
    }
}
