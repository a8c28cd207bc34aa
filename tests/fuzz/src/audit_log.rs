//! Audit logs of any bytes: as they are, and with chain values that are right, so that what is said in entries is read as well.

use std::sync::LazyLock;

use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;

use crate::audit::{Finding, Header, Prover, Report, SegmentReader, Stub, Verifier};
use crate::signature::{SigningKey, TrustKey};

/// One that signed nothing of what is read.
static TRUSTED: LazyLock<TrustKey> = LazyLock::new(|| {
    let random = SystemRandom::new();
    let pem = SigningKey::generate(&random).expect("there is randomness");
    SigningKey::from_pem(pem.as_bytes(), &random).expect("it was just made").trust_key()
});

pub fn verify(bytes: &[u8]) {
    check(&[bytes.to_vec()], None);
    let (stub, bytes) = bytes.split_at(bytes.len().min(bytes.first().map_or(0, |byte| usize::from(*byte))));
    let stub = Stub { statement: String::from_utf8_lossy(stub).into_owned(), signature: None };
    check(&chained(bytes), Some(stub));
}

fn check(segments: &[Vec<u8>], stub: Option<Stub>) {
    let random = SystemRandom::new();
    let mut verifier = Verifier::new(vec![TRUSTED.clone()], stub, &random);
    let found = walk(segments, &mut verifier);
    let report: Report = verifier.finish(found);
    assert!(report.notes.len() <= 100);
    assert!(report.finding.is_some() || report.log.is_none(), "nobody signed it");
    for segment in segments {
        let Ok(mut reader) = SegmentReader::open(segment.as_slice()) else { continue };
        let header = *reader.header();
        let mut prover = Prover::new(header.first.wrapping_add(1), &header);
        while let Ok(Some(entry)) = reader.next() {
            if let Ok(Some(proof)) = prover.take(&entry) {
                assert!(proof.check(&TRUSTED).is_err(), "nobody signed it");
            }
        }
    }
}

fn walk(segments: &[Vec<u8>], verifier: &mut Verifier<'_>) -> Result<(), Finding> {
    for segment in segments {
        verifier.enter("segment");
        let mut reader = match SegmentReader::open(segment.as_slice()) {
            Ok(reader) => reader,
            Err(error) => return verifier.unreadable(&error, true),
        };
        verifier.segment(reader.header())?;
        loop {
            match reader.next() {
                Ok(Some(entry)) => verifier.entry(&entry)?,
                Ok(None) => break,
                Err(error) => return verifier.unreadable(&error, true),
            }
        }
    }
    Ok(())
}

/// Payloads after one another, each behind its kind and its length, as a segment that is in order.
fn chained(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let log = uuid::Uuid::nil();
    let mut chain = [0_u8; 32];
    let mut segment = Vec::new();
    let mut sequence = 0_u64;
    while let Some(([kind, low, high], rest)) = bytes.split_first_chunk::<3>() {
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
        let (payload, rest) = rest.split_at(length);
        bytes = rest;
        if segment.is_empty() {
            // Of the first entry's own making, where it is one.
            let begun = serde_json::from_slice::<crate::audit::Begun>(payload).ok();
            let first = begun.map(|begun| begun.chain());
            let first = first.unwrap_or_else(|| crate::audit::Hash::of(&[payload]));
            let header = Header {
                log,
                first: 1,
                chain: first,
                checkpoint: 0,
                checkpoint_digest: crate::audit::Hash::ZERO,
                key: [0; 8],
                last_event: 0,
            };
            segment.extend(header.encode());
            chain = first.0;
        }
        sequence += 1;
        let kind = kind % 8;
        let length = (payload.len() as u32).to_le_bytes();
        let parts: [&[u8]; 5] = [&chain, &[kind], &sequence.to_le_bytes(), &length, payload];
        let next = digest(&SHA256, &parts.concat());
        chain.copy_from_slice(next.as_ref());
        segment.extend(length);
        segment.push(kind);
        segment.extend(sequence.to_le_bytes());
        segment.extend(payload);
        segment.extend(chain);
    }
    vec![segment]
}
