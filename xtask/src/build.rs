//! `cargo xtask build`: the binary, and the tests that drive it.

use anyhow::Result;

use crate::command::{cargo, run as run_command};
use crate::setup::{self, Need};

pub(crate) fn run(release: bool) -> Result<()> {
    setup::ensure(Need::Build)?;
    let profile = release.then_some("--release");
    // Two commands, as in `test`: a common one would select other features for shared dependencies, and build them again.
    run_command(cargo().args(["build", "--package", "enforcer-userspace"]).args(profile))?;
    run_command(cargo().args(["test", "--no-run", "--package", "integration"]).args(profile))
}
