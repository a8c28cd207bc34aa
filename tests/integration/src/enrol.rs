//! Enrolling without `enforcer run`, which takes more from its command than the kernel side does.

use std::fmt::Display;

use crate::{Daemon, Process};

/// Speaks to the control socket by itself, and becomes the command.
const SCRIPT: &str = r#"
import json, os, socket, sys
path, envelope = sys.argv[1:3]
body = json.dumps({"envelope": open(envelope).read(), "command": sys.argv[3:]})
for _ in range(8):
    control = socket.socket(socket.AF_UNIX)
    control.connect(path)
    control.sendall(f"POST /v1/sessions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode())
    answer = control.recv(65536)
    # Before Linux 6.16 the kernel does not say who wrote what arrives before the daemon has asked for that.
    if not answer.startswith(b"HTTP/1.1 503"):
        break
if not answer.startswith(b"HTTP/1.1 201"):
    sys.exit(answer.decode())
control.close()
os.execvp(sys.argv[3], sys.argv[3:])
"#;

impl Daemon {
    /// Runs a program in a session of its own, with all the privileges of the test: held by nothing but the kernel's programs.
    #[track_caller]
    pub fn run_bare(&self, envelope: impl Display, command: &[impl AsRef<std::ffi::OsStr>]) -> Process {
        let layout = self.layout();
        let mut python = std::process::Command::new("python3");
        python.args(["-c", SCRIPT]).arg(layout.socket()).arg(layout.write_envelope(envelope)).args(command);
        Process::spawn(python)
    }
}
