//! Programs that collect what the enforcer says, for tests: unpacked below `target/tools` and not installed, because Debian starts a
//! service as soon as one is.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use bpf_toolchain::linker::TOOLS;

use super::apt;
use crate::command::workspace;

const PACKAGES: &[&str] = &["prometheus", "rsyslog", "rsyslog-openssl", "libestr0", "libfastjson4"];

fn folder(package: &str) -> PathBuf {
    workspace().join(TOOLS).join(package)
}

fn missing() -> impl Iterator<Item = &'static str> {
    PACKAGES.iter().copied().filter(|package| !folder(package).is_dir())
}

pub(super) fn are_here() -> bool {
    missing().next().is_none()
}

pub(super) fn fetch() -> Result<bool> {
    let mut fetched = false;
    for package in missing() {
        eprintln!(
            "setup: unpack Debian's `{package}` into `{TOOLS}`: tests have it collect what the enforcer says"
        );
        let (folder, half) = (folder(package), folder(&format!("{package}.half")));
        if half.exists() {
            fs::remove_dir_all(&half).with_context(|| format!("remove `{}`", half.display()))?;
        }
        if apt::unpack(package, &half).is_err() {
            // On a fresh system apt knows of nothing; on an old one, of packages that are not there any more.
            apt::update()?;
            apt::unpack(package, &half)?;
        }
        fs::rename(&half, &folder).with_context(|| format!("make `{}`", folder.display()))?;
        fetched = true;
    }
    Ok(fetched)
}
