//! The daemon, asked by a process that it holds.

use std::io;
use std::process::{Command, Stdio};

use crate::context::Context;
use crate::sys::{At as _, Attempt};

/// A second session, of an envelope that allows everything.
pub(crate) fn enrol_again(context: &Context) -> Attempt {
    let text = serde_json::to_string(context).map_err(io::Error::from).at("write")?;
    let own = std::env::current_exe().at("readlink")?.display().to_string();
    let envelope = context.wide_envelope.display().to_string();
    ask(context, &["run", "--envelope", &envelope, "--", &own, "attempt", "tcp-connect4", &text])
}

/// The end of all enforcement.
pub(crate) fn teardown(context: &Context) -> Attempt {
    ask(context, &["teardown"])
}

fn ask(context: &Context, arguments: &[&str]) -> Attempt {
    let mut command = Command::new(&context.enforcer);
    let status = command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).status().at("execve")?;
    if status.success() {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::EACCES)).at("ask the daemon")
    }
}

/// Whether the beginning of an answer says yes.
pub(crate) fn accepted(answer: &[u8]) -> Attempt {
    if answer.starts_with(b"HTTP/1.1 2") {
        return Ok(());
    }
    Err(io::Error::from_raw_os_error(libc::EACCES)).at("ask the daemon")
}
