//! Who is asking: read from the kernel when a connection is accepted, and checked again at every request.

use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use tokio::net::UnixListener;

use crate::{clock, procfs};

/// The process at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) pid: u32,
    pub(crate) uid: u32,
    /// In clock ticks on the boot clock: with the pid, one process.
    start_ticks: u64,
}

/// Why a connection's peer cannot be known.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum PeerError {
    #[error("the kernel does not say who is at the other end of the connection")]
    Unknown,
    #[error("the process that made the connection is gone")]
    Gone,
}

impl Peer {
    /// The process that connected, from the socket's credentials. They name it by a number that may have been given to
    /// another process since; one that started after the connection was accepted cannot have made it.
    fn of(stream: &tokio::net::UnixStream) -> Result<Self, PeerError> {
        let credentials = stream.peer_cred().map_err(|_unreadable| PeerError::Unknown)?;
        let pid = credentials.pid().and_then(|pid| u32::try_from(pid).ok()).ok_or(PeerError::Unknown)?;
        let accepted_ticks = clock::boot_ns() / (1_000_000_000 / procfs::TICKS_PER_SECOND);
        match procfs::start_ticks(pid) {
            Ok(Some(start_ticks)) if start_ticks <= accepted_ticks => {
                Ok(Self { pid, uid: credentials.uid(), start_ticks })
            }
            Ok(_) => Err(PeerError::Gone),
            Err(_unreadable) => Err(PeerError::Unknown),
        }
    }

    /// Whether the process that connected still lives: if not, somebody else uses its connection.
    pub(crate) fn is_alive(&self) -> bool {
        matches!(procfs::start_ticks(self.pid), Ok(Some(ticks)) if ticks == self.start_ticks)
    }
}

/// The peer of a connection, as the handlers get it.
#[derive(Clone, Debug)]
pub(crate) struct PeerInfo(pub(crate) Result<Peer, PeerError>);

impl Connected<IncomingStream<'_, UnixListener>> for PeerInfo {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self(Peer::of(stream.io()))
    }
}
