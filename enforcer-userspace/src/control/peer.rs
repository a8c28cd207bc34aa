//! Who is asking: read from the kernel when a connection is accepted, and checked again at every request.
//!
//! A socket's credentials name the process that connected by a number, and numbers are given out again. So the process is
//! held by a pidfd: the kernel's own for the one that connected (`SO_PEERPIDFD`, from Linux 6.5), else one opened when the
//! connection is accepted. In the second case a number that was given out again before that would not be noticed, but for
//! a process that is younger than the connection.
//!
//! A connection can be handed on. So whoever writes is asked as well, with each read (`SO_PASSCRED`): it must be who connected.

#![expect(unsafe_code, reason = "pidfd_open and SO_PEERGROUPS have no safe wrapper")]

use std::{
    io::{self, IoSliceMut},
    os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{
        ControlMessageOwned, MsgFlags, UnixCredentials, getsockopt, recvmsg, setsockopt,
        sockopt::{PassCred, PeerPidfd},
    },
};
use tokio::net::UnixStream;

use crate::{clock, procfs};

/// The process at the other end.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) pid: u32,
    pub(crate) uid: u32,
    /// Its groups, when it connected.
    pub(crate) gids: Arc<[u32]>,
    process: Arc<OwnedFd>,
    /// The worst that was seen of who writes: a [`Writer`].
    writer: Arc<AtomicU8>,
}

/// Who wrote what came over a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Writer {
    /// Who connected, all of it.
    Peer,
    /// The kernel does not say: before Linux 6.16 of what is written between `accept` and the call that asks for it.
    Unknown,
    /// Somebody else, or somebody whom we have no number for.
    Other,
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
    pub(crate) fn of(stream: &UnixStream) -> Result<Self, PeerError> {
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
        let writer = Arc::new(AtomicU8::new(Writer::Peer as u8));
        let gids = groups(stream, credentials.gid()).map_err(|_unreadable| PeerError::Unknown)?;
        Ok(Self { pid, uid: credentials.uid(), gids, process: Arc::new(process), writer })
    }

    /// Who wrote what was read so far.
    pub(crate) fn writer(&self) -> Writer {
        match self.writer.load(Ordering::Acquire) {
            seen if seen == Writer::Peer as u8 => Writer::Peer,
            seen if seen == Writer::Unknown as u8 => Writer::Unknown,
            _ => Writer::Other,
        }
    }

    /// Reads, and remembers who wrote. The kernel gives what one process wrote in one read, and no other's with it
    /// (v6.1/net/unix/af_unix.c, unix_stream_read_generic).
    pub(super) fn read(&self, stream: &UnixStream, into: &mut [u8]) -> io::Result<usize> {
        let mut control = nix::cmsg_space!(UnixCredentials);
        let mut parts = [IoSliceMut::new(into)];
        // There is no room for descriptors, so that the kernel closes those that come along.
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
        if message.bytes == 0 {
            return Ok(0);
        }
        let sender = message.cmsgs()?.find_map(|part| match part {
            ControlMessageOwned::ScmCredentials(credentials) => u32::try_from(credentials.pid()).ok(),
            _ => None,
        });
        let writer = match sender {
            Some(pid) if pid == self.pid => Writer::Peer,
            None | Some(0) => Writer::Unknown,
            Some(_) => Writer::Other,
        };
        self.writer.fetch_max(writer as u8, Ordering::AcqRel);
        Ok(message.bytes)
    }

    /// Whether the process that connected still lives: if not, its number may be another's, and somebody else uses its
    /// connection. What was found out by the number holds only if this is true afterwards.
    pub(crate) fn is_alive(&self) -> bool {
        // A pidfd becomes readable when its process ends.
        let mut ended = [PollFd::new(self.process.as_fd(), PollFlags::POLLIN)];
        matches!(poll(&mut ended, PollTimeout::ZERO), Ok(0))
    }
}

/// Has the kernel say who writes, of a connection, or of all that a listener accepts (from Linux 6.16 on).
pub(super) fn ask_for_writers(socket: &impl std::os::fd::AsFd) -> io::Result<()> {
    Ok(setsockopt(socket, PassCred, &true)?)
}

/// Its own group, and those that it was in besides (SO_PEERGROUPS, unix(7)).
fn groups(stream: &UnixStream, own: u32) -> io::Result<Arc<[u32]>> {
    // As many as there can be: NGROUPS_MAX.
    let mut found = vec![0_u32; 64];
    loop {
        let mut bytes = libc::socklen_t::try_from(size_of_val(&found[..])).map_err(io::Error::other)?;
        let (level, name) = (libc::SOL_SOCKET, libc::SO_PEERGROUPS);
        let into: *mut libc::c_void = found.as_mut_ptr().cast();
        // SAFETY: the kernel writes no more than `bytes` to `into`, which has as many, and says how many those are.
        let asked = unsafe { libc::getsockopt(stream.as_raw_fd(), level, name, into, &raw mut bytes) };
        let count = bytes as usize / size_of::<u32>();
        if asked == 0 {
            found.truncate(count);
            found.push(own);
            return Ok(found.into());
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) || count <= found.len() {
            return Err(error);
        }
        found.resize(count, 0);
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
    /// Whether it may bring more than a session's envelope, as far as could be told when the connection was accepted.
    pub(crate) operator: bool,
}
