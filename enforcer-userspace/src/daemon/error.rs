//! What can go wrong while the daemon runs.

use std::io;

use super::RotationError;
use crate::{
    kernel::{KernelError, MapsError},
    path_error::PathError,
    process::ProcessError,
    procfs::ProcError,
    signature::KeyError,
    state::StateError,
};

/// What went wrong while the daemon ran. The kernel goes on enforcing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DaemonError {
    #[error("wait for records")]
    Records(#[source] io::Error),
    #[error(transparent)]
    Maps(#[from] MapsError),
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Proc(#[from] ProcError),
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error(transparent)]
    Path(#[from] PathError),
    #[error(transparent)]
    Rotation(#[from] RotationError),
    #[error("write the metrics down")]
    Metrics,
    #[error("state what a session is given")]
    Grant(#[from] KeyError),
}
