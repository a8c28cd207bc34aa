//! An I/O error with what was tried, and on which file: the same for every edge that opens files.

use std::{
    io,
    path::{Path, PathBuf},
};

/// What was tried on a file, and why it failed.
#[derive(Debug, thiserror::Error)]
#[error("{action} `{}`", path.display())]
pub(crate) struct PathError {
    pub(crate) action: &'static str,
    pub(crate) path: PathBuf,
    #[source]
    pub(crate) source: io::Error,
}

impl PathError {
    /// For `map_err`: `File::open(path).map_err(PathError::at("open", path))`.
    pub(crate) fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self { action, path, source }
    }
}
