//! Sessions that have ended: a line each, the oldest first. What is torn or not of this release is left out when it is read; nothing is
//! enforced by it.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};

use super::{StateError, replace};
use crate::path_error::PathError;

/// The file of them.
#[derive(Debug)]
pub(crate) struct EndedFile {
    path: PathBuf,
}

impl EndedFile {
    pub(crate) fn at(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// What is in it, oldest first.
    pub(crate) fn load<T: DeserializeOwned>(&self) -> Result<Vec<T>, StateError> {
        let bytes = match fs::read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            read => read.map_err(PathError::at("read", &self.path))?,
        };
        let lines = bytes.split(|byte| *byte == b'\n');
        Ok(lines.filter_map(|line| serde_json::from_slice(line).ok()).collect())
    }

    /// Adds one. It is on its way to the disk when this returns: sessions end too often to wait for each.
    pub(crate) fn append(&self, ended: &impl Serialize) -> Result<(), StateError> {
        let line = line(ended);
        let write = || {
            let mut file = File::options().create(true).append(true).mode(0o600).open(&self.path)?;
            // Behind what may have been torn.
            file.write_all(&[b"\n", &line[..]].concat())
        };
        Ok(write().map_err(PathError::at("write", &self.path))?)
    }

    /// Leaves these and no others.
    pub(crate) fn rewrite<'a, T: Serialize + 'a>(
        &self,
        kept: impl Iterator<Item = &'a T>,
    ) -> Result<(), StateError> {
        replace(&self.path, &kept.flat_map(line).collect::<Vec<u8>>())
    }
}

fn line(ended: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(ended).expect("it holds only text and numbers");
    line.push(b'\n');
    line
}
