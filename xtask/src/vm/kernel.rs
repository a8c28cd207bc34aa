//! Debian's kernels: which there are, and fetching one without installing it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use crate::command::{output, run as run_command};
use crate::setup::apt;

/// In the folder of an unpacked package: made last, so that a package that has it is whole.
const COMPLETE: &str = "complete";

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

    /// This kernel, unpacked below `folder`; its image. What was unpacked before is used, though Debian may have a newer one.
    pub(super) fn fetch(self, folder: &Path) -> Result<PathBuf> {
        if let Some(image) = self.unpacked(folder)? {
            return Ok(image);
        }
        if let Err(error) = self.unpack(folder) {
            // On a fresh system apt knows of nothing; on an old one, of packages that are not there any more.
            eprintln!("vm: {error:#}; bring apt's list of packages up to date");
            apt::update()?;
            self.unpack(folder)?;
        }
        self.unpacked(folder)?.with_context(|| format!("kernel {} has no image", self.name()))
    }

    /// The image of the newest one that is unpacked, and whole.
    fn unpacked(self, folder: &Path) -> Result<Option<PathBuf>> {
        let entries = fs::read_dir(folder).with_context(|| format!("list `{}`", folder.display()))?;
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let whole = |name: &String| self.is_package(name) && folder.join(name).join(COMPLETE).is_file();
        let newest = names.filter(whole).max_by_key(|name| numbers(name));
        Ok(newest.map(|name| {
            let version = name.trim_start_matches("linux-image-");
            folder.join(&name).join("boot").join(format!("vmlinuz-{version}"))
        }))
    }

    /// Downloads and unpacks the newest of Debian's packages of this kernel.
    fn unpack(self, folder: &Path) -> Result<()> {
        let list = output(Command::new("apt-cache").args(["search", "--names-only", "^linux-image-6"]))?;
        let names =
            list.lines().filter_map(|line| line.split(' ').next()).filter(|name| self.is_package(name));
        let package = names
            .max_by_key(|name| numbers(name))
            .with_context(|| format!("apt offers no kernel {}", self.name()))?;
        let root = folder.join(package);
        eprintln!("vm: fetch {package}");
        apt::unpack(package, &root)?;
        let version = package.trim_start_matches("linux-image-");
        run_command(Command::new("depmod").arg("--basedir").arg(&root).arg(version))?;
        let complete = root.join(COMPLETE);
        fs::write(&complete, "").with_context(|| format!("write `{}`", complete.display()))
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
