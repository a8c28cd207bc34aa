//! One machine: how a kernel is booted, and the programs that make up the machine, which end with it.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::job::{self, Job};
use super::kernel::Kernel;
use super::report::{Limits, Report};

/// What an emulated processor does much more slowly than a real one, and what says nothing of our programs: those that root
/// loads are verified alike without mitigations, and memory that is not cleared makes the verifier faster. Not `tsc=reliable`, which
/// would save more: on a busy machine a kernel was seen to take its clock for one fifteen times as slow.
const FASTER: &str = "mitigations=off init_on_alloc=0 no5lvl nokaslr audit=0";

/// A kernel and how it is booted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Variant {
    pub(super) kernel: Kernel,
    /// Whether BPF is among the security modules, as it is in Debian's own configuration.
    pub(super) lsm: bool,
}

impl Variant {
    /// Also the name of the machine's folder.
    pub(super) fn name(self) -> String {
        format!("{}{}", self.kernel.name(), if self.lsm { "" } else { "-no-lsm" })
    }

    fn parameters(self) -> String {
        // A kernel that has stumbled goes down at once and says so.
        // And nothing below a warning goes to the console, which our own lines go through as well.
        // On a busy machine an emulated timer may be too late for what looks whether it runs; and then the kernel gives up.
        let common = format!("oops=panic loglevel=5 no_timer_check {FASTER}");
        let modules = if self.lsm { "" } else { " lsm=lockdown,capability,landlock,yama" };
        format!("{common}{modules}")
    }
}

/// What a machine is given.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) processors: u32,
    /// For everything that is run in it.
    pub(super) limit: Duration,
}

/// Boots the machine and runs the jobs in it. An error is this machine's; what goes wrong in the other one is in the report.
pub(super) fn boot(
    vng: &Path,
    image: &Path,
    variant: Variant,
    jobs: &[Job],
    shape: Shape,
    folder: &Path,
) -> Result<Report> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("remove `{}`", folder.display()))?;
    }
    // The image is in `boot` of the package.
    let package = image.ancestors().nth(2).context("a kernel is in a package")?;
    let script = job::write_script(jobs, package, folder)?;
    // Its own group, to be ended as a whole; and an end of its own, should we be ended before.
    let mut machine = Command::new("timeout");
    machine
        .arg((shape.limit + Duration::from_secs(60)).as_secs().to_string())
        .arg(vng)
        .args(["--disable-kvm", "--verbose", "--memory", "4G", "--cpus", &shape.processors.to_string()])
        .args(["--append", &variant.parameters(), "--rwdir"])
        .arg(folder)
        .arg("--run")
        .arg(image)
        .args(["--", &format!("sh {}", script.display())]);
    // It starts another program of its own by name.
    let beside = vng.parent().context("a program is in a folder")?.display().to_string();
    machine.env("PATH", format!("{beside}:{}", std::env::var("PATH").unwrap_or_default()));
    machine.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut machine = Machine(machine.spawn().with_context(|| format!("start `{}`", vng.display()))?);
    let lines = machine.lines()?;
    let mut report = Report::new(variant, folder);
    report.watch(jobs, &lines, Limits::within(shape.limit))?;
    Ok(report)
}

/// The programs that make up a machine. They end with it.
struct Machine(Child);

impl Machine {
    /// What it prints, line by line, on either stream.
    fn lines(&mut self) -> Result<Receiver<String>> {
        let (sender, lines) = channel();
        let stdout =
            Box::new(self.0.stdout.take().context("it was asked for")?) as Box<dyn std::io::Read + Send>;
        let stderr = Box::new(self.0.stderr.take().context("it was asked for")?);
        for stream in [stdout, stderr] {
            let sender = sender.clone();
            thread::spawn(move || {
                for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                    // Nobody listens any more when the machine is given up.
                    let _ = sender.send(String::from_utf8_lossy(&line).trim_end().to_owned());
                }
            });
        }
        Ok(lines)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The whole group: what we started starts the emulator. It fails only when there is none left.
        let group = format!("-{}", self.0.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status();
        let _ = self.0.wait();
    }
}
