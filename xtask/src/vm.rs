//! `cargo xtask vm`: the integration tests on Debian's own kernels, in virtual machines without KVM. Each boots over this
//! machine's file system, which it cannot write to; everything that is fetched and made lies in `target/vm`.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum;

use crate::command::{Steps, cargo, output, run as run_command, target_dir};
use crate::setup::{self, Need};

/// What boots the machines; PyPI has it, Debian 12 does not.
const VIRTME: &str = "virtme-ng==1.42";

/// How long one machine may take for all tests, in seconds. One that has not ended by then hangs.
const PATIENCE: u32 = 1_500;

/// Tests of how much is borne, which say nothing of a kernel here: an emulated processor does one thing in thirty.
const SKIPPED: &[&str] = &["no_verdict_that_neither_envelope_gives"];

/// A kernel of Debian's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kernel {
    /// Debian 12's
    #[value(name = "6.1")]
    V6_1,
    /// Debian 13's, as Debian 12 has it
    #[value(name = "6.12")]
    V6_12,
}

impl Kernel {
    const fn name(self) -> &'static str {
        match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
        }
    }

    /// Whether it is this kernel's package, and the plain one: `linux-image-6.1.0-50-amd64`, `linux-image-6.12.9+deb12-amd64`.
    fn is_package(self, name: &str) -> bool {
        let version = name.strip_prefix("linux-image-").and_then(|rest| rest.strip_suffix("-amd64"));
        let rest = version.and_then(|version| version.strip_prefix(self.name()));
        rest.is_some_and(|rest| {
            rest.starts_with('.') && rest.chars().all(|c| c.is_ascii_digit() || ".-+deb".contains(c))
        })
    }
}

pub(crate) fn run(kernels: &[Kernel], tests: &[String]) -> Result<()> {
    setup::ensure(Need::Vm)?;
    let folder = target_dir().join("vm");
    fs::create_dir_all(&folder).with_context(|| format!("create `{}`", folder.display()))?;
    let vng = install_virtme(&folder)?;
    run_command(cargo().args(["build", "--package", "enforcer-userspace"]))?;
    let tests = test_programs(tests)?;
    let mut steps = Steps::new();
    for kernel in Kernel::value_variants().iter().filter(|it| kernels.is_empty() || kernels.contains(it)) {
        let image = fetch(*kernel, &folder)?;
        let log = folder.join(format!("{}.log", kernel.name()));
        steps.step(kernel.name(), || boot(&vng, &image, &tests, &log))?;
    }
    eprintln!("xtask vm: ok: {}", steps.summary());
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

/// The newest of Debian's packages of this kernel, unpacked; its image.
fn fetch(kernel: Kernel, folder: &Path) -> Result<PathBuf> {
    let list = output(Command::new("apt-cache").args(["search", "--names-only", "^linux-image-6"]))?;
    let names = list.lines().filter_map(|line| line.split(' ').next()).filter(|name| kernel.is_package(name));
    let package = names
        .max_by_key(|name| numbers(name))
        .with_context(|| format!("apt offers no kernel {}\nhint: `apt-get update`", kernel.name()))?;
    let version = package.trim_start_matches("linux-image-");
    let root = folder.join(package);
    let image = root.join("boot").join(format!("vmlinuz-{version}"));
    if !image.is_file() {
        eprintln!("vm: fetch {package}");
        run_command(Command::new("apt-get").args(["download", "--quiet=2", package]).current_dir(folder))?;
        let downloaded = fs::read_dir(folder).with_context(|| format!("list `{}`", folder.display()))?;
        let is_it = |path: &PathBuf| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&format!("{package}_")))
        };
        let archive =
            downloaded.flatten().map(|entry| entry.path()).find(is_it).context("apt-get fetched nothing")?;
        run_command(Command::new("dpkg").arg("--extract").arg(&archive).arg(&root))?;
        run_command(Command::new("depmod").arg("--basedir").arg(&root).arg(version))?;
        fs::remove_file(&archive).with_context(|| format!("remove `{}`", archive.display()))?;
    }
    Ok(image)
}

/// The numbers in a name, to compare versions by.
fn numbers(name: &str) -> Vec<u32> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}

/// The programs of these integration tests; of all, if none is named.
fn test_programs(wanted: &[String]) -> Result<Vec<PathBuf>> {
    let messages =
        output(cargo().args(["test", "--package", "integration", "--no-run", "--message-format=json"]))?;
    let mut programs = Vec::new();
    for message in messages.lines() {
        let message: serde_json::Value = serde_json::from_str(message).context("what cargo prints")?;
        let name = message["target"]["name"].as_str().unwrap_or_default();
        let is_test = message["target"]["kind"][0] == "test";
        if let (true, Some(program)) = (is_test, message["executable"].as_str())
            && (wanted.is_empty() || wanted.iter().any(|wanted| wanted == name))
        {
            programs.push(PathBuf::from(program));
        }
    }
    ensure!(!programs.is_empty(), "there are no such tests: {}", wanted.join(", "));
    Ok(programs)
}

/// Boots, runs the tests, and prints what they say. All that the machine says goes to a file.
fn boot(vng: &Path, image: &Path, tests: &[PathBuf], log: &Path) -> Result<()> {
    const ENDED: &str = "xtask-vm: all tests passed";
    let skips: String = SKIPPED.iter().map(|test| format!(" --skip {test}")).collect();
    let mut script = format!(
        "set -e; ulimit -l unlimited; export RUST_BACKTRACE=0 ENFORCER_BIN={}; ",
        target_dir().join("debug/enforcer").display()
    );
    for test in tests {
        script += &format!("{} --test-threads=1{skips}; ", test.display());
    }
    // Quoted otherwise than it is printed: the machine shows its command line as well.
    script += &format!("echo {}", ENDED.replace(' ', "' '"));
    let mut machine = Command::new("sh");
    machine.args(["-c", "exec timeout \"$@\" 2>&1", "sh", &PATIENCE.to_string()]).arg(vng);
    machine.args(["--disable-kvm", "--memory", "4G", "--cpus", "2", "--verbose", "--run"]).arg(image);
    machine.args(["--", &script]);
    let machine = machine.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut machine = machine.spawn().context("start `timeout`")?;
    let mut file = fs::File::create(log).with_context(|| format!("create `{}`", log.display()))?;
    let mut passed = false;
    for line in BufReader::new(machine.stdout.take().context("it was asked for")?).split(b'\n') {
        let line = line.context("read what the machine prints")?;
        let line = String::from_utf8_lossy(&line);
        writeln!(file, "{line}").with_context(|| format!("write `{}`", log.display()))?;
        passed |= line.contains(ENDED);
        // Those of the tests, and what they complain of; the kernel's own begin with the time.
        if !line.starts_with('[') {
            println!("{}", line.trim_end());
        }
    }
    let status = machine.wait().context("wait for the machine")?;
    if status.code() == Some(124) {
        bail!(
            "the machine did not end within {PATIENCE} s: it hangs\nhint: its last words are in `{}`",
            log.display()
        );
    }
    ensure!(passed, "the tests did not all pass; the machine ended with {status}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_told_apart() {
        for (name, expect) in [
            ("linux-image-6.1.0-50-amd64", Some(Kernel::V6_1)),
            ("linux-image-6.12.9+deb12-amd64", Some(Kernel::V6_12)),
            ("linux-image-6.1.0-50-cloud-amd64", None),
            ("linux-image-6.1.0-50-rt-amd64", None),
            ("linux-image-6.1.0-50-amd64-unsigned", None),
            ("linux-image-6.1.0-50-amd64-dbg", None),
            ("linux-image-6.10.1-amd64", None),
        ] {
            let found = Kernel::value_variants().iter().copied().find(|kernel| kernel.is_package(name));
            assert_eq!(found, expect, "{name}");
        }
        assert!(numbers("linux-image-6.1.0-9-amd64") < numbers("linux-image-6.1.0-50-amd64"));
    }
}
