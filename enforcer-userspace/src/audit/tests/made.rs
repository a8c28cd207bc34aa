//! Logs in memory.

use ring::rand::SystemRandom;
use uuid::Uuid;

use super::super::*;
use crate::signature::{SigningKey, TrustKey};

pub(super) fn new_key() -> SigningKey {
    let random = SystemRandom::new();
    let pem = SigningKey::generate(&random).unwrap();
    SigningKey::from_pem(pem.as_bytes(), &random).unwrap()
}

pub(super) fn moment() -> Moment {
    Moment { time: "2026-11-26T01:00:00Z".parse().unwrap(), boot_id: "boot".to_owned() }
}

/// A log in the making, in memory.
pub(super) struct Made {
    pub(super) key: SigningKey,
    pub(super) first_key: TrustKey,
    pub(super) state: State,
    pub(super) segments: Vec<Vec<u8>>,
    pub(super) anchors: Vec<Anchor>,
}

impl Made {
    pub(super) fn new() -> Self {
        Self::of("host", Uuid::from_u128(7))
    }

    pub(super) fn of(host: &str, log: Uuid) -> Self {
        let key = new_key();
        let begun = Begun {
            version: Begun::VERSION,
            log,
            host: host.to_owned(),
            machine: None,
            key: key.trust_key().to_pem(),
            time: moment().time.to_string(),
            boot_id: "boot".to_owned(),
            events_before: 0,
        };
        let mut state = State::begin(&begun);
        let mut segment = state.header(&key.trust_key().id()).encode().to_vec();
        state.append(Kind::Begun, &serde_json::to_vec(&begun).unwrap(), &mut segment);
        Self { first_key: key.trust_key(), key, state, segments: vec![segment], anchors: Vec::new() }
    }

    pub(super) fn events(&mut self, count: u64) -> &mut Self {
        for _ in 0..count {
            let sequence = self.state.last_event + 1;
            let line = format!(r#"{{"version":1,"kind":"exec","time":"t","sequence":{sequence}}}"#);
            self.state.append(Kind::Event, line.as_bytes(), self.segments.last_mut().unwrap());
        }
        self
    }

    pub(super) fn checkpoint(&mut self) -> &mut Self {
        let out = self.segments.last_mut().unwrap();
        let anchor = self.state.append_checkpoint(&self.key, &SystemRandom::new(), &moment(), out);
        self.anchors.push(anchor.unwrap());
        self
    }

    pub(super) fn segment(&mut self) -> &mut Self {
        self.checkpoint();
        self.segments.push(self.state.header(&self.key.trust_key().id()).encode().to_vec());
        self
    }

    pub(super) fn rotate(&mut self, vouch: bool) -> &mut Self {
        let key = new_key();
        let ids = [&self.key, &key].map(|key| key.trust_key().id().to_string());
        let (log, sequence) = (self.state.log, self.state.sequence + 1);
        let statement = KeyStatement::new(log, sequence, ids, key.trust_key().to_pem(), &moment());
        let statement = serde_json::to_string(&statement).unwrap();
        let signature = self.key.sign(statement.as_bytes(), &SystemRandom::new()).unwrap();
        let signed = Signed { statement, signature: vouch.then_some(signature) };
        let out = self.segments.last_mut().unwrap();
        self.state.append(Kind::KeyChanged, &serde_json::to_vec(&signed).unwrap(), out);
        self.key = key;
        self
    }

    /// What a daemon says when it has removed something.
    pub(super) fn removed(&mut self, stub: &Stub) -> &mut Self {
        let time = moment().time.to_string();
        let removed = Removed { first: 1, last: 1, stub: stub.digest(), why: "age".to_owned(), time };
        let out = self.segments.last_mut().unwrap();
        self.state.append(Kind::Removed, &serde_json::to_vec(&removed).unwrap(), out);
        self.checkpoint()
    }

    pub(super) fn verify(&self, segments: &[Vec<u8>]) -> Report {
        verify(segments, vec![self.first_key.clone()], None, self.anchors.last())
    }

    /// With events in two segments, the last of them not covered.
    pub(super) fn usual() -> Self {
        let mut made = Self::new();
        made.events(3).checkpoint().events(2).segment().events(3).checkpoint().events(2);
        made
    }
}

pub(super) fn verify(
    segments: &[Vec<u8>],
    trusted: Vec<TrustKey>,
    stub: Option<Stub>,
    anchor: Option<&Anchor>,
) -> Report {
    let random = SystemRandom::new();
    let mut verifier = Verifier::new(trusted, stub, &random);
    if let Some(anchor) = anchor {
        verifier.expect("the anchor".to_owned(), Some(anchor.clone()));
    }
    let found = walk(segments, &mut verifier);
    verifier.finish(found)
}

fn walk(segments: &[Vec<u8>], verifier: &mut Verifier<'_>) -> Result<(), Finding> {
    for (at, segment) in segments.iter().enumerate() {
        verifier.enter(&at.to_string());
        let mut reader = match SegmentReader::open(segment.as_slice()) {
            Ok(reader) => reader,
            Err(error) => return verifier.unreadable(&error, false),
        };
        verifier.segment(reader.header())?;
        loop {
            match reader.next() {
                Ok(Some(entry)) => verifier.entry(&entry)?,
                Ok(None) => break,
                Err(error) => {
                    verifier.unreadable(&error, at + 1 == segments.len())?;
                    break;
                }
            }
        }
    }
    Ok(())
}
