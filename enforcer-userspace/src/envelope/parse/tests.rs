use super::*;
use proptest::prelude::*;
use proptest::sample::Index;
use std::path::Path;

/// The repository.
pub(in super::super) const ROOT: &str = match option_env!("ENVELOPE_TEST_ROOT") {
    Some(root) => root,
    None => concat!(env!("CARGO_MANIFEST_DIR"), "/.."),
};

const VALID: &str = "\
apiVersion: enforcer/v1
kind: Envelope
metadata:
  name: coding-agent
  owner: alice@example.com
  operator: platform-team
  purpose: Fix failing tests
  model: example-model-1
spec:
  mode: audit
  ttl: 1h30m
  loopback: allow
  egress:
    - name: model-api
      to: [203.0.113.0/24, 2001:db8::/32, 10.0.0.7]
      ports: [443, 8000-8010]
      protocol: tcp
    - {name: dns, to: ['::ffff:192.0.2.0/120'], ports: 53, protocol: any}
  deny:
    - name: metadata
      to: [\"169.254.169.254\"]
      ports: any
      protocol: udp
";

#[test]
fn every_field_is_read() {
    let prefix = |text| Prefix::parse(text).unwrap();
    let ports = |first, last| PortRange { first, last };
    let [tcp, udp] = [Protocol::Tcp, Protocol::Udp];
    let rule = |name: &str, line, verdict, protocols: &[Protocol], to: &[Prefix], ports: &[PortRange]| Rule {
        name: name.to_owned(),
        line,
        verdict,
        mode: None,
        protocols: protocols.to_vec(),
        to: to.to_vec(),
        names: Vec::new(),
        agents: Vec::new(),
        ports: ports.to_vec(),
    };
    let expect = Envelope {
        metadata: Metadata {
            name: "coding-agent".to_owned(),
            owner: "alice@example.com".to_owned(),
            operator: "platform-team".to_owned(),
            purpose: "Fix failing tests".to_owned(),
            model: "example-model-1".to_owned(),
            revision: 0,
        },
        mode: Mode::Audit,
        ttl: Duration::from_secs(5400),
        requires: Vec::new(),
        rules: vec![
            rule(
                "model-api",
                14,
                Verdict::Allow,
                &[tcp],
                &[prefix("203.0.113.0/24"), prefix("2001:db8::/32"), prefix("10.0.0.7")],
                &[ports(443, 443), ports(8000, 8010)],
            ),
            rule("dns", 18, Verdict::Allow, &[tcp, udp], &[prefix("192.0.2.0/24")], &[ports(53, 53)]),
            rule(
                "loopback",
                12,
                Verdict::Allow,
                Protocol::ALL,
                &sets::addresses(sets::LOOPBACK),
                &[PortRange::ANY],
            ),
            rule("metadata", 20, Verdict::Deny, &[udp], &[prefix("169.254.169.254")], &[PortRange::ANY]),
        ],
        listen: vec![ListenRule {
            name: "loopback".to_owned(),
            line: 12,
            protocols: vec![tcp, udp],
            from: sets::addresses(sets::LOOPBACK),
            ports: vec![PortRange::ANY],
        }],
        unix: None,
        exec: Exec::default(),
        limits: Limits::default(),
        on_finding: OnFinding::Record,
    };
    assert_eq!(parse(VALID), Ok(expect));
}

#[test]
fn defaults_are_the_strict_choice() {
    let text = "{apiVersion: enforcer/v1, kind: Envelope, \
                metadata: {name: a, owner: b, operator: c, purpose: d, model: e}, spec: {ttl: 1d, egress: }}";
    let envelope = parse(text).unwrap();
    assert_eq!((envelope.mode, envelope.rules, envelope.listen), (Mode::Enforce, vec![], vec![]));
}

#[test]
fn abstract_sockets_are_barred_by_rules_that_name_none() {
    for (unix, barred) in [
        ("", false),
        ("  unix: []\n", true),
        ("  unix: [{name: a, to: [/run/a]}]\n", true),
        ("  unix: [{name: a, to: [/run/a]}, {name: b, to: ['@b']}]\n", false),
    ] {
        assert_eq!(parse(&format!("{VALID}{unix}")).unwrap().bars_abstract_unix(), barred, "{unix}");
    }
}

#[test]
fn unix_sockets_are_reached_where_nothing_is_said_of_them_or_a_rule_names_them() {
    for (unix, reached) in [
        ("", true),
        ("  unix: []\n", false),
        ("  unix: [{name: a, to: [/run/b]}]\n", false),
        ("  unix: [{name: a, to: [/run/b, /run/a]}]\n", true),
        ("  unix: [{name: a, to: ['@/run/a']}]\n", false),
    ] {
        let mut envelope = parse(&format!("{VALID}{unix}")).unwrap();
        assert!(envelope.lets_reach_unix("/run/a"), "in audit mode: {unix}");
        envelope.mode = Mode::Enforce;
        assert_eq!(envelope.lets_reach_unix("/run/a"), reached, "{unix}");
    }
}

#[test]
fn line_ends_brackets_and_quotes_do_not_matter() {
    let expect = parse(VALID);
    assert_eq!(parse(&VALID.replace('\n', "\r\n")), expect);
    assert_eq!(
        parse(&format!("\u{feff}---\n{VALID}...\n")).map(|e| e.metadata),
        expect.clone().map(|e| e.metadata)
    );
    assert_eq!(
        parse(&VALID.replace("ports: 53", "ports: '53'").replace("ttl: 1h30m", "\"ttl\": '1h30m'")),
        expect
    );
    assert!(parse(&VALID.replace("[443, 8000-8010]", "\n        - 443\n        - 8000-8010")).is_ok());
    let prefixes =
        |text: &str| parse(&VALID.replace("\"169.254.169.254\"", text)).unwrap().rules.pop().unwrap().to;
    assert_eq!(prefixes("::1, ::/0, '::1'"), prefixes("'::1', '::/0', '::1'"));
}

#[test]
fn what_stands_after_the_hundredth_error_is_counted() {
    let unknown: String = (0..150).map(|n| format!("unknown{n}: 1\n")).collect();
    let Diagnostics(list) = parse(&format!("{unknown}{VALID}")).unwrap_err();
    assert_eq!(list.len(), 101);
    assert_eq!(list[100].to_string(), "101:1: 50 more errors are not shown");
}

#[test]
fn text_too_long_is_refused_unread() {
    let text = " ".repeat((64 << 20) + 1);
    let message = parse(&text).unwrap_err().to_string();
    assert_eq!(message, "1:1: the text has 67108865 bytes, more than 67108864");
}

/// Each envelope in `tests/envelopes` is refused with exactly the text beside it. With `ENVELOPES=overwrite` in the
/// environment the text is written instead, to be read before it is committed.
#[test]
fn bad_envelopes_are_reported_exactly() {
    let dir = Path::new(ROOT).join("tests/envelopes");
    let mut cases = 0;
    let mut wrong = String::new();
    for file in std::fs::read_dir(&dir).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        cases += 1;
        let text = document::decode(std::fs::read(&path).unwrap());
        let actual = match text.and_then(|text| parse(&text)) {
            Ok(_) => "it was accepted\n".to_owned(),
            Err(diagnostics) => format!("{diagnostics}\n"),
        };
        let expected = path.with_extension("expected");
        if std::env::var_os("ENVELOPES").is_some_and(|value| value == "overwrite") {
            std::fs::write(&expected, &actual).unwrap();
        }
        match std::fs::read_to_string(expected) {
            Ok(expected) if expected == actual => {}
            Ok(expected) => {
                wrong += &format!("{}: expected\n{expected}but found\n{actual}\n", path.display());
            }
            Err(_) => wrong += &format!("{}: no `.expected` beside it; found\n{actual}\n", path.display()),
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(cases >= 200, "{cases} cases in {}", dir.display());
}

/// What YAML and the language give a meaning to, to put together at random.
const PIECES: &[&str] = &[
    "apiVersion: enforcer/v1\n",
    "kind: Envelope\n",
    "metadata:\n",
    "spec:\n",
    "egress:\n",
    "deny: ",
    "name: a\n",
    "to: [",
    "]",
    "{",
    "}",
    "[",
    ", ",
    "- ",
    "? ",
    ": ",
    "\n",
    "  ",
    "\t",
    "&a ",
    "*a",
    "!t ",
    "<<: ",
    "---\n",
    "...\n",
    "%YAML 1.2\n",
    "|\n",
    ">-\n",
    "'",
    "\"",
    "# ",
    "~",
    "null",
    "10.0.0.0/8",
    "::/0",
    "443",
    "1-2",
    "ttl: 8h\n",
    "\u{feff}",
    "\u{85}",
    "\u{2028}",
    "\0",
    "\r",
    "\\",
    "\u{10ffff}",
    "é",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_panics(text in any::<String>()) {
        let _ = parse(&text);
    }

    #[test]
    fn no_yaml_panics(pieces in prop::collection::vec(prop::sample::select(PIECES), 0..40)) {
        let _ = parse(&pieces.concat());
    }

    #[test]
    fn no_mutated_envelope_panics(
        changes in prop::collection::vec((any::<Index>(), 0usize..6, prop::sample::select(PIECES)), 1..4),
    ) {
        let mut chars: Vec<char> = VALID.chars().collect();
        for (at, remove, insert) in changes {
            let at = at.index(chars.len());
            let end = (at + remove).min(chars.len());
            chars.splice(at..end, insert.chars());
        }
        let text: String = chars.into_iter().collect();
        // Positions are places in the text.
        if let Err(Diagnostics(list)) = parse(&text) {
            prop_assert!(!list.is_empty());
            prop_assert!(list.iter().all(|d| d.line >= 1 && d.column >= 1 && !d.message.is_empty()));
        }
    }
}
