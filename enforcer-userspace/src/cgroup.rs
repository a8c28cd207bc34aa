//! The only code that opens the cgroup tree. Each session has a cgroup of its own, below one parent.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// What went wrong in the cgroup tree.
#[derive(Debug, thiserror::Error)]
#[error("{action} the cgroup `{}`", path.display())]
pub(crate) struct CgroupError {
    action: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

fn error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CgroupError {
    let path = path.to_owned();
    move |source| CgroupError { action, path, source }
}

/// The parent of the sessions' cgroups.
#[derive(Clone, Debug)]
pub(crate) struct Cgroups {
    root: PathBuf,
    parent: PathBuf,
}

/// A cgroup of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SessionCgroup {
    pub(crate) path: PathBuf,
    /// As the kernel programs know it.
    pub(crate) id: u64,
}

impl Cgroups {
    /// `name` below the root of the v2 hierarchy. Nothing is made yet.
    pub(crate) fn new(root: &Path, name: &str) -> Self {
        Self { root: root.to_owned(), parent: root.join(name) }
    }

    /// Makes the parent, and says its id.
    pub(crate) fn create_parent(&self) -> Result<u64, CgroupError> {
        fs::create_dir_all(&self.parent).map_err(error("create", &self.parent))?;
        id(&self.parent)
    }

    /// The parent's depth below the root.
    pub(crate) fn level(&self) -> u32 {
        let below = self.parent.strip_prefix(&self.root).unwrap_or(&self.parent);
        u32::try_from(below.components().count()).unwrap_or(u32::MAX)
    }

    /// Whether a cgroup, as /proc names it, is the parent or below it.
    pub(crate) fn holds(&self, cgroup: &str) -> bool {
        self.root.join(cgroup.trim_start_matches('/')).starts_with(&self.parent)
    }

    /// A new cgroup for a session.
    pub(crate) fn create(&self, session: &str) -> Result<SessionCgroup, CgroupError> {
        let path = self.parent.join(session);
        fs::create_dir(&path).map_err(error("create", &path))?;
        match id(&path) {
            Ok(id) => Ok(SessionCgroup { path, id }),
            Err(failed) => {
                self.remove(&path)?;
                Err(failed)
            }
        }
    }

    /// Moves a process, with all its threads.
    pub(crate) fn enter(&self, path: &Path, pid: u32) -> Result<(), CgroupError> {
        fs::write(path.join("cgroup.procs"), pid.to_string()).map_err(error("move a process into", path))
    }

    /// Moves a process to a cgroup as /proc names it, or to the root if that is gone.
    pub(crate) fn release(&self, to: &str, pid: u32) -> Result<(), CgroupError> {
        let wanted = self.root.join(to.trim_start_matches('/'));
        if self.enter(&wanted, pid).is_ok() {
            return Ok(());
        }
        match self.enter(&self.root, pid) {
            // It has exited meanwhile.
            Err(failed) if failed.source.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            other => other,
        }
    }

    /// The processes in a cgroup, not those in cgroups below it.
    pub(crate) fn processes(&self, path: &Path) -> Result<Vec<u32>, CgroupError> {
        match fs::read_to_string(path.join("cgroup.procs")) {
            Ok(text) => Ok(text.lines().filter_map(|line| line.parse().ok()).collect()),
            Err(failed) if failed.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(failed) => Err(error("read", path)(failed)),
        }
    }

    /// Removes a session's cgroup and what the session made below it. False if there are processes in it still.
    pub(crate) fn remove(&self, path: &Path) -> Result<bool, CgroupError> {
        for child in children(path)? {
            if !self.remove(&child)? {
                return Ok(false);
            }
        }
        match fs::remove_dir(path) {
            Ok(()) => Ok(true),
            Err(failed) if failed.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(failed) if failed.raw_os_error() == Some(libc::EBUSY) => Ok(false),
            Err(failed) => Err(error("remove", path)(failed)),
        }
    }

    /// The cgroups of all sessions, and what they have below them, deepest first.
    pub(crate) fn all(&self) -> Result<Vec<PathBuf>, CgroupError> {
        let mut found = Vec::new();
        collect(&self.parent, &mut found)?;
        Ok(found)
    }

    /// Removes the parent. False if there is anything in it still.
    pub(crate) fn remove_parent(&self) -> Result<bool, CgroupError> {
        self.remove(&self.parent)
    }

    /// Removes the parent if there is nothing at all in it.
    pub(crate) fn remove_parent_if_empty(&self) -> Result<(), CgroupError> {
        match fs::remove_dir(&self.parent) {
            Ok(()) => Ok(()),
            Err(failed)
                if matches!(failed.raw_os_error(), Some(libc::ENOENT | libc::EBUSY | libc::ENOTEMPTY)) =>
            {
                Ok(())
            }
            Err(failed) => Err(error("remove", &self.parent)(failed)),
        }
    }
}

fn collect(path: &Path, found: &mut Vec<PathBuf>) -> Result<(), CgroupError> {
    for child in children(path)? {
        collect(&child, found)?;
        found.push(child);
    }
    Ok(())
}

fn children(path: &Path) -> Result<Vec<PathBuf>, CgroupError> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(failed) if failed.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(failed) => return Err(error("read", path)(failed)),
    };
    let mut children = Vec::new();
    for entry in entries {
        let entry = entry.map_err(error("read", path))?;
        if entry.file_type().map_err(error("read", path))?.is_dir() {
            children.push(entry.path());
        }
    }
    Ok(children)
}

/// A cgroup's id is the inode number of its directory.
fn id(path: &Path) -> Result<u64, CgroupError> {
    Ok(fs::metadata(path).map_err(error("look at", path))?.ino())
}
