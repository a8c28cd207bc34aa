//! `cargo xtask setup`: installs what building and testing need, and says what and why before it does.
//!
//! It never replaces what works: a compiler, linker or tool that is already here is used. Packages come from apt, as root;
//! `bpf-linker` is compiled into `target/tools`, so that a checkout leaves nothing behind in the user's folders. Where
//! packages cannot be installed, the error lists all that is missing at once.

pub(crate) mod apt;
mod clients;
mod receivers;

use std::env;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};
use bpf_toolchain::compiler::Route;
use bpf_toolchain::linker::TOOLS;
use bpf_toolchain::{Compiler, LINKER_ENV, Linker, Missing, Toolchain, on_path};

use crate::command::{cargo, cargo_path, output, run as run_command, workspace};
use crate::vm;
use apt::{Apt, Package};

/// The newest that Rust 1.95 builds, and the LLVM versions it can be built with.
const LINKER_VERSION: &str = "0.13.0";
const LINKER_LLVM: RangeInclusive<u32> = 21..=23;
/// Where an LLVM is that is not in Debian's place; `bpf-linker` reads the same variable.
const LLVM_ENV: &str = "LLVM_PREFIX";

/// The LLVM of Debian's compiler today, to have it on the first list; when Debian moves on, [`install_linker`] notices.
const COMPILER_LLVM: u32 = 22;
/// Debian's compiler with `core` for BPF. It lives beside a rustup toolchain, which stays first in PATH.
const COMPILER_PACKAGES: &[&str] = &["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"];
/// Clippy of the same compiler. Without it `lint` checks the BPF crate as host code, which finds most of the same.
const CLIPPY_PACKAGE: &str = "rust-web-clippy";

/// What the calling task is about to do. Each includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Need {
    Build,
    Lint,
    Test,
    Vm,
}

/// A program that tests or the demo start.
struct Tool {
    program: &'static str,
    package: &'static str,
    why: &'static str,
}

const TEST_TOOLS: &[Tool] = &[
    Tool { program: "bpftool", package: "bpftool", why: "tests look at programs and maps from outside" },
    Tool { program: "ip", package: "iproute2", why: "tests make network namespaces" },
    Tool { program: "openssl", package: "openssl", why: "tests have it check signatures" },
    Tool { program: "c++", package: "g++", why: "the fuzzer's own part is C++" },
    Tool { program: "python3", package: "python3", why: "the demo's agent starts a Python child" },
];

const VM_TOOLS: &[Tool] = &[
    Tool {
        program: "qemu-system-x86_64",
        package: "qemu-system-x86",
        why: "virtual machines for other kernels",
    },
    Tool { program: "busybox", package: "busybox-static", why: "what a virtual machine starts with" },
    Tool { program: "depmod", package: "kmod", why: "modules of other kernels" },
];

/// Parts of the Rust toolchain that runs us: the program that cargo starts, and rustup's name for it.
const COMPONENTS: &[(&str, &str)] = &[("cargo-fmt", "rustfmt"), ("cargo-clippy", "clippy")];

pub(crate) fn run() -> Result<()> {
    install(Need::Vm)?;
    vm::fetch()
}

/// Runs `setup` if something that the task needs is missing. Costs some tens of milliseconds if nothing is.
pub(crate) fn ensure(need: Need) -> Result<()> {
    let ready = Toolchain::find(workspace()).is_ok()
        && (need < Need::Lint || missing_components().is_empty())
        && missing_tools(need).next().is_none()
        && (need < Need::Test || (has_venv() && clients::are_installed() && receivers::are_here()));
    if ready { Ok(()) } else { install(need) }
}

fn install(need: Need) -> Result<()> {
    let apt = Apt::default();
    let mut changed = need >= Need::Lint && install_components()?;
    changed |= install_packages(&apt, need)?;
    changed |= install_linker(&apt)?;
    changed |= need >= Need::Test && clients::install()?;
    changed |= need >= Need::Test && receivers::fetch()?;
    let Toolchain { compiler: Compiler { rustc, version: (major, minor), llvm, .. }, linker } =
        Toolchain::find(workspace())?;
    eprintln!("setup: BPF compiler: `{}` (Rust {major}.{minor}, LLVM {llvm})", rustc.display());
    eprintln!("setup: BPF linker: `{}`", linker.path.display());
    eprintln!("setup: {}", if changed { "done" } else { "nothing to do" });
    Ok(())
}

fn missing_components() -> Vec<&'static str> {
    // With rustup, a program on the PATH may stand in for a component that is not there; the real ones are beside cargo.
    let by_rustup = cargo_path().components().any(|part| part.as_os_str() == "toolchains");
    let present = |program: &str| {
        cargo_path().with_file_name(program).is_file() || (!by_rustup && on_path(program).is_some())
    };
    COMPONENTS.iter().filter(|(program, _)| !present(program)).map(|(_, component)| *component).collect()
}

fn install_components() -> Result<bool> {
    let missing = missing_components();
    if missing.is_empty() {
        return Ok(false);
    }
    let names = missing.join(" and ");
    let Some(rustup) = on_path("rustup") else {
        bail!("this Rust toolchain lacks {names}\nhint: install it beside `{}`", cargo_path().display());
    };
    eprintln!("setup: add {names} with rustup: `cargo xtask lint` runs them");
    run_command(Command::new(rustup).args(["component", "add"]).args(&missing))?;
    Ok(true)
}

fn missing_tools(need: Need) -> impl Iterator<Item = &'static Tool> {
    // An ordinary user's PATH leaves this folder out, and Debian's `bpftool` is in it.
    let present =
        |tool: &Tool| on_path(tool.program).is_some() || Path::new("/usr/sbin").join(tool.program).is_file();
    let tests = if need >= Need::Test { TEST_TOOLS } else { &[] };
    let machines = if need >= Need::Vm { VM_TOOLS } else { &[] };
    tests.iter().chain(machines).filter(move |tool| !present(tool))
}

/// Whether Python can make an environment with pip in it; Debian has that in a package of its own.
fn has_venv() -> bool {
    output(Command::new("python3").args(["-c", "import venv, ensurepip"])).is_ok()
}

/// Installs the compiler and the tools.
fn install_packages(apt: &Apt, need: Need) -> Result<bool> {
    let mut packages = Vec::new();
    let compilers = Compiler::installed();
    if let Err(missing) = &compilers {
        eprintln!("setup: {missing}");
        packages.extend(compiler_packages());
        if !Linker::own_path(workspace()).is_file() && llvm_prefix(COMPILER_LLVM).is_none() {
            packages.extend(llvm_packages(COMPILER_LLVM));
        }
    }
    let debians = compilers.is_ok_and(|all| all.first().is_some_and(|first| first.route == Route::System));
    let lints_with_it = need >= Need::Lint && (debians || !packages.is_empty());
    if lints_with_it && !Path::new("/usr/bin/clippy-driver").is_file() {
        packages.push(Package::optional(CLIPPY_PACKAGE, "lints the BPF programs for their own target"));
    }
    if need >= Need::Test && !has_venv() {
        packages.push(Package::required(
            "python3-venv",
            "what tests check credentials with, and virtme-ng, which boots other kernels",
        ));
    }
    packages.extend(missing_tools(need).map(|tool| Package::required(tool.package, tool.why)));
    apt.install(&packages)
}

fn compiler_packages() -> impl Iterator<Item = Package> {
    const WHY: &str = "compiles the BPF programs (a rustup nightly with `rust-src` would do as well)";
    COMPILER_PACKAGES.iter().map(|name| Package::required(*name, WHY))
}

/// Compiles `bpf-linker`, with the LLVM it needs, unless one is here that works.
fn install_linker(apt: &Apt) -> Result<bool> {
    if linker_is_usable()? {
        return Ok(false);
    }
    let compilers = Compiler::installed()?;
    let mut choice = linkable(apt, &compilers)?;
    let debians: Vec<_> = compiler_packages().collect();
    if choice.is_none() && !compilers.iter().any(|it| it.route == Route::System) && apt.offers(&debians)? {
        // A nightly whose LLVM is too new for this system. Debian's compiler comes with an LLVM that Debian has.
        apt.install(&debians)?;
        choice = linkable(apt, &Compiler::installed()?)?;
    }
    let Some((compiler, llvm)) = choice else {
        let oldest = compilers.iter().map(|compiler| compiler.llvm).min().unwrap_or(COMPILER_LLVM);
        bail!(
            "there is no LLVM to build `bpf-linker` {LINKER_VERSION} with: it takes {} to {}, and not older than LLVM {oldest} of \
             the BPF compiler\n\
             hint: install Debian's `llvm-{oldest}-dev` and `libpolly-{oldest}-dev`; or name the folder of another such LLVM in \
             `{LLVM_ENV}`; or name a `bpf-linker` in `{LINKER_ENV}`",
            LINKER_LLVM.start(),
            LINKER_LLVM.end()
        );
    };
    let prefix = match llvm_prefix(llvm) {
        Some(prefix) => prefix,
        None => {
            apt.install(&llvm_packages(llvm))?;
            debian_llvm(llvm)
        }
    };
    eprintln!(
        "setup: compile `bpf-linker` {LINKER_VERSION} with LLVM {llvm} into `{TOOLS}` (one to two minutes): it links what `{}` \
         writes into a BPF object",
        compiler.rustc.display()
    );
    run_command(
        cargo()
            .args(["install", "bpf-linker", "--version", LINKER_VERSION, "--locked", "--force", "--quiet"])
            .args(["--no-default-features", "--features", &format!("llvm-{llvm}"), "--root"])
            .arg(workspace().join(TOOLS))
            .env(LLVM_ENV, prefix)
            // LLVM does the work, so optimizing what surrounds it buys nothing; as published, this takes twice as long.
            .env("CARGO_PROFILE_RELEASE_DEBUG", "0")
            .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
            // Ours must not decide how a tool is built, nor keep its intermediate files.
            .env_remove("CARGO_TARGET_DIR")
            .env_remove("RUSTFLAGS"),
    )?;
    Ok(true)
}

/// Whether [`Toolchain::find`] finds a linker, and it runs. An error if the user named one that does not.
fn linker_is_usable() -> Result<bool> {
    let named = env::var_os(LINKER_ENV).is_some();
    let linker = match Toolchain::find(workspace()) {
        Ok(toolchain) => toolchain.linker,
        Err(missing @ Missing::NamedLinker { .. }) => return Err(missing.into()),
        Err(missing) if named => return Err(missing.into()),
        Err(missing) => {
            eprintln!("setup: {missing}");
            return Ok(false);
        }
    };
    let version = output(Command::new(&linker.path).arg("--version"));
    if named {
        return version.map(|_| true);
    }
    let right = version.is_ok_and(|version| version.split_whitespace().nth(1) == Some(LINKER_VERSION));
    if !right {
        eprintln!("setup: `{}` is not a working `bpf-linker` {LINKER_VERSION}", linker.path.display());
    }
    Ok(right)
}

/// The first compiler for which there is, or apt has, an LLVM that reads its bitcode; and that LLVM's version.
fn linkable(apt: &Apt, compilers: &[Compiler]) -> Result<Option<(Compiler, u32)>> {
    for compiler in compilers {
        let fitting = || LINKER_LLVM.filter(|llvm| *llvm >= compiler.llvm);
        if let Some(llvm) = fitting().find(|llvm| llvm_prefix(*llvm).is_some()) {
            return Ok(Some((compiler.clone(), llvm)));
        }
        for llvm in fitting() {
            if apt.offers(&llvm_packages(llvm))? {
                return Ok(Some((compiler.clone(), llvm)));
            }
        }
    }
    Ok(None)
}

fn llvm_packages(llvm: u32) -> [Package; 2] {
    const WHY: &str = "`bpf-linker` is built with it";
    ["llvm", "libpolly"].map(|stem| Package::required(format!("{stem}-{llvm}-dev"), WHY))
}

/// Where an LLVM of that version is installed with all that one builds against. Debian's `llvm-config` says nothing of that: it
/// is in the package for users of LLVM, not in those for developers.
fn llvm_prefix(llvm: u32) -> Option<PathBuf> {
    let is_version = |prefix: &PathBuf| {
        let version = output(Command::new(prefix.join("bin/llvm-config")).arg("--version"));
        version.is_ok_and(|version| version.split('.').next() == Some(llvm.to_string().as_str()))
    };
    let named = env::var_os(LLVM_ENV).map(PathBuf::from);
    let named = named.filter(|prefix| prefix.join("include/llvm-c/Core.h").is_file());
    let debian = llvm_packages(llvm).iter().all(Package::is_installed).then(|| debian_llvm(llvm));
    [named, debian].into_iter().flatten().find(is_version)
}

fn debian_llvm(llvm: u32) -> PathBuf {
    PathBuf::from(format!("/usr/lib/llvm-{llvm}"))
}
