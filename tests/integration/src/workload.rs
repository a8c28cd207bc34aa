//! Where sessions get credentials.

use std::path::PathBuf;
use std::process::Command;

use crate::{Layout, Process};

impl Layout {
    pub fn workload_socket(&self) -> PathBuf {
        self.run_dir().join("workload.sock")
    }

    /// A program outside any session that knows where sessions get credentials.
    pub fn workload_client(&self, words: &[String]) -> Process {
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        command.env("SPIFFE_ENDPOINT_SOCKET", format!("unix://{}", self.workload_socket().display()));
        Process::spawn(command)
    }
}
