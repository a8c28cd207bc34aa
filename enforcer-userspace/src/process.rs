//! Processes and the kernel: one that is held by a descriptor of the kernel's (a pidfd): what is done to it is done to this one, though its number may be
//! given out again; and this one's place among all.

#![expect(unsafe_code, reason = "pidfd_open, pidfd_send_signal and setpriority have no safe wrapper")]

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd},
    ptr,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Why a process could not be held, or signalled.
#[derive(Debug, thiserror::Error)]
#[error("{action} process {pid}")]
pub(crate) struct ProcessError {
    action: &'static str,
    pid: u32,
    #[source]
    source: io::Error,
}

/// How nice the daemon is, and who tells it to end a session: one process of this niceness gets nine times what one of niceness 0 does
/// (Linux, `sched_prio_to_weight`).
const OUR_NICENESS: i32 = -10;

/// Puts this process before those of sessions where processors are short: twenty that fork all the while must not keep the daemon from
/// hearing of it, and from ending them. With autogroups (sched(7)) it counts among the processes of one terminal or unit only.
pub(crate) fn go_before_others() -> io::Result<()> {
    // SAFETY: a system call that takes three numbers; 0 is the caller.
    match unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, OUR_NICENESS) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A process, whatever becomes of its number.
#[derive(Debug)]
pub(crate) struct Process {
    pid: u32,
    pidfd: OwnedFd,
}

impl Process {
    /// Whoever has the number now; nothing if nobody has. Who it is, is to be asked by the number, before [`Self::is_alive`].
    pub(crate) fn hold(pid: u32) -> Result<Option<Self>, ProcessError> {
        // SAFETY: a system call that takes two numbers.
        let opened = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let Some(fd) = i32::try_from(opened).ok().filter(|fd| *fd >= 0) else {
            let source = io::Error::last_os_error();
            return match source.raw_os_error() {
                // Nobody, or a thread of another process; which of them, kernels say differently.
                Some(libc::ESRCH | libc::EINVAL | libc::ENOENT) => Ok(None),
                _ => Err(ProcessError { action: "take hold of", pid, source }),
            };
        };
        // SAFETY: a descriptor that was just opened, and that nobody else owns.
        Ok(Some(Self { pid, pidfd: unsafe { OwnedFd::from_raw_fd(fd) } }))
    }

    /// Whether it lives: what was asked by its number until now was asked of it, then.
    pub(crate) fn is_alive(&self) -> bool {
        // A pidfd becomes readable when its process ends.
        let mut ended = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        matches!(poll(&mut ended, PollTimeout::ZERO), Ok(0))
    }

    /// Has the kernel end it. One that has ended meanwhile is no failure.
    pub(crate) fn kill(&self) -> Result<(), ProcessError> {
        self.signal("kill", libc::SIGKILL)
    }

    /// Lets it go on after it was stopped, likewise.
    pub(crate) fn let_go_on(&self) -> Result<(), ProcessError> {
        self.signal("let go on", libc::SIGCONT)
    }

    fn signal(&self, action: &'static str, signal: i32) -> Result<(), ProcessError> {
        let fd = self.pidfd.as_raw_fd();
        let no_details: *const libc::siginfo_t = ptr::null();
        // SAFETY: a descriptor of ours, numbers, and a pointer that may be null.
        let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, no_details, 0) };
        if sent == 0 {
            return Ok(());
        }
        match io::Error::last_os_error() {
            source if source.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            source => Err(ProcessError { action, pid: self.pid, source }),
        }
    }
}
