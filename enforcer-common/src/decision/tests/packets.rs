use super::*;
use crate::packet::Packet;

/// A packet between 10.0.0.1 and us, which the table's first rule, of this direction, allows at port 80.
fn packet(direction: Direction, opens: bool) -> Packet {
    let remote = Address::v4([10, 0, 0, 1]);
    let protocol = Protocol::Tcp;
    Packet { direction, protocol, opens, resets: false, remote, remote_port: 80, local_port: 9 }
}

#[test]
fn packets_pass_by_the_rule_that_let_the_connection_begin() {
    let active = standing(SessionState::Active, Mode::Enforce);
    let allowed = |port, inbound, verdict: Verdict| {
        let selector = selector(Protocol::Tcp, port) | inbound;
        RuleEntry { first: selector, last: selector, rule: 0, verdict: verdict.raw(), ..RuleEntry::NONE }
    };
    let egress = Table::everywhere(allowed(80, 0, Verdict::Allow));
    let denied = Table::everywhere(allowed(80, 0, Verdict::Deny));
    let listen = Table::everywhere(allowed(9, INBOUND, Verdict::Allow));
    let nothing = Table::everywhere(RuleEntry::NONE);
    let (out, inbound) = (Direction::Out, Direction::In);
    for (table, direction, opens, allow) in [
        // A connection that we may begin: its packets both ways, but the far end may not begin one.
        (&egress, out, true, true),
        (&egress, out, false, true),
        (&egress, inbound, false, true),
        (&egress, inbound, true, false),
        // A connection that the far end may begin.
        (&listen, inbound, true, true),
        (&listen, inbound, false, true),
        (&listen, out, false, true),
        (&listen, out, true, false),
        (&nothing, out, true, false),
        (&nothing, out, false, false),
        (&nothing, inbound, true, false),
        (&nothing, inbound, false, false),
        (&denied, out, false, false),
        (&denied, inbound, false, false),
    ] {
        let decision = decide_packet(&active, &packet(direction, opens), None, &table);
        assert_eq!(decision.verdict == Verdict::Allow, allow, "{direction} {opens}");
    }
    let decision = decide_packet(&active, &packet(out, true), Some(Reason::Header), &&egress);
    assert_eq!((decision.is_refused(), decision.reason), (true, Reason::Header));
}

#[test]
fn a_deny_rule_for_the_far_end_beats_a_listen_rule() {
    let active = standing(SessionState::Active, Mode::Enforce);
    let ranges = [
        RuleEntry {
            first: 0,
            last: INBOUND - 1,
            rule: 1,
            verdict: Verdict::Deny.raw(),
            mode: Mode::Enforce.raw(),
            ..RuleEntry::NONE
        },
        RuleEntry {
            first: INBOUND,
            last: u32::MAX,
            rule: 0,
            verdict: Verdict::Allow.raw(),
            ..RuleEntry::NONE
        },
    ];
    let mut table = Table::everywhere(RuleEntry { first: 0, last: 1, many: true, ..RuleEntry::NONE });
    let entries = (table.0.len() - 3) * Block::ENTRIES;
    let many = RuleEntry { first: entries as u32, last: entries as u32 + 1, many: true, ..RuleEntry::NONE };
    table = Table::everywhere(many);
    let mut block = Block::EMPTY;
    for (words, range) in block.words.chunks_mut(RuleEntry::WORDS).zip(&ranges) {
        words.copy_from_slice(&range.words());
    }
    table.0.push(block);
    for opens in [true, false] {
        let decision = decide_packet(&active, &packet(Direction::In, opens), None, &&table);
        assert_eq!((decision.is_refused(), decision.reason), (true, Reason::DenyRule), "{opens}");
    }
}
