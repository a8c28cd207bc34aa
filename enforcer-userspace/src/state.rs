//! What survives a restart: one file per session, and the number of records already reported lost.
//!
//! The kernel's maps say what is enforced; these files say who it is enforced on. Where the two disagree, the daemon
//! takes what gives less access.

mod audit;
mod authorities;
mod baselines;
mod ended;
mod grant_key;
mod revisions;

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use enforcer_common::{identity::SessionRef, session::SessionState};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    chain::Hop,
    path_error::PathError,
    record::Told,
    session::{Container, Context, EnvelopeInForce, Lineal, ProcessKey, Session},
};

pub(crate) use audit::{AuditError, Limits, Log, LogDir, Opening, SegmentFile, read_json};
pub(crate) use authorities::{AuthoritiesError, AuthorityFiles};
pub(crate) use baselines::BaselineFiles;
pub(crate) use ended::EndedFile;
pub(crate) use grant_key::{existing_key, own_key};
pub(crate) use revisions::Revisions;

/// The version of the files.
const VERSION: u32 = 3;

/// Why state could not be kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    #[error(transparent)]
    Io(#[from] PathError),
    #[error("make a key: no randomness")]
    Random,
    #[error("`{}` is not a session file of version {VERSION}", path.display())]
    Format {
        path: PathBuf,
        #[source]
        source: Option<serde_json::Error>,
    },
}

/// As it is written of [`Told`].
const FROM_FIRST: &str = "first";

impl StateError {
    /// The session whose file it is, by the file's name.
    pub(crate) fn session(&self) -> Option<Uuid> {
        let (Self::Io(PathError { path, .. }) | Self::Format { path, .. }) = self else { return None };
        path.file_stem()?.to_str()?.parse().ok()
    }
}

/// A session as it is written down.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SessionFile {
    version: u32,
    /// Slots and clocks are of one boot.
    pub(crate) boot_id: String,
    pub(crate) id: Uuid,
    slot: u32,
    generation: u32,
    pub(crate) envelope: EnvelopeFile,
    /// The envelope that is about to take its place, or whose place it took last: which of the two is in force, the kernel knows,
    /// and records may name rules of both.
    pub(crate) other: Option<EnvelopeFile>,
    pub(crate) cgroup: PathBuf,
    pub(crate) cgroup_id: u64,
    pub(crate) borrowed_cgroup: bool,
    pub(crate) cgroup_before: String,
    pub(crate) started_ns: u64,
    pub(crate) expires_ns: u64,
    pub(crate) command: Vec<String>,
    pub(crate) registered_by_uid: u32,
    root_tgid: u32,
    root_start_ns: u64,
    /// By its name, as `ps` prints it.
    state: String,
    /// A daemon that finds this was killed while it registered what ran already.
    pub(crate) registering: bool,
    /// A daemon that finds this was killed before it had let the processes go on that it had stopped for that.
    #[serde(default)]
    pub(crate) stopped: bool,
    #[serde(default)]
    pub(crate) expiry_recorded: bool,
    /// The session that handed it a part of itself.
    #[serde(default)]
    pub(crate) parent: Option<Lineal>,
    #[serde(default)]
    pub(crate) context: Context,
    #[serde(default)]
    pub(crate) container: Option<Container>,
    /// The statements of what it is held to by `envelope` and by `other`.
    #[serde(default)]
    pub(crate) hop: Option<Hop>,
    #[serde(default)]
    pub(crate) other_hop: Option<Hop>,
}

impl SessionFile {
    pub(crate) fn new(session: &Session, boot_id: &str) -> Self {
        let grant = &session.grant;
        Self {
            version: VERSION,
            boot_id: boot_id.to_owned(),
            id: grant.id,
            slot: grant.slot.slot,
            generation: grant.slot.generation,
            envelope: EnvelopeFile::new(&session.envelope),
            other: session.replaced.last().map(|replaced| EnvelopeFile::new(&replaced.envelope)),
            cgroup: grant.cgroup.clone(),
            cgroup_id: grant.cgroup_id,
            borrowed_cgroup: grant.borrowed_cgroup,
            cgroup_before: grant.cgroup_before.clone(),
            started_ns: grant.started_ns,
            expires_ns: grant.expires_ns,
            command: grant.command.clone(),
            registered_by_uid: grant.registered_by_uid,
            root_tgid: grant.root.tgid,
            root_start_ns: grant.root.start_ns,
            state: session.state.name().to_owned(),
            registering: session.registering,
            stopped: session.stopped,
            expiry_recorded: session.expiry_recorded,
            parent: grant.parent.clone(),
            context: grant.context.clone(),
            container: grant.container.clone(),
            hop: session.hop.clone(),
            other_hop: None,
        }
    }

    /// The envelope with this number, and the other one.
    pub(crate) fn envelopes(&self, number: u32) -> Option<(&EnvelopeFile, Option<&EnvelopeFile>)> {
        match (&self.envelope, &self.other) {
            (envelope, other) if envelope.number == number => Some((envelope, other.as_ref())),
            (envelope, Some(other)) if other.number == number => Some((other, Some(envelope))),
            _ => None,
        }
    }

    /// Active, revoked or in quarantine. What is not known is revoked.
    pub(crate) fn state(&self) -> SessionState {
        let known = SessionState::ALL.iter().find(|state| state.name() == self.state);
        known.copied().unwrap_or(SessionState::Revoked)
    }

    pub(crate) const fn slot(&self) -> SessionRef {
        SessionRef { slot: self.slot, generation: self.generation }
    }

    pub(crate) const fn root(&self) -> ProcessKey {
        ProcessKey { tgid: self.root_tgid, start_ns: self.root_start_ns }
    }
}

/// An envelope as it is written down.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct EnvelopeFile {
    pub(crate) number: u32,
    pub(crate) text: String,
}

impl EnvelopeFile {
    pub(crate) fn new(envelope: &EnvelopeInForce) -> Self {
        Self { number: envelope.number, text: envelope.text.clone() }
    }
}

/// The state directory.
#[derive(Debug)]
pub(crate) struct State {
    root: PathBuf,
    sessions: PathBuf,
}

impl State {
    /// Makes the directories, for root alone.
    pub(crate) fn open(root: &Path, sessions: &Path) -> Result<Self, StateError> {
        for dir in [root, sessions] {
            make_dir(dir)?;
        }
        Ok(Self { root: root.to_owned(), sessions: sessions.to_owned() })
    }

    /// Writes a session down; it is on disk when this returns.
    pub(crate) fn save(&self, session: &SessionFile) -> Result<(), StateError> {
        let path = self.session_path(session.id);
        let text = serde_json::to_vec(session).expect("a session file holds only text and numbers");
        replace(&path, &text)
    }

    /// Forgets a session.
    pub(crate) fn forget(&self, id: Uuid) -> Result<(), StateError> {
        let path = self.session_path(id);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(PathError::at("remove", &path)(error).into())
            }
            _ => Ok(()),
        }
    }

    /// Every session file; one that cannot be read is an error of its own.
    pub(crate) fn sessions(&self) -> Result<Vec<Result<SessionFile, StateError>>, StateError> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.sessions).map_err(PathError::at("read", &self.sessions))? {
            let path = entry.map_err(PathError::at("read", &self.sessions))?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                found.push(load(&path));
            } else {
                // What a write that was cut short left.
                fs::remove_file(&path).map_err(PathError::at("remove", &path))?;
            }
        }
        Ok(found)
    }

    /// What was told of the records that are numbered so.
    pub(crate) fn told(&self, numbering: &str) -> Option<Told> {
        let text = fs::read_to_string(self.told_path()).unwrap_or_default();
        let mut words = text.split_whitespace();
        // Of others or unreadable: report again rather than not at all.
        words.next().filter(|of| *of == numbering)?;
        let since = words.next()?.parse().ok()?;
        let from_first = words.next()? == FROM_FIRST;
        Some(Told { since, from_first, lost: words.map(|lost| lost.parse().unwrap_or(0)).collect() })
    }

    pub(crate) fn save_told(&self, numbering: &str, told: &Told) -> Result<(), StateError> {
        let Told { since, from_first, lost } = told;
        let from = if *from_first { FROM_FIRST } else { "later" };
        let lost: String = lost.iter().map(|lost| format!(" {lost}")).collect();
        replace(&self.told_path(), format!("{numbering} {since} {from}{lost}\n").as_bytes())
    }

    fn told_path(&self) -> PathBuf {
        self.root.join("told")
    }

    fn session_path(&self, id: Uuid) -> PathBuf {
        self.sessions.join(format!("{id}.json"))
    }
}

fn load(path: &Path) -> Result<SessionFile, StateError> {
    let text = fs::read(path).map_err(PathError::at("read", path))?;
    let file: SessionFile = serde_json::from_slice(&text)
        .map_err(|source| StateError::Format { path: path.to_owned(), source: Some(source) })?;
    if file.version != VERSION {
        return Err(StateError::Format { path: path.to_owned(), source: None });
    }
    Ok(file)
}

fn make_dir(dir: &Path) -> Result<(), StateError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    Ok(made.map_err(PathError::at("create", dir))?)
}

/// Replaces a file in one step: readers and crashes see the old or the new.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), StateError> {
    let temporary = path.with_extension("tmp");
    let write = || {
        let mut file =
            File::options().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        sync_dir(path.parent().unwrap_or(Path::new("/")))
    };
    Ok(write().map_err(PathError::at("write", path))?)
}

/// What is in a directory is on disk when this returns.
fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
