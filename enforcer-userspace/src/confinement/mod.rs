//! What a session's processes can no longer do, whatever hooks the host has: capabilities, system calls, and a Landlock domain.
//!
//! `run` puts it on itself after enrolment, and everything it executes has it for life: nothing here can be taken off again. It
//! is the line of defence for what no cgroup hook sees (other families of sockets, other processes, the kernel's own controls).
//! It judges no destination, and what it refuses is refused without a record. `docs/confinement.md` says what is refused and why.

mod capabilities;
mod domain;
mod filter;

pub(crate) use capabilities::{limit_bounding, limit_own};
pub(crate) use domain::{Landlock, Scopes};
pub(crate) use filter::available as seccomp_available;

/// What could not be put on. The command is not executed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfinementError {
    #[error("this kernel has no seccomp filters, without which a session could open any kind of socket")]
    NoSeccomp,
    #[error("compile the seccomp filter")]
    Compile(#[source] seccompiler::BackendError),
    #[error("install the seccomp filter")]
    Install(#[source] seccompiler::Error),
    #[error("make a Landlock domain")]
    Domain(#[source] landlock::RulesetError),
    #[error("open `/` for a Landlock domain")]
    Root(#[source] landlock::PathFdError),
    #[error("enter the Landlock domain")]
    Enter(#[source] landlock::RulesetError),
    #[error("the kernel did not put the Landlock domain in force")]
    NotInForce,
    #[error("give up capabilities")]
    Capabilities(#[source] std::io::Error),
}

/// Everything that is put on a process, made but not in force yet.
#[derive(Debug)]
pub(crate) struct Confinement {
    domain: Option<domain::Domain>,
    filter: filter::Filter,
    gap: Option<String>,
}

impl Confinement {
    /// Makes it, with nothing in force yet: what this host cannot do is known before a session begins.
    pub(crate) fn prepare(scopes: Scopes) -> Result<Self, ConfinementError> {
        let filter = filter::Filter::compile()?;
        if !filter::available() {
            return Err(ConfinementError::NoSeccomp);
        }
        let landlock = Landlock::of_this_kernel();
        let domain = landlock.is_usable().then(|| domain::Domain::make(scopes)).transpose()?;
        Ok(Self { domain, filter, gap: landlock.gap() })
    }

    /// What this kernel cannot hold a session to, in a sentence; `None` if there is nothing.
    pub(crate) fn gap(&self) -> Option<&str> {
        self.gap.as_deref()
    }

    /// Puts it on this process, for good. Needs `no_new_privs`; the filter comes last, since it refuses calls as soon as it is there.
    pub(crate) fn enter(self) -> Result<(), ConfinementError> {
        if let Some(domain) = self.domain {
            domain.enter()?;
        }
        self.filter.install()
    }
}
