//! What the fuzz targets hold true of every text. `cargo xtask fuzz` runs them.

#![forbid(unsafe_code)]

// Compiled from its sources: it belongs to a program, which nothing can depend on.
#[path = "../../../enforcer-userspace/src/envelope/mod.rs"]
// Not `expect`: it is reported as unfulfilled, and takes the warnings away all the same (Rust 1.95).
#[allow(dead_code, unused_imports, reason = "the targets ask for a part of it")]
mod envelope;

#[path = "../../../enforcer-userspace/src/audit/mod.rs"]
#[allow(dead_code, unused_imports, reason = "as above")]
mod audit;
#[path = "../../../enforcer-userspace/src/chain/mod.rs"]
#[allow(dead_code, unused_imports, reason = "as above")]
mod chain;
#[path = "../../../enforcer-userspace/src/detect/mod.rs"]
#[allow(dead_code, unused_imports, reason = "as above")]
mod detect;
#[path = "../../../enforcer-userspace/src/document.rs"]
#[allow(dead_code, reason = "as above")]
mod document;
#[path = "../../../enforcer-userspace/src/record/mod.rs"]
#[allow(dead_code, unused_imports, reason = "as above")]
mod record;
#[path = "../../../enforcer-userspace/src/session/mod.rs"]
#[allow(dead_code, unused_imports, reason = "as above")]
mod session;
#[path = "../../../enforcer-userspace/src/signature/mod.rs"]
#[allow(dead_code, unused_imports, reason = "as above")]
mod signature;

mod audit_log;
mod credentials;
mod kernel_record;

pub use audit_log::verify as verify_audit;
pub use kernel_record::decode as decode_record;

use enforcer_common::decision::{Decision, Standing, decide, decide_bind, decide_packet};
use enforcer_common::net::{Address, Destination, Direction, Family, Protocol};
use enforcer_common::packet::Packet;
use enforcer_common::rules::NO_RULE;
use enforcer_common::verdict::{Mode, Verdict};
use envelope::compile::compile_within;
use envelope::{
    CompiledTable, Diagnostics, Envelope, RuleExplanation, excess, explain, intersect, lint, write,
};

/// A file is read, or refused for reasons that stand in it.
pub fn parse(bytes: &[u8]) {
    let read = envelope::decode(bytes.to_vec()).and_then(|text| envelope::parse(&text));
    if let Err(Diagnostics(list)) = read {
        check_diagnostics(&String::from_utf8_lossy(bytes), &list);
    }
}

fn check_diagnostics(text: &str, list: &[envelope::Diagnostic]) {
    assert!(!list.is_empty(), "refused without a reason");
    assert!(list.len() <= 101, "{} diagnostics", list.len());
    let lines = line_lengths(text);
    let listed = &list[..list.len().min(100)];
    assert!(listed.is_sorted_by_key(|d| (d.line, d.column)), "not in the order of the text: {list:?}");
    for diagnostic in list {
        let length = (diagnostic.line as usize).checked_sub(1).and_then(|line| lines.get(line));
        let Some(length) = length else { panic!("no such line: {diagnostic:?}") };
        assert!(diagnostic.column >= 1, "no such column: {diagnostic:?}");
        // The end of a line is a place.
        assert!(diagnostic.column as usize <= length + 1, "no such column: {diagnostic:?} of {length}");
        let shown = diagnostic.to_string();
        let hint = diagnostic.hint.as_deref().unwrap_or("");
        assert!(!diagnostic.message.is_empty());
        assert!(!shown.chars().chain(hint.chars()).any(char::is_control), "control characters: {shown:?}");
        assert!(shown.len() + hint.len() < 4096, "{} bytes: {shown}", shown.len() + hint.len());
    }
}

/// How many characters each line has, without its end.
fn line_lengths(text: &str) -> Vec<usize> {
    // YAML's line ends: `\n`, `\r\n` and `\r`.
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    text.split('\n').map(|line| line.chars().count()).collect()
}

/// An envelope compiles within bounds, and the table, the explanation and the rules as written agree.
pub fn compile(text: &str) {
    // Each destination compiles again.
    const MAX_STEPS: u64 = 100_000;
    const MAX_DESTINATIONS: usize = 24;
    const MAX_COMPARED: usize = 32;

    let envelope = match envelope::parse(text) {
        Ok(envelope) => envelope,
        Err(Diagnostics(list)) => return check_diagnostics(text, &list),
    };
    let Ok(compiled) = compile_within(&envelope, MAX_STEPS, envelope::MAX_BLOCKS) else { return };
    assert!(compiled.blocks.len() as u64 <= text.len() as u64 + MAX_STEPS);
    assert!(compiled.kernel_bytes() > 0);
    let lines = line_lengths(text).len();
    for warning in lint(&envelope, &compiled) {
        assert!(warning.line as usize <= lines, "no such line: {warning:?}");
        assert!(!warning.message.is_empty());
    }
    if envelope.rules.len() <= MAX_COMPARED {
        check_written(&envelope);
    }
    let table = CompiledTable::new(1, &compiled);
    for destination in destinations(&envelope, text).take(MAX_DESTINATIONS) {
        check_decision(&envelope, &table, destination);
    }
    for from in far_ends(&envelope, text).take(MAX_DESTINATIONS) {
        check_far_end(&envelope, &table, from);
    }
}

/// What is written of an envelope is read as one that allows the same; both allow what their intersection does.
fn check_written(envelope: &Envelope) {
    let text = write(envelope);
    let again = envelope::parse(&text).unwrap_or_else(|errors| panic!("{errors} in\n{text}"));
    let Ok(both) = intersect(envelope, &again) else { return };
    for (inner, outer) in [(envelope, &again), (&again, envelope), (envelope, &both), (&both, envelope)] {
        let Ok(excess) = excess(inner, outer) else { return };
        assert!(excess.is_empty(), "{excess:?} in\n{text}");
    }
}

/// Where rules begin and end, and one place that only the text knows.
fn destinations<'e>(envelope: &'e Envelope, text: &str) -> impl Iterator<Item = Destination> + use<'e> {
    let mut last = [0; 16];
    for (to, from) in last.iter_mut().zip(text.bytes().rev()) {
        *to = from;
    }
    let port = u16::from_be_bytes([last[14], last[15]]);
    let anywhere = [Address::v6(last), Address::v4([last[0], last[1], last[2], last[3]])];
    let anywhere = anywhere.map(|address| Destination { protocol: Protocol::Tcp, address, port });
    let edges = envelope.rules.iter().flat_map(|rule| {
        rule.to.iter().take(3).flat_map(move |prefix| {
            [prefix.address(), end(*prefix)].into_iter().flat_map(move |address| {
                let ports = rule.ports.first().map_or([0, 1], |range| [range.first, range.last]);
                let protocol = rule.protocols.last().copied().unwrap_or(Protocol::Tcp);
                ports.map(|port| Destination { protocol, address, port })
            })
        })
    });
    anywhere.into_iter().chain(edges)
}

/// The last address of a prefix.
fn end(prefix: envelope::Prefix) -> Address {
    let family = prefix.address().family();
    let number = u128::from_be_bytes(prefix.address().octets());
    match family {
        Family::V4 => {
            let [a, b, c, d, ..] = prefix.address().octets();
            let host = u32::MAX.checked_shr(prefix.bits().into()).unwrap_or(0);
            Address::v4((u32::from_be_bytes([a, b, c, d]) | host).to_be_bytes())
        }
        Family::V6 => {
            let host = u128::MAX.checked_shr(prefix.bits().into()).unwrap_or(0);
            Address::v6((number | host).to_be_bytes())
        }
    }
}

fn check_decision(envelope: &Envelope, table: &CompiledTable, destination: Destination) {
    let explained = explain(envelope, Direction::Out, destination).expect("it compiled within fewer steps");
    let decision = decide(&Standing::undisturbed(1, envelope.mode), Some(destination), &table);
    let same = |a: &Decision, b: &Decision| (a.verdict, a.rule, a.mode) == (b.verdict, b.rule, b.mode);
    assert!(same(&decision, &explained.decision), "{decision:?} {explained:?} of {destination:?}");
    assert_eq!(explained.rules.len(), envelope.rules.len());
    // May come out as either loopback; the unit tests have a model for it.
    if destination.address.is_unspecified() {
        return;
    }
    // The order of the language: denies that are carried out, denies that are recorded, allows; then the longest prefix; then
    // the rule written first.
    let matching = envelope.rules.iter().zip(&explained.rules).filter_map(|(rule, (number, said))| {
        let by = match said {
            RuleExplanation::Decides(by) | RuleExplanation::Beaten { by, .. } => by,
            RuleExplanation::NotAsked(_) => panic!("{said:?} of {destination:?}"),
            _ => return None,
        };
        let class = match (rule.verdict, rule.effective_mode(envelope.mode)) {
            (Verdict::Deny, Mode::Enforce) => 0,
            (Verdict::Deny, Mode::Audit) => 1,
            (Verdict::Allow, _) => 2,
        };
        Some((class, u8::MAX - by.bits(), *number))
    });
    let expect = matching.min().map_or(NO_RULE, |(.., number)| number);
    assert_eq!(decision.rule, expect, "{destination:?}: {explained:?}");
    let verdict = envelope.rules.get(expect as usize).map_or(Verdict::Deny, |rule| rule.verdict);
    assert_eq!(decision.verdict, verdict, "{destination:?}: {explained:?}");
}

/// Where listen rules begin and end, and one place that only the text knows: the address of a far end, and a port of ours.
fn far_ends<'e>(envelope: &'e Envelope, text: &str) -> impl Iterator<Item = Destination> + use<'e> {
    let anywhere = destinations(envelope, text).next();
    let edges = envelope.listen.iter().flat_map(|rule| {
        rule.from.iter().take(3).flat_map(move |prefix| {
            let ports = rule.ports.first().map_or([0, 1], |range| [range.first, range.last]);
            let protocol = rule.protocols.last().copied().unwrap_or(Protocol::Tcp);
            [prefix.address(), end(*prefix)]
                .into_iter()
                .flat_map(move |address| ports.map(|port| Destination { protocol, address, port }))
        })
    });
    anywhere.into_iter().chain(edges)
}

/// Who is let in is named by a listen rule, and one that lets anybody in lets the port be taken.
fn check_far_end(envelope: &Envelope, table: &CompiledTable, from: Destination) {
    // Nobody has that address; what stands there is for `decide_bind`.
    if from.address.is_unspecified() {
        return;
    }
    let explained = explain(envelope, Direction::In, from).expect("it compiled within fewer steps");
    let decides = |said: &&(u32, RuleExplanation)| matches!(said.1, RuleExplanation::Decides(_));
    let deciding = explained.rules.iter().find(decides).map_or(NO_RULE, |(number, _)| *number);
    assert_eq!(explained.decision.rule, deciding, "{from:?}: {explained:?}");
    let standing = Standing::undisturbed(1, envelope.mode);
    let bind = decide_bind(&standing, Some(from.protocol), from.port, &table);
    let reaches = |rule: &&envelope::ListenRule| {
        rule.protocols.contains(&from.protocol) && rule.ports.iter().any(|range| range.holds(from.port))
    };
    assert_eq!(bind.verdict == Verdict::Allow, envelope.listen.iter().any(|rule| reaches(&rule)));
    if explained.decision.verdict == Verdict::Allow {
        assert!(deciding as usize >= envelope.rules.len(), "{from:?}: {explained:?}");
        assert_eq!(bind.verdict, Verdict::Allow, "{from:?}: {explained:?}");
    }
    // Of what does not begin a connection, less is asked.
    for direction in [Direction::In, Direction::Out] {
        let packet = |opens| Packet {
            direction,
            protocol: from.protocol,
            opens,
            resets: false,
            remote: from.address,
            remote_port: from.port,
            local_port: from.port,
        };
        let [opening, other] =
            [true, false].map(|opens| decide_packet(&standing, &packet(opens), None, &table).is_refused());
        assert!(opening || !other, "{from:?} {direction}");
    }
}
