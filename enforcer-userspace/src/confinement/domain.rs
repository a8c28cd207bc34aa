//! The Landlock domain that a session's processes share: from inside it they cannot trace, read or write the memory of, or (from ABI 6
//! on) signal a process outside, nor change mounts. It restricts no access to files.
//!
//! There is no domain without something handled in it, so it handles moving files between directories, which every domain refuses
//! that does not allow it, and allows that everywhere (v6.1/security/landlock/fs.c, `check_access_path_dual`).

#![expect(unsafe_code, reason = "landlock tells the kernel's ABI only after it has restricted the process")]

use landlock::{
    AccessFs, CompatLevel, Compatible as _, PathBeneath, PathFd, Ruleset, RulesetAttr as _, RulesetCreated,
    RulesetCreatedAttr as _, RulesetStatus, Scope,
};

use super::ConfinementError;

/// What Landlock is on a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Landlock {
    /// Not built into the kernel.
    Absent,
    /// Built in, and not among the security modules of this boot.
    Disabled,
    Abi(u32),
}

/// Before it (Linux 5.19), every domain refuses to move files between directories.
const FIRST_USABLE: u32 = 2;
/// Linux 6.12.
const FIRST_WITH_SCOPES: u32 = 6;

impl Landlock {
    pub(crate) fn of_this_kernel() -> Self {
        const VERSION: u32 = 1; // LANDLOCK_CREATE_RULESET_VERSION
        let none = std::ptr::null::<libc::c_void>();
        // SAFETY: with this flag the kernel takes neither attributes nor a size, and gives back a number.
        let abi = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0_usize, VERSION) };
        match u32::try_from(abi) {
            Ok(abi) => Self::Abi(abi),
            Err(_) if std::io::Error::last_os_error().raw_os_error() == Some(libc::EOPNOTSUPP) => {
                Self::Disabled
            }
            Err(_) => Self::Absent,
        }
    }

    pub(crate) fn is_usable(self) -> bool {
        matches!(self, Self::Abi(FIRST_USABLE..))
    }

    /// What a session is not held to here, in a sentence; `None` if it is held to all.
    pub(crate) fn gap(self) -> Option<String> {
        let everything =
            "the command can trace and signal other processes of its user, outside the session too";
        match self {
            Self::Absent => Some(format!("this kernel has no Landlock: {everything}")),
            Self::Disabled => Some(format!("Landlock is not active on this kernel: {everything}")),
            Self::Abi(FIRST_WITH_SCOPES..) => None,
            Self::Abi(abi @ FIRST_USABLE..) => Some(format!(
                "Landlock of this kernel (ABI {abi}) does not hold back signals (ABI {FIRST_WITH_SCOPES}, Linux 6.12): the \
                 command can signal other processes of its user, outside the session too"
            )),
            Self::Abi(abi) => Some(format!("Landlock of this kernel (ABI {abi}) is too old: {everything}")),
        }
    }
}

/// What the domain holds back beside tracing and mounts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scopes {
    /// Connecting to abstract Unix sockets that were made outside the domain.
    pub(crate) abstract_unix: bool,
}

/// A domain that nobody is in yet.
#[derive(Debug)]
pub(super) struct Domain(RulesetCreated);

impl Domain {
    pub(super) fn make(scopes: Scopes) -> Result<Self, ConfinementError> {
        let mut scope = landlock::BitFlags::from(Scope::Signal);
        if scopes.abstract_unix {
            scope |= Scope::AbstractUnixSocket;
        }
        let root = PathFd::new("/").map_err(ConfinementError::Root)?;
        // As much of it as this kernel has: what is missing is what `Landlock::gap` says.
        let made = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::Refer)
            .and_then(|ruleset| ruleset.scope(scope))
            .and_then(Ruleset::create)
            .and_then(|ruleset| ruleset.add_rule(PathBeneath::new(root, AccessFs::Refer)));
        made.map(Self).map_err(ConfinementError::Domain)
    }

    pub(super) fn enter(self) -> Result<(), ConfinementError> {
        let status = self.0.restrict_self().map_err(ConfinementError::Enter)?;
        match status.ruleset {
            RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Ok(()),
            RulesetStatus::NotEnforced => Err(ConfinementError::NotInForce),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_kernel_lacks_is_said() {
        for (landlock, usable, says) in [
            (Landlock::Absent, false, Some("has no Landlock")),
            (Landlock::Disabled, false, Some("not active")),
            (Landlock::Abi(1), false, Some("too old")),
            (Landlock::Abi(2), true, Some("ABI 2")),
            (Landlock::Abi(5), true, Some("can signal")),
            (Landlock::Abi(6), true, None),
            (Landlock::Abi(99), true, None),
        ] {
            assert_eq!(landlock.is_usable(), usable, "{landlock:?}");
            let gap = landlock.gap();
            assert_eq!(gap.is_some(), says.is_some(), "{gap:?}");
            assert!(gap.unwrap_or_default().contains(says.unwrap_or_default()), "{landlock:?}");
        }
    }
}
