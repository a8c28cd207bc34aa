//! Processes that are held by a descriptor of the kernel's (a pidfd): what is done to one is done to this one, though its number may be
//! given out again.

#![expect(unsafe_code, reason = "pidfd_open and pidfd_send_signal have no safe wrapper")]

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
