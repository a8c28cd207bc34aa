//! The audit log on disk: a directory of segments, the oldest first, and beside it the key that signs and where the last checkpoint was.
//! A thread of its own writes ([`writer`]), so that a slow disk holds nobody up; what is not written yet waits in a [`queue`] with a bound.
//! What the bytes mean is the matter of [`crate::audit`].

mod files;
mod pack;
mod queue;
mod resume;
mod retain;
mod rotate;
#[cfg(test)]
mod tests;
mod walk;
mod writer;

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    thread,
    time::Duration,
};

use super::StateError;
use crate::{
    audit::{Anchor, ReadError},
    path_error::PathError,
    signature::{KeyError, SigningKey},
};

pub(crate) use files::{LogDir, SegmentFile, read_json};
use queue::Queue;

/// How long the daemon waits for the last entries when it stops. A disk that takes longer loses them, and the log says so.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// Why the log cannot be written, or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuditError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Io(#[from] PathError),
    #[error("sign an entry of the audit log")]
    Key(#[from] KeyError),
    #[error("`{}` cannot be used", path.display())]
    Format {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("read the segment `{}`", path.display())]
    Segment {
        path: PathBuf,
        #[source]
        source: ReadError,
    },
}

impl AuditError {
    /// Whether something is not there any more.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(self, Self::Io(error) if error.source.kind() == std::io::ErrorKind::NotFound)
    }
}

/// What a log is opened with.
#[derive(Debug)]
pub(crate) struct Opening {
    pub(crate) dir: LogDir,
    pub(crate) key: Arc<SigningKey>,
    /// That which was to take its place when a daemon ended.
    pub(crate) next_key: Option<Arc<SigningKey>>,
    pub(crate) host: String,
    pub(crate) boot_id: String,
    pub(crate) release: &'static str,
    /// The last event so far, as events count.
    pub(crate) events_before: u64,
    pub(crate) limits: Limits,
}

/// How large things become, and how long they stay.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Bytes after which another segment begins.
    pub(crate) segment_bytes: u64,
    /// Segments that nothing was written to for so long are removed.
    pub(crate) keep_for: Duration,
    /// And the oldest ones when all take more than this.
    pub(crate) keep_bytes: u64,
}

/// What the writer says of itself.
#[derive(Debug, Default)]
struct Shared {
    entries: AtomicU64,
    checkpoints: AtomicU64,
    failures: AtomicU64,
    lost: AtomicU64,
    /// How many signs of tampering there were, and those that nobody has taken yet.
    tampered: AtomicU64,
    signs: Mutex<Vec<String>>,
    /// The last checkpoint that is on disk.
    anchor: Mutex<Option<Anchor>>,
}

impl Shared {
    fn signs(&self) -> MutexGuard<'_, Vec<String>> {
        self.signs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sign(&self, what: String) {
        self.tampered.fetch_add(1, Relaxed);
        self.signs().push(what);
    }
}

/// The log, being written.
#[derive(Debug)]
pub(crate) struct Log {
    queue: Arc<Queue>,
    shared: Arc<Shared>,
    /// Closed when the writer has ended.
    ended: mpsc::Receiver<()>,
}

/// Who waits for a key to be changed: its id, or why not.
pub(crate) type Rotated = Box<dyn FnOnce(Result<String, AuditError>) + Send>;

impl Log {
    /// Begins to write. What is wrong with the log is found out beside whoever calls.
    pub(crate) fn open(opening: Opening) -> Result<Self, PathError> {
        let (queue, shared) = (Arc::new(Queue::default()), Arc::new(Shared::default()));
        let (alive, ended) = mpsc::sync_channel(1);
        let path = opening.dir.path().to_owned();
        let (to_write, says) = (Arc::clone(&queue), Arc::clone(&shared));
        let run = move || {
            writer::run(opening, &to_write, &says);
            drop(alive);
        };
        let thread = thread::Builder::new().name("audit".to_owned()).spawn(run);
        thread.map_err(PathError::at("start a thread that writes", &path))?;
        Ok(Self { queue, shared, ended })
    }

    /// Hands over an event, by its sequence and its line without the newline. Never waits for a disk.
    pub(crate) fn append(&self, sequence: u64, line: &[u8]) {
        if !self.queue.push(sequence, line) {
            self.shared.lost.fetch_add(1, Relaxed);
        }
    }

    /// Whether so much waits that what can wait elsewhere should.
    pub(crate) fn is_crowded(&self) -> bool {
        self.queue.is_crowded()
    }

    /// Has another key sign from now on.
    pub(crate) fn rotate_key(&self, then: Rotated) {
        self.queue.rotate(then);
    }

    /// The last checkpoint, if there was one since the log was opened.
    pub(crate) fn anchor(&self) -> Option<Anchor> {
        self.shared.anchor.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Signs that somebody changed the log, each once.
    pub(crate) fn take_signs(&self) -> Vec<String> {
        std::mem::take(&mut *self.shared.signs())
    }

    /// By name, and whether more than zero means that something went wrong.
    pub(crate) fn counters(&self) -> [(&'static str, u64, bool); 5] {
        let Shared { entries, checkpoints, failures, lost, tampered, .. } = &*self.shared;
        [
            ("audit_entries", entries.load(Relaxed), false),
            ("audit_checkpoints", checkpoints.load(Relaxed), false),
            ("fault_audit_lost", lost.load(Relaxed), true),
            ("fault_audit_tampered", tampered.load(Relaxed), true),
            ("fault_audit_write", failures.load(Relaxed), true),
        ]
    }

    /// Writes what is left, and vouches for it. Whether that was done in time; later calls do nothing.
    pub(crate) fn stop(&self) -> bool {
        self.queue.stop();
        !matches!(self.ended.recv_timeout(STOP_TIMEOUT), Err(mpsc::RecvTimeoutError::Timeout))
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.queue.stop();
    }
}
