//! Where sessions get credentials.

use std::path::{Path, PathBuf};
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

/// The Python that has the libraries.
pub fn spiffe_python() -> String {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let python = workspace.join("target/tools/spiffe-clients/bin/python");
    assert!(python.is_file(), "no {}: `cargo xtask setup` makes it", python.display());
    python.display().to_string()
}

/// A program that asks for credentials with these, and does what the arguments say.
pub fn spiffe_client(arguments: &[&str]) -> Vec<String> {
    let python = spiffe_python();
    let words =
        [&[python.as_str(), "-c", include_str!("../tests/credentials/client.py")], arguments].concat();
    words.into_iter().map(str::to_owned).collect()
}
