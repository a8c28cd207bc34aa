//! `cargo xtask test`: the list that continuous integration runs, cheapest first.

use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::adversary;
use crate::command::{Steps, build_tested, cargo, is_root, run as run_command, tested};
use crate::lint;
use crate::setup::{self, Need};
use crate::veristat;
use crate::vm;

/// For how long each fuzz target runs here, in seconds: long enough to see that it works, and what is broken badly.
const BRIEFLY: &str = "4";

pub(crate) fn run() -> Result<()> {
    let mut steps = Steps::new();
    let root = is_root();
    steps.step("setup", || {
        setup::ensure(if root { Need::Vm } else { Need::Lint })?;
        // All downloads come first: the machines are the last step.
        if root { vm::fetch() } else { Ok(()) }
    })?;
    lint::steps(&mut steps)?;
    steps.step("unit tests", || {
        run_command(cargo().args([
            "test",
            "--workspace",
            "--exclude",
            "enforcer-ebpf",
            "--exclude",
            "integration",
        ]))
    })?;
    steps.step("build enforcer", || build_tested("enforcer-userspace"))?;
    if !root {
        // Green must mean that everything ran.
        eprintln!("xtask test: {}", steps.summary());
        bail!(
            "the integration tests were not run, because they need root\nhint: run `cargo xtask test` as root"
        );
    }
    steps.step("integration tests", || {
        run_command(
            cargo()
                .args(["test", "--package", "integration", "--", "--test-threads=2"])
                .env("ENFORCER_BIN", tested("enforcer")),
        )
    })?;
    steps.step("adversary", || adversary::run(false, &[]))?;
    steps.step("verifier", veristat::check_here)?;
    // The machines leave a third of the processors unused: that is enough for fuzzing.
    steps.step("virtual machines, and fuzz, briefly", || {
        let xtask = std::env::current_exe().context("find this program")?;
        let mut behind = Command::new("nice");
        behind.args(["-n", "19"]).arg(xtask).args(["fuzz", "--seconds", BRIEFLY]);
        let mut fuzz = behind.spawn().context("start `nice`")?;
        let machines = vm::run(&vm::Options::default());
        let fuzzed = fuzz.wait().context("wait for `fuzz`")?;
        machines?;
        if fuzzed.success() { Ok(()) } else { bail!("`cargo xtask fuzz`: {fuzzed}") }
    })?;
    eprintln!("xtask test: ok: {}", steps.summary());
    Ok(())
}
