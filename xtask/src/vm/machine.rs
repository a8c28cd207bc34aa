//! One machine: booting it, watching what it says, and telling apart how it can end.

use std::fmt;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::job::{self, Job, MARK};
use super::kernel::Kernel;
use super::outcome::{Counts, Outcome};

/// From its start to its first program. Ten seconds, if it has a processor for itself.
const BOOT_LIMIT: Duration = Duration::from_secs(180);
/// What a machine may take beyond the time limit of the job that it runs, or after the last, before it is said to hang.
const GRACE: Duration = Duration::from_secs(60);
/// How many of its last words are shown.
const LAST_WORDS: usize = 25;

/// What the kernel says when something is wrong with it. That it was slow (stalls, soft lockups) is not among it: under
/// emulation, beside other work, it is.
const COMPLAINTS: &[&str] =
    &["BUG: kernel", "BUG: unable", "BUG: KASAN", "general protection fault", "WARNING: CPU:", "Oops:"];

/// A kernel and how it is booted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Variant {
    pub(super) kernel: Kernel,
    /// Whether BPF is among the security modules, as it is in Debian's own configuration.
    pub(super) lsm: bool,
}

/// How a machine ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    /// It ran everything, and went down.
    Done,
    Panicked,
    /// Silent for longer than anything in it may take. Killed.
    Hung,
    /// It stopped before it had run everything, without a panic; or never ran anything.
    Stopped,
}

/// What happened in a machine.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) variant: Variant,
    end: End,
    /// The running kernel, by its own account.
    release: Option<String>,
    modules: Option<String>,
    results: Vec<JobResult>,
    complaints: Vec<String>,
    last_words: Vec<String>,
    folder: PathBuf,
}

#[derive(Debug)]
struct JobResult {
    job: Job,
    outcome: Outcome,
    took: Duration,
}

impl Variant {
    /// Also the name of the machine's folder.
    pub(super) fn name(self) -> String {
        format!("{}{}", self.kernel.name(), if self.lsm { "" } else { "-no-lsm" })
    }

    fn parameters(self) -> String {
        // A kernel that has stumbled goes down at once and says so. The mitigations and the clock cost an emulated processor
        // more than a real one; programs loaded by root are verified in the same way without them.
        let common = "oops=panic mitigations=off";
        let modules = if self.lsm { "" } else { " lsm=lockdown,capability,landlock,yama" };
        format!("{common}{modules}")
    }
}

/// Boots the machine and runs the jobs in it. An error is this machine's; what goes wrong in the other one is in the report.
pub(super) fn boot(
    vng: &Path,
    image: &Path,
    variant: Variant,
    jobs: &[Job],
    processors: u32,
    folder: &Path,
) -> Result<Report> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("remove `{}`", folder.display()))?;
    }
    let script = job::write_script(jobs, folder)?;
    let mut machine = Command::new(vng);
    machine
        .args(["--disable-kvm", "--verbose", "--memory", "4G", "--cpus", &processors.to_string()])
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
    let mut report = Report {
        variant,
        end: End::Stopped,
        release: None,
        modules: None,
        results: Vec::new(),
        complaints: Vec::new(),
        last_words: Vec::new(),
        folder: folder.to_owned(),
    };
    report.watch(jobs, &lines)?;
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

impl Report {
    fn watch(&mut self, jobs: &[Job], lines: &Receiver<String>) -> Result<()> {
        let console = self.folder.join("console.log");
        let mut file =
            fs::File::create(&console).with_context(|| format!("create `{}`", console.display()))?;
        let mut deadline = Instant::now() + BOOT_LIMIT;
        let mut running: Option<(&Job, Instant)> = None;
        let mut done = false;
        loop {
            let line = match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => line,
                Err(RecvTimeoutError::Timeout) => {
                    self.end = End::Hung;
                    break;
                }
                Err(RecvTimeoutError::Disconnected) => {
                    if done && self.end == End::Stopped {
                        self.end = End::Done;
                    }
                    break;
                }
            };
            writeln!(file, "{line}").with_context(|| format!("write `{}`", console.display()))?;
            if self.last_words.len() == LAST_WORDS {
                self.last_words.remove(0);
            }
            self.last_words.push(line.clone());
            if line.contains("Kernel panic - not syncing") {
                self.end = End::Panicked;
            } else if COMPLAINTS.iter().any(|complaint| line.contains(complaint)) {
                self.complaints.push(line.clone());
            }
            let Some(said) = line.strip_prefix(MARK) else { continue };
            let words: Vec<&str> = said.split_whitespace().collect();
            let find = |name: &str| jobs.iter().find(|job| job.name == name);
            match words[..] {
                ["booted", release, modules] => {
                    self.release = Some(release.to_owned());
                    self.modules = Some(modules.to_owned());
                    deadline = Instant::now() + GRACE;
                }
                ["begin", name] => {
                    let job = find(name).with_context(|| format!("the machine began `{name}`"))?;
                    deadline = Instant::now() + job.limit + GRACE;
                    running = Some((job, Instant::now()));
                }
                ["end", _, status] => {
                    if let (Some((job, since)), Ok(status)) = (running.take(), status.parse()) {
                        let outcome = Outcome::of(status, job.speaks, &self.counts(job));
                        self.take(job, outcome, since.elapsed());
                    }
                    deadline = Instant::now() + GRACE;
                }
                ["done"] => done = true,
                _ => {}
            }
        }
        if let Some((job, since)) = running {
            self.take(job, Outcome::Lost, since.elapsed());
        }
        for job in &jobs[self.results.len()..] {
            self.take(job, Outcome::NotRun, Duration::ZERO);
        }
        Ok(())
    }

    /// Keeps a result, and says it at once.
    fn take(&mut self, job: &Job, outcome: Outcome, took: Duration) {
        let result = JobResult { job: job.clone(), outcome, took };
        eprintln!("{}", self.line(&result));
        if result.outcome != Outcome::Passed && result.outcome != Outcome::NotRun {
            let log = job::log(&self.folder, job);
            eprintln!("--- {}: {}", job.name, log.display());
            eprintln!("{}--- end of {}", fs::read_to_string(&log).unwrap_or_default(), job.name);
        }
        self.results.push(result);
    }

    fn counts(&self, job: &Job) -> Counts {
        Counts::read(&fs::read_to_string(job::log(&self.folder, job)).unwrap_or_default())
    }

    fn line(&self, JobResult { job, outcome, took }: &JobResult) -> String {
        let mut line = format!("{:11} {:12} {outcome}", self.variant.name(), job.name);
        if job.speaks == job::Speaks::TestHarness && *outcome != Outcome::NotRun {
            line += &format!(": {}", self.counts(job));
        }
        format!("{line} ({:.0} s)", took.as_secs_f64())
    }

    /// All that is not as it should be.
    pub(super) fn problems(&self) -> Vec<String> {
        let name = self.variant.name();
        let mut problems = Vec::new();
        if let Some(how) = match self.end {
            End::Done => None,
            End::Panicked => Some("its kernel PANICKED"),
            End::Hung => {
                Some("it HANGS: it has not ended, nor said anything, in longer than anything in it may take")
            }
            End::Stopped if self.release.is_none() => Some("it did NOT BOOT"),
            End::Stopped => Some("it STOPPED before it had run everything"),
        } {
            let running = self.results.iter().find(|result| result.outcome == Outcome::Lost);
            let while_what = running.map(|it| format!(", in `{}`: {}", it.job.name, self.counts(&it.job)));
            problems.push(format!("{name}: {how}{}", while_what.unwrap_or_default()));
        }
        if let Some(release) = &self.release
            && !self.variant.kernel.is_release(release)
        {
            problems.push(format!("{name}: it runs kernel {release}"));
        }
        if let Some(modules) = &self.modules
            && modules.split(',').any(|module| module == "bpf") != self.variant.lsm
        {
            problems.push(format!("{name}: its security modules are {modules}"));
        }
        problems.extend(self.complaints.iter().map(|line| format!("{name}: the kernel complains: {line}")));
        let failed = self.results.iter().filter(|result| result.outcome != Outcome::Passed);
        problems.extend(failed.map(|result| self.line(result)));
        problems
    }

    /// What it said last, if it did not end as it should.
    pub(super) fn last_words(&self) -> Option<String> {
        (self.end != End::Done).then(|| {
            format!(
                "--- last words of {} (all: {})\n{}\n---",
                self.variant.name(),
                self.folder.join("console.log").display(),
                self.last_words.join("\n")
            )
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let release = self.release.as_deref().unwrap_or("no kernel");
        let modules = self.modules.as_deref().unwrap_or("?");
        writeln!(f, "{} ({release}, security modules {modules}):", self.variant.name())?;
        for result in &self.results {
            writeln!(f, "  {}", self.line(result))?;
        }
        Ok(())
    }
}
