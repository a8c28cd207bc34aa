//! Processes in a cgroup that is named as a container engine names one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Process, cgroup, tool::sha256, wrap};

/// A cgroup as Docker names that of a container.
#[derive(Debug)]
pub struct InContainer {
    path: PathBuf,
    id: String,
}

impl InContainer {
    /// One that no other test has.
    ///
    /// # Panics
    /// If it cannot be made: not as root.
    #[must_use]
    #[track_caller]
    #[expect(clippy::new_without_default, reason = "it makes a cgroup")]
    pub fn new() -> Self {
        let id = sha256(Path::new("/proc/sys/kernel/random/uuid"));
        let path = cgroup::root().join(format!("docker-{id}.scope"));
        fs::create_dir(&path).expect("the test runs as root");
        Self { path, id }
    }

    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs a command in it.
    #[track_caller]
    pub fn run(&self, command: &Command) -> Process {
        let mut process = Process::spawn(wrap(&["sh", "-c", "read go; exec \"$@\"", "sh"], command));
        fs::write(self.path.join("cgroup.procs"), process.pid().to_string()).expect("it can be moved");
        process.write_line("go");
        process
    }
}

impl Drop for InContainer {
    fn drop(&mut self) {
        cgroup::kill_members(&self.path);
        cgroup::wait_empty(&self.path);
        cgroup::remove(&self.path);
    }
}
