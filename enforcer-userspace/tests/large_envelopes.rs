//! Envelopes of millions of bytes, made here: each is accepted, or refused with the right words at the right place, in bounded
//! time and memory. `check` reads them in a process of its own, since memory is bounded for a process as a whole.

use std::fs;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

const HEAD: &str = "\
apiVersion: enforcer/v1
kind: Envelope
metadata:
  name: agent
  owner: alice@example.com
  operator: platform-team
  purpose: Fix failing tests
  model: example-model-1
spec:
  ttl: 8h
";

const TEN_MB: usize = 10_000_000;
const MILLION: usize = 1_000_000;

/// Without optimization, and with other tests beside it, the slowest takes a quarter of this.
const TIME: Duration = Duration::from_secs(60);
/// Address space for the program itself, and for each byte of the text: a `[a:,a:,...` takes 39.
const PROGRAM_BYTES: usize = 128 << 20;
const BYTES_PER_BYTE: usize = 40;

fn check(text: &str) -> Output {
    let file = tempfile::NamedTempFile::new().expect("make a file");
    fs::write(file.path(), text).expect("write it");
    let kib = (PROGRAM_BYTES + BYTES_PER_BYTE * text.len()) / 1024;
    let start = Instant::now();
    let mut output = Command::new("sh")
        .args(["-c", "ulimit -v \"$1\"; exec \"$2\" check \"$3\"", "sh", &kib.to_string()])
        .arg(env!("CARGO_BIN_EXE_enforcer"))
        .arg(file.path())
        .output()
        .expect("start `sh`");
    let took = start.elapsed();
    assert!(took < TIME, "{took:?}");
    let stderr = String::from_utf8(output.stderr).expect("messages are text");
    output.stderr = stderr.replace(&*file.path().to_string_lossy(), "FILE").into_bytes();
    output
}

/// The text is refused, with these lines: all of them, or the first and the last of more than a hundred errors.
fn refused(text: &str, expect: &[&str]) {
    let output = check(text);
    let stderr = String::from_utf8(output.stderr).expect("messages are text");
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let mut lines: Vec<_> = stderr.lines().collect();
    assert_eq!(lines.remove(0), "error: `FILE` is not a valid envelope");
    if lines.last().is_some_and(|last| last.ends_with("more errors are not shown")) {
        assert!(lines.len() <= 201, "{} lines", lines.len());
        lines = vec![lines[0], lines[lines.len() - 1]];
    }
    assert_eq!(lines, expect);
}

/// So many rules that all of it has ten million bytes.
fn many_rules() -> String {
    let mut text = format!("{HEAD}  egress:\n");
    for n in 0u32.. {
        if text.len() > TEN_MB - 100 {
            break;
        }
        let [_, a, b, c] = n.to_be_bytes();
        text +=
            &format!("    - name: r{n}\n      to: [10.{a}.{b}.{c}]\n      ports: 443\n      protocol: tcp\n");
    }
    text
}

fn spec(field: &str, item: impl Fn(usize) -> String, count: usize) -> String {
    format!("{HEAD}  {field}{}", (0..count).map(item).collect::<String>())
}

#[test]
fn many_valid_rules_are_accepted() {
    let text = many_rules();
    let rules = text.matches("- name").count();
    let output = check(&text);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(stdout.contains(&format!("rules     {rules}\n")), "{}", &stdout[..200]);
}

#[test]
fn one_error_at_the_end_is_found() {
    let mut text = many_rules();
    let (rules, lines) = (text.matches("- name").count(), text.lines().count());
    text += "    - name: last\n      to: [10.0.0.1]\n      ports: 65536\n      protocol: tcp\n";
    let expect =
        format!("FILE:{}:14: spec.egress[{rules}].ports: `65536` is outside the ports 1 to 65535", lines + 3);
    refused(&text, &[&expect]);
}

#[test]
fn nesting_ends_the_reading() {
    // In brackets the parser looks ahead for a `:`, which may be 1024 characters away, and has a bound of its own.
    refused(&"[".repeat(TEN_MB), &["FILE:1:256: nested more than 16 deep"]);
    refused(&format!("{HEAD}  egress: {}", "[".repeat(TEN_MB)), &["FILE:11:266: nested more than 16 deep"]);
    refused(&"{a: ".repeat(TEN_MB / 4), &["FILE:1:1021: nested more than 16 deep"]);
    let path = "[0]".repeat(16);
    refused(&"- ".repeat(TEN_MB / 2), &[&format!("FILE:1:33: {path}: nested more than 16 deep")]);
    refused(&"? ".repeat(TEN_MB / 2), &["FILE:1:33: nested more than 16 deep"]);
    let block: String = (0..4470).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
    assert!(block.len() > TEN_MB - 10_000);
    let path = ["a"; 16].join(".");
    refused(&block, &[&format!("FILE:17:17: {path}: nested more than 16 deep")]);
    refused(
        &"a: ".repeat(TEN_MB / 3),
        &[
            "FILE:1:5: not valid YAML: mapping values are not allowed in this context",
            "  hint: put quotes around text with a `: ` in it; look at the indentation",
        ],
    );
}

#[test]
fn one_long_text_is_cut_in_messages() {
    let long = "a".repeat(TEN_MB);
    let cut = format!("{}...", "a".repeat(64));
    refused(&long, &["FILE:1:1: expected a map, found text"]);
    refused(
        &format!("{HEAD}  mode: {long}\n"),
        &[&format!("FILE:11:9: spec.mode: expected `enforce` or `audit`, found `{cut}`")],
    );
    let text = format!("{HEAD}  mode: \"{}\"\n", "\\x61".repeat(TEN_MB / 4));
    refused(&text, &[&format!("FILE:11:9: spec.mode: expected `enforce` or `audit`, found `{cut}`")]);
    let known = "mode, ttl, requires, loopback, egress, deny, listen, unix, exec, limits, onFinding";
    refused(
        &format!("{HEAD}  ? {long}\n  : b\n"),
        &[&format!("FILE:11:5: spec: unknown field `{cut}`"), &format!("  hint: known fields: {known}")],
    );
    // The parser takes a thousand characters for a field name, unless it is told before that it is one.
    refused(
        &format!("{long}: b\n"),
        &[
            "FILE:1:10000001: not valid YAML: mapping values are not allowed in this context",
            "  hint: put quotes around text with a `: ` in it; look at the indentation",
        ],
    );
}

#[test]
fn a_long_comment_is_no_document() {
    let comment = format!("# {}\n", "a".repeat(TEN_MB));
    refused(&comment, &["FILE:1:1: the document is empty"]);
    assert!(check(&(comment + HEAD)).status.success());
    refused(&"#\n".repeat(TEN_MB / 2), &["FILE:1:1: the document is empty"]);
}

#[test]
fn a_million_anchors() {
    refused(
        &spec("egress:\n", |n| format!("  - &a{n} b\n"), MILLION),
        &[
            "FILE:12:9: spec.egress[0]: an anchor (`&name`) is not allowed",
            "FILE:112:11: 1999900 more errors are not shown",
        ],
    );
}

#[test]
fn a_million_aliases() {
    let text = spec("requires: [&a egress, ", |_| "*a, ".to_owned(), MILLION) + "]\n";
    refused(
        &text,
        &[
            "FILE:11:17: spec.requires[0]: an anchor (`&name`) is not allowed",
            "FILE:11:421: 999901 more errors are not shown",
        ],
    );
}

#[test]
fn a_million_unknown_fields() {
    let text: String = (0..MILLION).map(|n| format!("f{n}: 1\n")).collect();
    refused(&text, &["FILE:1:1: unknown field `f0`", "FILE:101:1: 999904 more errors are not shown"]);
}

#[test]
fn a_million_rules_of_one_name() {
    refused(
        &spec("unix:\n", |_| "  - {name: a, to: [/a]}\n".to_owned(), MILLION),
        &[
            "FILE:13:12: spec.unix[1].name: a second rule with the name `a`",
            "FILE:113:12: 999899 more errors are not shown",
        ],
    );
}

/// What takes the most memory for its length.
#[test]
fn a_million_maps_of_one_field() {
    let text = spec("egress: [", |_| "a:,".to_owned(), MILLION) + "]\n";
    refused(
        &text,
        &["FILE:11:12: spec.egress[0]: unknown field `a`", "FILE:11:72: 4999900 more errors are not shown"],
    );
}
