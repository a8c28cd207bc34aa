//! The texts that stand in fields. A plain `443` and a quoted `"443"` are the same text.

use super::super::diagnostic::{Problem, is_hidden, quoted};
use super::super::fields::closest;
use super::super::sets::{self, Set};
use super::super::{PortRange, Prefix, Rate, Sha256};
use enforcer_common::net::Protocol;
use enforcer_common::verdict::Mode;
use std::time::Duration;

const DAY: u64 = 24 * 60 * 60;
const MAX_TTL: u64 = 365 * DAY;

/// A decimal number. None of what one reader of YAML takes for another number than the next: signs, leading zeros
/// (octal, in YAML 1.1), underscores, exponents. One beyond 64 bits is the largest of them: no bound is that high.
pub(in super::super) fn number(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    (plain && !text.is_empty()).then(|| text.parse().unwrap_or(u64::MAX))
}

/// The one text that may stand here.
pub(super) fn constant(text: &str, expected: &str) -> Result<(), Problem> {
    if text == expected {
        return Ok(());
    }
    Err(Problem::new(format!("expected `{expected}`, found `{}`", quoted(text))))
}

/// One of a few words.
pub(super) fn choice<T: Clone>(text: &str, choices: &[(&str, T)]) -> Result<T, Problem> {
    if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
        return Ok(value.clone());
    }
    let words: Vec<_> = choices.iter().map(|(word, _)| format!("`{word}`")).collect();
    Err(Problem::new(format!("expected {}, found `{}`", words.join(" or "), quoted(text))))
}

/// A whole number within bounds.
pub(super) fn whole(text: &str, least: u64, most: u64) -> Result<u64, Problem> {
    number(text).filter(|number| (least..=most).contains(number)).ok_or_else(|| {
        Problem::new(format!("`{}` is not a whole number from {least} to {most}", quoted(text)))
    })
}

pub(super) fn mode(text: &str) -> Result<Mode, Problem> {
    choice(text, &[("enforce", Mode::Enforce), ("audit", Mode::Audit)])
}

/// The protocols of a rule for destinations, sorted.
pub(super) fn protocols(text: &str) -> Result<Vec<Protocol>, Problem> {
    let [icmp, tcp, udp] = [Protocol::Icmp, Protocol::Tcp, Protocol::Udp];
    let any = vec![icmp, tcp, udp];
    choice(text, &[("tcp", vec![tcp]), ("udp", vec![udp]), ("icmp", vec![icmp]), ("any", any)])
}

/// The name of an agent or a rule: fit for a file name, a metric label and a log line.
pub(super) fn name(text: &str) -> Result<String, Problem> {
    const MAX: usize = 63;
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let ends = bytes.first().is_some_and(alphanumeric) && bytes.last().is_some_and(alphanumeric);
    if ends && bytes.len() <= MAX && bytes.iter().all(|b| alphanumeric(b) || matches!(b, b'.' | b'-')) {
        return Ok(text.to_owned());
    }
    Err(Problem::new(format!("`{}` is not a valid name", quoted(text))).hint(format!(
        "use 1 to {MAX} of `a`-`z`, `0`-`9`, `-` and `.`, with a letter or digit at both ends"
    )))
}

/// One line of text for people to read.
pub(super) fn line(text: &str, max_bytes: usize) -> Result<String, Problem> {
    if text.trim().is_empty() {
        return Err(Problem::new("the text is empty"));
    }
    if text.len() > max_bytes {
        return Err(Problem::new(format!("the text has {} bytes, more than {max_bytes}", text.len())));
    }
    if let Some(hidden) = text.chars().find(|c| is_hidden(*c)) {
        let problem = Problem::new(format!("the text has the character {}", describe(hidden)));
        return Err(if hidden == '\n' {
            problem.hint("write it on one line, or after `>-`, which joins lines")
        } else {
            problem.hint("control characters and invisible ones are not allowed")
        });
    }
    Ok(text.to_owned())
}

fn describe(c: char) -> String {
    format!("U+{:04X}", u32::from(c))
}

/// A time to live such as `8h` or `1h30m`: each unit at most once, the larger first.
pub(super) fn ttl(text: &str) -> Result<Duration, Problem> {
    const UNITS: [(char, u64); 4] = [('d', DAY), ('h', 60 * 60), ('m', 60), ('s', 1)];
    let malformed = || {
        Problem::new(format!("`{}` is not a duration", quoted(text))).hint(
            "write it like `90s`, `8h` or `1h30m`: whole numbers, units `d`, `h`, `m` and `s`, larger first",
        )
    };
    let too_long = || Problem::new(format!("`{}` is more than 365d", quoted(text)));
    let mut seconds: u64 = 0;
    let mut units = UNITS.iter();
    let mut rest = text;
    while !rest.is_empty() {
        let (digits, tail) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(malformed)?);
        let mut tail = tail.chars();
        let unit = tail.next().ok_or_else(malformed)?;
        // Goes on where the unit before was found, so that units come in order and once.
        let (_, scale) = units.find(|(name, _)| *name == unit).ok_or_else(malformed)?;
        let count = number(digits).ok_or_else(malformed)?;
        seconds = count.checked_mul(*scale).and_then(|s| s.checked_add(seconds)).ok_or_else(too_long)?;
        rest = tail.as_str();
    }
    match seconds {
        0 if text.is_empty() => Err(malformed()),
        0 => Err(Problem::new("the duration is zero")),
        1..=MAX_TTL => Ok(Duration::from_secs(seconds)),
        _ => Err(too_long()),
    }
}

/// So many in a second, a minute or an hour: `100/s`.
pub(super) fn rate(text: &str) -> Result<Rate, Problem> {
    const UNITS: [(&str, u64); 3] = [("s", 1), ("m", 60), ("h", 60 * 60)];
    let read = || {
        let (count, unit) = text.split_once('/')?;
        let (_, seconds) = UNITS.iter().find(|(name, _)| *name == unit)?;
        let count = number(count).filter(|count| (1..=u64::from(u32::MAX)).contains(count))?;
        Some(Rate { count, seconds: *seconds })
    };
    read().ok_or_else(|| {
        Problem::new(format!("`{}` is not a rate", quoted(text)))
            .hint(format!("write it like `100/s`, `10/m` or `1000/h`, from 1 to {}", u32::MAX))
    })
}

/// A number of bytes with its unit: `500MB` is 500,000,000, `10GiB` is ten times 2^30.
pub(super) fn size(text: &str) -> Result<u64, Problem> {
    const UNITS: [(&str, u64); 9] = [
        ("B", 1),
        ("kB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
    ];
    let (count, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let scale = UNITS.iter().find(|(name, _)| *name == unit);
    let (Some(count), Some((_, scale))) = (number(count).filter(|count| *count > 0), scale) else {
        return Err(Problem::new(format!("`{}` is not a number of bytes", quoted(text))).hint(
            "write it like `500MB` (500,000,000) or `10GiB` (10 times 2^30), with its unit; not zero",
        ));
    };
    count.checked_mul(*scale).filter(|bytes| *bytes <= super::super::language::MAX_COUNT).ok_or_else(|| {
        Problem::new(format!("`{}` is more than {} bytes", quoted(text), super::super::language::MAX_COUNT))
    })
}

/// What may stand in `to` and `from`.
#[derive(Debug)]
pub(super) enum Target {
    Prefix(Prefix),
    Set(Set),
    Host(String),
    Agent(String),
}

/// Tells addresses, named sets, hosts and agents apart. Nothing reads as two of them: a set has no dot, a host name has one and does
/// not end in a number.
pub(super) fn target(text: &str) -> Result<Target, Problem> {
    if let Some(agent) = text.strip_prefix("agent:") {
        return name(agent).map(Target::Agent);
    }
    if let Some((_, set)) = sets::ALL.iter().find(|(name, _)| *name == text) {
        return Ok(Target::Set(set));
    }
    let last = text.rsplit('.').next().unwrap_or(text);
    let digits = !last.is_empty() && last.bytes().all(|b| b.is_ascii_digit());
    let numeric = digits || last.starts_with("0x");
    if text.contains([':', '/', '%']) || numeric {
        return Prefix::parse(text).map(Target::Prefix);
    }
    if text.contains('.') || text.contains('*') {
        return host(text).map(Target::Host);
    }
    let names: Vec<&str> = sets::ALL.iter().map(|(name, _)| *name).collect();
    let problem = Problem::new(format!("`{}` is not an address, a named set or a host name", quoted(text)));
    Err(match closest(text, &names) {
        Some(name) => problem.hint(format!("did you mean `{name}`?")),
        None => problem.hint(format!(
            "named sets are {}; a host name has a dot; a network has a prefix length",
            names.join(", ")
        )),
    })
}

/// A host name, or `*.` and a host name: what resolvers are asked for, in lower case.
fn host(text: &str) -> Result<String, Problem> {
    const MAX: usize = 253;
    const MAX_LABEL: usize = 63;
    let problem = |what: &str| Problem::new(format!("`{}` {what}", quoted(text)));
    if text.contains('*') && text.chars().all(|c| matches!(c, '0'..='9' | '.' | '*')) && text != "*" {
        return Err(problem("is not an IP address or CIDR").hint("write a network like `10.0.0.0/16`"));
    }
    if !text.is_ascii() {
        return Err(problem("is not a host name").hint("write it as DNS has it, with `xn--`"));
    }
    if text.ends_with('.') {
        return Err(problem("ends in a dot").hint("names are complete without it"));
    }
    let wildcard = text.strip_prefix("*.");
    let plain = wildcard.unwrap_or(text);
    if plain.contains('*') {
        return Err(problem("has a `*` that is not its first label")
            .hint("write it like `*.example.com`: every name below example.com, not example.com itself"));
    }
    let bad = |label: &str| {
        label.is_empty()
            || label.len() > MAX_LABEL
            || label.starts_with('-')
            || label.ends_with('-')
            || !label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    if text.len() > MAX || plain.split('.').any(bad) {
        return Err(problem("is not a host name").hint(format!(
            "at most {MAX} characters; between dots 1 to {MAX_LABEL} of `a`-`z`, `0`-`9` and `-`, with no `-` at an end"
        )));
    }
    if wildcard.is_some() && !plain.contains('.') {
        return Err(problem("stands for a whole top-level domain").hint("name the domain: `*.example.com`"));
    }
    Ok(text.to_ascii_lowercase())
}

/// The path of a Unix socket, or its abstract name after an `@`.
pub(super) fn unix_socket(text: &str) -> Result<String, Problem> {
    /// The bytes of `sockaddr_un.sun_path`, less a closing zero.
    const MAX: usize = 107;
    if text.len() > MAX || text.chars().any(is_hidden) {
        return Err(Problem::new(format!("`{}` is not the address of a Unix socket", quoted(text)))
            .hint(format!("at most {MAX} bytes, none of them invisible")));
    }
    let whole = match text.strip_prefix('/') {
        Some(path) => path.split('/').all(|part| !matches!(part, "" | "." | "..")),
        None => text.strip_prefix('@').is_some_and(|name| !name.is_empty()),
    };
    if whole {
        return Ok(text.to_owned());
    }
    Err(Problem::new(format!("`{}` is not the address of a Unix socket", quoted(text))).hint(format!(
        "write an absolute path without `.`, `..` or `//`, an abstract name after an `@`, or `{}`",
        sets::BASICS
    )))
}

/// The path of a file, as the host sees it.
pub(super) fn path(text: &str) -> Result<String, Problem> {
    const MAX: usize = 4095;
    let is_whole = |path: &str| path.split('/').all(|part| !matches!(part, "" | "." | ".."));
    if text.len() <= MAX && !text.chars().any(is_hidden) && text.strip_prefix('/').is_some_and(is_whole) {
        return Ok(text.to_owned());
    }
    Err(Problem::new(format!("`{}` is not the path of a file", quoted(text))).hint(format!(
        "write an absolute path without `.`, `..` or `//`; at most {MAX} bytes, none of them invisible"
    )))
}

/// The digest of a file.
pub(super) fn sha256(text: &str) -> Result<Sha256, Problem> {
    Sha256::parse(text).ok_or_else(|| {
        Problem::new(format!("`{}` is not a SHA-256 digest", quoted(text)))
            .hint("write 64 of `0`-`9` and `a`-`f`, as `sha256sum` prints them")
    })
}

/// One port or one range of ports.
pub(super) fn ports(text: &str) -> Result<PortRange, Problem> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (Some(first), Some(last)) = (number(first), number(last)) else {
        let problem = Problem::new(format!("`{}` is not a port or range", quoted(text)));
        return Err(if text == "any" {
            problem.hint("write `ports: any`, without brackets, for every port")
        } else {
            problem.hint("write it like `443` or `8000-8010`, without signs, spaces or leading zeros")
        });
    };
    let in_range = |port: u64| u16::try_from(port).ok().filter(|port| *port > 0);
    let (Some(first), Some(last)) = (in_range(first), in_range(last)) else {
        return Err(Problem::new(format!("`{}` is outside the ports 1 to 65535", quoted(text))));
    };
    if first > last {
        return Err(Problem::new(format!("the range `{}` is reversed", quoted(text)))
            .hint(format!("write `{last}-{first}`")));
    }
    Ok(PortRange { first, last })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_exactly() {
        for (text, expect) in [
            ("1s", Some(1)),
            ("8h", Some(8 * 3600)),
            ("1h30m", Some(5400)),
            ("0h5m", Some(300)),
            ("365d", Some(MAX_TTL)),
            ("364d23h59m60s", Some(MAX_TTL)),
            ("365d1s", None),
            ("0s", None),
            ("", None),
            ("8", None),
            ("h", None),
            ("1.5h", None),
            ("-1h", None),
            ("08h", None),
            ("00h5m", None),
            ("30m1h", None),
            ("1h1h", None),
            ("1h 30m", None),
            ("8H", None),
            ("1é", None),
            ("99999999999999999999d", None),
            ("18446744073709551615d", None),
        ] {
            assert_eq!(ttl(text).ok().map(|d| d.as_secs()), expect, "{text}");
        }
    }

    #[test]
    fn ports_are_read_exactly() {
        for (text, expect) in [
            ("1", Some((1, 1))),
            ("65535", Some((65535, 65535))),
            ("1-65535", Some((1, 65535))),
            ("443-443", Some((443, 443))),
            ("0", None),
            ("0-10", None),
            ("65536", None),
            ("2-1", None),
            ("0443", None),
            ("+443", None),
            ("-443", None),
            ("443-", None),
            ("1-2-3", None),
            ("1e3", None),
            ("0x1bb", None),
            ("8_000", None),
            ("8000 - 8010", None),
            ("٤٤٣", None),
            ("", None),
        ] {
            assert_eq!(ports(text).ok().map(|p| (p.first, p.last)), expect, "{text}");
        }
    }

    #[test]
    fn names_keep_to_their_characters() {
        let longest = "a".repeat(63);
        for text in ["a", "0", "coding-agent", "v1.2", "a--b", &longest] {
            assert!(name(text).is_ok(), "{text}");
        }
        let too_long = "a".repeat(64);
        for text in ["", "-a", "a-", ".", "A", "a_b", "a b", "ä", "a/b", &too_long] {
            assert!(name(text).is_err(), "{text}");
        }
    }
}
