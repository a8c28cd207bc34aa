use std::sync::Arc;

use enforcer_common::identity::SessionRef;
use ring::rand::SystemRandom;

use super::*;
use crate::session::{Context, Lineal, ProcessKey, Slot};

fn signer() -> Signer {
    let random = SystemRandom::new();
    let pem = SigningKey::generate(&random).unwrap();
    let key = SigningKey::from_pem(pem.as_bytes(), &random).unwrap();
    Signer::new(key, Box::new(random), "boot")
}

fn envelope(rules: &str) -> Arc<EnvelopeInForce> {
    let text = format!(
        "apiVersion: enforcer/v1\nkind: Envelope\nmetadata:\n  name: a\n  owner: o@example.com\n  operator: p\n  \
         purpose: t\n  model: m\nspec:\n  mode: enforce\n  ttl: 1h\n  egress: [{rules}]\n"
    );
    let envelope = envelope::parse(&text).unwrap();
    let digest = digest(&SHA256, text.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    Arc::new(EnvelopeInForce { number: 1, digest, text, envelope, blocks: 1 })
}

fn rule(to: &str) -> String {
    format!("{{name: r, to: [\"{to}\"], ports: [443], protocol: tcp}}")
}

fn grant(id: Uuid, parent: Option<Lineal>, expires_ns: u64) -> Grant {
    Grant {
        id,
        slot: SessionRef { slot: 1, generation: 1 },
        cgroup: "/c".into(),
        cgroup_id: 1,
        borrowed_cgroup: false,
        cgroup_before: "/".into(),
        started_ns: 0,
        expires_ns,
        command: Vec::new(),
        registered_by_uid: 0,
        root: ProcessKey::NONE,
        parent,
        context: Context::default(),
        container: None,
    }
}

/// A chain of sessions with these envelopes and expiries, signed by `signer`, and the last one's id.
fn chain(signer: &Signer, held: &[(&str, u64)]) -> (Vec<Hop>, Uuid) {
    let now = Moment { boot_ns: 10, wall: jiff::Timestamp::UNIX_EPOCH };
    let mut above: Vec<Uuid> = Vec::new();
    let mut hops = Vec::new();
    for (at, (to, expires_ns)) in held.iter().enumerate() {
        let id = Uuid::from_u128(at as u128 + 1);
        let parent = above.last().map(|parent| Lineal {
            id: *parent,
            ancestors: vec![Slot { slot: 0, generation: 1 }; at],
            agents: Vec::new(),
        });
        let envelope = envelope(&rule(to));
        let mut hop = signer.hop(&grant(id, parent, *expires_ns), &envelope, None, now).unwrap();
        hop.envelope = Some(envelope.text.clone());
        hops.push(hop);
        above.push(id);
    }
    (hops, above.pop().unwrap())
}

fn keys(signer: &Signer) -> TrustKeys {
    TrustKeys::new([signer.key.trust_key()])
}

fn check(signer: &Signer, (hops, id): &(Vec<Hop>, Uuid)) -> Result<Verified, ChainError> {
    verify(hops, *id, &keys(signer), &TrustKeys::default())
}

#[test]
fn a_chain_that_narrows_is_believed() {
    let signer = signer();
    let held = [("10.0.0.0/8", 50), ("10.1.0.0/16", 50), ("10.1.2.0/24", 40)];
    let verified = check(&signer, &chain(&signer, &held)).unwrap();
    assert_eq!((verified.statements.len(), verified.compared), (3, 2));
    assert_eq!(verified.host_key, signer.key.trust_key().id());
    let (mut hops, id) = chain(&signer, &held);
    hops.iter_mut().for_each(|hop| hop.envelope = None);
    assert_eq!(check(&signer, &(hops, id)).unwrap().compared, 0, "without envelopes nothing is compared");
}

#[test]
fn what_the_host_did_not_say_is_not_believed() {
    let signer = signer();
    let (hops, id) = chain(&signer, &[("10.0.0.0/8", 50), ("10.1.0.0/16", 50)]);
    let other = keys(&self::signer());
    let by_another = verify(&hops, id, &other, &TrustKeys::default());
    assert!(matches!(by_another, Err(ChainError::Signature { hop: 0, .. })));
    let changed = |change: &dyn Fn(&mut Vec<Hop>)| {
        let mut hops = hops.clone();
        change(&mut hops);
        check(&signer, &(hops, id)).unwrap_err()
    };
    let is = |error: ChainError, wanted: &str| assert!(error.to_string().contains(wanted), "{error}");
    is(changed(&|hops| hops[1].statement = hops[1].statement.replace("o@example", "x@example")), "signature");
    is(changed(&|hops| hops[1].signature = hops[0].signature.clone()), "signature");
    is(changed(&|hops| drop(hops.remove(0))), "parent");
    is(changed(&|hops| hops.swap(0, 1)), "parent");
    is(changed(&|hops| drop(hops.pop())), "the last hop");
    is(changed(&|hops| hops.clear()), "no hop");
    is(changed(&|hops| hops[1].envelope = hops[0].envelope.clone()), "not the one");
    is(changed(&|hops| hops[0].envelope = Some("a: b".to_owned())), "not the one");
    // A signature of the host's over something else.
    let text = "{\"kind\":\"other\"}";
    let signature = signer.key.sign(text.as_bytes(), &SystemRandom::new()).unwrap();
    is(
        changed(&|hops| {
            hops[0] = Hop {
                statement: text.to_owned(),
                signature: signature.clone(),
                envelope_signature: None,
                envelope: None,
            };
        }),
        "not a statement",
    );
}

/// Even if the host signed it: what is seen is that it got more.
#[test]
fn a_chain_that_widens_is_not_believed() {
    let signer = signer();
    let error = |held: &[(&str, u64)]| check(&signer, &chain(&signer, held)).unwrap_err();
    let wide = error(&[("10.1.0.0/16", 50), ("10.0.0.0/8", 50)]);
    assert!(matches!(&wide, ChainError::TooWide { hop: 1, more } if more.contains("10.2.0.0/15")), "{wide}");
    assert!(matches!(error(&[("10.0.0.0/8", 50), ("10.0.0.0/8", 51)]), ChainError::Expiry { hop: 1 }));
}

#[test]
fn the_operators_signature_is_asked_for() {
    let (signer, operator) = (signer(), signer());
    let operators = keys(&operator);
    let (mut hops, id) = chain(&signer, &[("10.0.0.0/8", 50)]);
    let check = |hops: &[Hop]| verify(hops, id, &keys(&signer), &operators);
    assert!(matches!(check(&hops), Err(ChainError::NoOperator)));
    let text = hops[0].envelope.clone().unwrap();
    hops[0].envelope_signature = Some(signer.key.sign(text.as_bytes(), &SystemRandom::new()).unwrap());
    assert!(matches!(check(&hops), Err(ChainError::Operator(_))), "the host is not the operator");
    hops[0].envelope_signature = Some(operator.key.sign(text.as_bytes(), &SystemRandom::new()).unwrap());
    assert_eq!(check(&hops).unwrap().operator_key, Some(operator.key.trust_key().id()));
}
