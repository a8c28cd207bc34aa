//! Who is asking: read from the kernel when a connection is accepted, and checked again at every request.
//!
//! A socket's credentials name the process that connected by a number, and numbers are given out again. So the process is
//! held by a pidfd: the kernel's own for the one that connected (`SO_PEERPIDFD`, from Linux 6.5), else one opened when the
//! connection is accepted. In the second case a number that was given out again before that would not be noticed, but for
//! a process that is younger than the connection.

#![expect(unsafe_code, reason = "pidfd_open has no safe wrapper")]

use std::{
    os::fd::{AsFd as _, FromRawFd as _, OwnedFd},
    sync::Arc,
};

use axum::{extract::connect_info::Connected, serve::IncomingStream};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{getsockopt, sockopt::PeerPidfd},
};
use tokio::net::UnixStream;

use super::gate::Gate;
use crate::{clock, procfs};

/// The process at the other end.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) pid: u32,
    pub(crate) uid: u32,
    process: Arc<OwnedFd>,
}

/// Why a connection's peer cannot be known.
#[derive(Debug, Clone, Copy, thiserror::Error)]
pub(crate) enum PeerError {
    #[error("the kernel does not say who is at the other end of the connection")]
    Unknown,
    #[error("the process that made the connection is gone")]
    Gone,
}

impl Peer {
    /// The process that connected.
    pub(super) fn of(stream: &UnixStream) -> Result<Self, PeerError> {
        let credentials = stream.peer_cred().map_err(|_unreadable| PeerError::Unknown)?;
        let process = match getsockopt(stream, PeerPidfd) {
            Ok(pidfd) => pidfd,
            Err(Errno::ENOPROTOOPT) => {
                let pid = credentials.pid().and_then(|pid| u32::try_from(pid).ok());
                open_older_than_now(pid.ok_or(PeerError::Unknown)?)?
            }
            Err(Errno::ESRCH | Errno::EINVAL) => return Err(PeerError::Gone),
            Err(_) => return Err(PeerError::Unknown),
        };
        let pid =
            procfs::pid_of(&process).map_err(|_unreadable| PeerError::Unknown)?.ok_or(PeerError::Gone)?;
        Ok(Self { pid, uid: credentials.uid(), process: Arc::new(process) })
    }

    /// Whether the process that connected still lives: if not, its number may be another's, and somebody else uses its
    /// connection. What was found out by the number holds only if this is true afterwards.
    pub(crate) fn is_alive(&self) -> bool {
        // A pidfd becomes readable when its process ends.
        let mut ended = [PollFd::new(self.process.as_fd(), PollFlags::POLLIN)];
        matches!(poll(&mut ended, PollTimeout::ZERO), Ok(0))
    }
}

/// Takes hold of a process by its number, if it started before now.
fn open_older_than_now(pid: u32) -> Result<OwnedFd, PeerError> {
    let now_ticks = clock::boot_ns() / (1_000_000_000 / procfs::TICKS_PER_SECOND);
    // SAFETY: a system call that takes two numbers.
    let opened = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let opened = i32::try_from(opened).ok().filter(|fd| *fd >= 0).ok_or(PeerError::Gone)?;
    // SAFETY: a descriptor that was just opened, and that nobody else owns.
    let process = unsafe { OwnedFd::from_raw_fd(opened) };
    match procfs::start_ticks(pid) {
        Ok(Some(start_ticks)) if start_ticks <= now_ticks => Ok(process),
        Ok(_) => Err(PeerError::Gone),
        Err(_unreadable) => Err(PeerError::Unknown),
    }
}

/// The peer of a connection, as the handlers get it.
#[derive(Clone, Debug)]
pub(crate) struct PeerInfo {
    pub(crate) peer: Result<Peer, PeerError>,
    /// In a session, as far as could be told when the connection was accepted.
    pub(crate) inside: bool,
}

impl Connected<IncomingStream<'_, Gate>> for PeerInfo {
    fn connect_info(stream: IncomingStream<'_, Gate>) -> Self {
        Self { peer: stream.io().peer.clone(), inside: stream.io().inside }
    }
}
