//! `enforcer doctor`: what this host offers, hook by hook. Changes nothing.

use std::fmt::Write as _;

use enforcer_common::config::{Config, GuardOffsets, Offsets};
use serde::Serialize;

use super::{
    Format, print_json,
    text::{self, Colour, colour},
};
use crate::{
    confinement::{self, Landlock},
    exit::{ExitStatus, Failure, one_line},
    host::{self, HostError},
    kernel::{self, HOOKS, PinError, Pins},
    procfs,
    settings::Settings,
};

#[derive(Serialize)]
struct Report {
    version: u32,
    /// Whether the daemon can run here.
    ready: bool,
    kernel: String,
    checks: Vec<Check>,
    hooks: Vec<Check>,
    /// Of use, and not needed.
    guard: Vec<Check>,
    /// Lines of defence that this release does not use.
    not_covered: Vec<&'static str>,
}

#[derive(Serialize)]
struct Check {
    name: String,
    /// `ok`, `missing` or `unknown`.
    state: State,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    Missing,
    /// Could not be looked at.
    Unknown,
}

impl Check {
    fn ok(name: &str, detail: impl Into<String>) -> Self {
        Self { name: name.to_owned(), state: State::Ok, detail: detail.into(), hint: None }
    }

    fn missing(name: &str, detail: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { name: name.to_owned(), state: State::Missing, detail: detail.into(), hint: Some(hint.into()) }
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Of a program that the kernel refuses, print all that its verifier says
    #[arg(long, short)]
    verbose: bool,
}

pub(super) fn execute(settings: &Settings, format: Format, args: &Args) -> Result<ExitStatus, Failure> {
    let root = nix::unistd::geteuid().is_root();
    let offsets = kernel::kernel_offsets();
    let checks = vec![
        privileges(root),
        namespaces(),
        cgroups(),
        type_information(&offsets),
        pins(settings),
        seccomp(),
        landlock(),
    ];
    let offsets = offsets.ok();
    let hooks = hooks(root, offsets, args.verbose);
    let guard = guard(root, offsets);
    // Without Landlock `run` warns and goes on.
    let needed = checks.iter().filter(|check| check.name != LANDLOCK).chain(&hooks);
    let ready = needed.into_iter().all(|check| check.state == State::Ok);
    let report = Report {
        version: 1,
        ready,
        kernel: procfs::kernel_release()?,
        checks,
        hooks,
        guard,
        not_covered: NOT_COVERED.to_vec(),
    };
    match format {
        Format::Json => print_json(&report)?,
        Format::Text => text::print(&render(&report))?,
    }
    Ok(if ready { ExitStatus::Ok } else { ExitStatus::Unsupported })
}

const LANDLOCK: &str = "Landlock";

const NOT_COVERED: &[&str] = &[
    "without the guard (BPF LSM): Unix sockets; other families of sockets, unless `run` began the session",
    "without the guard: what is held back on a socket that was received already connected",
    "a session that runs as root and undoes enforcement through files that root may write",
];

fn privileges(root: bool) -> Check {
    if root {
        Check::ok("root", "running as root")
    } else {
        let error = HostError::NotRoot;
        Check::missing("root", "not running as root: programs cannot be tried", error.hint())
    }
}

fn namespaces() -> Check {
    match procfs::foreign_namespaces() {
        Ok(foreign) if foreign.is_empty() => Check::ok("namespaces", "the host's own"),
        Ok(foreign) => {
            let error = HostError::Namespaced { namespaces: foreign.join(", ") };
            Check::missing("namespaces", error.to_string(), error.hint())
        }
        Err(error) => {
            let hint = HostError::Proc(error);
            Check { state: State::Unknown, ..Check::missing("namespaces", hint.to_string(), hint.hint()) }
        }
    }
}

fn cgroups() -> Check {
    match procfs::cgroup2_mount() {
        Ok(Some(path)) => Check::ok("cgroup v2", format!("mounted at {}", path.display())),
        Ok(None) => Check::missing("cgroup v2", "not mounted", HostError::NoCgroup2.hint()),
        Err(error) => Check {
            state: State::Unknown,
            ..Check::missing("cgroup v2", error.to_string(), "is /proc mounted?")
        },
    }
}

fn type_information(offsets: &Result<Offsets, kernel::OffsetError>) -> Check {
    match offsets {
        Ok(_) => Check::ok("type information", "the kernel's BTF has every structure we read"),
        Err(error) => Check::missing(
            "type information",
            error.to_string(),
            "boot a kernel with CONFIG_DEBUG_INFO_BTF=y",
        ),
    }
}

fn pins(settings: &Settings) -> Check {
    match Pins::at(&settings.pin_dir) {
        Ok(_) => Check::ok("BPF file system", format!("{} can be made", settings.pin_dir.display())),
        Err(error @ PinError::NotBpffs { .. }) => {
            Check::missing("BPF file system", error.to_string(), "mount -t bpf bpf /sys/fs/bpf")
        }
        Err(error) => Check::missing("BPF file system", one_line(&error), "see `--pin-dir`"),
    }
}

fn seccomp() -> Check {
    if confinement::seccomp_available() {
        Check::ok("seccomp", "`run` refuses its command other families of sockets, io_uring, `bpf`, mounts")
    } else {
        let hint = "boot a kernel with CONFIG_SECCOMP_FILTER=y; without it `run` does not run";
        Check::missing("seccomp", "this kernel has no seccomp filters", hint)
    }
}

fn landlock() -> Check {
    let landlock = Landlock::of_this_kernel();
    match (landlock, landlock.gap()) {
        (Landlock::Abi(abi), None) => {
            let held = "`run` holds its command back from tracing and signalling other processes";
            Check::ok(LANDLOCK, format!("ABI {abi}: {held}"))
        }
        (Landlock::Abi(_), Some(gap)) if landlock.is_usable() => {
            Check { hint: Some("boot Linux 6.12 or later".to_owned()), ..Check::ok(LANDLOCK, gap) }
        }
        (_, gap) => Check::missing(
            LANDLOCK,
            gap.unwrap_or_default(),
            "boot with CONFIG_SECURITY_LANDLOCK=y and `landlock` in `lsm=`; `run` warns without it",
        ),
    }
}

/// Whether sessions can be kept from others and from enforcement itself. That the programs load means nothing yet (Linux 6.1 and
/// 6.12 let them, and never run them, where `bpf` is not in `lsm=`): a daemon that starts finds out, and `enforcer status` says it.
fn guard(root: bool, offsets: Option<Offsets>) -> Vec<Check> {
    const LSM: &str = "BPF LSM";
    let without = |state, detail: String| {
        vec![Check {
            state,
            ..Check::missing(
                LSM,
                detail,
                "boot with `bpf` in `lsm=`; sessions run without the guard, and `run --user` makes up for part of it",
            )
        }]
    };
    let guard = match host::inspect_guard() {
        Ok(guard) => guard,
        Err(why) => return without(State::Missing, why),
    };
    let (true, Some(offsets)) = (root, offsets) else {
        return without(State::Unknown, "not tried".to_owned());
    };
    let config = Config { offsets, guard, cgroup_parent_id: 0, cgroup_parent_level: 0, pad: 0 };
    match kernel::probe_guard(&config) {
        Err(error) => without(State::Unknown, one_line(&error)),
        Ok(found) => match found.iter().find_map(|(_, refused)| refused.clone()) {
            Some(error) => without(State::Missing, error),
            None => {
                let detail = format!("the kernel accepts the guard's {} programs", found.len());
                let hint = "whether it runs them, a daemon finds out: `enforcer status`".to_owned();
                vec![Check { hint: Some(hint), ..Check::ok(LSM, detail) }]
            }
        },
    }
}

fn hooks(root: bool, offsets: Option<Offsets>, verbose: bool) -> Vec<Check> {
    let tried = match (root, offsets) {
        (true, Some(offsets)) => {
            let guard = GuardOffsets::UNKNOWN;
            let config = Config { offsets, guard, cgroup_parent_id: 0, cgroup_parent_level: 0, pad: 0 };
            kernel::probe_programs(&config).map_err(|error| one_line(&error))
        }
        _ => Err("not tried".to_owned()),
    };
    match tried {
        Ok(found) => found
            .into_iter()
            .map(|(hook, refused)| match refused {
                None => Check::ok(hook.hook, hook.covers),
                Some(error) => {
                    let (line, said) = error.split_once('\n').unwrap_or((&error, ""));
                    let detail = if verbose { said } else { line };
                    Check::missing(hook.hook, detail, "this kernel refuses the program")
                }
            })
            .collect(),
        Err(why) => HOOKS
            .iter()
            .map(|hook| Check {
                name: hook.hook.to_owned(),
                state: State::Unknown,
                detail: why.clone(),
                hint: None,
            })
            .collect(),
    }
}

fn render(report: &Report) -> String {
    let mut out = String::new();
    let _infallible = writeln!(out, "kernel {}", report.kernel);
    let needed = report.checks.iter().chain(&report.hooks).map(|check| (check, Colour::Red));
    for (check, missing) in needed.chain(report.guard.iter().map(|check| (check, Colour::Yellow))) {
        let state = match check.state {
            State::Ok => colour("ok     ", Colour::Green),
            State::Missing => colour("MISSING", missing),
            State::Unknown => colour("unknown", Colour::Yellow),
        };
        let _infallible = writeln!(out, "{state} {:<25} {}", check.name, check.detail);
        if let Some(hint) = &check.hint {
            let _infallible = writeln!(out, "        hint: {hint}");
        }
    }
    let _infallible = writeln!(out, "not covered by this release:");
    for line in &report.not_covered {
        let _infallible = writeln!(out, "  - {line}");
    }
    let verdict = if report.ready { "the daemon can run here" } else { "the daemon cannot run here" };
    let _infallible = writeln!(out, "{verdict}");
    out
}
