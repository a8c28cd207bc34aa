//! What is not a socket, and leads to somebody outside all the same.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use crate::context::{Context, MAILBOX};
use crate::sys::{self, At as _, Attempt};

pub(crate) const CORE_PATTERN: &str = "/proc/sys/kernel/core_pattern";

/// A named pipe that somebody reads.
pub(crate) fn fifo(context: &Context) -> Attempt {
    let mut fifo = File::options().write(true).open(context.dir.join("fifo")).at("open")?;
    fifo.write_all(context.magic()).at("write")
}

/// A file that somebody looks into.
pub(crate) fn file(context: &Context) -> Attempt {
    fs::write(context.dir.join("drop"), context.magic()).at("write")
}

pub(crate) fn message_queue(context: &Context) -> Attempt {
    // SAFETY: takes no pointer.
    let queue = unsafe { libc::msgget(MAILBOX.cast_signed(), 0) };
    let queue = sys::check("msgget", queue as isize)?;
    let mut message = 1_u64.to_ne_bytes().to_vec();
    message.extend(context.magic());
    // SAFETY: a word for the type, then the text, whose length is given.
    let sent = unsafe { libc::msgsnd(queue as i32, message.as_ptr().cast(), context.magic.len(), 0) };
    sys::check("msgsnd", sent as isize).map(drop)
}

/// Types into the terminal that it shares with whoever started it, and who reads that when the attempt has ended.
pub(crate) fn terminal_input(context: &Context) -> Attempt {
    for byte in context.magic().iter().chain(b"\n") {
        // SAFETY: the call reads one byte, which outlives it.
        let typed = unsafe { libc::ioctl(0, libc::TIOCSTI, std::ptr::from_ref(byte)) };
        sys::check("TIOCSTI", typed as isize)?;
    }
    Ok(())
}

/// A program that runs as its owner: root, who may open what the attacker may not.
pub(crate) fn set_user_id(context: &Context) -> Attempt {
    run_other(context, "set-user-id")
}

/// The same by a capability on the file.
pub(crate) fn file_capability(context: &Context) -> Attempt {
    run_other(context, "with-capability")
}

/// The kernel starts this program for a process that dumps core, as root and in no session.
pub(crate) fn core_pattern(context: &Context) -> Attempt {
    fs::write(CORE_PATTERN, format!("core.{}", context.magic)).at("write core_pattern")
}

fn run_other(context: &Context, file: &str) -> Attempt {
    let text = serde_json::to_string(context).map_err(std::io::Error::from).at("write")?;
    let program = context.dir.join(file);
    Err(Command::new(Path::new(&program)).args(["attempt", "packet-datagram", &text]).exec()).at("execve")
}
