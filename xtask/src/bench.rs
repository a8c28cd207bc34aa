//! `cargo xtask bench`: what enforcement costs, measured against a baseline in the same run.

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::command::{cargo, is_root, run as run_command, target_dir};
use crate::setup::{self, Need};

/// What is measured.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Bench {
    /// A connect inside a session, by how many rules its envelope has; a minute or two, and 3 GB of memory
    Rules,
    /// How many of the kernel's records the daemon takes in on one processor, and exports; three minutes, and some gigabytes of disk
    Records,
}

pub(crate) fn run(bench: Bench) -> Result<()> {
    if !is_root() {
        bail!("benchmarks need root: they load programs into the kernel");
    }
    setup::ensure(Need::Test)?;
    run_command(cargo().args(["build", "--release", "--package", "enforcer-userspace"]))?;
    let name = match bench {
        Bench::Rules => "rules",
        Bench::Records => "records",
    };
    run_command(
        cargo()
            .args(["bench", "--package", "integration", "--bench", name])
            .env("ENFORCER_BIN", target_dir().join("release/enforcer")),
    )
}
