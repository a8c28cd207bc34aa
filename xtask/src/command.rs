//! Running other programs: where the workspace is, a `cargo` that is not disturbed by the cargo that runs us, and the steps
//! that `lint` and `test` print.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// The workspace of the `cargo xtask` that runs us. Asked at run time: a target directory that two checkouts share may hold
/// an xtask compiled in the other one.
pub(crate) fn workspace() -> &'static Path {
    static WORKSPACE: LazyLock<PathBuf> = LazyLock::new(|| {
        let package = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        Path::new(&package).parent().expect("this crate is a folder of the workspace").to_owned()
    });
    &WORKSPACE
}

/// Where cargo puts what it builds.
pub(crate) fn target_dir() -> PathBuf {
    workspace().join(env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}

/// A program that tests start, built as they should see it.
pub(crate) fn build_tested(package: &str) -> Result<()> {
    run(cargo().args(["build", "--package", package, "--profile", "tested"]))
}

/// Where it is.
pub(crate) fn tested(program: &str) -> PathBuf {
    target_dir().join("tested").join(program)
}

/// The cargo that runs us, in the workspace.
///
/// `cargo run` describes our own package in the environment. Some build scripts (that of `ring`, for one) ask to run again
/// when these variables change, so a build from here and one from a shell would undo each other's work.
pub(crate) fn cargo() -> Command {
    const OURS: &[&str] = &[
        "CARGO_BIN_",
        "CARGO_CRATE_",
        "CARGO_MANIFEST_",
        "CARGO_PKG_",
        "CARGO_PRIMARY_",
        "LD_LIBRARY_PATH",
        "OUT_DIR",
    ];
    let mut command = Command::new(cargo_path());
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(|name| OURS.iter().any(|prefix| name.starts_with(prefix))) {
            command.env_remove(name);
        }
    }
    command.current_dir(workspace());
    command
}

pub(crate) fn cargo_path() -> PathBuf {
    env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")).into()
}

/// Runs a program to its end. Nothing we run asks questions, so stdin is empty whether or not there is a terminal.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let line = command_line(command);
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("start `{line}`"))?;
    if !status.success() {
        bail!("`{line}` ended with {status}");
    }
    Ok(())
}

/// What a program prints; an error if it fails.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let line = command_line(command);
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("start `{line}`"))?;
    if !output.status.success() {
        bail!("`{line}` ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn command_line(command: &Command) -> String {
    let name = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words: Vec<_> =
        [name].into_iter().chain(command.get_args()).map(|word| word.to_string_lossy()).collect();
    words.join(" ")
}

pub(crate) fn is_root() -> bool {
    // The owner of this folder is our effective user.
    fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

/// Steps run one after the other, each with a header and its time; the first failure ends the list.
#[derive(Debug)]
pub(crate) struct Steps {
    start: Instant,
    done: Vec<(&'static str, Duration)>,
}

impl Steps {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now(), done: Vec::new() }
    }

    pub(crate) fn step(&mut self, name: &'static str, body: impl FnOnce() -> Result<()>) -> Result<()> {
        eprintln!("== {name}");
        let start = Instant::now();
        body().with_context(|| format!("step `{name}`"))?;
        let time = start.elapsed();
        eprintln!("== {name} ({:.1} s)", time.as_secs_f64());
        self.done.push((name, time));
        Ok(())
    }

    /// All steps with their times, and their sum, on one line.
    pub(crate) fn summary(&self) -> String {
        let steps: Vec<_> =
            self.done.iter().map(|(name, time)| format!("{name} {:.1} s", time.as_secs_f64())).collect();
        format!("{} steps in {:.1} s ({})", steps.len(), self.start.elapsed().as_secs_f64(), steps.join(", "))
    }
}
