//! The pin directory: what is in it, whether it is ours, and how a set of pins comes and goes in one step.
//!
//! A set is built in a directory beside the final one and moved there by one rename, so that a crash leaves no half set.
//! Replaced links stay until the new ones are in force: `links-new` takes over from `links` in two renames, and
//! [`Pins::recover`] finishes either.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::path_error::PathError;

/// What can be wrong with the pin directory.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PinError {
    #[error("`{}` is not on a BPF file system", path.display())]
    NotBpffs { path: PathBuf },
    #[error("`{}` holds `{found}`, which enforcer did not make", path.display())]
    Foreign { path: PathBuf, found: String },
    #[error(transparent)]
    Io(#[from] PathError),
}

/// What can stand in a pin directory.
const CONTENTS: [&str; 7] = ["maps", "links", "links-new", "links-old", "guard", "guard-new", "guard-old"];

/// A pin directory.
#[derive(Clone, Debug)]
pub(crate) struct Pins {
    root: PathBuf,
}

impl Pins {
    /// The pins at `root`, which must be on a BPF file system; `root` itself need not exist.
    pub(crate) fn at(root: &Path) -> Result<Self, PinError> {
        let parent = root.parent().unwrap_or(root);
        let statfs = nix::sys::statfs::statfs(parent)
            .map_err(|errno| PathError::at("look at", parent)(errno.into()))?;
        if statfs.filesystem_type() != nix::sys::statfs::BPF_FS_MAGIC {
            return Err(PinError::NotBpffs { path: parent.to_owned() });
        }
        Ok(Self { root: root.to_owned() })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn maps(&self) -> PathBuf {
        self.root.join("maps")
    }

    pub(crate) fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    pub(crate) fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    pub(crate) fn link(&self, program: &str) -> PathBuf {
        self.links().join(program)
    }

    /// The guard's links, apart from the others: on many hosts there are none.
    pub(crate) fn guard(&self) -> PathBuf {
        self.root.join("guard")
    }

    pub(crate) fn guard_link(&self, program: &str) -> PathBuf {
        self.guard().join(program)
    }

    /// Where those that replace them are gathered.
    pub(crate) fn new_guard(&self) -> PathBuf {
        self.root.join("guard-new")
    }

    fn old_guard(&self) -> PathBuf {
        self.root.join("guard-old")
    }

    /// Where replacing links are gathered.
    pub(crate) fn new_links(&self) -> PathBuf {
        self.root.join("links-new")
    }

    fn old_links(&self) -> PathBuf {
        self.root.join("links-old")
    }

    /// Whether a set is there. An empty directory is none; anything that is not ours is an error.
    pub(crate) fn exist(&self) -> Result<bool, PinError> {
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(PathError::at("read", &self.root)(error).into()),
        };
        let mut any = false;
        for entry in entries {
            let name = entry.map_err(PathError::at("read", &self.root))?.file_name();
            if !CONTENTS.iter().any(|ours| name == *ours) {
                let found = name.to_string_lossy().into_owned();
                return Err(PinError::Foreign { path: self.root.clone(), found });
            }
            any = true;
        }
        Ok(any)
    }

    /// A set in the making, beside this one; an earlier attempt that was cut short is removed.
    pub(crate) fn stage(&self) -> Result<Self, PinError> {
        let staging = self.staging();
        remove(&staging)?;
        let staged = Self { root: staging };
        for dir in [staged.maps(), staged.links()] {
            fs::create_dir_all(&dir).map_err(PathError::at("create", &dir))?;
        }
        Ok(staged)
    }

    /// Makes a staged set the one in force.
    pub(crate) fn commit(&self, staged: &Self) -> Result<(), PinError> {
        match fs::remove_dir(&self.root) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(PathError::at("make room for", &self.root)(error).into());
            }
            _ => {}
        }
        Ok(fs::rename(&staged.root, &self.root).map_err(PathError::at("move the pins to", &self.root))?)
    }

    /// Puts `links-new` in the place of `links`. Both sets are attached until the last step.
    pub(crate) fn replace_links(&self) -> Result<(), PinError> {
        replace(&self.links(), &self.new_links(), &self.old_links())
    }

    /// Likewise for the guard.
    pub(crate) fn replace_guard(&self) -> Result<(), PinError> {
        replace(&self.guard(), &self.new_guard(), &self.old_guard())
    }

    /// Removes the links of a guard that was not finished.
    pub(crate) fn remove_new_guard(&self) -> Result<(), PinError> {
        remove(&self.new_guard())
    }

    /// Finishes a replacement that was cut short.
    pub(crate) fn recover(&self) -> Result<(), PinError> {
        for (current, new, old) in [
            (self.links(), self.new_links(), self.old_links()),
            (self.guard(), self.new_guard(), self.old_guard()),
        ] {
            // Set aside, and the new ones were complete.
            if !current.exists() && new.exists() && old.exists() {
                fs::rename(&new, &current).map_err(PathError::at("restore", &current))?;
            }
            remove(&new)?;
            remove(&old)?;
        }
        Ok(())
    }

    /// Removes every pin: what only they kept alive is gone.
    pub(crate) fn remove(&self) -> Result<(), PinError> {
        // Links before maps, so that no program runs without its pins.
        let guards = [self.guard(), self.new_guard(), self.old_guard()];
        let links = [self.links(), self.new_links(), self.old_links()];
        for dir in links.iter().chain(&guards).chain([&self.root, &self.staging()]) {
            remove(dir)?;
        }
        Ok(())
    }

    fn staging(&self) -> PathBuf {
        let name = self.root.file_name().unwrap_or_default().to_string_lossy();
        // The file system refuses names with a dot in them (v6.1/kernel/bpf/inode.c, bpf_lookup).
        self.root.with_file_name(format!("{name}-staging"))
    }
}

/// Puts `new` in the place of `current`.
fn replace(current: &Path, new: &Path, old: &Path) -> Result<(), PinError> {
    match fs::rename(current, old) {
        // There was none, or somebody removed them.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => other.map_err(PathError::at("set aside", current))?,
    }
    fs::rename(new, current).map_err(PathError::at("move the new links to", current))?;
    remove(old)
}

fn remove(dir: &Path) -> Result<(), PinError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(PathError::at("remove", dir)(error).into())
        }
        _ => Ok(()),
    }
}
