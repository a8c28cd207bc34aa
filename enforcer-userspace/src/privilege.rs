//! What `run` gives up between enrolment and execution: file descriptors, the user, the way back to privileges. The rest is in
//! `confinement`.

#![expect(unsafe_code, reason = "close_range has no safe wrapper")]

use std::{
    os::fd::{AsRawFd as _, BorrowedFd},
    path::Path,
};

use nix::{
    sys::{
        prctl,
        socket::{AddressFamily, SockaddrLike as _, SockaddrStorage, UnixAddr, getpeername, getsockname},
    },
    unistd::{Gid, Uid, User, initgroups, setresgid, setresuid},
};

/// What could not be given up. The command is not executed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrivilegeError {
    #[error("there is no user `{name}`")]
    NoUser { name: String },
    #[error("look up the user `{name}`")]
    Lookup {
        name: String,
        #[source]
        source: nix::Error,
    },
    #[error("become the user `{name}`")]
    Become {
        name: String,
        #[source]
        source: nix::Error,
    },
    #[error("give up gaining privileges (no_new_privs)")]
    NoNewPrivileges(#[source] nix::Error),
    #[error("close inherited file descriptors")]
    Close(#[source] std::io::Error),
    #[error("{stream} is a network socket, which would be a way out that no rule covers")]
    Socket { stream: &'static str },
    #[error("{stream} is a connection to the daemon, which a session must not have")]
    Control { stream: &'static str },
}

/// Finds a user by name or number.
pub(crate) fn find_user(name: &str) -> Result<User, PrivilegeError> {
    let lookup = |source| PrivilegeError::Lookup { name: name.to_owned(), source };
    let found = match name.parse::<u32>() {
        Ok(uid) => User::from_uid(Uid::from_raw(uid)),
        Err(_) => User::from_name(name),
    };
    found.map_err(lookup)?.ok_or_else(|| PrivilegeError::NoUser { name: name.to_owned() })
}

/// Refuses standard streams that are network sockets, since a connected socket that is passed in was not judged by any hook, and
/// connections to the daemon, which were made by somebody who may operate it.
pub(crate) fn check_streams(control: &Path) -> Result<(), PrivilegeError> {
    let streams: [(&'static str, BorrowedFd<'_>); 3] = [
        // SAFETY: the standard streams are open for the life of the process (the runtime opens those that are not).
        ("standard input", unsafe { BorrowedFd::borrow_raw(libc::STDIN_FILENO) }),
        // SAFETY: as above.
        ("standard output", unsafe { BorrowedFd::borrow_raw(libc::STDOUT_FILENO) }),
        // SAFETY: as above.
        ("standard error", unsafe { BorrowedFd::borrow_raw(libc::STDERR_FILENO) }),
    ];
    for (stream, fd) in streams {
        // Not a socket: no name.
        let name = getsockname::<SockaddrStorage>(fd.as_raw_fd());
        if name.is_ok_and(|name| name.family() != Some(AddressFamily::Unix)) {
            return Err(PrivilegeError::Socket { stream });
        }
        let peer = getpeername::<UnixAddr>(fd.as_raw_fd());
        if peer.is_ok_and(|peer| peer.path() == Some(control)) {
            return Err(PrivilegeError::Control { stream });
        }
    }
    Ok(())
}

/// Marks every file descriptor above the standard streams to be closed on execution.
pub(crate) fn close_inherited() -> Result<(), PrivilegeError> {
    let first = u32::try_from(libc::STDERR_FILENO + 1).unwrap_or(3);
    // SAFETY: changes flags of descriptors only; none is closed before the execution that replaces this program.
    let done = unsafe { libc::close_range(first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC.cast_signed()) };
    if done == 0 { Ok(()) } else { Err(PrivilegeError::Close(std::io::Error::last_os_error())) }
}

/// Gives up gaining privileges by execution, for this process and all it makes.
pub(crate) fn no_new_privileges() -> Result<(), PrivilegeError> {
    prctl::set_no_new_privs().map_err(PrivilegeError::NoNewPrivileges)
}

/// Becomes another user, with that user's groups and none of ours.
pub(crate) fn become_user(user: &User) -> Result<(), PrivilegeError> {
    let failed = |source| PrivilegeError::Become { name: user.name.clone(), source };
    let name = std::ffi::CString::new(user.name.as_str()).map_err(|_| failed(nix::Error::EINVAL))?;
    initgroups(&name, user.gid).map_err(failed)?;
    let (uid, gid): (Uid, Gid) = (user.uid, user.gid);
    setresgid(gid, gid, gid).map_err(failed)?;
    setresuid(uid, uid, uid).map_err(failed)
}
