//! Libraries that are not ours, for tests to fetch and check credentials with: in a Python environment below `target/tools`.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};
use bpf_toolchain::linker::TOOLS;

use crate::command::{run as run_command, workspace};

const PACKAGES: &[&str] = &["spiffe==0.3.2", "PyJWT==2.15.1"];

fn environment() -> PathBuf {
    workspace().join(TOOLS).join("spiffe-clients")
}

/// Written last, so that an environment that is half made is made again.
fn mark() -> PathBuf {
    environment().join("installed")
}

/// Whether they are here, in these versions.
pub(super) fn are_installed() -> bool {
    fs::read_to_string(mark()).is_ok_and(|installed| installed == PACKAGES.join("\n"))
}

pub(super) fn install() -> Result<bool> {
    if are_installed() {
        return Ok(false);
    }
    eprintln!(
        "setup: install {} for Python into `{TOOLS}`: tests fetch and check credentials with them",
        PACKAGES.join(" and ")
    );
    run_command(Command::new("python3").args(["-m", "venv", "--clear"]).arg(environment()))?;
    run_command(Command::new(environment().join("bin/pip")).args(["install", "--quiet"]).args(PACKAGES))?;
    let mark = mark();
    fs::write(&mark, PACKAGES.join("\n")).with_context(|| format!("write `{}`", mark.display()))?;
    Ok(true)
}
