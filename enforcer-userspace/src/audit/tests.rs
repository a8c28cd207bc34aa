use proptest::prelude::*;
use ring::rand::SystemRandom;
use uuid::Uuid;

use super::{finding::Flaw, *};
use crate::signature::SigningKey;
use made::{Made, moment, new_key, verify};

mod made;

/// Where each entry of a segment begins, and where the last one ends.
fn offsets(segment: &[u8]) -> Vec<usize> {
    let mut reader = SegmentReader::open(segment).unwrap();
    let mut offsets = vec![reader.offset() as usize];
    while reader.next().unwrap().is_some() {
        offsets.push(reader.offset() as usize);
    }
    offsets
}

#[track_caller]
fn expect_at(report: &Report, sequence: u64) {
    let finding = report.finding.as_ref().expect("it is found");
    assert_eq!(finding.sequence, sequence, "{}", finding.flaw);
}

#[test]
fn what_was_written_is_sound() {
    let made = Made::usual();
    let report = made.verify(&made.segments);
    assert!(report.finding.is_none(), "{:?}", report.finding);
    assert_eq!((report.first, report.last, report.segments, report.events), (1, 14, 2, 10));
    let checkpoint = report.checkpoint.unwrap();
    assert_eq!((checkpoint.number, checkpoint.sequence, report.unsigned), (3, 12, 2));
    assert_eq!(report.notes, [""; 0]);
}

/// Of each byte, one bit at a time.
#[test]
fn every_bit_counts() {
    let made = Made::usual();
    let last = made.anchors.last().unwrap().sequence;
    let starts: Vec<Vec<usize>> = made.segments.iter().map(|segment| offsets(segment)).collect();
    for at in 0..made.segments.len() {
        let covered =
            if at == 0 { made.segments[0].len() } else { starts[1][usize::try_from(last).unwrap() - 8] };
        for byte in 0..covered {
            let mut segments = made.segments.clone();
            segments[at][byte] ^= 1 << (byte % 8);
            let report = made.verify(&segments);
            let finding = report.finding.expect("it is found");
            // The entry that holds the byte; of a header, the first one.
            let inside = starts[at].iter().filter(|start| **start <= byte).count().max(1) as u64;
            let expect = if at == 0 { inside } else { 8 + inside };
            // A frame that says another length can hide that it is this one only until the next.
            assert_eq!(finding.sequence, expect, "byte {byte} of {at}: {}", finding.flaw);
        }
    }
}

#[test]
fn what_is_cut_short_is_found_where_it_was_vouched_for() {
    let made = Made::usual();
    let offsets = offsets(&made.segments[1]);
    // The checkpoint is the fourth entry.
    let vouched = offsets[4];
    for length in HEADER_BYTES..made.segments[1].len() {
        let mut segments = made.segments.clone();
        segments[1].truncate(length);
        let whole = offsets.iter().filter(|offset| **offset <= length).count() as u64 - 1;
        let report = made.verify(&segments);
        assert_eq!(report.last, if whole == 0 { 8 } else { 8 + whole }, "{length}");
        assert_eq!(report.torn_bytes, (length - offsets[usize::try_from(whole).unwrap()]) as u64);
        if length < vouched {
            expect_at(&report, 9 + whole);
        } else {
            assert!(report.finding.is_none(), "{length}: {:?}", report.finding);
            // Without what is beside the log, nobody can tell.
        }
        let alone = verify(&segments, vec![made.first_key.clone()], None, None);
        assert!(alone.finding.is_none(), "{length}: {:?}", alone.finding);
    }
}

#[test]
fn entries_are_neither_left_out_nor_put_in_nor_moved() {
    let made = Made::usual();
    let starts = offsets(&made.segments[0]);
    let entry = |n: usize| made.segments[0][starts[n]..starts[n + 1]].to_vec();
    let rebuilt = |order: &[usize]| {
        let mut segment = made.segments[0][..HEADER_BYTES].to_vec();
        order.iter().for_each(|n| segment.extend(entry(*n)));
        vec![segment, made.segments[1].clone()]
    };
    assert!(made.verify(&rebuilt(&[0, 1, 2, 3, 4, 5, 6, 7])).finding.is_none(), "control");
    expect_at(&made.verify(&rebuilt(&[0, 1, 3, 4, 5, 6, 7])), 3);
    expect_at(&made.verify(&rebuilt(&[0, 1, 2, 2, 3, 4, 5, 6, 7])), 4);
    expect_at(&made.verify(&rebuilt(&[0, 1, 3, 2, 4, 5, 6, 7])), 3);
    expect_at(&made.verify(&rebuilt(&[0, 1, 2, 3, 4, 5, 6])), 8);
    expect_at(&made.verify(&[made.segments[1].clone(), made.segments[0].clone()]), 1);
    expect_at(&made.verify(&made.segments[1..]), 1);
    expect_at(&made.verify(&made.segments[..1]), 9);
    expect_at(&made.verify(&[]), 1);
}

/// Whoever changes an entry and computes all chain values anew has no key to sign the next checkpoint with.
#[test]
fn chain_made_anew_ends_at_the_next_checkpoint() {
    let made = Made::usual();
    let mut reader = SegmentReader::open(made.segments[0].as_slice()).unwrap();
    let mut state = State::at(reader.header());
    let mut forged = made.segments[0][..HEADER_BYTES].to_vec();
    while let Some(entry) = reader.next().unwrap() {
        let payload = if entry.sequence == 3 { b"{}" } else { entry.payload };
        state.append(entry.kind, payload, &mut forged);
    }
    let report = made.verify(&[forged, made.segments[1].clone()]);
    // The first checkpoint is the fifth entry.
    expect_at(&report, 5);
    assert!(matches!(report.finding.unwrap().flaw, Flaw::Checkpoint(_)));
}

#[test]
fn segments_of_two_logs_are_not_one() {
    let made = Made::usual();
    let mut other = Made::of("other", Uuid::from_u128(8));
    other.events(3).checkpoint().events(2).segment().events(3).checkpoint().events(2);
    let report = made.verify(&[made.segments[0].clone(), other.segments[1].clone()]);
    expect_at(&report, 9);
    // Also with the header of the right one.
    let spliced = [&made.segments[1][..HEADER_BYTES], &other.segments[1][HEADER_BYTES..]].concat();
    expect_at(&made.verify(&[made.segments[0].clone(), spliced]), 9);
    // A whole log of somebody else, with a key of theirs.
    let report = verify(&other.segments, vec![made.first_key.clone()], None, None);
    expect_at(&report, 5);
    assert!(matches!(report.finding.unwrap().flaw, Flaw::NotTrusted));
    let report = verify(&other.segments, vec![made.first_key.clone()], None, made.anchors.last());
    assert!(report.finding.is_some());
}

#[test]
fn keys_vouch_for_those_after_them_and_for_all_before() {
    let mut made = Made::new();
    made.events(2)
        .checkpoint()
        .rotate(true)
        .events(1)
        .checkpoint()
        .segment()
        .rotate(true)
        .events(1)
        .checkpoint();
    let [first, last] = [made.first_key.clone(), made.key.trust_key()];
    for trusted in [vec![first.clone()], vec![last.clone()], vec![first.clone(), last]] {
        let report = verify(&made.segments, trusted, None, None);
        assert!(report.finding.is_none(), "{:?}", report.finding);
    }
    let report = verify(&made.segments, vec![new_key().trust_key()], None, None);
    assert!(matches!(report.finding.unwrap().flaw, Flaw::NotTrusted));

    let mut replaced = Made::new();
    replaced.events(2).checkpoint().rotate(false).events(1).checkpoint();
    let report = verify(&replaced.segments, vec![replaced.first_key.clone()], None, None);
    expect_at(&report, 5);
    assert!(matches!(report.finding.unwrap().flaw, Flaw::KeyReplaced));
}

#[test]
fn what_is_behind_a_stub_can_be_checked() {
    let mut made = Made::new();
    made.events(2).checkpoint().rotate(true).events(1).segment().events(3).segment().events(2).checkpoint();
    let header = *SegmentReader::open(made.segments[1].as_slice()).unwrap().header();
    let mut reader = SegmentReader::open(made.segments[0].as_slice()).unwrap();
    let chain_first = reader.header().chain;
    let (mut begun, mut keys) = (String::new(), Vec::new());
    while let Some(entry) = reader.next().unwrap() {
        let text = String::from_utf8(entry.payload.to_vec()).unwrap();
        match entry.kind {
            Kind::Begun => begun = text,
            Kind::KeyChanged => keys.push(text),
            _ => {}
        }
    }
    let id = made.key.trust_key().id().to_string();
    let statement = StubStatement::before(&header, chain_first, begun, keys, "age".into(), (&moment(), id));
    let sign_by = |key: &SigningKey, statement: &StubStatement| {
        let statement = serde_json::to_string(statement).unwrap();
        let signature = key.sign(statement.as_bytes(), &SystemRandom::new()).unwrap();
        Stub { statement, signature: Some(signature) }
    };
    let stub = sign_by(&made.key, &statement);
    let unsaid = verify(&made.segments[1..], vec![made.first_key.clone()], Some(stub.clone()), None);
    assert!(matches!(unsaid.finding.unwrap().flaw, Flaw::StubUnsaid));
    made.removed(&stub);
    let sign = |statement: &StubStatement| sign_by(&made.key, statement);
    let first = vec![made.first_key.clone()];
    let check = |segments: &[Vec<u8>], stub: &Stub| {
        verify(segments, first.clone(), Some(stub.clone()), made.anchors.last()).finding
    };
    // Removed, about to be removed, and too much of it.
    assert!(check(&made.segments[1..], &stub).is_none(), "{:?}", check(&made.segments[1..], &stub));
    assert!(check(&made.segments, &stub).is_none());
    let gone = check(&made.segments[2..], &stub).expect("a segment is missing");
    assert_eq!(gone.sequence, header.first);
    assert!(verify(&made.segments[1..], first.clone(), None, None).finding.is_some(), "without a stub");

    let mut changed = stub.clone();
    changed.statement = changed.statement.replace("\"why\":\"age\"", "\"why\":\"eve\"");
    assert_ne!(changed, stub);
    let finding = check(&made.segments[1..], &changed).expect("the signature does not fit");
    assert!(matches!(finding.flaw, Flaw::StubSignature));
    // Somebody with a key of their own, which vouches for ours.
    let forger = new_key();
    let mut theirs: Begun = serde_json::from_str(&statement.begun).unwrap();
    theirs.key = forger.trust_key().to_pem();
    let ids = [&forger, &made.key].map(|key| key.trust_key().id().to_string());
    let change = KeyStatement::new(made.state.log, 2, ids, made.key.trust_key().to_pem(), &moment());
    let change = serde_json::to_string(&change).unwrap();
    let signature = forger.sign(change.as_bytes(), &SystemRandom::new()).unwrap();
    let change = Signed { statement: change, signature: Some(signature) };
    let mut forged = statement.clone();
    forged.begun = serde_json::to_string(&theirs).unwrap();
    forged.chain_first = theirs.chain();
    forged.keys = vec![serde_json::to_string(&change).unwrap()];
    let last_key = || vec![made.key.trust_key()];
    let by = |stub| verify(&made.segments[1..], last_key(), Some(stub), made.anchors.last()).finding;
    assert!(by(stub.clone()).is_none(), "control: ours");
    assert!(matches!(by(sign_by(&forger, &forged)).unwrap().flaw, Flaw::StubUnsaid));

    let mut other = statement.clone();
    other.chain = Hash::ZERO;
    assert!(check(&made.segments[1..], &sign(&other)).is_some());
    assert!(check(&made.segments, &sign(&other)).is_some(), "also while all is there");
    let mut other = statement;
    other.keys.clear();
    assert!(check(&made.segments[1..], &sign(&other)).is_some());
}

#[test]
fn every_covered_entry_can_be_proven_alone() {
    let made = Made::usual();
    let other = new_key().trust_key();
    for wanted in 1..=14_u64 {
        let segments = &made.segments[usize::from(wanted > 8)..];
        let mut prover = None;
        let mut proof = None;
        for segment in segments {
            let mut reader = SegmentReader::open(segment.as_slice()).unwrap();
            let header = *reader.header();
            let prover = prover.get_or_insert_with(|| Prover::new(wanted, &header));
            while let Some(entry) = reader.next().unwrap() {
                proof = proof.or(prover.take(&entry).unwrap());
            }
        }
        if wanted >= 12 {
            assert!(proof.is_none(), "{wanted}: the last checkpoint and what is behind it");
            continue;
        }
        let text = serde_json::to_string(&proof.expect("it is covered")).unwrap();
        let proof: Proof = serde_json::from_str(&text).unwrap();
        proof.check(&made.first_key).unwrap();
        assert_eq!(proof.entry.sequence, wanted);
        assert!(matches!(proof.check(&other), Err(ProofError::Signature)));
        let number = format!("\"sequence\":{wanted},\"kind\"");
        for (from, to) in [
            (number.as_str(), "\"sequence\":99,\"kind\""),
            ("\\\"version\\\":1", "\\\"version\\\":2"),
            ("\"leaf\":", "\"leaf\":1"),
            ("\"leaves\":", "\"leaves\":1"),
            ("\"path\":[", "\"path\":[\"0000000000000000000000000000000000000000000000000000000000000000\","),
        ] {
            let forged = text.replacen(from, to, 1).replace(",]", "]");
            assert_ne!(forged, text, "{from}");
            let forged: Proof = serde_json::from_str(&forged).unwrap();
            assert!(forged.check(&made.first_key).is_err(), "{wanted}: {from}");
        }
    }
}

#[test]
fn state_of_a_header_is_that_of_the_log() {
    let made = Made::usual();
    let mut reader = SegmentReader::open(made.segments[1].as_slice()).unwrap();
    let mut state = State::at(reader.header());
    while let Some(entry) = reader.next().unwrap() {
        state.follow(&entry).unwrap();
    }
    assert_eq!(format!("{state:?}"), format!("{:?}", made.state));
    assert_eq!(state.uncovered(), 2);
}

#[test]
fn sequences_of_events_are_the_first_of_their_name() {
    let number = |text: &str| entry::event_sequence(text.as_bytes());
    assert_eq!(number(r#"{"version":1,"sequence":42,"detail":"\"sequence\":7"}"#), Some(42));
    assert_eq!(number(r#"{"sequence":}"#), None);
    assert_eq!(number(r#"{"sequence":99999999999999999999}"#), None);
    assert_eq!(number(""), None);
}

#[test]
fn log_without_a_signature_is_not_sound() {
    let mut made = Made::new();
    made.events(3);
    let report = verify(&made.segments, vec![made.first_key.clone()], None, None);
    expect_at(&report, 1);
    assert!(matches!(report.finding.unwrap().flaw, Flaw::NotSigned));
    assert!(verify(&made.segments, Vec::new(), None, None).finding.is_none(), "it agrees with itself");
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(
        bytes in prop::collection::vec(any::<u8>(), 0..600),
        header in any::<bool>(),
        at in 0_usize..600,
    ) {
        let made = Made::usual();
        let mut segment = if header { made.segments[0].clone() } else { Vec::new() };
        segment.truncate(HEADER_BYTES + at);
        segment.extend(&bytes);
        let report = verify(&[segment.clone()], vec![made.first_key.clone()], None, None);
        prop_assert!(report.last <= segment.len() as u64);
        if !header {
            prop_assert!(report.finding.is_some());
        }
    }
}
