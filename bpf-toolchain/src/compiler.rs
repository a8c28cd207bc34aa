//! The compilers that have `core` for the BPF target. There are two ways to have one:
//!
//! - **rustup**: a nightly toolchain with the `rust-src` component; cargo then builds `core` itself (`-Z build-std`). This is
//!   the usual way, and it is chosen only where `rust-src` is already present: the component is a download that many build
//!   machines cannot make, and a nightly fetched on the way would change under us.
//! - **system**: the compiler of a distribution that ships `core` prebuilt for BPF. Debian 12 does (`rustc-web`, `cargo-web`,
//!   `libstd-rust-web-dev-bpf`). It is a stable release, so `RUSTC_BOOTSTRAP` lets it take the unstable features of aya-ebpf.
//!
//! Both are run by absolute path with a cleaned environment: the cargo that runs our build script has set variables that
//! would otherwise turn these compilers into the outer one.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{Missing, TARGET, on_path};

/// One compiler that can build for BPF.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compiler {
    pub route: Route,
    pub rustc: PathBuf,
    pub cargo: PathBuf,
    /// Major and minor, as in 1.95.
    pub version: (u32, u32),
    /// The major version of the LLVM that writes its bitcode.
    pub llvm: u32,
}

/// Where a compiler comes from; see the head of this module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    RustupNightly,
    System,
}

/// Why a route is closed here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    #[error("rustup is not installed")]
    NoRustup,
    #[error("no rustup nightly toolchain has `rust-src`")]
    NoRustSrc,
    #[error("`{}` does not run", .0.display())]
    DoesNotRun(PathBuf),
    #[error("`{}` has no `core` for `{TARGET}`", .0.display())]
    NoBpfCore(PathBuf),
    #[error("`{}` is Rust {}.{}, older than {MIN_RUST}", .rustc.display(), .version.0, .version.1)]
    TooOld { rustc: PathBuf, version: (u32, u32) },
}

/// The workspace's `rust-version`: what our sources are written for holds for the BPF crate too.
const MIN_RUST: &str = env!("CARGO_PKG_RUST_VERSION");

impl Compiler {
    /// The usable compilers, the preferred one first.
    pub fn installed() -> Result<Vec<Self>, Missing> {
        match (rustup_nightly(), system(Path::new("/usr"))) {
            (Err(nightly), Err(system)) => Err(Missing::Compiler { nightly, system }),
            (nightly, system) => Ok(nightly.into_iter().chain(system).collect()),
        }
    }

    /// Whether `core` has to be built together with our crate.
    pub(crate) fn build_std(&self) -> bool {
        self.route == Route::RustupNightly
    }

    pub(crate) fn cargo(&self) -> Command {
        self.command(&self.cargo)
    }

    /// Clippy belongs to one compiler, so it is taken from beside it: `cargo clippy` would find that of another toolchain.
    pub(crate) fn clippy(&self) -> Option<Command> {
        let [program, driver] = ["cargo-clippy", "clippy-driver"].map(|name| self.rustc.with_file_name(name));
        if !(program.is_file() && driver.is_file()) {
            return None;
        }
        let mut command = self.command(&program);
        command.arg("clippy").env("CARGO", &self.cargo);
        Some(command)
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        for (name, _) in env::vars_os() {
            if name.to_str().is_some_and(belongs_to_the_outer_build) {
                command.env_remove(name);
            }
        }
        command.env("RUSTC", &self.rustc);
        if self.route == Route::System {
            command.env("RUSTC_BOOTSTRAP", "1");
        }
        command
    }

    #[cfg(test)]
    pub(crate) fn for_tests() -> Self {
        Self {
            route: Route::System,
            rustc: PathBuf::from("/usr/bin/rustc"),
            cargo: PathBuf::from("/usr/bin/cargo"),
            version: (1, 96),
            llvm: 22,
        }
    }
}

/// Variables that say how the outer cargo builds (which compiler, flags, wrapper, profile, target, package), or that it set
/// for its own compiler's libraries. What says how to reach the network, or shares the job slots, stays.
fn belongs_to_the_outer_build(name: &str) -> bool {
    const KEPT: &[&str] = &[
        "CARGO_HOME",
        "CARGO_HTTP_",
        "CARGO_MAKEFLAGS",
        "CARGO_NET_",
        "CARGO_REGISTRIES_",
        "CARGO_REGISTRY_",
        "CARGO_SOURCE_",
        "CARGO_TERM_",
        "RUSTUP_HOME",
    ];
    const REMOVED: &[&str] =
        &["CARGO", "CLIPPY_", "LD_LIBRARY_PATH", "RUSTC", "RUSTDOC", "RUSTFLAGS", "RUSTUP_TOOLCHAIN"];
    let starts = |prefix: &&str| name.starts_with(*prefix);
    REMOVED.iter().any(starts) && !KEPT.iter().any(starts)
}

fn rustup_nightly() -> Result<Compiler, Unusable> {
    let rustup = on_path("rustup").ok_or(Unusable::NoRustup)?;
    let list = output(Command::new(&rustup).args(["toolchain", "list", "--verbose"]))
        .ok_or(Unusable::DoesNotRun(rustup))?;
    let mut reason = Unusable::NoRustSrc;
    for sysroot in nightly_sysroots(&list) {
        if !sysroot.join("lib/rustlib/src/rust/library/core").is_dir() {
            continue;
        }
        match inspect(Route::RustupNightly, &sysroot) {
            Ok(compiler) => return Ok(compiler),
            Err(unusable) => reason = unusable,
        }
    }
    Err(reason)
}

/// Reads `nightly-x86_64-unknown-linux-gnu (active) /root/.rustup/toolchains/…`.
fn nightly_sysroots(list: &str) -> Vec<PathBuf> {
    list.lines()
        .filter(|line| line.starts_with("nightly"))
        .filter_map(|line| line.find('/').map(|start| PathBuf::from(line[start..].trim_end())))
        .collect()
}

fn system(prefix: &Path) -> Result<Compiler, Unusable> {
    let compiler = inspect(Route::System, prefix)?;
    let libraries = prefix.join("lib/rustlib").join(TARGET).join("lib");
    let has_core = libraries.read_dir().is_ok_and(|entries| {
        entries.flatten().any(|entry| {
            let name = entry.file_name();
            name.to_str().is_some_and(|name| name.starts_with("libcore-") && name.ends_with(".rlib"))
        })
    });
    if has_core { Ok(compiler) } else { Err(Unusable::NoBpfCore(compiler.rustc)) }
}

/// Asks the compiler below `prefix` for its version and refuses what cannot build our sources.
fn inspect(route: Route, prefix: &Path) -> Result<Compiler, Unusable> {
    let [rustc, cargo] = ["rustc", "cargo"].map(|name| prefix.join("bin").join(name));
    if !cargo.is_file() {
        return Err(Unusable::DoesNotRun(cargo));
    }
    let text = output(Command::new(&rustc).arg("-vV").env_remove("LD_LIBRARY_PATH"));
    let Some((version, llvm)) = text.as_deref().and_then(parse_version) else {
        return Err(Unusable::DoesNotRun(rustc));
    };
    let minimum = parse_number_pair(MIN_RUST).expect("`rust-version` in Cargo.toml is two numbers");
    if version < minimum {
        return Err(Unusable::TooOld { rustc, version });
    }
    Ok(Compiler { route, rustc, cargo, version, llvm })
}

/// The Rust version and the major LLVM version in the output of `rustc -vV`.
fn parse_version(text: &str) -> Option<((u32, u32), u32)> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    let (llvm, _) = parse_number_pair(field("LLVM version: ")?)?;
    Some((parse_number_pair(field("release: ")?)?, llvm))
}

fn parse_number_pair(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn output(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_versions_of_releases_and_nightlies() {
        let debian = "rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)\nbinary: rustc\n\
                      host: x86_64-unknown-linux-gnu\nrelease: 1.96.0\nLLVM version: 22.1.8\n";
        let nightly =
            "rustc 1.99.0-nightly (e50aa6fba 2026-05-19)\nrelease: 1.99.0-nightly\nLLVM version: 23.1.0\n";
        let cases = [
            (debian, Some(((1, 96), 22))),
            (nightly, Some(((1, 99), 23))),
            ("release: 1.96.0\n", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_version(text), expected, "{text}");
        }
    }

    #[test]
    fn only_nightlies_are_taken_from_rustup() {
        let list = "stable-x86_64-unknown-linux-gnu (active, default) /r/toolchains/stable-x86_64-unknown-linux-gnu\n\
                    nightly-x86_64-unknown-linux-gnu /r/toolchains/nightly-x86_64-unknown-linux-gnu\n\
                    nightly-2026-05-20-x86_64-unknown-linux-gnu (override) /r/two words/nightly-2026-05-20\n\
                    1.95.0-x86_64-unknown-linux-gnu /r/toolchains/1.95.0\n";
        let expected = ["/r/toolchains/nightly-x86_64-unknown-linux-gnu", "/r/two words/nightly-2026-05-20"];
        assert_eq!(nightly_sysroots(list), expected.map(PathBuf::from));
    }

    #[test]
    fn the_outer_build_does_not_leak_into_ours() {
        for (name, removed) in [
            ("CARGO", true),
            ("CARGO_ENCODED_RUSTFLAGS", true),
            ("CARGO_MANIFEST_DIR", true),
            ("CARGO_PROFILE_RELEASE_LTO", true),
            ("CARGO_TARGET_DIR", true),
            ("LD_LIBRARY_PATH", true),
            ("RUSTC", true),
            ("RUSTC_BOOTSTRAP", true),
            ("RUSTC_WORKSPACE_WRAPPER", true),
            ("RUSTFLAGS", true),
            ("RUSTUP_TOOLCHAIN", true),
            ("CARGO_HOME", false),
            ("CARGO_HTTP_CAINFO", false),
            ("CARGO_MAKEFLAGS", false),
            ("CARGO_NET_OFFLINE", false),
            ("HTTPS_PROXY", false),
            ("PATH", false),
            ("RUSTUP_HOME", false),
        ] {
            assert_eq!(belongs_to_the_outer_build(name), removed, "{name}");
        }
    }
}
