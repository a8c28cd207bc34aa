//! `cargo xtask adversary`: every way out of a session that we know, tried on this host; and the table of what came of it, in
//! the threat model.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::command::{build_tested, is_root, run as run_command, target_dir, tested, workspace};
use crate::setup::{self, Need};

/// What is kept: a file for each kernel, with and without a guard.
const RESULTS: &str = "tests/adversary/results";

/// Runs the suite. A run of all techniques is compared with what is kept of one on this kernel, or kept itself.
pub(crate) fn run(keep: bool, only: &[String]) -> Result<()> {
    if !is_root() {
        bail!("the adversary suite needs root: it loads programs into the kernel");
    }
    setup::ensure(Need::Test)?;
    build_tested("enforcer-userspace")?;
    build_tested("adversary")?;
    let results = target_dir().join("adversary.json");
    let mut suite = Command::new(tested("adversary"));
    suite.arg("suite").env("ENFORCER_BIN", tested("enforcer"));
    suite.arg("--results").arg(&results);
    if !only.is_empty() {
        suite.arg("--only").args(only);
    }
    run_command(&mut suite)?;
    if only.is_empty() { settle(&results, keep) } else { Ok(()) }
}

/// Compares results with those that are kept, of which the table in the threat model is made; or keeps them.
pub(crate) fn settle(results: &Path, keep: bool) -> Result<()> {
    let seen = read(results)?;
    let first = seen.first().context("no technique was tried")?;
    let guard = if first.lsm { "lsm" } else { "nolsm" };
    let kept = workspace().join(RESULTS).join(format!("{}-{guard}.json", first.kernel));
    if keep {
        fs::copy(results, &kept).with_context(|| format!("write `{}`", kept.display()))?;
        return document();
    }
    let known = if kept.is_file() { read(&kept)? } else { Vec::new() };
    let differ: Vec<&str> =
        seen.iter().filter(|line| !known.contains(line)).map(|line| line.technique.as_str()).collect();
    if !differ.is_empty() || known.len() != seen.len() {
        bail!(
            "what came of {} is not what `{}` says, of which the table in the threat model is made\n\
             hint: `cargo xtask adversary --keep`, or `cargo xtask vm --keep adversary`",
            if differ.is_empty() { "some technique".to_owned() } else { differ.join(", ") },
            kept.display()
        );
    }
    Ok(())
}

/// What came of one technique, as far as it is the same each time: who stops a technique that two lines of defence see, is not.
#[derive(Debug, PartialEq, Eq, serde::Deserialize)]
struct Line {
    kernel: String,
    lsm: bool,
    technique: String,
    control: String,
    outcome: Option<String>,
}

fn read(path: &Path) -> Result<Vec<Line>> {
    let text = fs::read_to_string(path).with_context(|| format!("read `{}`", path.display()))?;
    let lines = text.lines().map(serde_json::from_str).collect::<Result<_, _>>();
    lines.with_context(|| format!("read `{}`", path.display()))
}

/// Makes the table in the threat model anew, from the results that are kept.
pub(crate) fn document() -> Result<()> {
    build_tested("adversary")?;
    let [results, document] = [RESULTS, "docs/threat-model.md"].map(|path| workspace().join(path));
    run_command(Command::new(tested("adversary")).arg("document").arg(results).arg(document))
}
