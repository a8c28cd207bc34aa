//! `cargo xtask fuzz`: random envelopes, audit logs and records against the code that reads them, each target for a while. Plain cargo does it, with
//! the compiler that builds everything else; `cargo fuzz` is not needed.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use bpf_toolchain::on_path;

use crate::command::{cargo, cargo_path, output, run as run_command, target_dir, workspace};
use crate::setup::{self, Need};

/// A program in `tests/fuzz/fuzz_targets`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum Target {
    /// Any file is read, or refused with places that are in it
    EnvelopeParse,
    /// Any envelope compiles; table, explanation and rules agree
    EnvelopeCompile,
    /// Any audit log is read within bounds, and is not taken for one that a trusted key signed
    AuditVerify,
    /// Any record of the kernel that decodes is a line, and has all forms that events are exported in
    RecordDecode,
}

impl Target {
    const ALL: [Self; 4] =
        [Self::EnvelopeParse, Self::EnvelopeCompile, Self::AuditVerify, Self::RecordDecode];

    const fn name(self) -> &'static str {
        match self {
            Self::EnvelopeParse => "envelope_parse",
            Self::EnvelopeCompile => "envelope_compile",
            Self::AuditVerify => "audit_verify",
            Self::RecordDecode => "record_decode",
        }
    }
}

/// What libFuzzer needs to see of a program: which edges it takes, and what it compares. The rest is what `cargo fuzz` sets
/// too: a release build with assertions, and `cfg(fuzzing)`.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
     -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 --cfg fuzzing";
const ADDRESS_SANITIZER: &str = "-Zsanitizer=address";

/// Bounds for one input: an envelope of 64 KiB is worth seconds and some hundred megabytes at the very most.
const LIMITS: &[&str] = &["-max_len=65536", "-timeout=10", "-rss_limit_mb=2048", "-malloc_limit_mb=256"];

/// Folders whose envelopes are where it begins.
const SEEDS: &[&str] = &["tests/envelopes", "policies"];

pub(crate) fn run(target: Option<Target>, seconds: u64) -> Result<()> {
    setup::ensure(Need::Test)?;
    let host = host()?;
    check_tools(&host)?;
    let target_dir = target_dir().join("fuzz");
    build(&host, &target_dir)?;
    let seeds = target_dir.join("seeds");
    copy_seeds(&seeds)?;
    let mut failed = Vec::new();
    for target in Target::ALL.into_iter().filter(|known| target.is_none_or(|target| target == *known)) {
        let program = target_dir.join(&host).join("release").join(target.name());
        if let Err(error) = fuzz(target, &program, &target_dir, &seeds, seconds) {
            eprintln!("xtask fuzz: {}: {error:#}", target.name());
            failed.push(target.name());
        }
    }
    if !failed.is_empty() {
        bail!("found something: {}\nhint: what it is and how to see it again is above", failed.join(", "));
    }
    eprintln!("xtask fuzz: ok");
    Ok(())
}

/// The platform of the compiler that runs us: only its code is instrumented, not that of build scripts.
fn host() -> Result<String> {
    let version = output(rustc().arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("`rustc -vV` names no host")?.to_owned())
}

fn rustc() -> Command {
    let beside = cargo_path().with_file_name("rustc");
    Command::new(if beside.is_file() { beside } else { "rustc".into() })
}

/// Says what is missing that set-up does not bring.
fn check_tools(host: &str) -> Result<()> {
    let cxx = env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    if on_path(&cxx).is_none() {
        bail!(
            "there is no C++ compiler (`{cxx}`), which libFuzzer is built with\nhint: install `g++` or `clang`"
        );
    }
    let sysroot = output(rustc().args(["--print", "sysroot"]))?;
    let libraries = Path::new(sysroot.trim()).join("lib/rustlib").join(host).join("lib");
    let found = fs::read_dir(&libraries).is_ok_and(|mut entries| {
        entries
            .any(|entry| entry.is_ok_and(|entry| entry.file_name().to_string_lossy().ends_with("_rt.asan.a")))
    });
    if !found {
        bail!(
            "this Rust toolchain has no address sanitizer (`*_rt.asan.a` in `{}`)\nhint: use one from rustup: its toolchains for `x86_64-unknown-linux-gnu` and `aarch64-unknown-linux-gnu` have it",
            libraries.display()
        );
    }
    Ok(())
}

fn build(host: &str, target_dir: &Path) -> Result<()> {
    let mut build = cargo();
    build.args(["build", "--release", "--bins", "--locked", "--target", host]);
    build.arg("--manifest-path").arg(workspace().join("tests/fuzz/Cargo.toml"));
    build.arg("--target-dir").arg(target_dir);
    // The flags that instrument are unstable ones. A stable compiler has them as well.
    build.env("RUSTC_BOOTSTRAP", "1").env("RUSTFLAGS", format!("{COVERAGE} {ADDRESS_SANITIZER}"));
    run_command(&mut build)
}

fn copy_seeds(seeds: &Path) -> Result<()> {
    fs::create_dir_all(seeds).with_context(|| format!("create `{}`", seeds.display()))?;
    for folder in SEEDS {
        let folder = workspace().join(folder);
        let entries = fs::read_dir(&folder).with_context(|| format!("list `{}`", folder.display()))?;
        for entry in entries {
            let path = entry.with_context(|| format!("list `{}`", folder.display()))?.path();
            if let (Some("yaml"), Some(name)) =
                (path.extension().and_then(|extension| extension.to_str()), path.file_name())
            {
                fs::copy(&path, seeds.join(name)).with_context(|| format!("copy `{}`", path.display()))?;
            }
        }
    }
    Ok(())
}

fn fuzz(target: Target, program: &Path, target_dir: &Path, seeds: &Path, seconds: u64) -> Result<()> {
    let name = target.name();
    let corpus = target_dir.join("corpus").join(name);
    let artifacts = workspace().join("tests/fuzz/artifacts").join(name);
    for folder in [&corpus, &artifacts] {
        fs::create_dir_all(folder).with_context(|| format!("create `{}`", folder.display()))?;
    }
    let before = files(&artifacts)?;
    let mut fuzzer = Command::new(program);
    fuzzer.args(LIMITS).arg(format!("-max_total_time={seconds}"));
    fuzzer.arg(format!("-dict={}", workspace().join("tests/fuzz/envelope.dict").display()));
    fuzzer.arg(format!("-artifact_prefix={}/", artifacts.display()));
    fuzzer.args(["-print_final_stats=1", "-use_value_profile=1"]).arg(&corpus).arg(seeds);
    eprintln!("== {name} for {seconds} s");
    let outcome = run_command(&mut fuzzer);
    let found: Vec<PathBuf> = files(&artifacts)?.into_iter().filter(|path| !before.contains(path)).collect();
    if outcome.is_ok() && found.is_empty() {
        return Ok(());
    }
    for path in &found {
        let (program, path) = (program.display(), path.display());
        eprintln!("xtask fuzz: {name}: see it again: {program} {}{path}", limits());
        eprintln!(
            "xtask fuzz: {name}: make it smaller: {program} {}-minimize_crash=1 -max_total_time=60 {path}",
            limits()
        );
    }
    eprintln!(
        "xtask fuzz: {name}: once it is fixed, it belongs into tests/envelopes under a name that says what it is"
    );
    outcome?;
    bail!("{} new files in `{}`", found.len(), artifacts.display())
}

fn limits() -> String {
    LIMITS.iter().map(|limit| format!("{limit} ")).collect()
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("list `{}`", folder.display()))?;
    entries.map(|entry| Ok(entry.with_context(|| format!("list `{}`", folder.display()))?.path())).collect()
}
