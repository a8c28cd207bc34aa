//! Why the daemon does not come up.

use std::{io, net::SocketAddr};

use super::super::{DaemonError, RotationError, findings::DetectionsError, granted::PolicyFileError};
use crate::{
    exit::{ExitStatus, Failure},
    host::HostError,
    kernel::{KernelError, PinError},
    key_files::KeyFileError,
    path_error::PathError,
    procfs::ProcError,
    sinks::SinksError,
    state::{AuthoritiesError, StateError},
};

/// Why the daemon did not come up. Until the kernel programs are in place nothing is left behind; after that they stay,
/// because sessions may rely on them.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("trust the keys that may sign envelopes")]
    Trust(#[from] KeyFileError),
    #[error(transparent)]
    Host(#[from] HostError),
    #[error("a daemon is already running, with pid {pid}")]
    Running { pid: String },
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error(transparent)]
    Proc(#[from] ProcError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Io(#[from] PathError),
    #[error("look up the group `{group}`")]
    Group {
        group: String,
        #[source]
        source: nix::Error,
    },
    #[error("serve metrics at `{address}`")]
    Metrics {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Sinks(#[from] SinksError),
    #[error(transparent)]
    Detections(#[from] DetectionsError),
    #[error(transparent)]
    Authorities(#[from] AuthoritiesError),
    #[error(transparent)]
    Rotation(#[from] RotationError),
    #[error(transparent)]
    Policy(#[from] PolicyFileError),
    #[error(transparent)]
    Daemon(#[from] DaemonError),
}

impl From<PinError> for StartError {
    fn from(error: PinError) -> Self {
        Self::Kernel(error.into())
    }
}

impl StartError {
    /// With exit code and hint.
    pub(crate) fn into_failure(self) -> Failure {
        let hint = match &self {
            Self::Trust(_) => Some("a trust key is the `.pub` file that `enforcer keygen` writes"),
            Self::Host(error) => Some(error.hint()),
            Self::Authorities(_) => Some(
                "put it back as it was, for root alone; or remove it: then what it signed is believed no more, and there is a new one",
            ),
            Self::Running { .. } => Some("`enforcer status` asks it how it is"),
            Self::Kernel(KernelError::Pins(PinError::NotBpffs { .. })) => {
                Some("mount one: `mount -t bpf bpf /sys/fs/bpf`, or name a directory on one with `--pin-dir`")
            }
            Self::Kernel(KernelError::Pins(PinError::Foreign { .. }) | KernelError::NotOurs { .. }) => {
                Some("name another directory with `--pin-dir`, or remove what is there")
            }
            Self::Kernel(KernelError::Abi { .. }) => Some(
                "sessions stay enforced; run the release that made the pins, or `enforcer teardown` to end enforcement",
            ),
            Self::Kernel(KernelError::Btf(_) | KernelError::Object(_) | KernelError::Program { .. }) => {
                Some("`enforcer doctor` shows what this kernel offers")
            }
            _ => None,
        };
        let status = match &self {
            Self::Running { .. } => ExitStatus::No,
            Self::Host(_)
            | Self::Kernel(
                KernelError::Btf(_)
                | KernelError::Object(_)
                | KernelError::Program { .. }
                | KernelError::Abi { .. }
                | KernelError::NotOurs { .. }
                | KernelError::Pins(PinError::NotBpffs { .. } | PinError::Foreign { .. }),
            ) => ExitStatus::Unsupported,
            _ => ExitStatus::Error,
        };
        let failure = Failure::new(status, self);
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}
