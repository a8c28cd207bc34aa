//! `cargo xtask adversary`: every way out of a session that we know, tried on this host; and the table of what came of it, in
//! the threat model.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::command::{cargo, is_root, run as run_command, target_dir, workspace};
use crate::setup::{self, Need};

/// Runs the suite, and writes the results to a file if one is named.
pub(crate) fn run(results: Option<&Path>, only: &[String]) -> Result<()> {
    if !is_root() {
        bail!("the adversary suite needs root: it loads programs into the kernel");
    }
    setup::ensure(Need::Test)?;
    run_command(cargo().args(["build", "--package", "enforcer-userspace", "--package", "adversary"]))?;
    let mut suite = Command::new(program());
    suite.arg("suite").env("ENFORCER_BIN", target_dir().join("debug/enforcer"));
    if let Some(results) = results {
        suite.arg("--results").arg(results);
    }
    if !only.is_empty() {
        suite.arg("--only").args(only);
    }
    run_command(&mut suite)
}

/// Makes the table in the threat model anew, from the results that are kept.
pub(crate) fn document() -> Result<()> {
    run_command(cargo().args(["build", "--package", "adversary"]))?;
    let [results, document] =
        ["tests/adversary/results", "docs/threat-model.md"].map(|path| workspace().join(path));
    run_command(Command::new(program()).arg("document").arg(results).arg(document))
}

fn program() -> PathBuf {
    target_dir().join("debug/adversary")
}
