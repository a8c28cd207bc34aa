//! A receiver of OpenTelemetry's that is not ours: `oteltap`, which takes protobuf alone and prints each record that it was sent.

use std::fs;
use std::process::Command;

use integration::{DEADLINE, Process, fetched, free_port, wait_until};
use serde_json::Value;

pub(crate) struct Oteltap {
    directory: tempfile::TempDir,
    pub(crate) port: u16,
    process: Option<Process>,
}

impl Oteltap {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("there is room");
        let mut oteltap = Self { directory, port: free_port(), process: None };
        oteltap.start();
        oteltap
    }

    pub(crate) fn start(&mut self) {
        let out = self.directory.path().join("out");
        let mut command = Command::new("sh");
        command.args(["-c", "exec \"$0\" --port \"$1\" >> \"$2\""]);
        command.arg(fetched("oteltap/bin/oteltap")).arg(self.port.to_string()).arg(out);
        self.process = Some(Process::spawn(command));
        wait_until(DEADLINE, "oteltap listens", || {
            std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok().then_some(())
        });
    }

    /// Kills it as nobody can catch.
    pub(crate) fn kill9(&mut self) {
        self.process = None;
    }

    /// The records that it has printed, in order.
    pub(crate) fn records(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.directory.path().join("out")).unwrap_or_default();
        // The last line may be half written, and one is of people.
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}
