extern crate std;

mod packets;

use super::*;
use crate::net::{Family, Protocol};
use crate::rules::{Block, EnvelopeRules, Header, INBOUND, RuleEntry, Tree, fan_out, selector};
use proptest::prelude::*;
use std::vec::Vec;

const SESSION: SessionRef = SessionRef { slot: 3, generation: 9 };
const ENVELOPE: u32 = 77;

/// The rules of an envelope as blocks.
struct Table(Vec<Block>);

impl Table {
    /// One rule per (address, port), each for TCP.
    fn new(rules: &[(Address, u16, Verdict)]) -> Self {
        let entries = rules.iter().zip(0..).map(|((address, port, verdict), rule)| {
            let only = selector(Protocol::Tcp, *port);
            let entry =
                RuleEntry { first: only, last: only, rule, verdict: verdict.raw(), ..RuleEntry::NONE };
            (*address, entry)
        });
        Self::of_entries(entries.collect(), RuleEntry::NONE)
    }

    /// What holds at every address.
    fn everywhere(entry: RuleEntry) -> Self {
        Self::of_entries(Vec::new(), entry)
    }

    /// What holds at single addresses, and at all others. A tree of one node for each family.
    fn of_entries(entries: Vec<(Address, RuleEntry)>, elsewhere: RuleEntry) -> Self {
        let mut header = Header { entries: 3, ..Header::default() };
        let mut blocks = std::vec![Block::EMPTY; 3];
        for (index, family) in Family::ALL.iter().enumerate() {
            let places = fan_out(*family) as usize;
            let first_entry = (blocks.len() - 3) * Block::ENTRIES;
            header.trees[index] = Tree { root: 1 + index as u32, nodes: 1, entry: first_entry as u32 };
            let mut intervals: Vec<(u128, RuleEntry)> = std::vec![(0, elsewhere)];
            let mut of_family: Vec<_> =
                entries.iter().filter(|(address, _)| address.family() == *family).collect();
            of_family.sort_by_key(|(address, _)| address.octets());
            for (address, entry) in of_family {
                let number = u128::from_be_bytes(address.octets()) >> (128 - u32::from(family.bits()));
                intervals.retain(|(first, _)| *first != number);
                intervals.push((number, *entry));
                let next = number.checked_add(1).filter(|next| *family == Family::V6 || next >> 32 == 0);
                intervals.extend(next.map(|next| (next, elsewhere)));
            }
            assert!(intervals.len() < places, "one node");
            let last = intervals[intervals.len() - 1].1;
            intervals.resize(places - 1, (u128::MAX, last));
            let words = blocks[1 + index].words.chunks_mut(32 / places);
            for (words, (first, _)) in words.zip(&intervals) {
                for (word, shift) in words.iter_mut().rev().zip([0, 32, 64, 96]) {
                    *word = (first >> shift) as u32;
                }
            }
            for entries in intervals.chunks(Block::ENTRIES) {
                let mut block = Block::EMPTY;
                for (words, (_, entry)) in block.words.chunks_mut(RuleEntry::WORDS).zip(entries) {
                    words.copy_from_slice(&entry.words());
                }
                blocks.push(block);
            }
        }
        blocks[0] = header.block();
        Self(blocks)
    }
}

impl<'t> RuleTables for &'t Table {
    type Rules = &'t Table;

    fn envelope(&self, number: u32) -> Option<&'t Table> {
        assert_eq!(number, ENVELOPE);
        Some(self)
    }
}

impl EnvelopeRules for &Table {
    fn block(&self, index: u32) -> Option<&Block> {
        self.0.get(index as usize)
    }
}

fn control(state: SessionState, mode: Mode) -> Control {
    Control { state, mode, envelope: ENVELOPE, generation: SESSION.generation }
}

fn standing(state: SessionState, mode: Mode) -> Standing {
    Standing {
        claim: Claim::Tagged(SESSION),
        control: control(state, mode).pack(),
        expires_ns: 1_000,
        now_ns: 999,
        placement: Placement::Home,
        ancestor: 0,
        image: 0,
    }
}

fn to(address: &str, port: u16) -> Option<Destination> {
    let address: core::net::IpAddr = address.parse().unwrap();
    Some(Destination { protocol: Protocol::Tcp, address: address.into(), port })
}

fn check(standing: &Standing, destination: Option<Destination>, table: &Table, expect: (Verdict, Reason)) {
    let decision = decide(standing, destination, &table);
    assert_eq!((decision.verdict, decision.reason), expect);
}

#[test]
fn rules_decide_for_an_active_session() {
    let active = standing(SessionState::Active, Mode::Enforce);
    let table = Table::new(&[
        (Address::v4([10, 0, 0, 1]), 443, Verdict::Allow),
        (Address::v4([10, 0, 0, 2]), 443, Verdict::Deny),
    ]);
    check(&active, to("10.0.0.1", 443), &table, (Verdict::Allow, Reason::AllowRule));
    check(&active, to("::ffff:10.0.0.1", 443), &table, (Verdict::Allow, Reason::AllowRule));
    check(&active, to("10.0.0.2", 443), &table, (Verdict::Deny, Reason::DenyRule));
    check(&active, to("10.0.0.1", 80), &table, (Verdict::Deny, Reason::NoRule));
    check(&active, to("2001:db8::1", 443), &table, (Verdict::Deny, Reason::NoRule));
    check(&active, None, &table, (Verdict::Deny, Reason::Unclassifiable));
}

/// Decides every protocol and port.
const EVERYTHING: RuleEntry = RuleEntry { first: 0, last: u32::MAX, rule: 0, ..RuleEntry::NONE };

#[test]
fn an_entry_with_a_broken_verdict_denies() {
    for mode in [Mode::Enforce, Mode::Audit] {
        let decision =
            decide(&standing(SessionState::Active, mode), to("10.0.0.1", 1), &&Table::everywhere(EVERYTHING));
        assert_eq!((decision.verdict, decision.mode), (Verdict::Deny, mode));
    }
    let broken = Table::everywhere(RuleEntry { verdict: Verdict::Deny.raw(), mode: 7, ..EVERYTHING });
    assert!(decide(&standing(SessionState::Active, Mode::Audit), to("10.0.0.1", 1), &&broken).is_refused());
}

#[test]
fn rules_that_are_missing_or_broken_deny_in_audit_mode_as_well() {
    struct Nothing;
    impl RuleTables for Nothing {
        type Rules = &'static Table;
        fn envelope(&self, _: u32) -> Option<&'static Table> {
            None
        }
    }
    let audited = standing(SessionState::Active, Mode::Audit);
    let decision = decide(&audited, to("10.0.0.1", 1), &Nothing);
    assert_eq!((decision.is_refused(), decision.reason), (true, Reason::Fault));
    // An entry that refers to ranges that are not there.
    let broken = Table::everywhere(RuleEntry { first: 1000, last: 1005, many: true, ..EVERYTHING });
    let decision = decide(&audited, to("10.0.0.1", 1), &&broken);
    assert_eq!((decision.is_refused(), decision.reason), (true, Reason::Fault));
    assert!(!decide(&audited, to("10.0.0.1", 1), &&Table::everywhere(RuleEntry::NONE)).is_refused());
    // Blocks that are missing, one after the other from the last.
    let mut cut = Table::everywhere(RuleEntry { first: 8, last: 15, many: true, ..EVERYTHING });
    let mut reasons = Vec::new();
    while cut.0.pop().is_some() {
        reasons.push(decide(&audited, to("10.0.0.1", 1), &&cut).reason);
    }
    assert!(reasons.len() > 3 && reasons.ends_with(&[Reason::Fault; 3]), "{reasons:?}");
    // A tree that says it has more nodes than it has levels.
    let mut deep = Table::everywhere(RuleEntry::NONE);
    deep.0[0].words[1] = u32::MAX;
    assert_eq!(decide(&audited, to("10.0.0.1", 1), &&deep).reason, Reason::Fault);
}

#[test]
fn a_rule_has_its_own_mode() {
    let rule = |mode: Mode| {
        Table::everywhere(RuleEntry { verdict: Verdict::Deny.raw(), mode: mode.raw(), ..EVERYTHING })
    };
    for session in [Mode::Enforce, Mode::Audit] {
        let standing = standing(SessionState::Active, session);
        assert!(decide(&standing, to("10.0.0.1", 1), &&rule(Mode::Enforce)).is_refused());
        assert!(!decide(&standing, to("10.0.0.1", 1), &&rule(Mode::Audit)).is_refused());
    }
}

#[test]
fn unspecified_v6_needs_both_loopbacks() {
    let active = standing(SessionState::Active, Mode::Enforce);
    let v4 = (Address::LOOPBACK_V4, 80, Verdict::Allow);
    let v6 = (Address::LOOPBACK_V6, 80, Verdict::Allow);
    check(&active, to("::", 80), &Table::new(&[v6]), (Verdict::Deny, Reason::NoRule));
    check(&active, to("::", 80), &Table::new(&[v4]), (Verdict::Deny, Reason::NoRule));
    check(&active, to("::", 80), &Table::new(&[v4, v6]), (Verdict::Allow, Reason::AllowRule));
}

#[test]
fn unspecified_v4_is_nobodys_address() {
    let active = standing(SessionState::Active, Mode::Enforce);
    let all = [Address::v4([0; 4]), Address::LOOPBACK_V4].map(|address| (address, 80, Verdict::Allow));
    for name in ["0.0.0.0", "::ffff:0.0.0.0"] {
        check(&active, to(name, 80), &Table::new(&all), (Verdict::Deny, Reason::Unclassifiable));
    }
}

#[test]
fn only_stream_and_datagram_of_the_plain_protocols_are_created() {
    let active = standing(SessionState::Active, Mode::Enforce);
    let no_icmp = Table::everywhere(RuleEntry::NONE);
    for (kind, protocol) in [(1, 0), (1, 6), (2, 0), (2, 17)] {
        assert!(!decide_socket(&active, kind, protocol, &&no_icmp).is_refused(), "{kind} {protocol}");
    }
    // MPTCP, SCTP, DCCP, UDP-Lite, raw, ping, L2TP, SMC, and a protocol that merely looks right in its low byte.
    for (kind, protocol) in [
        (1, 262),
        (1, 132),
        (6, 33),
        (2, 136),
        (3, 255),
        (3, 1),
        (2, 1),
        (2, 58),
        (2, 115),
        (1, 256),
        (1, 256 + 6),
    ] {
        let decision = decide_socket(&active, kind, protocol, &&no_icmp);
        assert_eq!((decision.is_refused(), decision.reason), (true, Reason::SocketType), "{kind} {protocol}");
    }
    // Ping sockets, and no other ICMP sockets, if a rule allows ICMP somewhere.
    let mut icmp = Table::everywhere(RuleEntry::NONE);
    icmp.0[0] = Header { icmp: true, ..Header::default() }.block();
    for (kind, protocol, refused) in
        [(2, 1, false), (2, 58, false), (3, 1, true), (3, 58, true), (2, 115, true)]
    {
        assert_eq!(decide_socket(&active, kind, protocol, &&icmp).is_refused(), refused, "{kind} {protocol}");
    }
}

#[test]
fn a_port_may_be_taken_where_somebody_may_reach_it() {
    let active = standing(SessionState::Active, Mode::Enforce);
    let port = selector(Protocol::Tcp, 9) | INBOUND;
    let entry =
        RuleEntry { first: port, last: port, rule: 0, verdict: Verdict::Allow.raw(), ..RuleEntry::NONE };
    for nobody in [Address::UNSPECIFIED_V4, Address::UNSPECIFIED_V6] {
        let table = Table::of_entries(std::vec![(nobody, entry)], RuleEntry::NONE);
        let bind = |protocol, port| decide_bind(&active, protocol, port, &&table).verdict == Verdict::Allow;
        assert!(bind(Some(Protocol::Tcp), 9));
        assert!(!bind(Some(Protocol::Tcp), 10) && !bind(Some(Protocol::Udp), 9) && !bind(None, 9));
    }
}

#[test]
fn what_is_not_paid_for_is_denied() {
    let active = standing(SessionState::Active, Mode::Enforce);
    let allowed = Table::everywhere(RuleEntry { verdict: Verdict::Allow.raw(), ..EVERYTHING });
    for mode in [Mode::Enforce, Mode::Audit] {
        let control = control(SessionState::Active, mode).pack();
        let decision = decide(&Standing { control, ..active }, to("10.0.0.1", 1), &&allowed);
        assert_eq!(spend(decision, control, Ok(true)), decision);
        let over = spend(decision, control, Ok(false));
        assert_eq!((over.reason, over.is_refused()), (Reason::Limit, mode == Mode::Enforce));
        let broken = spend(decision, control, Err(Broken));
        assert_eq!((broken.reason, broken.is_refused()), (Reason::Fault, true));
    }
}

#[test]
fn audit_lets_through_what_rules_refuse_and_nothing_else() {
    let table = Table::everywhere(RuleEntry::NONE);
    let audit = standing(SessionState::Active, Mode::Audit);
    let decision = decide(&audit, to("10.0.0.1", 1), &&table);
    assert_eq!((decision.verdict, decision.is_refused()), (Verdict::Deny, false));
    assert!(!decide_socket(&audit, 3, 1, &&table).is_refused());

    for over in [SessionState::Revoked, SessionState::Quarantined] {
        assert!(decide(&standing(over, Mode::Audit), to("10.0.0.1", 1), &&table).is_refused());
    }
    let elsewhere = Standing { placement: Placement::OtherSession, ..audit };
    assert!(decide(&elsewhere, to("10.0.0.1", 1), &&table).is_refused());
    assert!(decide(&Standing { now_ns: 1_000, ..audit }, to("10.0.0.1", 1), &&table).is_refused());
    assert!(
        decide(&Standing { claim: Claim::Untagged(SESSION), ..audit }, to("10.0.0.1", 1), &&table)
            .is_refused()
    );
}

fn any_address() -> impl Strategy<Value = Address> {
    prop_oneof![
        Just(Address::LOOPBACK_V4),
        Just(Address::LOOPBACK_V6),
        Just(Address::v4([0; 4])),
        Just(Address::v6([0; 16])),
        any::<[u8; 4]>().prop_map(Address::v4),
        any::<[u8; 16]>().prop_map(Address::v6),
    ]
}

proptest! {
    /// Against the order as DESIGN states it, spelled out slowly.
    #[test]
    fn order_of_precedence(
        tagged: bool,
        word in prop_oneof![
            any::<u64>(),
            (0usize..4, 0usize..2).prop_map(|(s, m)| control(SessionState::ALL[s], Mode::ALL[m]).pack().0),
        ],
        expires_ns in 0u64..4,
        now_ns in 0u64..4,
        address in any_address(),
        listed in any::<Option<bool>>(),
        placement in (0usize..5).prop_map(|n| Placement::ALL[n]),
        image in prop_oneof![3 => Just(0), 1 => Just(Reason::ImageNotListed.raw())],
    ) {
        let claim = if tagged { Claim::Tagged(SESSION) } else { Claim::Untagged(SESSION) };
        let word = ControlWord(word & !(0xff_ffff << 16) | u64::from(ENVELOPE) << 16);
        let facts = Standing { claim, control: word, expires_ns, now_ns, placement, ancestor: 0, image };
        let verdict = |allow| if allow { Verdict::Allow } else { Verdict::Deny };
        let table = Table::new(&listed.map(|allow| (address, 5, verdict(allow))).into_iter().collect::<Vec<_>>());
        let destination = Destination { protocol: Protocol::Tcp, address, port: 5 };
        let decision = decide(&facts, Some(destination), &&table);

        let state = word.0 as u8;
        let mode = (word.0 >> 8) as u8;
        let expect = if !tagged {
            (Verdict::Deny, Reason::Untagged)
        } else if state > 3 || mode == 0 || mode > 2 || word.0 >> 40 != 9 || state == 0 {
            (Verdict::Deny, Reason::SessionOver)
        } else if placement == Placement::OtherSession {
            (Verdict::Deny, Reason::OtherSession)
        } else if state == 2 {
            (Verdict::Deny, Reason::Revoked)
        } else if state == 3 {
            (Verdict::Deny, Reason::Quarantined)
        } else if now_ns >= expires_ns {
            (Verdict::Deny, Reason::Expired)
        } else if image != 0 {
            (Verdict::Deny, Reason::ImageNotListed)
        } else if address.is_unspecified() {
            // Not in the table under its own name; for IPv4, not asked for.
            let v4 = address.family() == Family::V4;
            (Verdict::Deny, if v4 { Reason::Unclassifiable } else { Reason::NoRule })
        } else {
            match listed {
                Some(true) => (Verdict::Allow, Reason::AllowRule),
                Some(false) => (Verdict::Deny, Reason::DenyRule),
                None => (Verdict::Deny, Reason::NoRule),
            }
        };
        prop_assert_eq!((decision.verdict, decision.reason), expect);
        let let_through = decision.verdict == Verdict::Allow
            || (mode == 2 && matches!(decision.reason, Reason::NoRule | Reason::DenyRule | Reason::Unclassifiable));
        prop_assert_eq!(decision.is_refused(), !let_through);
    }
}
