//! What this host must offer before anything is done.

use std::path::PathBuf;

use crate::{
    kernel::{self, OffsetError},
    procfs::{self, ProcError},
};

/// What this host lacks.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HostError {
    #[error("this needs root")]
    NotRoot,
    #[error("the capability {name} is missing")]
    NoCapability { name: &'static str },
    #[error("no cgroup v2 hierarchy is mounted")]
    NoCgroup2,
    #[error("the daemon runs in a {namespaces} namespace of its own, where it does not see the whole host")]
    Namespaced { namespaces: String },
    #[error(transparent)]
    Offsets(#[from] OffsetError),
    #[error(transparent)]
    Proc(#[from] ProcError),
}

impl HostError {
    /// What the operator can do about it.
    pub(crate) const fn hint(&self) -> &'static str {
        match self {
            Self::NotRoot => "run it as root, for example with `sudo`",
            Self::NoCapability { .. } => {
                "root in a container is not root: run the daemon with the host's capabilities"
            }
            Self::NoCgroup2 => "mount it: `mount -t cgroup2 none /sys/fs/cgroup/unified`",
            Self::Namespaced { .. } => "run the daemon on the host itself, not in a container",
            Self::Offsets(_) => {
                "boot a kernel with CONFIG_DEBUG_INFO_BTF=y; `enforcer doctor` shows what else is needed"
            }
            Self::Proc(_) => "is /proc mounted?",
        }
    }
}

/// What the daemon needs to know of the host.
#[derive(Debug)]
pub(crate) struct Host {
    /// The root of the cgroup v2 hierarchy.
    pub(crate) cgroup_root: PathBuf,
    pub(crate) offsets: enforcer_common::config::Offsets,
    /// What the guard reads; or why there can be none, as far as can be told without a try.
    pub(crate) guard: Result<enforcer_common::config::GuardOffsets, String>,
    /// Room for tagged processes.
    pub(crate) max_tasks: u32,
    pub(crate) release: String,
    /// What it calls itself.
    pub(crate) name: String,
    pub(crate) boot_id: String,
}

/// The most processes that can be tagged at a time, whatever `kernel.pid_max` is: 24 MiB of kernel memory.
const MAX_TASKS: u32 = 262_144;

/// Looks at the host; the first thing that is missing is the error.
pub(crate) fn inspect() -> Result<Host, HostError> {
    if !nix::unistd::geteuid().is_root() {
        return Err(HostError::NotRoot);
    }
    let capabilities = procfs::effective_capabilities()?;
    // CAP_SYS_ADMIN stands for CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN, which loading and attaching ask for by name.
    // Numbers from v6.1/include/uapi/linux/capability.h.
    let needed = [(21, "CAP_SYS_ADMIN"), (1, "CAP_DAC_OVERRIDE")];
    if let Some((_, name)) = needed.iter().find(|(bit, _)| capabilities & (1 << bit) == 0) {
        return Err(HostError::NoCapability { name });
    }
    let namespaces = procfs::foreign_namespaces()?;
    if !namespaces.is_empty() {
        return Err(HostError::Namespaced { namespaces: namespaces.join(", ") });
    }
    Ok(Host {
        cgroup_root: procfs::cgroup2_mount()?.ok_or(HostError::NoCgroup2)?,
        offsets: kernel::kernel_offsets()?,
        guard: inspect_guard(),
        max_tasks: procfs::pid_max()?.clamp(1024, MAX_TASKS),
        release: procfs::kernel_release()?,
        name: procfs::host_name()?,
        boot_id: procfs::boot_id()?,
    })
}

/// What the guard reads of the kernel, unless it is clear that the kernel would not run it. That BPF is listed among the security
/// modules is not enough, and where the list cannot be read there may be one all the same: what counts is whether it runs.
pub(crate) fn inspect_guard() -> Result<enforcer_common::config::GuardOffsets, String> {
    match procfs::security_modules() {
        Ok(modules) if !modules.split(',').any(|module| module == "bpf") => {
            Err(format!("BPF is not among the kernel's security modules: {modules}"))
        }
        _ => kernel::guard_offsets().map_err(|error| error.to_string()),
    }
}
