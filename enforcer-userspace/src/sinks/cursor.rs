//! Where a sink stopped, in a file, so that the next daemon's goes on there.

use std::{
    fs, io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use crate::path_error::PathError;

/// The file. All copies of one are the same.
#[derive(Clone, Debug)]
pub(super) struct Cursor(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    /// Held while it is written.
    is_kept: Mutex<bool>,
}

impl Cursor {
    pub(super) fn at(path: PathBuf) -> Self {
        Self(Arc::new(Shared { path, is_kept: Mutex::new(true) }))
    }

    /// The number of the last event that needs not be sent again; nothing if none was noted.
    pub(super) fn read(&self) -> Result<Option<u64>, PathError> {
        let path = &self.0.path;
        match fs::read_to_string(path) {
            // One that cannot be read: all that is kept is sent again.
            Ok(text) => Ok(text.trim().parse().ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(PathError::at("read", path)(error)),
        }
    }

    pub(super) fn write(&self, after: u64) -> Result<(), PathError> {
        let Shared { path, is_kept } = &*self.0;
        let is_kept = is_kept.lock().unwrap_or_else(PoisonError::into_inner);
        if !*is_kept {
            return Ok(());
        }
        let temporary = path.with_extension("tmp");
        fs::write(&temporary, format!("{after}\n")).map_err(PathError::at("write", &temporary))?;
        fs::rename(&temporary, path).map_err(PathError::at("replace", path))
    }

    /// Whether it is written from now on. Once this has returned, nobody is about to.
    pub(super) fn keep(&self, keep: bool) {
        *self.0.is_kept.lock().unwrap_or_else(PoisonError::into_inner) = keep;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_not_kept_is_not_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("siem");
        let cursor = Cursor::at(path.clone());
        assert_eq!(cursor.read().unwrap(), None);
        cursor.write(7).unwrap();
        assert_eq!(cursor.read().unwrap(), Some(7));
        let held_by_thread = cursor.clone();
        cursor.keep(false);
        fs::remove_file(&path).unwrap();
        held_by_thread.write(8).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        cursor.keep(true);
        held_by_thread.write(9).unwrap();
        assert_eq!(cursor.read().unwrap(), Some(9));
    }
}
