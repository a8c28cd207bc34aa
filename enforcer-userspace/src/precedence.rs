//! Who goes first where processors are short: the daemon before sessions, and what is no part of enforcing beside everybody else or
//! behind them.

#![expect(unsafe_code, reason = "setpriority has no safe wrapper")]

use std::io;

/// How nice the daemon is, and who tells it to end a session: one process of this niceness gets nine times what one of niceness 0 does
/// (Linux, `sched_prio_to_weight`).
const OURS: i32 = -10;

/// Puts this process before those of sessions: twenty that fork all the while must not keep the daemon from hearing of it, and from
/// ending them. With autogroups (sched(7)) it counts among the processes of one terminal or unit only.
pub(crate) fn go_before_others() -> io::Result<()> {
    become_as_nice_as(OURS)
}

/// For a thread that says what happened: neither before nor behind other processes.
pub(crate) fn go_with_others() {
    step_back(0);
}

/// For a thread whose work may wait.
pub(crate) fn go_behind_others() {
    step_back(10);
}

fn step_back(niceness: i32) {
    if let Err(error) = become_as_nice_as(niceness) {
        eprintln!("warning: go no more before other processes: {error}");
    }
}

/// The calling thread, and those that it starts: to Linux a niceness is a thread's (setpriority(2)).
fn become_as_nice_as(niceness: i32) -> io::Result<()> {
    // SAFETY: a system call that takes three numbers; 0 is the caller.
    match unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, niceness) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
