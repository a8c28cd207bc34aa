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
            if !["maps", "links", "links-new", "links-old"].iter().any(|ours| name == *ours) {
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
        let (links, new, old) = (self.links(), self.new_links(), self.old_links());
        match fs::rename(&links, &old) {
            // Somebody removed them.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other.map_err(PathError::at("set aside", &links))?,
        }
        fs::rename(&new, &links).map_err(PathError::at("move the new links to", &links))?;
        remove(&old)
    }

    /// Finishes a replacement that was cut short.
    pub(crate) fn recover(&self) -> Result<(), PinError> {
        if !self.links().exists() && self.new_links().exists() {
            fs::rename(self.new_links(), self.links()).map_err(PathError::at("restore", &self.links()))?;
        }
        remove(&self.new_links())?;
        remove(&self.old_links())
    }

    /// Removes every pin: what only they kept alive is gone.
    pub(crate) fn remove(&self) -> Result<(), PinError> {
        // Links before maps, so that no program runs without its pins.
        for dir in [self.links(), self.new_links(), self.old_links(), self.root.clone(), self.staging()] {
            remove(&dir)?;
        }
        Ok(())
    }

    fn staging(&self) -> PathBuf {
        let name = self.root.file_name().unwrap_or_default().to_string_lossy();
        // The file system refuses names with a dot in them (v6.1/kernel/bpf/inode.c, bpf_lookup).
        self.root.with_file_name(format!("{name}-staging"))
    }
}

fn remove(dir: &Path) -> Result<(), PinError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(PathError::at("remove", dir)(error).into())
        }
        _ => Ok(()),
    }
}
