use ring::rand::SystemRandom;
use serde_json::{Value, json};

use super::*;

const NOW: i64 = 1_700_000_000;
const DAY: i64 = 86_400;

fn domain() -> TrustDomain {
    "example.org".parse().unwrap()
}

fn authority(made_s: i64) -> Authority {
    Authority::generate(&domain(), made_s, &SystemRandom::new()).unwrap()
}

fn principal(expires_s: i64) -> Principal {
    let claims = Claims {
        session: "01a20782-afe2-711f".to_owned(),
        owner: "alice@example.com".to_owned(),
        operator: "ops".to_owned(),
        model: "m".to_owned(),
        mode: "enforce".to_owned(),
        envelope_digest: "ab".repeat(32),
        envelope_revision: 3,
        root: Root { tgid: 7, start_ns: 8, boot_id: "b".to_owned() },
        executable_digest: None,
        parent_session: Some("parent".to_owned()),
    };
    Principal { id: SpiffeId::of_agent(&domain(), &[], "agent").unwrap(), claims, expires_s }
}

fn bundle(list: Vec<Authority>) -> Bundle {
    Bundle::of(&Authorities::new(domain(), list))
}

fn jwt(authority: &Authority) -> String {
    authority.jwt(&principal(i64::MAX), "reports", NOW, &SystemRandom::new()).unwrap().token
}

fn part(token: &str, index: usize) -> Value {
    use base64ct::Encoding as _;
    let part = token.split('.').nth(index).unwrap();
    serde_json::from_slice(&base64ct::Base64UrlUnpadded::decode_vec(part).unwrap()).unwrap()
}

#[test]
fn a_jwt_says_what_the_standard_asks_for_and_ours_beside_it() {
    let authority = authority(NOW);
    let token = jwt(&authority);
    let header = part(&token, 0);
    assert_eq!(header.as_object().unwrap().keys().collect::<Vec<_>>(), ["alg", "kid", "typ"]);
    assert_eq!((&header["alg"], &header["typ"]), (&json!("ES256"), &json!("JWT")));
    let claims = part(&token, 1);
    assert_eq!(claims["sub"], "spiffe://example.org/agent/agent");
    assert_eq!(claims["aud"], "reports");
    assert_eq!(claims["exp"], NOW + LIFETIME_S);
    assert_eq!(claims["enforcer"]["owner"], "alice@example.com");
    assert_eq!(claims["enforcer"]["parent_session"], "parent");
    assert!(claims["enforcer"].get("executable_digest").is_none(), "what is not known is not said");
    assert_ne!(part(&jwt(&authority), 1)["jti"], claims["jti"]);

    let expected = Expected { audience: Some("reports"), trust_domain: Some(&domain()) };
    let verified = bundle(vec![authority]).keys().verify(&token, expected, NOW + 1).unwrap();
    assert_eq!((verified.kind, verified.expires_s), (TokenKind::Jwt, NOW + LIFETIME_S));
    assert_eq!(verified.session, Some(principal(0).claims));
}

#[test]
fn a_wit_is_bound_to_the_key_that_comes_with_it() {
    let authority = authority(NOW);
    let wit = authority.wit(&principal(i64::MAX), NOW, &SystemRandom::new()).unwrap();
    assert_eq!(part(&wit.token, 0)["typ"], "wit+jwt");
    let claims = part(&wit.token, 1);
    assert!(claims.get("aud").is_none());
    let key: Value = serde_json::from_str(&wit.key).unwrap();
    for name in ["kty", "crv", "x", "y", "alg"] {
        assert_eq!(claims["cnf"]["jwk"][name], key[name], "{name}");
    }
    assert!(claims["cnf"]["jwk"].get("d").is_none() && key["d"].as_str().unwrap().len() == 43);
    let keys = bundle(vec![authority]);
    assert_eq!(keys.keys().verify(&wit.token, Expected::default(), NOW).unwrap().kind, TokenKind::Wit);
}

#[test]
fn no_credential_outlives_its_session() {
    let (authority, random) = (authority(NOW), SystemRandom::new());
    for (expires_s, expected) in [
        (NOW + 10, Some(NOW + 10)),
        (NOW + LIFETIME_S + 1, Some(NOW + LIFETIME_S)),
        (NOW, None),
        (NOW - 5, None),
    ] {
        let principal = principal(expires_s);
        let issued = [
            authority.x509(&principal, NOW, &random).map(|svid| svid.expires_s).ok(),
            authority.jwt(&principal, "a", NOW, &random).map(|svid| svid.expires_s).ok(),
            authority.wit(&principal, NOW, &random).map(|svid| svid.expires_s).ok(),
        ];
        assert_eq!(issued, [expected; 3], "{expires_s}");
    }
}

#[test]
fn what_is_no_good_token_is_told_apart() {
    let (ours, random) = (authority(NOW), SystemRandom::new());
    let token = jwt(&ours);
    let keys = bundle(vec![ours]);
    let check = |token: &str, expected: Expected<'_>, now_s: i64| {
        keys.keys().verify(token, expected, now_s).map(|_| ()).map_err(|error| error.to_string())
    };
    let any = Expected::default();
    assert_eq!(check(&token, any, NOW), Ok(()), "control");
    assert_eq!(check(&token, any, NOW + LIFETIME_S - 1), Ok(()));
    let refused = |token: &str, why: &str| {
        let error = check(token, any, NOW).expect_err(why);
        assert!(error.contains(why), "{error}");
    };
    refused("", "three parts");
    refused("a.b", "three parts");
    refused(&format!("{token}."), "three parts");
    refused(&format!("{token}="), "three parts");
    refused(&"x".repeat(MAX_TOKEN_BYTES + 1), "longer than");
    let error = check(&token, any, NOW + LIFETIME_S + 5).unwrap_err();
    assert_eq!(error, "it expired 5 s ago");
    let other = "other.org".parse().unwrap();
    assert!(
        check(&token, Expected { trust_domain: Some(&other), ..any }, NOW)
            .unwrap_err()
            .contains("trust domain")
    );
    assert!(
        check(&token, Expected { audience: Some("else"), ..any }, NOW).unwrap_err().contains("[\"reports\"]")
    );
    refused(&jwt(&authority(NOW)), "no key of the bundle");

    // Another header over the same claims, and the same header over other claims.
    use base64ct::Encoding as _;
    let parts: Vec<&str> = token.split('.').collect();
    let encode = |value: &Value| base64ct::Base64UrlUnpadded::encode_string(value.to_string().as_bytes());
    let with_header = |change: &dyn Fn(&mut Value)| {
        let mut header = part(&token, 0);
        change(&mut header);
        format!("{}.{}.{}", encode(&header), parts[1], parts[2])
    };
    refused(&with_header(&|header| header["alg"] = "none".into()), "signed by `none`");
    refused(&with_header(&|header| header["alg"] = "HS256".into()), "signed by `HS256`");
    refused(&with_header(&|header| header["jku"] = "https://evil".into()), "header");
    refused(&with_header(&|header| header["crit"] = json!([])), "header");
    refused(&with_header(&|header| header["kid"] = "else".into()), "no key of the bundle");
    // A JWT-SVID is no WIT-SVID, whatever its header says: the keys are others.
    refused(&with_header(&|header| header["typ"] = "wit+jwt".into()), "may sign a WIT-SVID");
    refused(&with_header(&|header| header["typ"] = "at+jwt".into()), "header");
    refused(&with_header(&|header| header["typ"] = "JOSE".into()), "signature");
    let mut claims = part(&token, 1);
    claims["sub"] = "spiffe://example.org/agent/root".into();
    refused(&format!("{}.{}.{}", parts[0], encode(&claims), parts[2]), "signature");

    // Signed by us, but with claims that no SVID has.
    let key = token::TokenKey::generate(TokenKind::Jwt, &random).unwrap();
    let public = key.public();
    let signed = |claims: Value| {
        let token = key.sign(&claims, &random).unwrap();
        token::verify(&token, |_, _| Some(&public), any, NOW).map(|_| ()).map_err(|error| error.to_string())
    };
    let good = json!({"sub": "spiffe://example.org/a", "aud": ["x", "y"], "exp": NOW + 1});
    assert_eq!(signed(good.clone()), Ok(()), "control");
    for (name, value) in [
        ("sub", json!("agent")),
        ("sub", Value::Null),
        ("aud", json!([])),
        ("aud", Value::Null),
        ("aud", json!(1)),
        ("exp", Value::Null),
        ("exp", json!("9999999999")),
        ("exp", json!(1e300)),
        ("nbf", json!("0")),
    ] {
        let mut claims = good.clone();
        claims[name] = value.clone();
        assert_eq!(
            signed(claims),
            Err("its claims are not those of a JWT-SVID".to_owned()),
            "{name}: {value}"
        );
    }
    let mut early = good;
    early["nbf"] = (NOW + SKEW_S + 1).into();
    assert_eq!(signed(early), Err("it is not valid yet".to_owned()));
}

#[test]
fn documents_of_a_bundle_are_read_back() {
    let list = vec![authority(NOW), authority(NOW + 1)];
    let tokens: Vec<String> = list.iter().map(jwt).collect();
    let wit = list[0].wit(&principal(i64::MAX), NOW, &SystemRandom::new()).unwrap().token;
    let bundle = bundle(list);
    assert_eq!(bundle.pem().matches("BEGIN CERTIFICATE").count(), 2);
    let spiffe = Value::Object(bundle.spiffe());
    let uses: Vec<&str> =
        spiffe["keys"].as_array().unwrap().iter().map(|key| key["use"].as_str().unwrap()).collect();
    assert_eq!(uses, ["x509-svid", "x509-svid", "jwt-svid", "jwt-svid", "wit-svid", "wit-svid"]);
    let ids: std::collections::BTreeSet<String> = spiffe["keys"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|key| Some(key["kid"].as_str()?.to_owned()))
        .collect();
    assert_eq!(ids.len(), 4, "each key for tokens has a name of its own");

    let read = |document: &Value| TokenKeys::parse(document.to_string().as_bytes()).unwrap();
    let is_good = |keys: &TokenKeys, token: &str| keys.verify(token, Expected::default(), NOW).is_ok();
    let (all, plain) = (read(&spiffe), read(&bundle.jwks(TokenKind::Jwt)));
    for token in &tokens {
        assert!(is_good(&all, token) && is_good(&plain, token));
    }
    assert!(is_good(&all, &wit) && !is_good(&plain, &wit));
    for (document, why) in [
        ("", "not JSON"),
        ("[]", "no list `keys`"),
        ("{\"keys\": {}}", "no list `keys`"),
        ("{\"keys\": []}", "no key that may sign"),
        (
            "{\"keys\": [{\"kty\": \"RSA\", \"kid\": \"a\", \"n\": \"\", \"e\": \"\"}]}",
            "no key that may sign",
        ),
        (
            "{\"keys\": [{\"kty\": \"EC\", \"crv\": \"P-256\", \"kid\": \"a\", \"x\": \"AA\", \"y\": \"AA\"}]}",
            "no key",
        ),
    ] {
        let error = TokenKeys::parse(document.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(why), "{document}: {error}");
    }
}

#[test]
fn authorities_overlap_and_go_when_all_that_they_signed_has_expired() {
    let names =
        |list: &Authorities| list.iter().map(Authority::made_s).map(|s| (s - NOW) / DAY).collect::<Vec<_>>();
    let signer =
        |list: &Authorities, now_s: i64| list.signer(now_s).map(|signer| (signer.made_s() - NOW) / DAY);
    let mut list = Authorities::new(domain(), []);
    assert!(list.is_due(NOW));
    assert_eq!(signer(&list, NOW), None);
    // Simulated by the hour, for a year. A daemon that does nothing else.
    let mut signed_by = std::collections::BTreeMap::<i64, i64>::new();
    for hour in 0..365 * 24 {
        let now_s = NOW + hour * 3600;
        if list.is_due(now_s) {
            list.insert(authority(now_s));
        }
        for id in list.spent(now_s) {
            let gone = list.iter().find(|authority| authority.id() == id).unwrap().made_s();
            let last = signed_by[&gone];
            assert!(last + LIFETIME_S + SKEW_S <= now_s, "what it signed has expired");
            list.remove(&id);
        }
        let signer = list.signer(now_s).expect("one can always sign").made_s();
        assert!(signer == NOW || signer + 7 * DAY <= now_s, "announced for a week before it signs");
        assert!(now_s + LIFETIME_S <= signer + 30 * DAY, "its certificate outlives what it signs");
        signed_by.insert(signer, now_s);
        assert!(names(&list).len() <= 2, "{:?}", names(&list));
        assert!(!list.is_due(now_s));
    }
    assert_eq!(signed_by.len(), 26, "a new one every two weeks: {signed_by:?}");
}

#[test]
fn a_daemon_that_was_away_for_long_begins_anew() {
    let now_s = NOW + 40 * DAY;
    let mut list = Authorities::new(domain(), [authority(NOW)]);
    assert!(list.signer(now_s).is_none() && list.is_due(now_s));
    assert_eq!(list.spent(now_s).len(), 1);
    list.insert(authority(now_s));
    assert_eq!(list.signer(now_s).map(Authority::made_s), Some(now_s), "at once, since nobody else can");
    // One that is old and not expired signs until the new one is known.
    let list = Authorities::new(domain(), [authority(NOW), authority(NOW + 20 * DAY)]);
    assert_eq!(list.signer(NOW + 21 * DAY).map(Authority::made_s), Some(NOW));
    assert_eq!(list.signer(NOW + 27 * DAY).map(Authority::made_s), Some(NOW + 20 * DAY));
    assert!(list.spent(NOW + 27 * DAY + LIFETIME_S).is_empty());
    assert_eq!(list.spent(NOW + 27 * DAY + LIFETIME_S + SKEW_S).len(), 1);
    let other = Authority::generate(&"other.org".parse().unwrap(), NOW, &SystemRandom::new()).unwrap();
    assert_eq!(Authorities::new(domain(), [other]).iter().count(), 0, "another trust domain's is not ours");
}

#[test]
fn openssl_takes_a_certificate_for_what_it_is() {
    use std::{fs, process::Command};
    if let Err(error) = Command::new("openssl").arg("version").output() {
        println!("skipped: no `openssl` to compare with: {error}");
        return;
    }
    let now_s = jiff_now();
    let ours = authority(now_s);
    let svid = ours.x509(&principal(i64::MAX), now_s, &SystemRandom::new()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let leaf =
        pem_rfc7468::encode_string("CERTIFICATE", pem_rfc7468::LineEnding::LF, &svid.certificate).unwrap();
    fs::write(dir.path().join("leaf.pem"), leaf).unwrap();
    let openssl = |arguments: &[&str]| {
        let output = Command::new("openssl").args(arguments).current_dir(dir.path()).output().unwrap();
        (
            output.status.success(),
            String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
        )
    };
    fs::write(dir.path().join("ca.pem"), bundle(vec![authority(now_s), ours]).pem()).unwrap();
    let strict = ["verify", "-x509_strict", "-purpose", "sslclient", "-CAfile", "ca.pem", "leaf.pem"];
    let (good, said) = openssl(&strict);
    assert!(good, "{said}");
    fs::write(dir.path().join("ca.pem"), bundle(vec![authority(now_s)]).pem()).unwrap();
    assert!(!openssl(&strict).0, "control");
    let (_, text) = openssl(&["x509", "-in", "leaf.pem", "-noout", "-text"]);
    for expected in [
        "URI:spiffe://example.org/agent/agent",
        "CA:FALSE",
        "Digital Signature",
        "\"envelope_revision\":3",
        "Authority Key Identifier",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    assert_eq!(text.matches("URI:").count(), 1);
}

fn jiff_now() -> i64 {
    jiff::Timestamp::now().as_second()
}
