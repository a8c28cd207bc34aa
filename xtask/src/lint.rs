//! `cargo xtask lint`: format, clippy for the host and for BPF, documentation, and the rules of [`layers`].

mod layers;

use anyhow::Result;
use bpf_toolchain::{PACKAGE, Toolchain};

use crate::command::{Steps, cargo, run as run_command, workspace};
use crate::setup::{self, Need};

pub(crate) fn run() -> Result<()> {
    setup::ensure(Need::Lint)?;
    let mut steps = Steps::new();
    self::steps(&mut steps)?;
    eprintln!("xtask lint: ok: {}", steps.summary());
    Ok(())
}

/// The checks, the fastest first. `test` runs them as well.
pub(crate) fn steps(steps: &mut Steps) -> Result<()> {
    steps.step("format", || {
        run_command(cargo().args(["fmt", "--all", "--check"]))?;
        // A workspace of its own.
        run_command(cargo().args(["fmt", "--manifest-path", "tests/fuzz/Cargo.toml", "--check"]))
    })?;
    steps.step("layers", layers::check)?;
    // The default members: the BPF crate has its own compiler.
    steps.step("clippy", || {
        run_command(cargo().args(["clippy", "--all-targets", "--", "--deny", "warnings"]))
    })?;
    steps.step("clippy bpf", clippy_bpf)?;
    steps.step("docs", || {
        let mut doc = cargo();
        run_command(
            doc.args(["doc", "--no-deps", "--package", "enforcer-common"])
                .env("RUSTDOCFLAGS", "--deny warnings"),
        )
    })
}

fn clippy_bpf() -> Result<()> {
    let target_dir = bpf_toolchain::target_dir(workspace());
    let toolchain = Toolchain::find(workspace())?;
    if let Some(mut clippy) = toolchain.clippy(workspace(), &target_dir, std::env::consts::ARCH) {
        return run_command(clippy.args(["--", "--deny", "warnings"]));
    }
    eprintln!(
        "lint: `{}` has no clippy, so the BPF crate is checked as host code",
        toolchain.compiler.rustc.display()
    );
    let mut clippy = cargo();
    clippy.args(["clippy", "--package", PACKAGE, "--target-dir"]).arg(target_dir);
    // The crate brings its own panic handler, which the host's unwinding does not go with.
    run_command(clippy.args(["--", "--deny", "warnings"]).env("RUSTFLAGS", "-C panic=abort"))
}
