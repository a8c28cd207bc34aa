extern crate std;

use super::*;
use crate::net::{Family, Protocol};
use crate::rules::{EnvelopeRules, LengthNode, LengthPlan, RuleEntry, RuleKey, selector};
use proptest::prelude::*;
use std::vec::Vec;

const SESSION: SessionRef = SessionRef { slot: 3, generation: 9 };
const ENVELOPE: u32 = 77;

/// One rule per (address, port), found by equality: the obvious table.
#[derive(Default)]
struct Table(Vec<(Address, u16, Verdict)>);

impl<'t> RuleTables for &'t Table {
    type Rules = &'t Table;

    fn envelope(&self, number: u32) -> Option<&'t Table> {
        assert_eq!(number, ENVELOPE);
        Some(self)
    }
}

impl EnvelopeRules for &Table {
    fn node(&self, index: usize) -> Option<LengthNode> {
        let family = if index == LengthPlan::root(Family::V4) { Family::V4 } else { Family::V6 };
        Some(LengthNode { bits: family.bits(), miss: LengthNode::END })
    }

    fn entry(&self, key: &RuleKey) -> Option<RuleEntry> {
        let same = |address: Address| *key == RuleKey::prefix(address, address.family().bits());
        let rule = self.0.iter().position(|(address, ..)| same(*address))?;
        let (_, port, verdict) = self.0[rule];
        let only = selector(Protocol::Tcp, port);
        let rule = rule as u32;
        Some(RuleEntry { first: only, last: only, rule, verdict: verdict.raw(), ..RuleEntry::NONE })
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
    let table = Table(std::vec![
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

/// A table of which every entry is this one.
#[derive(Clone, Copy)]
struct Same(Option<RuleEntry>);

impl RuleTables for Same {
    type Rules = Self;

    fn envelope(&self, _: u32) -> Option<Self> {
        Some(*self)
    }
}

impl EnvelopeRules for Same {
    fn node(&self, _: usize) -> Option<LengthNode> {
        Some(LengthNode { bits: 32, miss: LengthNode::END })
    }

    fn entry(&self, key: &RuleKey) -> Option<RuleEntry> {
        if key.kind == RuleKey::RANGE { None } else { self.0 }
    }
}

/// Decides every protocol and port.
const EVERYTHING: RuleEntry = RuleEntry { first: 0, last: u32::MAX, rule: 0, ..RuleEntry::NONE };

#[test]
fn an_entry_with_a_broken_verdict_denies() {
    for mode in [Mode::Enforce, Mode::Audit] {
        let decision =
            decide(&standing(SessionState::Active, mode), to("10.0.0.1", 1), &Same(Some(EVERYTHING)));
        assert_eq!((decision.verdict, decision.mode), (Verdict::Deny, mode));
    }
    let broken = Same(Some(RuleEntry { verdict: Verdict::Deny.raw(), mode: 7, ..EVERYTHING }));
    assert!(decide(&standing(SessionState::Active, Mode::Audit), to("10.0.0.1", 1), &broken).is_refused());
}

#[test]
fn rules_that_are_missing_or_broken_deny_in_audit_mode_as_well() {
    struct Nothing;
    impl RuleTables for Nothing {
        type Rules = Same;
        fn envelope(&self, _: u32) -> Option<Same> {
            None
        }
    }
    let audited = standing(SessionState::Active, Mode::Audit);
    let decision = decide(&audited, to("10.0.0.1", 1), &Nothing);
    assert_eq!((decision.is_refused(), decision.reason), (true, Reason::Fault));
    // An entry that refers to ranges that are not there.
    let broken = Same(Some(RuleEntry { last: 5, many: 1, ..EVERYTHING }));
    let decision = decide(&audited, to("10.0.0.1", 1), &broken);
    assert_eq!((decision.is_refused(), decision.reason), (true, Reason::Fault));
    assert!(!decide(&audited, to("10.0.0.1", 1), &Same(None)).is_refused());
}

#[test]
fn a_rule_has_its_own_mode() {
    let rule =
        |mode: Mode| Same(Some(RuleEntry { verdict: Verdict::Deny.raw(), mode: mode.raw(), ..EVERYTHING }));
    for session in [Mode::Enforce, Mode::Audit] {
        let standing = standing(SessionState::Active, session);
        assert!(decide(&standing, to("10.0.0.1", 1), &rule(Mode::Enforce)).is_refused());
        assert!(!decide(&standing, to("10.0.0.1", 1), &rule(Mode::Audit)).is_refused());
    }
}

#[test]
fn unspecified_v6_needs_both_loopbacks() {
    let active = standing(SessionState::Active, Mode::Enforce);
    let v4 = (Address::LOOPBACK_V4, 80, Verdict::Allow);
    let v6 = (Address::LOOPBACK_V6, 80, Verdict::Allow);
    check(&active, to("::", 80), &Table(std::vec![v6]), (Verdict::Deny, Reason::NoRule));
    check(&active, to("::", 80), &Table(std::vec![v4]), (Verdict::Deny, Reason::NoRule));
    check(&active, to("::", 80), &Table(std::vec![v4, v6]), (Verdict::Allow, Reason::AllowRule));
}

#[test]
fn unspecified_v4_is_nobodys_address() {
    let active = standing(SessionState::Active, Mode::Enforce);
    let all = [Address::v4([0; 4]), Address::LOOPBACK_V4].map(|address| (address, 80, Verdict::Allow));
    for name in ["0.0.0.0", "::ffff:0.0.0.0"] {
        check(&active, to(name, 80), &Table(all.to_vec()), (Verdict::Deny, Reason::Unclassifiable));
    }
}

#[test]
fn only_stream_and_datagram_of_the_plain_protocols_are_created() {
    let active = standing(SessionState::Active, Mode::Enforce);
    for (kind, protocol) in [(1, 0), (1, 6), (2, 0), (2, 17)] {
        assert!(!decide_socket(&active, kind, protocol).is_refused(), "{kind} {protocol}");
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
        let decision = decide_socket(&active, kind, protocol);
        assert_eq!((decision.is_refused(), decision.reason), (true, Reason::SocketType), "{kind} {protocol}");
    }
}

#[test]
fn audit_lets_through_what_rules_refuse_and_nothing_else() {
    let table = Table::default();
    let audit = standing(SessionState::Active, Mode::Audit);
    let decision = decide(&audit, to("10.0.0.1", 1), &&table);
    assert_eq!((decision.verdict, decision.is_refused()), (Verdict::Deny, false));
    assert!(!decide_socket(&audit, 3, 1).is_refused());

    assert!(decide(&standing(SessionState::Revoked, Mode::Audit), to("10.0.0.1", 1), &&table).is_refused());
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
            (0usize..3, 0usize..2).prop_map(|(s, m)| control(SessionState::ALL[s], Mode::ALL[m]).pack().0),
        ],
        expires_ns in 0u64..4,
        now_ns in 0u64..4,
        address in any_address(),
        listed in any::<Option<bool>>(),
    ) {
        let claim = if tagged { Claim::Tagged(SESSION) } else { Claim::Untagged(SESSION) };
        let word = ControlWord(word & !(0xff_ffff << 16) | u64::from(ENVELOPE) << 16);
        let facts = Standing { claim, control: word, expires_ns, now_ns };
        let verdict = |allow| if allow { Verdict::Allow } else { Verdict::Deny };
        let table = Table(listed.into_iter().map(|allow| (address, 5, verdict(allow))).collect());
        let destination = Destination { protocol: Protocol::Tcp, address, port: 5 };
        let decision = decide(&facts, Some(destination), &&table);

        let state = word.0 as u8;
        let mode = (word.0 >> 8) as u8;
        let expect = if !tagged {
            (Verdict::Deny, Reason::Untagged)
        } else if state > 2 || mode == 0 || mode > 2 || word.0 >> 40 != 9 || state == 0 {
            (Verdict::Deny, Reason::SessionOver)
        } else if state == 2 {
            (Verdict::Deny, Reason::Revoked)
        } else if now_ns >= expires_ns {
            (Verdict::Deny, Reason::Expired)
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
