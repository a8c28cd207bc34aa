//! The only code that opens the cgroup tree. Each session has a cgroup of its own, below one parent.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use crate::path_error::PathError;

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
    pub(crate) fn create_parent(&self) -> Result<u64, PathError> {
        fs::create_dir_all(&self.parent).map_err(PathError::at("create the cgroup", &self.parent))?;
        id(&self.parent)
    }

    /// The parent's depth below the root.
    pub(crate) fn level(&self) -> u32 {
        self.level_of(&self.parent)
    }

    /// A cgroup's depth below the root.
    pub(crate) fn level_of(&self, path: &Path) -> u32 {
        let below = path.strip_prefix(&self.root).unwrap_or(path);
        u32::try_from(below.components().count()).unwrap_or(u32::MAX)
    }

    /// Whether a cgroup, as /proc names it, is the parent or below it.
    pub(crate) fn holds(&self, cgroup: &str) -> bool {
        self.root.join(cgroup.trim_start_matches('/')).starts_with(&self.parent)
    }

    /// The session whose cgroup it is, or is below, by its name; as /proc names a cgroup.
    pub(crate) fn session_of(&self, cgroup: &str) -> Option<String> {
        let path = self.root.join(cgroup.trim_start_matches('/'));
        let first = path.strip_prefix(&self.parent).ok()?.components().next()?;
        Some(first.as_os_str().to_string_lossy().into_owned())
    }

    /// A new cgroup for a session.
    pub(crate) fn create(&self, session: &str) -> Result<SessionCgroup, PathError> {
        let path = self.parent.join(session);
        fs::create_dir(&path).map_err(PathError::at("create the cgroup", &path))?;
        match id(&path) {
            Ok(id) => Ok(SessionCgroup { path, id }),
            Err(failed) => {
                self.remove(&path)?;
                Err(failed)
            }
        }
    }

    /// A cgroup that somebody else made, for a session to use: below the root, and none of ours. The path is as the file system has
    /// it, or as /proc names it.
    pub(crate) fn borrow(&self, path: &Path) -> Result<Result<SessionCgroup, &'static str>, PathError> {
        let below = path.strip_prefix(&self.root).unwrap_or(path);
        let below = below.strip_prefix("/").unwrap_or(below);
        let wanted = self.root.join(below);
        let path = fs::canonicalize(&wanted).map_err(PathError::at("look at the cgroup", &wanted))?;
        if path == self.root || !path.starts_with(&self.root) {
            return Ok(Err("it is not a cgroup below the root of the v2 hierarchy"));
        }
        if path.starts_with(&self.parent) || self.parent.starts_with(&path) {
            return Ok(Err("it is one of enforcer's own"));
        }
        // As a level that a bit can stand for; the programs look at no deeper ones.
        if self.level_of(&path) >= u64::BITS {
            return Ok(Err("it is too deep"));
        }
        let id = id(&path)?;
        Ok(Ok(SessionCgroup { path, id }))
    }

    /// Whether a process, whose cgroup /proc names, is in a cgroup or below it.
    pub(crate) fn is_inside(&self, cgroup: &str, path: &Path) -> bool {
        self.root.join(cgroup.trim_start_matches('/')).starts_with(path)
    }

    /// Whether a cgroup is a session's own, and not somebody else's.
    pub(crate) fn is_own(&self, path: &Path) -> bool {
        path.starts_with(&self.parent)
    }

    /// The cgroup with this id, wherever it is.
    pub(crate) fn with_id(&self, wanted: u64) -> Result<Option<PathBuf>, PathError> {
        let mut all = Vec::new();
        collect(&self.root, &mut all)?;
        // One that is gone meanwhile has none.
        Ok(all.into_iter().find(|path| id(path).is_ok_and(|id| id == wanted)))
    }

    /// The cgroups with this name, wherever they are.
    pub(crate) fn named(&self, name: &str) -> Result<Vec<PathBuf>, PathError> {
        let mut found = Vec::new();
        collect(&self.root, &mut found)?;
        found.retain(|path| path.file_name().is_some_and(|last| last == name));
        Ok(found)
    }

    /// Moves a process, with all its threads.
    pub(crate) fn enter(&self, path: &Path, pid: u32) -> Result<(), PathError> {
        fs::write(path.join("cgroup.procs"), pid.to_string())
            .map_err(PathError::at("move a process into the cgroup", path))
    }

    /// Moves a process to a cgroup as /proc names it, or to the root if that is gone.
    pub(crate) fn release(&self, to: &str, pid: u32) -> Result<(), PathError> {
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
    pub(crate) fn processes(&self, path: &Path) -> Result<Vec<u32>, PathError> {
        match fs::read_to_string(path.join("cgroup.procs")) {
            Ok(text) => Ok(text.lines().filter_map(|line| line.parse().ok()).collect()),
            Err(failed) if is_gone(&failed) => Ok(Vec::new()),
            Err(failed) => Err(PathError::at("read the cgroup", path)(failed)),
        }
    }

    /// The processes in a cgroup and below it.
    pub(crate) fn all_processes(&self, path: &Path) -> Result<Vec<u32>, PathError> {
        let mut found = self.processes(path)?;
        let mut below = Vec::new();
        collect(path, &mut below)?;
        for child in below {
            found.extend(self.processes(&child)?);
        }
        Ok(found)
    }

    /// The ids of a cgroup and of those below it.
    pub(crate) fn ids(&self, path: &Path) -> Result<Vec<u64>, PathError> {
        let mut paths = Vec::new();
        collect(path, &mut paths)?;
        paths.push(path.to_owned());
        let known = |path: &PathBuf| match id(path) {
            // It is gone meanwhile.
            Err(failed) if failed.source.kind() == io::ErrorKind::NotFound => None,
            other => Some(other),
        };
        paths.iter().filter_map(known).collect()
    }

    /// Stops every process in a cgroup and below it, or lets them go on. Returns before all of them have stopped.
    pub(crate) fn freeze(&self, path: &Path, frozen: bool) -> Result<(), PathError> {
        fs::write(path.join("cgroup.freeze"), if frozen { "1" } else { "0" })
            .map_err(PathError::at(if frozen { "freeze the cgroup" } else { "thaw the cgroup" }, path))
    }

    /// Whether somebody wants every process in a cgroup to stop.
    pub(crate) fn is_to_be_frozen(&self, path: &Path) -> Result<bool, PathError> {
        let text =
            fs::read_to_string(path.join("cgroup.freeze")).map_err(PathError::at("read the cgroup", path))?;
        Ok(text.trim() == "1")
    }

    /// Whether every process in a cgroup and below it has stopped.
    pub(crate) fn is_frozen(&self, path: &Path) -> Result<bool, PathError> {
        let text =
            fs::read_to_string(path.join("cgroup.events")).map_err(PathError::at("read the cgroup", path))?;
        Ok(text.lines().any(|line| line == "frozen 1"))
    }

    /// Kills every process in a cgroup and below it, if there is one, those that fork meanwhile included (5.14).
    pub(crate) fn kill(&self, path: &Path) -> Result<(), PathError> {
        match fs::write(path.join("cgroup.kill"), "1") {
            Err(failed) if is_gone(&failed) => Ok(()),
            written => written.map_err(PathError::at("kill the processes of the cgroup", path)),
        }
    }

    /// Removes a session's cgroup and what the session made below it. False if there are processes in it still.
    pub(crate) fn remove(&self, path: &Path) -> Result<bool, PathError> {
        for child in children(path)? {
            if !self.remove(&child)? {
                return Ok(false);
            }
        }
        match fs::remove_dir(path) {
            Ok(()) => Ok(true),
            Err(failed) if failed.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(failed) if failed.raw_os_error() == Some(libc::EBUSY) => Ok(false),
            Err(failed) => Err(PathError::at("remove the cgroup", path)(failed)),
        }
    }

    /// The cgroups of all sessions, and what they have below them, deepest first.
    pub(crate) fn all(&self) -> Result<Vec<PathBuf>, PathError> {
        let mut found = Vec::new();
        collect(&self.parent, &mut found)?;
        Ok(found)
    }

    /// The cgroups of all sessions.
    pub(crate) fn sessions(&self) -> Result<Vec<PathBuf>, PathError> {
        children(&self.parent)
    }

    /// Removes the parent. False if there is anything in it still.
    pub(crate) fn remove_parent(&self) -> Result<bool, PathError> {
        self.remove(&self.parent)
    }

    /// Removes the parent if there is nothing at all in it.
    pub(crate) fn remove_parent_if_empty(&self) -> Result<(), PathError> {
        match fs::remove_dir(&self.parent) {
            Ok(()) => Ok(()),
            Err(failed)
                if matches!(failed.raw_os_error(), Some(libc::ENOENT | libc::EBUSY | libc::ENOTEMPTY)) =>
            {
                Ok(())
            }
            Err(failed) => Err(PathError::at("remove the cgroup", &self.parent)(failed)),
        }
    }
}

/// Whether a cgroup is gone of which a file was to be read or written. ENODEV: it was removed between the opening
/// and that (seen on 6.18; kernfs_get_active, fs/kernfs/file.c).
fn is_gone(failed: &io::Error) -> bool {
    matches!(failed.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}

fn collect(path: &Path, found: &mut Vec<PathBuf>) -> Result<(), PathError> {
    for child in children(path)? {
        collect(&child, found)?;
        found.push(child);
    }
    Ok(())
}

fn children(path: &Path) -> Result<Vec<PathBuf>, PathError> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(failed) if failed.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(failed) => return Err(PathError::at("read the cgroup", path)(failed)),
    };
    let mut children = Vec::new();
    for entry in entries {
        let entry = entry.map_err(PathError::at("read the cgroup", path))?;
        if entry.file_type().map_err(PathError::at("read the cgroup", path))?.is_dir() {
            children.push(entry.path());
        }
    }
    Ok(children)
}

/// A cgroup's id is the inode number of its directory.
fn id(path: &Path) -> Result<u64, PathError> {
    Ok(fs::metadata(path).map_err(PathError::at("look at the cgroup", path))?.ino())
}
