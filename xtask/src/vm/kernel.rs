//! Debian's kernels: which there are, and fetching one without installing it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use crate::command::{output, run as run_command};

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
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
        }
    }

    /// Whether a running kernel of this release is this one.
    pub(super) fn is_release(self, release: &str) -> bool {
        release.strip_prefix(self.name()).is_some_and(|rest| rest.starts_with('.'))
    }

    /// Whether it is this kernel's package, and the plain one: `linux-image-6.1.0-50-amd64`, `linux-image-6.12.9+deb12-amd64`.
    fn is_package(self, name: &str) -> bool {
        let version = name.strip_prefix("linux-image-").and_then(|rest| rest.strip_suffix("-amd64"));
        version.is_some_and(|version| {
            self.is_release(version) && version.chars().all(|c| c.is_ascii_digit() || ".-+deb".contains(c))
        })
    }

    /// The newest of Debian's packages of this kernel, unpacked below `folder`; its image.
    pub(super) fn fetch(self, folder: &Path) -> Result<PathBuf> {
        let list = output(Command::new("apt-cache").args(["search", "--names-only", "^linux-image-6"]))?;
        let names =
            list.lines().filter_map(|line| line.split(' ').next()).filter(|name| self.is_package(name));
        let package = names
            .max_by_key(|name| numbers(name))
            .with_context(|| format!("apt offers no kernel {}\nhint: `apt-get update`", self.name()))?;
        let version = package.trim_start_matches("linux-image-");
        let root = folder.join(package);
        let image = root.join("boot").join(format!("vmlinuz-{version}"));
        // Made last, so that whatever has it is whole.
        let complete = root.join("complete");
        if !complete.is_file() {
            eprintln!("vm: fetch {package}");
            run_command(
                Command::new("apt-get").args(["download", "--quiet=2", package]).current_dir(folder),
            )?;
            let downloaded = fs::read_dir(folder).with_context(|| format!("list `{}`", folder.display()))?;
            let is_it = |path: &PathBuf| {
                path.file_name()
                    .is_some_and(|name| name.to_string_lossy().starts_with(&format!("{package}_")))
            };
            let archive = downloaded
                .flatten()
                .map(|entry| entry.path())
                .find(is_it)
                .context("apt-get fetched nothing")?;
            run_command(Command::new("dpkg").arg("--extract").arg(&archive).arg(&root))?;
            run_command(Command::new("depmod").arg("--basedir").arg(&root).arg(version))?;
            fs::remove_file(&archive).with_context(|| format!("remove `{}`", archive.display()))?;
            fs::write(&complete, "").with_context(|| format!("write `{}`", complete.display()))?;
        }
        Ok(image)
    }
}

/// The numbers in a name, to compare versions by.
fn numbers(name: &str) -> Vec<u32> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
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
