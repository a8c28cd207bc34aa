//! What came of a machine: watching what it says, and telling apart how it can end.

use std::fmt;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::job::{self, Job, MARK};
use super::machine::Variant;
use super::outcome::{Counts, Outcome};

/// How long a machine may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// From its start to its first program. Ten seconds, if it has a processor for itself.
    boot: Duration,
    /// Beyond the limit of the job that it runs, and after the last, before it is said to hang.
    grace: Duration,
    total: Duration,
}

impl Limits {
    pub(super) const fn within(total: Duration) -> Self {
        Self { boot: Duration::from_secs(180), grace: Duration::from_secs(60), total }
    }
}

/// How many of its last words are shown.
const LAST_WORDS: usize = 25;

/// What the kernel says when something is wrong with it. That it was slow (stalls, soft lockups) is not among it: under
/// emulation, beside other work, it is.
const COMPLAINTS: &[&str] =
    &["BUG: kernel", "BUG: unable", "BUG: KASAN", "general protection fault", "WARNING: CPU:", "Oops:"];

/// How a machine ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    /// It ran everything, and went down.
    Done,
    Panicked,
    /// Silent for longer than anything in it may take. Killed.
    Hung,
    /// It went on, and took too long in all. Killed.
    TooSlow,
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

impl Report {
    pub(super) fn new(variant: Variant, folder: &Path) -> Self {
        Self {
            variant,
            end: End::Stopped,
            release: None,
            modules: None,
            results: Vec::new(),
            complaints: Vec::new(),
            last_words: Vec::new(),
            folder: folder.to_owned(),
        }
    }

    /// Follows a machine to its end. Its last job may be lost; what is lost, or was not begun, is in the report as such.
    pub(super) fn watch(&mut self, jobs: &[Job], lines: &Receiver<String>, limits: Limits) -> Result<()> {
        let console = self.folder.join("console.log");
        let mut file =
            fs::File::create(&console).with_context(|| format!("create `{}`", console.display()))?;
        let end = Instant::now() + limits.total;
        let mut deadline = Instant::now() + limits.boot;
        let mut running: Option<(&Job, Instant)> = None;
        let mut done = false;
        loop {
            let rest = deadline.min(end).saturating_duration_since(Instant::now());
            let line = match lines.recv_timeout(rest) {
                Ok(line) => line,
                Err(RecvTimeoutError::Timeout) => {
                    self.end = if Instant::now() < end { End::Hung } else { End::TooSlow };
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
            let Some((_, said)) = line.split_once(MARK) else { continue };
            let words: Vec<&str> = said.split_whitespace().collect();
            let find = |name: &str| jobs.iter().find(|job| job.name == name);
            match words[..] {
                ["booted", release, modules] => {
                    self.release = Some(release.to_owned());
                    self.modules = Some(modules.to_owned());
                    deadline = Instant::now() + limits.grace;
                }
                ["begin", name] => {
                    self.end_of(running.take());
                    let job = find(name).with_context(|| format!("the machine began `{name}`"))?;
                    deadline = Instant::now() + job.limit + limits.grace;
                    running = Some((job, Instant::now()));
                }
                ["end", ..] => {
                    self.end_of(running.take());
                    deadline = Instant::now() + limits.grace;
                }
                ["done"] => done = true,
                _ => {}
            }
        }
        self.end_of(running);
        for job in &jobs[self.results.len()..] {
            self.take(job, Outcome::NotRun, Duration::ZERO);
        }
        Ok(())
    }

    /// A job that was begun is over, or the machine is.
    fn end_of(&mut self, running: Option<(&Job, Instant)>) {
        let Some((job, since)) = running else { return };
        let status = fs::read_to_string(job::status(&self.folder, job)).ok();
        let outcome = match status.and_then(|status| status.trim().parse().ok()) {
            Some(status) => Outcome::of(status, job.speaks, &self.counts(job)),
            None => Outcome::Lost,
        };
        self.take(job, outcome, since.elapsed());
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
            End::TooSlow => Some("it took TOO LONG in all"),
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

    /// A file that a job left behind.
    pub(super) fn result(&self, name: &str) -> Option<PathBuf> {
        let path = job::results(&self.folder).join(name);
        path.is_file().then_some(path)
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;
    use crate::vm::Kernel;
    use job::Speaks;

    /// What is made of a machine that says these lines, and then ends; or goes on in silence.
    fn watch(name: &str, said: &[&str], statuses: [i32; 2], goes_on: bool) -> Report {
        let folder = std::env::temp_dir().join(format!("xtask-vm-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder for the test");
        let job = |name: &str| Job {
            name: name.to_owned(),
            program: "/bin/true".into(),
            arguments: Vec::new(),
            limit: Duration::ZERO,
            speaks: Speaks::Status,
        };
        let (sender, lines) = channel();
        for (job, status) in [job("one"), job("two")].iter().zip(statuses) {
            if said.iter().any(|line| *line == format!("xtask-vm: end {}", job.name)) {
                fs::write(job::status(&folder, job), format!("{status}\n")).expect("the folder is ours");
            }
        }
        for line in said {
            sender.send((*line).to_owned()).expect("somebody listens");
        }
        let mut sender = Some(sender);
        if !goes_on {
            sender.take();
        }
        let mut report = Report::new(Variant { kernel: Kernel::V6_1, lsm: true }, &folder);
        let soon = Duration::from_millis(50);
        let limits = Limits { boot: soon, grace: soon, total: Duration::from_secs(60) };
        report.watch(&[job("one"), job("two")], &lines, limits).expect("the folder is ours");
        drop(sender);
        fs::remove_dir_all(&folder).expect("it is ours");
        report
    }

    #[test]
    fn the_ways_to_end_are_told_apart() {
        const BOOTED: &str = "xtask-vm: booted 6.1.0-56-amd64 lockdown,bpf";
        const PANIC: &str = "[  7.1] Kernel panic - not syncing: sysrq triggered crash";
        let one = ["xtask-vm: begin one", "xtask-vm: end one"];
        let two = ["[ 9.1] noise xtask-vm: begin two", "xtask-vm: end two"];
        let all = [BOOTED, one[0], one[1], two[0], two[1], "xtask-vm: done"];
        for (name, said, goes_on, problems) in [
            ("done", &all[..], false, &[][..]),
            ("hangs-at-the-end", &all[..], true, &["HANGS"]),
            ("hangs", &all[..4], true, &["HANGS", "in `two`", "two          LOST"]),
            ("silent", &[], true, &["HANGS", "NOT RUN", "NOT RUN"]),
            ("no-boot", &["no such image"], false, &["NOT BOOT", "NOT RUN", "NOT RUN"]),
            ("panic", &[BOOTED, one[0], PANIC], false, &["PANICKED", "one          LOST", "NOT RUN"]),
            ("stopped", &all[..3], false, &["STOPPED", "two          NOT RUN"]),
            ("other-kernel", &[&["xtask-vm: booted 6.12.1 bpf"], &all[1..]].concat(), false, &["6.12.1"]),
            ("other-modules", &[&["xtask-vm: booted 6.1.0 yama"], &all[1..]].concat(), false, &["yama"]),
            ("bug", &[&["[ 1.0] BUG: kernel NULL pointer dereference"], &all[..]].concat(), false, &["NULL"]),
        ] {
            let found = watch(name, said, [0, 0], goes_on).problems();
            let text = found.join("\n");
            assert_eq!(found.is_empty(), problems.is_empty(), "{name}: {text}");
            assert!(problems.iter().all(|problem| text.contains(problem)), "{name}: {text}");
        }
        let found = watch("failed", &all, [7, 124], false).problems();
        assert!(found[0].contains("FAILED (exit status 7)") && found[1].contains("TIMED OUT"), "{found:?}");
    }
}
