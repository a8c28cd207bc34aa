//! `cargo xtask vm`: tests on Debian's own kernels, in virtual machines without KVM: those that continuous integration runs, those that
//! are named, or all that there are (`--all`), which takes hours. Each boots over this machine's file system, of which it can write to nothing but a folder of its own; all that is fetched and made lies in
//! `target/vm`.

mod job;
mod kernel;
mod machine;
mod outcome;
mod report;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum as _;

use crate::adversary;
use crate::command::{run as run_command, target_dir};
use crate::setup::{self, Need};
use crate::veristat;
use job::Jobs;
pub(crate) use kernel::Kernel;
use machine::{Shape, Variant};
use report::Report;

/// What continuous integration runs: that all programs load, and at what cost; every way out; and what needs a guard, which the machine
/// that it runs on may not have. All tests there are take longer than a run of it may.
const IN_CI: &[&str] = &["veristat", "adversary", "guard", "unix"];

/// What boots the machines; PyPI has it, Debian 12 does not.
const VIRTME: &str = "virtme-ng==1.42";

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// All, if none is named
    #[arg(long)]
    pub(crate) kernel: Vec<Kernel>,
    /// Boot only with BPF among the security modules, as Debian does
    #[arg(long)]
    pub(crate) lsm: bool,
    /// Boot only without BPF among the security modules
    #[arg(long, conflicts_with = "lsm")]
    pub(crate) no_lsm: bool,
    /// One machine after the other; else one of each kernel beside the other
    #[arg(long)]
    pub(crate) one_by_one: bool,
    /// How many each machine has. Emulated, a second one makes all work dearer by half, and it is what makes races
    #[arg(long, default_value_t = Options::default().processors)]
    pub(crate) processors: u32,
    /// After how many minutes a machine is given up
    #[arg(long, default_value_t = Options::default().minutes)]
    pub(crate) minutes: u64,
    /// Keep what came of the adversary's techniques, and make the table in the threat model anew
    #[arg(long)]
    pub(crate) keep: bool,
    /// Run all tests, with and without BPF among the security modules
    #[arg(long, conflicts_with = "tests")]
    pub(crate) all: bool,
    /// Files of `tests/integration/tests`, without `.rs`; `integration` for all of them; `adversary`; `veristat`. If none is named, those
    /// that continuous integration runs, with BPF among the security modules
    pub(crate) tests: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            kernel: Vec::new(),
            lsm: false,
            no_lsm: false,
            one_by_one: false,
            processors: 1,
            minutes: 25,
            keep: false,
            all: false,
            tests: Vec::new(),
        }
    }
}

impl Options {
    /// What is run: everything, if it is nothing.
    fn wanted(&self) -> Vec<String> {
        if !self.all && self.tests.is_empty() {
            IN_CI.iter().map(ToString::to_string).collect()
        } else {
            self.tests.clone()
        }
    }

    /// Without BPF among the security modules there is more to do only if somebody asks for more than what continuous integration runs.
    fn is_with_lsm_only(&self) -> bool {
        self.lsm || (!self.no_lsm && !self.all && self.tests.is_empty())
    }

    fn shape(&self) -> Shape {
        Shape { processors: self.processors, limit: Duration::from_secs(self.minutes * 60) }
    }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let start = Instant::now();
    let mut jobs = prepare(&options.wanted())?;
    if options.no_lsm {
        jobs.without_lsm.clone_from(&jobs.with_lsm);
    }
    if options.no_lsm {
        jobs.with_lsm.clear();
    }
    if options.is_with_lsm_only() {
        jobs.without_lsm.clear();
    }
    job::say_what_is_skipped();
    let reports = boot_all(options, &jobs)?;
    for report in &reports {
        eprint!("{report}");
    }
    let mut problems: Vec<String> = reports.iter().flat_map(Report::problems).collect();
    for report in reports.iter().filter(|report| report.variant.lsm) {
        if let Some(log) = report.result("veristat.log") {
            let checked = veristat::check(report.variant.kernel.name(), &log);
            problems.extend(checked.err().map(|error| format!("{error:#}")));
        }
    }
    for results in reports.iter().filter_map(|report| report.result("adversary.json")) {
        let settled = adversary::settle(&results, options.keep);
        problems.extend(settled.err().map(|error| format!("{error:#}")));
    }
    if !problems.is_empty() {
        reports.iter().filter_map(Report::last_words).for_each(|words| eprintln!("{words}"));
        bail!("{}\nhint: all that was said is in `{}`", problems.join("\n       "), folder().display());
    }
    let took = start.elapsed().as_secs_f64();
    eprintln!("xtask vm: ok: {} machines in {took:.0} s ({})", reports.len(), processor_time());
    Ok(())
}

/// What verifying takes on these kernels, as `tests/veristat` writes it down.
pub(crate) fn measure(kernels: &[Kernel], mut take: impl FnMut(&str, &Path) -> Result<()>) -> Result<()> {
    let mut jobs = prepare(&[job::VERISTAT.to_owned()])?;
    jobs.without_lsm.clear();
    let options = Options { kernel: kernels.to_vec(), ..Options::default() };
    for report in boot_all(&options, &jobs)? {
        let problems = report.problems();
        if !problems.is_empty() {
            bail!("{}", problems.join("\n"));
        }
        let log = report.result("veristat.log").context("no program was loaded")?;
        take(report.variant.kernel.name(), &log)?;
    }
    Ok(())
}

/// What all that we started took of the processors, the machines above all: on a machine that does other things as well, it says
/// more than the time.
fn processor_time() -> String {
    // In ticks of a hundredth of a second, after the name in parentheses; see proc(5).
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
    let ticks: u64 = fields.skip(13).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    format!("{} s of processor time", ticks / 100)
}

fn folder() -> PathBuf {
    target_dir().join("vm")
}

/// Downloads what boots the machines, and the kernels, unless they are here.
pub(crate) fn fetch() -> Result<()> {
    install_virtme(&folder())?;
    Kernel::value_variants().iter().try_for_each(|kernel| kernel.fetch(&folder()).map(drop))
}

fn prepare(tests: &[String]) -> Result<Jobs> {
    setup::ensure(Need::Vm)?;
    job::jobs(tests)
}

/// Boots a machine for each kernel, and then, if there is something to run in it, another one without BPF among the security
/// modules. Kernels run beside each other.
fn boot_all(options: &Options, jobs: &Jobs) -> Result<Vec<Report>> {
    let vng = install_virtme(&folder())?;
    let lock = folder().join("lock");
    let lock = File::create(&lock).with_context(|| format!("create `{}`", lock.display()))?;
    lock.try_lock().context("another `cargo xtask vm` is running in this checkout")?;
    let kernels =
        Kernel::value_variants().iter().filter(|it| options.kernel.is_empty() || options.kernel.contains(it));
    let machines: Vec<(Kernel, PathBuf)> =
        kernels.map(|kernel| Ok((*kernel, kernel.fetch(&folder())?))).collect::<Result<_>>()?;
    let boot = |(kernel, image): &(Kernel, PathBuf)| {
        let mut reports = Vec::new();
        for (lsm, jobs) in [(true, &jobs.with_lsm), (false, &jobs.without_lsm)] {
            let variant = Variant { kernel: *kernel, lsm };
            if !jobs.is_empty() {
                let folder = folder().join(variant.name());
                reports.push(machine::boot(&vng, image, variant, jobs, options.shape(), &folder)?);
            }
        }
        Ok(reports)
    };
    let reports: Vec<Vec<Report>> = if options.one_by_one {
        machines.iter().map(boot).collect::<Result<_>>()?
    } else {
        thread::scope(|scope| {
            let threads: Vec<_> = machines.iter().map(|machine| scope.spawn(|| boot(machine))).collect();
            threads.into_iter().map(|thread| thread.join().expect("it does not panic")).collect::<Result<_>>()
        })?
    };
    Ok(reports.into_iter().flatten().collect())
}

fn install_virtme(folder: &Path) -> Result<PathBuf> {
    fs::create_dir_all(folder).with_context(|| format!("create `{}`", folder.display()))?;
    let environment = folder.join("venv");
    let vng = environment.join("bin/vng");
    if !vng.is_file() {
        run_command(Command::new("python3").args(["-m", "venv"]).arg(&environment))?;
        run_command(Command::new(environment.join("bin/pip")).args(["install", "--quiet", VIRTME]))?;
    }
    Ok(vng)
}
