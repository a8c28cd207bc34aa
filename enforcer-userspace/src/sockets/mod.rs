//! Open sockets of sessions: the only code that asks the kernel for them, and that destroys them. In each network namespace that a
//! session uses, the kernel's socket diagnosis (sock_diag) lists TCP and UDP sockets with the cgroup that they were made in.
//!
//! That a session sends nothing more is not done here: the packet gate sees to it from the moment that the control word is
//! stored. This tells programs, and the far ends of their connections.

mod diag;

use std::{
    collections::{BTreeMap, HashSet},
    fs::File,
    io,
    os::fd::OwnedFd,
    thread,
    time::{Duration, Instant},
};

use enforcer_common::net::Protocol;
use nix::sched::{CloneFlags, setns};

use diag::Diagnosis;
pub(crate) use diag::{DiagError, Flow};

/// Why sockets could not be listed or destroyed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SocketError {
    #[error("start a thread")]
    Thread(#[source] io::Error),
    #[error("enter the network namespace {inode}")]
    Enter {
        inode: u32,
        #[source]
        source: nix::Error,
    },
    #[error("the sockets of network namespace {inode}")]
    Diag {
        inode: u32,
        #[source]
        source: DiagError,
    },
    #[error("the thread has ended without an answer")]
    Ended,
}

/// Network namespaces by their inodes, each held open.
#[derive(Debug, Default)]
pub(crate) struct Namespaces(BTreeMap<u32, File>);

impl Namespaces {
    pub(crate) fn insert(&mut self, inode: u32, namespace: File) {
        self.0.entry(inode).or_insert(namespace);
    }

    pub(crate) fn contains(&self, inode: u32) -> bool {
        self.0.contains_key(&inode)
    }
}

/// Which sockets are meant: those made in these cgroups, and these.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) cgroups: HashSet<u64>,
    pub(crate) cookies: HashSet<u64>,
}

/// What became of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cut {
    /// Sockets that were there and are not any more.
    pub(crate) destroyed: u64,
    /// Those that are there still: the kernel would not destroy them. Nothing of theirs leaves.
    pub(crate) left: u64,
    pub(crate) namespaces: usize,
    pub(crate) took: Duration,
    /// What went wrong in some namespace.
    pub(crate) errors: Vec<String>,
}

/// Destroys sockets for which `is_outside` says so, in every namespace. What fails in one does not keep the others from being
/// seen to.
pub(crate) fn destroy(
    namespaces: &Namespaces,
    wanted: &Wanted,
    is_outside: impl Fn(&Flow) -> bool + Sync,
) -> Cut {
    let began = Instant::now();
    let mut cut = Cut { namespaces: namespaces.0.len(), ..Cut::default() };
    for (inode, namespace) in &namespaces.0 {
        match inside(*inode, namespace, |diagnosis| destroy_here(diagnosis, wanted, &is_outside)) {
            Ok((destroyed, left)) => {
                cut.destroyed += destroyed;
                cut.left += left;
            }
            Err(error) => cut.errors.push(crate::exit::one_line(&error)),
        }
    }
    cut.took = began.elapsed();
    cut
}

/// The wanted sockets of every namespace, by cookie; and what went wrong in some.
pub(crate) fn list(namespaces: &Namespaces, wanted: &Wanted) -> (BTreeMap<u64, Flow>, Vec<String>) {
    let mut found = BTreeMap::new();
    let mut errors = Vec::new();
    for (inode, namespace) in &namespaces.0 {
        match inside(*inode, namespace, |diagnosis| diagnosis.list(wanted)) {
            Ok(sockets) => found.extend(sockets.into_iter().map(|socket| (socket.cookie, socket.flow))),
            Err(error) => errors.push(crate::exit::one_line(&error)),
        }
    }
    (found, errors)
}

/// Sockets that were destroyed, and those that are left.
fn destroy_here(
    diagnosis: &mut Diagnosis,
    wanted: &Wanted,
    is_outside: &(impl Fn(&Flow) -> bool + Sync),
) -> Result<(u64, u64), DiagError> {
    // A connection that was being accepted or cloned meanwhile shows up in the second look.
    const LOOKS: usize = 3;
    let meant = |diagnosis: &mut Diagnosis| {
        let mut sockets = diagnosis.list(wanted)?;
        sockets.retain(|socket| is_outside(&socket.flow));
        Ok::<_, DiagError>(sockets)
    };
    let mut seen = HashSet::new();
    for _ in 0..LOOKS {
        let sockets = meant(diagnosis)?;
        let before = seen.len();
        seen.extend(sockets.iter().map(|socket| socket.cookie));
        if seen.len() == before {
            break;
        }
        diagnosis.destroy(&sockets)?;
    }
    // A datagram socket that is bound stays so, without a far end: there is nothing more to destroy.
    let is_left =
        |socket: &diag::Found| socket.flow.protocol != Protocol::Udp || socket.flow.remote.port() != 0;
    let left = meant(diagnosis)?.iter().filter(|socket| is_left(socket)).count() as u64;
    Ok(((seen.len() as u64).saturating_sub(left), left))
}

/// Does something in a network namespace: in a thread of its own, which is not used for anything else.
fn inside<T: Send>(
    inode: u32,
    namespace: &File,
    work: impl FnOnce(&mut Diagnosis) -> Result<T, DiagError> + Send,
) -> Result<T, SocketError> {
    let there = || {
        setns(namespace, CloneFlags::CLONE_NEWNET).map_err(|source| SocketError::Enter { inode, source })?;
        Diagnosis::open()
            .and_then(|mut diagnosis| work(&mut diagnosis))
            .map_err(|source| SocketError::Diag { inode, source })
    };
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("sockets".to_owned()).spawn_scoped(scope, there);
        thread.map_err(SocketError::Thread)?.join().unwrap_or(Err(SocketError::Ended))
    })
}

/// The network namespace that a process's socket is in, if the process and the socket are still there.
pub(crate) fn namespace_of(pid: u32, fd: u32) -> Option<File> {
    diag::namespace_of(pid, fd).map(|namespace: OwnedFd| File::from(namespace))
}
