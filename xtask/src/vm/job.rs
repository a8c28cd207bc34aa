//! What is run in a machine: one program after the other, each with its own time limit, its own output file, and files that
//! it leaves behind.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::command::{build_tested, cargo, output, tested};

/// How much slower everything is in a machine than outside: the tests multiply their deadlines by it, and divide by it what
/// they do for load. An emulated processor does one thing in thirty, but most of what a test waits for is not computation.
const SLOWNESS: u32 = 10;

/// How long one program may take, also beside other work.
const LIMIT: Duration = Duration::from_secs(600);

/// In an argument: the folder whose files are there when the machine has ended.
const RESULTS: &str = "{results}";

/// Tests that are left out, and why. A name holds for every program.
const SKIPPED: &[(&str, &str)] = &[
    (
        "no_verdict_that_neither_envelope_gives",
        "a thousand replacements under load say how much is borne, and nothing of a kernel",
    ),
    (
        "full_buffer_changes_no_verdict_and_is_reported",
        "fewer than 30,000 processes do not fill the buffer, and here so many take many minutes",
    ),
];

/// A program to run, and how to read what it says.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) name: String,
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<String>,
    pub(super) limit: Duration,
    pub(super) speaks: Speaks,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speaks {
    /// As Rust's test harness does, with one thread.
    TestHarness,
    /// By its exit status alone.
    Status,
}

/// A program that is no test harness's, to be run in every machine.
struct Suite {
    /// Whose program has the same name.
    package: &'static str,
    arguments: &'static [&'static str],
    limit: Duration,
}

/// Whoever adds one has it run on all kernels, with and without BPF among the security modules; what it writes below
/// `{results}` is in `target/vm/<machine>/results` afterwards.
const SUITES: &[Suite] = &[Suite {
    package: "adversary",
    arguments: &["suite", "--results", "{results}/adversary.json"],
    limit: Duration::from_secs(900),
}];

/// The name of all integration tests together.
const INTEGRATION: &str = "integration";
/// The name of measuring what verifying takes, and of its result.
pub(super) const VERISTAT: &str = "veristat";

/// What is run: in machines with BPF among the security modules, and in those without.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    pub(super) with_lsm: Vec<Job>,
    pub(super) without_lsm: Vec<Job>,
}

/// The jobs with these names; all, if none is named. Without BPF among the security modules, only the suites, because nothing else
/// depends on it.
pub(super) fn jobs(wanted: &[String]) -> Result<Jobs> {
    let is_wanted =
        |names: &[&str]| wanted.is_empty() || wanted.iter().any(|wanted| names.contains(&wanted.as_str()));
    build_tested("enforcer-userspace")?;
    let mut jobs = Jobs::default();
    for suite in SUITES.iter().filter(|suite| is_wanted(&[suite.package])) {
        build_tested(suite.package)?;
        let job = Job {
            name: suite.package.to_owned(),
            program: tested(suite.package),
            arguments: suite.arguments.iter().map(ToString::to_string).collect(),
            limit: suite.limit,
            speaks: Speaks::Status,
        };
        jobs.with_lsm.push(job.clone());
        jobs.without_lsm.push(job);
    }
    if is_wanted(&[VERISTAT]) {
        jobs.with_lsm.push(veristat()?);
    }
    if wanted.iter().all(|name| name != VERISTAT) || wanted.len() > 1 {
        for (name, program) in programs("integration")? {
            if is_wanted(&[&name, INTEGRATION]) {
                let mut arguments = vec!["--test-threads=1".to_owned()];
                for (test, _) in SKIPPED {
                    arguments.extend(["--skip".to_owned(), (*test).to_owned()]);
                }
                jobs.with_lsm.push(Job {
                    name,
                    program,
                    arguments,
                    limit: LIMIT,
                    speaks: Speaks::TestHarness,
                });
            }
        }
    }
    ensure!(!jobs.with_lsm.is_empty(), "there are no such tests: {}", wanted.join(", "));
    Ok(jobs)
}

/// What verifying takes on this kernel. That `doctor` is content is part of it.
fn veristat() -> Result<Job> {
    let library = crate::veristat::library()?;
    let script = format!(
        "LD_PRELOAD={} VERISTAT_LOG={RESULTS}/{VERISTAT}.log exec \"$ENFORCER_BIN\" doctor",
        library.display()
    );
    Ok(Job {
        name: VERISTAT.to_owned(),
        program: "/bin/sh".into(),
        arguments: vec!["-c".to_owned(), script],
        limit: LIMIT,
        speaks: Speaks::Status,
    })
}

/// The tests of a package, by name.
fn programs(package: &str) -> Result<BTreeMap<String, PathBuf>> {
    let messages = output(cargo().args(["test", "--package", package, "--no-run", "--message-format=json"]))?;
    let mut programs = BTreeMap::new();
    for message in messages.lines() {
        let message: serde_json::Value = serde_json::from_str(message).context("what cargo prints")?;
        let is_test = message["target"]["kind"][0] == "test";
        if let (true, Some(name), Some(program)) =
            (is_test, message["target"]["name"].as_str(), message["executable"].as_str())
        {
            programs.insert(name.to_owned(), PathBuf::from(program));
        }
    }
    Ok(programs)
}

/// What is left out, for people.
pub(super) fn say_what_is_skipped() {
    for (test, why) in SKIPPED {
        eprintln!("vm: skip `{test}`: {why}");
    }
}

/// What a machine's first program writes to the console, for whoever watches it. The kernel may write into the same line: a mark
/// says when to look, and the files say what there is.
pub(super) const MARK: &str = "xtask-vm:";

/// What techniques of the adversary suite need of the kernel.
const MODULES: &str = "tipc tun vsock_loopback";

/// Writes the program that runs all jobs, and returns its path. `share` is the folder that the machine writes to, `modules` that of the
/// unpacked kernel package.
pub(super) fn write_script(jobs: &[Job], modules: &Path, share: &Path) -> Result<PathBuf> {
    let results = results(share);
    fs::create_dir_all(&results).with_context(|| format!("create `{}`", results.display()))?;
    let enforcer = quoted(&tested("enforcer").display().to_string());
    let modules = quoted(&modules.display().to_string());
    // The machine reads this machine's files without keeping them; what runs often is copied to its memory. And it has no modules where
    // its kernel would look for them.
    let mut script = format!(
        "ulimit -l unlimited\n\
         mkdir -p /run/xtask-vm && cp {enforcer} /run/xtask-vm/enforcer || exit 1\n\
         export ENFORCER_BIN=/run/xtask-vm/enforcer ENFORCER_TEST_SLOWNESS={SLOWNESS} RUST_BACKTRACE=0\n\
         mount -t bpf bpf /sys/fs/bpf\n\
         modprobe --dirname {modules} --all {MODULES} || exit 1\n\
         echo '{MARK}' booted \"$(uname -r)\" \"$(cat /sys/kernel/security/lsm)\"\n"
    );
    for job in jobs {
        let name = &job.name;
        let mut command = vec![job.program.display().to_string()];
        command.extend(job.arguments.iter().map(|it| it.replace(RESULTS, &results.display().to_string())));
        let command: Vec<String> = command.iter().map(|word| quoted(word)).collect();
        script += &format!(
            "echo '{MARK}' begin {name}\n\
             timeout --kill-after=10 {} {} >{} 2>&1\n\
             echo $? >{}\n\
             echo '{MARK}' end {name}\n",
            job.limit.as_secs(),
            command.join(" "),
            quoted(&log(share, job).display().to_string()),
            quoted(&status(share, job).display().to_string()),
        );
    }
    script += &format!("echo '{MARK}' done\n");
    let path = share.join("run.sh");
    fs::write(&path, script).with_context(|| format!("write `{}`", path.display()))?;
    Ok(path)
}

/// The folder of what jobs leave behind.
pub(super) fn results(share: &Path) -> PathBuf {
    share.join("results")
}

/// Where all that a job prints goes.
pub(super) fn log(share: &Path, job: &Job) -> PathBuf {
    share.join(format!("{}.log", job.name))
}

/// Where its exit status goes.
pub(super) fn status(share: &Path, job: &Job) -> PathBuf {
    share.join(format!("{}.status", job.name))
}

/// For a shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}
