//! Who may depend on whom, as tables. A rule forbids paths to some files and says why; what it finds is named by file and
//! line, so that a new edge in the graph is a decision and not an accident. Test code is free.
//!
//! Where a new edge is right, the decision is written down here: in `except` of the rule, or in [`EDGE_EXCEPTIONS`].

mod source;

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::command::workspace;
use source::Source;

/// Forbids to name something in some files.
struct Rule {
    /// Beginnings of file names below the workspace: `src/kernel` is `kernel.rs` and all of `kernel/`.
    files: &'static [&'static str],
    except: &'static [&'static str],
    /// Paths as code writes them; what lies below one is forbidden with it.
    paths: &'static [&'static str],
    why: &'static str,
}

const RULES: &[Rule] = &[
    Rule {
        files: &["enforcer-userspace/src/", "tests/"],
        except: &["enforcer-userspace/src/kernel"],
        paths: &["aya", "aya_obj"],
        why: "only `kernel` loads programs and touches maps, so that there is one boundary to the kernel",
    },
    Rule {
        files: CORE,
        except: &[],
        paths: &[
            "aya",
            "axum",
            "hyper",
            "libc",
            "nix",
            "procfs",
            "std::env",
            "std::fs",
            "std::net::TcpListener",
            "std::net::TcpStream",
            "std::net::ToSocketAddrs",
            "std::net::UdpSocket",
            "std::os::unix::net",
            "std::process",
            "std::thread",
            "tokio",
        ],
        why: "core has no input and output: facts come in as arguments",
    },
    Rule {
        files: CORE,
        except: &[],
        paths: &["Instant::now", "SystemTime::now", "Timestamp::now", "Uuid::now_v7", "Zoned::now"],
        why: "core has no clock: time comes in as an argument",
    },
    Rule {
        files: &["enforcer-userspace/src/"],
        except: &["enforcer-userspace/src/main.rs", "enforcer-userspace/src/exit.rs"],
        paths: &["process::exit"],
        why: "one place picks exit codes, and everything else returns, so that guards are dropped",
    },
    Rule {
        files: &["enforcer-userspace/src/"],
        // `exit` turns what `main` and `cli` report into a status.
        except: &[
            "enforcer-userspace/src/main.rs",
            "enforcer-userspace/src/cli",
            "enforcer-userspace/src/exit.rs",
        ],
        paths: &["anyhow"],
        why: "below the command line an error is a type, so that callers can tell what happened",
    },
];

const CORE: &[&str] = &[
    "enforcer-userspace/src/audit/",
    "enforcer-userspace/src/chain",
    "enforcer-userspace/src/credentials",
    "enforcer-userspace/src/detect",
    "enforcer-userspace/src/document",
    "enforcer-userspace/src/envelope",
    "enforcer-userspace/src/metrics",
    "enforcer-userspace/src/record",
    "enforcer-userspace/src/registration",
    "enforcer-userspace/src/selection",
    "enforcer-userspace/src/session",
    "enforcer-userspace/src/signature",
];

/// The modules that do input and output. They know core and not each other, nor what is above them; `daemon` joins them.
const EDGES: &[&str] = &[
    "cgroup",
    "control",
    "kernel",
    "key_files",
    "measure",
    "names",
    "process",
    "procfs",
    "scrape",
    "sinks",
    "sockets",
    "state",
    "workload",
];
const ABOVE_EDGES: &[&str] = &["cli", "daemon"];
/// What an edge may name all the same: from, to, and a comment on why.
const EDGE_EXCEPTIONS: &[(&str, &str)] = &[
    // Who is asking is a matter of the connection and of the process table; nobody above has both when it is accepted.
    ("control", "procfs"),
    // It is found out in one place who is asking, and requests take one way to the loop, by whichever socket they come.
    ("workload", "control"),
];

/// The only crate that `enforcer-common` may need (for `aya::Pod`, in user space): the kernel programs need it too.
const COMMON_MAY_NEED: &str = "aya";

/// From here on a file has to say why it is one file.
const LONG_FILE: usize = 400;
const LONG_FILE_PHRASE: &str = "over 400 lines because";

const SOURCES: &[&str] =
    &["bpf-toolchain", "enforcer-common", "enforcer-ebpf", "enforcer-userspace", "tests", "xtask"];

pub(super) fn check() -> Result<()> {
    let mut findings = Vec::new();
    for folder in SOURCES {
        visit(&workspace().join(folder), &mut |path| {
            let text = fs::read_to_string(path).with_context(|| format!("read `{}`", path.display()))?;
            let name = path.strip_prefix(workspace()).unwrap_or(path).display().to_string();
            findings.extend(check_layers(&name, &text));
            findings.extend(check_length(&name, &text));
            Ok(())
        })?;
    }
    let manifest = workspace().join("enforcer-common/Cargo.toml");
    let text = fs::read_to_string(&manifest).with_context(|| format!("read `{}`", manifest.display()))?;
    findings.extend(check_common("enforcer-common/Cargo.toml", &text));
    if findings.is_empty() {
        return Ok(());
    }
    for finding in &findings {
        eprintln!("{finding}");
    }
    bail!("{} findings\nhint: the rules are in `xtask/src/lint/layers.rs`", findings.len())
}

fn visit(folder: &Path, body: &mut impl FnMut(&Path) -> Result<()>) -> Result<()> {
    let mut entries = fs::read_dir(folder)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| format!("list `{}`", folder.display()))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        if path.is_dir() {
            if entry.file_name() != "target" {
                visit(&path, body)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            body(&path)?;
        }
    }
    Ok(())
}

fn check_layers(file: &str, text: &str) -> Vec<String> {
    if file.ends_with("/tests.rs") || file.starts_with("enforcer-userspace/tests/") {
        return Vec::new();
    }
    let starts = |beginnings: &[&str]| beginnings.iter().any(|beginning| file.starts_with(beginning));
    let source = Source::read(text);
    let mut findings = Vec::new();
    for rule in RULES.iter().filter(|rule| starts(rule.files) && !starts(rule.except)) {
        for path in rule.paths {
            findings.extend(
                source.lines_naming(path).map(|line| format!("{file}:{line}: `{path}`: {}", rule.why)),
            );
        }
    }
    let upper = EDGES.iter().chain(ABOVE_EDGES);
    let (module, why) = if starts(CORE) {
        ("", "core is below the edges and knows none of them")
    } else if let Some(edge) = EDGES.iter().find(|edge| in_module(file, edge)) {
        (*edge, "edges do not know each other nor what is above them; `daemon` joins them")
    } else {
        return findings;
    };
    for other in upper.filter(|other| **other != module && !EDGE_EXCEPTIONS.contains(&(module, other))) {
        let path = format!("crate::{other}");
        findings.extend(source.lines_naming(&path).map(|line| format!("{file}:{line}: `{path}`: {why}")));
    }
    findings
}

/// Whether the file belongs to that module of the userspace crate.
fn in_module(file: &str, module: &str) -> bool {
    file.strip_prefix("enforcer-userspace/src/")
        .and_then(|file| file.strip_prefix(module))
        .is_some_and(|rest| rest.starts_with(['.', '/']))
}

fn check_length(file: &str, text: &str) -> Option<String> {
    let lines = text.lines().count();
    let head: Vec<_> = text.lines().map_while(|line| line.strip_prefix("//!")).map(str::trim).collect();
    let explained = head.join(" ").contains(LONG_FILE_PHRASE);
    (lines > LONG_FILE && !explained).then(|| {
        format!("{file}:{lines}: {lines} lines: ask what second thing the file has become, or let its head say \"{LONG_FILE_PHRASE} ...\"")
    })
}

fn check_common(file: &str, manifest: &str) -> Vec<String> {
    let mut findings = Vec::new();
    let mut section = "";
    for (index, line) in manifest.lines().enumerate() {
        if line.starts_with('[') {
            section = line;
        }
        // `[dependencies]`, `[target.….dependencies]` and `[dependencies.x]`, but not `[dev-dependencies]`.
        let name = match section.trim_matches(['[', ']']).rsplit_once("dependencies") {
            Some((before, "")) if !before.ends_with("dev-") && !line.starts_with('[') => {
                line.split(['=', '.']).next()
            }
            Some((before, table)) if !before.ends_with("dev-") && line.starts_with('[') => {
                table.strip_prefix('.')
            }
            _ => None,
        };
        let name = name.unwrap_or("").trim();
        if !(name.is_empty() || name.starts_with('#') || name == COMMON_MAY_NEED) {
            let line = index + 1;
            findings.push(format!("{file}:{line}: `{name}`: what kernel and user space share depends on nothing but `{COMMON_MAY_NEED}`"));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_names_file_line_and_path() {
        let cases: &[(&str, &str, &[&str])] = &[
            ("kernel/maps.rs", "use aya::maps::HashMap;", &[]),
            ("daemon.rs", "//! Joins.\nuse aya::Ebpf;", &["daemon.rs:2: `aya`"]),
            (
                "daemon.rs",
                "use anyhow::Result;\nfn f() { std::process::exit(1) }",
                &["daemon.rs:2: `process::exit`", "daemon.rs:1: `anyhow`"],
            ),
            ("main.rs", "use anyhow::Result;\nfn f() { std::process::exit(1) }", &[]),
            ("envelope/parse.rs", "use std::{fmt, fs::File};", &["envelope/parse.rs:1: `std::fs`"]),
            ("session/mod.rs", "\nlet t = Instant::now();", &["session/mod.rs:2: `Instant::now`"]),
            ("session/mod.rs", "#[cfg(test)]\nmod tests {\n use std::fs;\n}", &[]),
            ("record/chain.rs", "use crate::sinks;", &["record/chain.rs:1: `crate::sinks`"]),
            (
                "control/server.rs",
                "use crate::{kernel::Maps, session::Id};",
                &["control/server.rs:1: `crate::kernel`"],
            ),
            ("control/server.rs", "use crate::control::dto;\nuse crate::record::Kind;", &[]),
            ("statement.rs", "use crate::kernel;", &[]),
        ];
        for (file, text, expected) in cases {
            let found = check_layers(&format!("enforcer-userspace/src/{file}"), text);
            let short: Vec<_> =
                found.iter().map(|finding| finding["enforcer-userspace/src/".len()..].to_owned()).collect();
            assert_eq!(short.len(), expected.len(), "{file}: {short:?}");
            for (finding, expected) in short.iter().zip(*expected) {
                assert!(finding.starts_with(expected), "{finding}");
            }
        }
    }

    #[test]
    fn a_long_file_says_why() {
        let long = "fn f() {}\n".repeat(401);
        assert!(check_length("a.rs", &long).is_some());
        assert!(
            check_length(
                "a.rs",
                &format!("//! All of it. It is over 400\n//! lines because of tables.\n{long}")
            )
            .is_none()
        );
        assert!(check_length("a.rs", &"fn f() {}\n".repeat(400)).is_none());
    }

    #[test]
    fn the_shared_crate_needs_nothing() {
        for (manifest, expected) in [
            ("[dependencies]\naya = { optional = true }\n\n[dev-dependencies]\nproptest = \"1\"\n", 0),
            ("[dependencies]\nserde = \"1\"\nlibc.workspace = true\n", 2),
            ("[dependencies.serde]\nversion = \"1\"\n", 1),
            ("[target.'cfg(unix)'.dependencies]\nlibc = \"0.2\"\n", 1),
            ("[build-dependencies]\ncc = \"1\"\n", 1),
        ] {
            assert_eq!(check_common("Cargo.toml", manifest).len(), expected, "{manifest}");
        }
    }
}
