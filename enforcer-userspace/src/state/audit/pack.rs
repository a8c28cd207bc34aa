//! Closed segments are compressed on a thread of their own, one after another: whole and on disk before they have their name.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc,
    },
    thread::{self, JoinHandle},
};

use super::{super::sync_dir, AuditError, files::LogDir, queue::Queue};
use crate::{exit::one_line, path_error::PathError, precedence};

/// What zstd takes for a good balance of time and size.
const LEVEL: i32 = 3;

/// The thread. It ends with this, after what it is at.
#[derive(Debug)]
pub(super) struct Packer {
    closed: Option<mpsc::Sender<u64>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Packer {
    /// Compresses what it is told, and says so in the queue.
    pub(super) fn start(dir: LogDir, queue: Arc<Queue>) -> Result<Self, AuditError> {
        let (send, closed) = mpsc::channel::<u64>();
        let stop = Arc::new(AtomicBool::new(false));
        let (path, stopped) = (dir.path().to_owned(), Arc::clone(&stop));
        let run = move || {
            precedence::go_behind_others();
            for first in closed {
                if stopped.load(Relaxed) {
                    return;
                }
                let packed = pack(&dir, first);
                if let Err(error) = &packed {
                    eprintln!("warning: {}", one_line(error));
                }
                queue.packed(first, packed.is_ok());
            }
        };
        let thread = thread::Builder::new().name("audit-pack".to_owned()).spawn(run);
        let thread = thread.map_err(PathError::at("start a thread that compresses", &path))?;
        Ok(Self { closed: Some(send), stop, thread: Some(thread) })
    }

    /// Compresses the segment that begins with this entry. False: it will not.
    pub(super) fn take(&self, first: u64) -> bool {
        self.closed.as_ref().is_some_and(|closed| closed.send(first).is_ok())
    }
}

impl Drop for Packer {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        drop(self.closed.take());
        if let Some(thread) = self.thread.take() {
            // One that panicked has said so.
            drop(thread.join());
        }
    }
}

fn pack(dir: &LogDir, first: u64) -> Result<(), AuditError> {
    let (plain, packed) = (dir.plain_path(first), dir.packed_path(first));
    let temporary = dir.path().join(format!("{first:020}.zst.tmp"));
    let write = || {
        let mut from = File::open(&plain)?;
        let modified = from.metadata()?.modified()?;
        let to = File::options().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
        let mut encoder = zstd::stream::write::Encoder::new(to, LEVEL)?;
        encoder.include_checksum(true)?;
        io::copy(&mut from, &mut encoder)?;
        let to = encoder.finish()?;
        // Its age is that of what is in it.
        to.set_modified(modified)?;
        to.sync_all()?;
        fs::rename(&temporary, &packed)?;
        sync_dir(dir.path())
    };
    if let Err(error) = write() {
        // What is not whole takes room that may be what is missing.
        drop(fs::remove_file(&temporary));
        return Err(PathError::at("compress", &plain)(error).into());
    }
    remove(&plain)
}

pub(super) fn remove(path: &Path) -> Result<(), AuditError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(PathError::at("remove", path)(error).into())
        }
        _ => Ok(()),
    }
}
