//! The latest revision accepted of each agent's signed envelopes: one file per agent. It survives teardown: whoever may
//! operate the daemon must not be able to make it forget.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{StateError, make_dir, replace, sync_dir};
use crate::{path_error::PathError, signature::revision::Accepted};

/// The version of the files.
const VERSION: u32 = 1;

/// Why an agent's file cannot be relied on. It is never taken for an agent that has none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RevisionsError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error("`{}` is not a revision file", path.display())]
    Format {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("`{}` is a revision file of version {found}, not {VERSION}", path.display())]
    Version { path: PathBuf, found: u32 },
    #[error("`{}` is the revision file of agent `{found}`", path.display())]
    Agent { path: PathBuf, found: String },
}

/// The last envelope accepted for an agent, as it is written down.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RevisionFile {
    version: u32,
    agent: String,
    revision: u64,
    envelope_digest: String,
}

/// The directory of the files.
#[derive(Debug)]
pub(crate) struct Revisions {
    dir: PathBuf,
}

impl Revisions {
    /// Makes the directory, for root alone, in the state directory. It is on disk when this returns: after a loss of power
    /// nothing in it may be missing.
    pub(crate) fn open(dir: &Path) -> Result<Self, StateError> {
        make_dir(dir)?;
        let above = dir.ancestors().skip(1).take(2).filter(|above| !above.as_os_str().is_empty());
        for above in above {
            sync_dir(above).map_err(PathError::at("write", above))?;
        }
        Ok(Self { dir: dir.to_owned() })
    }

    /// What was last accepted for this agent.
    pub(crate) fn accepted(&self, agent: &str) -> Result<Option<Accepted>, RevisionsError> {
        let path = self.path(agent);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.dir.is_dir() => return Ok(None),
            Err(error) => return Err(StateError::from(PathError::at("read", &path)(error)).into()),
        };
        let file: RevisionFile = match serde_json::from_slice(&text) {
            Ok(file) => file,
            Err(source) => return Err(RevisionsError::Format { path, source }),
        };
        if file.version != VERSION {
            return Err(RevisionsError::Version { path, found: file.version });
        }
        if file.agent != agent {
            return Err(RevisionsError::Agent { path, found: file.agent });
        }
        Ok(Some(Accepted { revision: file.revision, envelope_digest: file.envelope_digest }))
    }

    /// Writes down what is accepted for this agent; it is on disk when this returns.
    pub(crate) fn save(&self, agent: &str, accepted: &Accepted) -> Result<(), StateError> {
        let file = RevisionFile {
            version: VERSION,
            agent: agent.to_owned(),
            revision: accepted.revision,
            envelope_digest: accepted.envelope_digest.clone(),
        };
        let text = serde_json::to_vec(&file).expect("a revision file holds only text and numbers");
        replace(&self.path(agent), &text)
    }

    /// The name of an agent, as envelopes have it, is the name of a file.
    fn path(&self, agent: &str) -> PathBuf {
        self.dir.join(format!("{agent}.json"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn accepted(revision: u64) -> Accepted {
        Accepted { revision, envelope_digest: "ab".repeat(32) }
    }

    #[test]
    fn what_was_accepted_is_found_again_by_root_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("revisions");
        let revisions = Revisions::open(&path).unwrap();
        assert_eq!(revisions.accepted("a.tmp").unwrap(), None);
        revisions.save("a.tmp", &accepted(7)).unwrap();
        revisions.save("a", &accepted(1)).unwrap();
        revisions.save("a.tmp", &accepted(8)).unwrap();

        let again = Revisions::open(&path).unwrap();
        assert_eq!(again.accepted("a.tmp").unwrap(), Some(accepted(8)));
        assert_eq!(again.accepted("a").unwrap(), Some(accepted(1)));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!([mode(&path), mode(&path.join("a.json"))], [0o700, 0o600]);
        assert_eq!(fs::read_dir(&path).unwrap().count(), 2, "no temporary file is left");
    }

    #[test]
    fn a_file_that_cannot_be_relied_on_is_never_taken_for_none() {
        let dir = tempfile::tempdir().unwrap();
        let revisions = Revisions::open(&dir.path().join("revisions")).unwrap();
        revisions.save("good", &accepted(7)).unwrap();
        let good = fs::read_to_string(revisions.path("good")).unwrap();
        let path = revisions.path("agent");
        for (text, expected) in [
            (String::new(), "is not a revision file"),
            (good[..good.len() / 2].to_owned(), "is not a revision file"),
            ("null".to_owned(), "is not a revision file"),
            (good.replace(":7", ":-7"), "is not a revision file"),
            (good.replace("\"version\":1", "\"version\":2"), "of version 2, not 1"),
            (good.clone(), "of agent `good`"),
        ] {
            fs::write(&path, &text).unwrap();
            let error = revisions.accepted("agent").unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("agent.json"), "{text}: {error}");
        }
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(revisions.accepted("agent").is_err(), "a directory");
        fs::remove_dir_all(&revisions.dir).unwrap();
        assert!(revisions.accepted("agent").is_err(), "the directory is gone under a running daemon");
    }
}
