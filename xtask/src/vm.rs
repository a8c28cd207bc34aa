//! `cargo xtask vm`: the integration tests on Debian's own kernels, in virtual machines without KVM. Each boots over this
//! machine's file system, of which it can write to nothing but a folder of its own; all that is fetched and made lies in
//! `target/vm`.

mod job;
mod kernel;
mod machine;
mod outcome;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum as _;

use crate::command::{run as run_command, target_dir};
use crate::setup::{self, Need};
pub(crate) use kernel::Kernel;
use machine::{Report, Variant};

/// What boots the machines; PyPI has it, Debian 12 does not.
const VIRTME: &str = "virtme-ng==1.42";

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// All, if none is named
    #[arg(long)]
    kernel: Vec<Kernel>,
    /// Boot without BPF among the security modules
    #[arg(long)]
    no_lsm: bool,
    /// One machine after the other, each with two processors; else one of each kernel beside the other
    #[arg(long)]
    one_by_one: bool,
    /// Files of `tests/integration/tests`, without `.rs`, or `integration` for all of them, or another suite; all, if none is
    /// named
    tests: Vec<String>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    setup::ensure(Need::Vm)?;
    let folder = target_dir().join("vm");
    fs::create_dir_all(&folder).with_context(|| format!("create `{}`", folder.display()))?;
    let vng = install_virtme(&folder)?;
    let kernels = Kernel::value_variants()
        .iter()
        .copied()
        .filter(|kernel| options.kernel.is_empty() || options.kernel.contains(kernel));
    let machines: Vec<(Variant, PathBuf)> = kernels
        .map(|kernel| Ok((Variant { kernel, lsm: !options.no_lsm }, kernel.fetch(&folder)?)))
        .collect::<Result<_>>()?;
    let jobs = job::jobs(&options.tests)?;
    job::say_what_is_skipped();
    let start = Instant::now();
    let boot = |(variant, image): &(Variant, PathBuf), processors| {
        machine::boot(&vng, image, *variant, &jobs, processors, &folder.join(variant.name()))
    };
    let reports: Vec<Report> = if options.one_by_one {
        machines.iter().map(|machine| boot(machine, 2)).collect::<Result<_>>()?
    } else {
        thread::scope(|scope| {
            let threads: Vec<_> = machines.iter().map(|machine| scope.spawn(|| boot(machine, 2))).collect();
            threads.into_iter().map(|thread| thread.join().expect("it does not panic")).collect::<Result<_>>()
        })?
    };
    for report in &reports {
        eprint!("{report}");
    }
    let problems: Vec<String> = reports.iter().flat_map(Report::problems).collect();
    if !problems.is_empty() {
        reports.iter().filter_map(Report::last_words).for_each(|words| eprintln!("{words}"));
        bail!("{}\nhint: all that was said is in `{}`", problems.join("\n       "), folder.display());
    }
    eprintln!("xtask vm: ok: {} machines in {:.0} s", reports.len(), start.elapsed().as_secs_f64());
    Ok(())
}

fn install_virtme(folder: &Path) -> Result<PathBuf> {
    let environment = folder.join("venv");
    let vng = environment.join("bin/vng");
    if !vng.is_file() {
        run_command(Command::new("python3").args(["-m", "venv"]).arg(&environment))?;
        run_command(Command::new(environment.join("bin/pip")).args(["install", "--quiet", VIRTME]))?;
    }
    Ok(vng)
}
