//! Packages from apt: what it offers, and installing them after saying what and why.

use std::cell::OnceCell;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use bpf_toolchain::on_path;

use crate::command::{is_root, output, run as run_command};

#[derive(Debug)]
pub(super) struct Package {
    name: String,
    why: &'static str,
    optional: bool,
}

impl Package {
    pub(super) fn required(name: impl Into<String>, why: &'static str) -> Self {
        Self { name: name.into(), why, optional: false }
    }

    /// One that `setup` does without, saying so.
    pub(super) fn optional(name: impl Into<String>, why: &'static str) -> Self {
        Self { name: name.into(), why, optional: true }
    }

    /// Whether dpkg has it whole; no, on a system without dpkg.
    pub(super) fn is_installed(&self) -> bool {
        let mut query = Command::new("dpkg-query");
        query.args(["--show", "--showformat", "${db:Status-Status}", &self.name]);
        output(&mut query).is_ok_and(|status| status == "installed")
    }
}

/// apt on this machine. The list of packages is brought up to date once, and only when something is missing.
#[derive(Debug, Default)]
pub(super) struct Apt {
    updated: OnceCell<()>,
}

impl Apt {
    /// Installs the packages and returns whether there was anything to install.
    pub(super) fn install(&self, packages: &[Package]) -> Result<bool> {
        if packages.is_empty() {
            return Ok(false);
        }
        let usable = usable();
        if let Err(reason) = usable {
            let (optional, required): (Vec<_>, Vec<_>) =
                packages.iter().partition(|package| package.optional);
            for package in optional {
                eprintln!("setup: go without `{}` ({}): {reason}", package.name, package.why);
            }
            if required.is_empty() {
                return Ok(false);
            }
            let list: Vec<_> = required.iter().map(|p| format!("\n  `{}`: {}", p.name, p.why)).collect();
            bail!(
                "something is missing and {reason}\nhint: install what these Debian packages have:{}",
                list.concat()
            );
        }
        self.update();
        let mut names = Vec::new();
        for package in packages {
            if offered(&package.name)? {
                eprintln!("setup: install `{}` with apt: {}", package.name, package.why);
                names.push(package.name.as_str());
            } else if package.optional {
                eprintln!("setup: go without `{}` ({}): apt does not offer it", package.name, package.why);
            } else {
                bail!("apt does not offer `{}` on this system: {}", package.name, package.why);
            }
        }
        if names.is_empty() {
            return Ok(false);
        }
        run_command(
            apt_get().args(["install", "--yes", "--quiet=2", "--no-install-recommends"]).args(&names),
        )?;
        Ok(true)
    }

    /// Whether all of these can be installed here.
    pub(super) fn offers(&self, packages: &[Package]) -> Result<bool> {
        if usable().is_err() {
            return Ok(false);
        }
        self.update();
        for package in packages {
            if !offered(&package.name)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn update(&self) {
        self.updated.get_or_init(|| {
            eprintln!("setup: bring apt's list of packages up to date");
            if let Err(error) = run_command(apt_get().args(["update", "--quiet=2"])) {
                // One source out of reach does not matter if the others have what we need.
                eprintln!("setup: {error:#}; going on with the list as it is");
            }
        });
    }
}

/// Puts the files of a package below `root`, without installing it. `root` must not be there.
pub(crate) fn unpack(package: &str, root: &Path) -> Result<()> {
    let folder = root.with_extension("download");
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("remove `{}`", folder.display()))?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("create `{}`", folder.display()))?;
    // It warns that it downloads as root, which is who owns the folder.
    let mut download = apt_get();
    download.args(["download", "--quiet=2", "--option=APT::Sandbox::User=root", package]);
    run_command(download.current_dir(&folder))?;
    let mut downloaded = fs::read_dir(&folder).with_context(|| format!("list `{}`", folder.display()))?;
    let archive = downloaded.next().context("apt-get fetched nothing")??.path();
    run_command(Command::new("dpkg").arg("--extract").arg(&archive).arg(root))?;
    fs::remove_dir_all(&folder).with_context(|| format!("remove `{}`", folder.display()))
}

/// Brings apt's list of packages up to date, of which it has none on a fresh system.
pub(crate) fn update() -> Result<()> {
    run_command(apt_get().args(["update", "--quiet=2"]))
}

fn usable() -> Result<(), &'static str> {
    if on_path("apt-get").is_none() {
        Err("this system has no apt-get")
    } else if !is_root() {
        Err("installing packages needs root")
    } else {
        Ok(())
    }
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

fn offered(name: &str) -> Result<bool> {
    let policy = output(Command::new("apt-cache").args(["policy", name]).env("LC_ALL", "C"))
        .with_context(|| format!("ask apt for `{name}`"))?;
    Ok(has_candidate(&policy))
}

/// An unknown package prints nothing; a known one that no source has prints `(none)`.
fn has_candidate(policy: &str) -> bool {
    policy
        .lines()
        .any(|line| line.trim().strip_prefix("Candidate:").is_some_and(|version| version.trim() != "(none)"))
}

#[cfg(test)]
mod tests {
    use super::has_candidate;

    #[test]
    fn a_package_without_a_candidate_is_not_offered() {
        for (policy, expected) in [
            ("bpftool:\n  Installed: (none)\n  Candidate: 7.1.0+6.1.192-2\n  Version table:\n", true),
            ("bpftool:\n  Installed: (none)\n  Candidate: (none)\n  Version table:\n", false),
            ("", false),
        ] {
            assert_eq!(has_candidate(policy), expected, "{policy}");
        }
    }
}
