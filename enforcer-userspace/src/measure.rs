//! Measuring files: what their content is, and whether it can have changed since.
//!
//! A digest is kept under what a file is told by: device, inode, size, and the times of its last change, which nobody can set. A file
//! that changed so shortly before it was measured that another change could bear the same time is measured anew each time, and so is one
//! on a file system that need not note a change at all.
//!
//! What somebody can still write to through a descriptor or a map that was there before, is not measured: a page that is written to again
//! before it went to the disk notes no time.

#![expect(unsafe_code, reason = "leases have no safe wrapper")]

mod names;

use std::{
    collections::HashMap,
    fs::File,
    io,
    os::{
        fd::AsRawFd as _,
        unix::fs::{FileExt as _, MetadataExt as _},
    },
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use nix::sys::statfs::{
    BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, F2FS_SUPER_MAGIC, FsType, XFS_SUPER_MAGIC, fstatfs,
};
use ring::digest::{Context, SHA256};

pub(crate) use names::{interpreter_of, loader_of};

/// How old a file's last change must be: kernels before 6.13 note it in steps of a clock tick, at most 10 ms.
const SETTLES_AFTER: Duration = Duration::from_millis(100);
/// File systems on which whoever begins to write, through a map too, gives the file another time: they ask to be told of the first write to a
/// page (`page_mkwrite`). tmpfs does not: what was read through a map before is then written without any notice (measured on Linux 6.18).
/// overlayfs is what is below it.
const NOTE_ALL_WRITES: [FsType; 4] = [EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC, F2FS_SUPER_MAGIC];
/// Digests that are kept.
const KEPT: usize = 16_384;
/// How much is read at once.
const PIECE: usize = 256 << 10;

/// Why a file could not be measured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MeasureError {
    #[error("read the file")]
    Read(#[from] io::Error),
    #[error("it is no regular file")]
    NotRegular,
    #[error("it is too large to be measured while somebody waits")]
    TooLarge,
    #[error("it changed while it was measured")]
    Changed,
    #[error("somebody has it open, or mapped, to write to it")]
    Writable,
    #[error("nobody wants to know any more")]
    GivenUp,
}

/// What `stat` says of a file and its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Stamp {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) size_bytes: u64,
    pub(crate) ctime_s: i64,
    pub(crate) ctime_ns: u32,
    pub(crate) mtime_s: i64,
    pub(crate) mtime_ns: u32,
}

impl Stamp {
    pub(crate) fn of(file: &File) -> Result<Self, MeasureError> {
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(MeasureError::NotRegular);
        }
        let ns = |ns: i64| u32::try_from(ns).unwrap_or(0);
        Ok(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size_bytes: metadata.size(),
            ctime_s: metadata.ctime(),
            ctime_ns: ns(metadata.ctime_nsec()),
            mtime_s: metadata.mtime(),
            mtime_ns: ns(metadata.mtime_nsec()),
        })
    }

    /// Whether this file is the one at a path, as we see it.
    pub(crate) fn is_at(&self, path: &str) -> bool {
        let there = std::fs::metadata(path);
        there.is_ok_and(|there| (there.dev(), there.ino()) == (self.device, self.inode))
    }

    /// Its device as the kernel counts: 12 bits, then 20.
    pub(crate) fn kernel_device(&self) -> u32 {
        libc::major(self.device) << 20 | libc::minor(self.device)
    }

    /// Whether whatever is written from `now` on gives it another time.
    fn is_settled(&self, now: SystemTime) -> bool {
        let changed = u64::try_from(self.ctime_s).ok().map(|s| Duration::new(s, self.ctime_ns));
        let age = changed.and_then(|changed| now.duration_since(SystemTime::UNIX_EPOCH + changed).ok());
        age.is_some_and(|age| age >= SETTLES_AFTER)
    }
}

/// A file's content, and what it was told by when that was read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    pub(crate) stamp: Stamp,
    pub(crate) sha256: [u8; 32],
    /// Whether the digest is that of every file that is told by the same.
    pub(crate) settled: bool,
    /// Whether it is known that nobody could write to it meanwhile.
    unwritten: bool,
}

impl Measured {
    /// What its digest does not say, for the record.
    pub(crate) fn caveat(&self) -> Option<String> {
        (!self.unwritten).then(|| "its file system does not say whether somebody can write to it".to_owned())
    }
}

/// Measures files, each once. To be shared.
#[derive(Debug, Default)]
pub(crate) struct Hasher {
    known: Mutex<HashMap<Stamp, Known>>,
    hashed: AtomicU64,
    hashed_bytes: AtomicU64,
    reused: AtomicU64,
}

/// A digest, or nothing while somebody is at it, who holds the lock.
type Known = Arc<Mutex<Option<[u8; 32]>>>;

impl Hasher {
    /// The digest of a file. Who asks for one that is being measured, waits for that. `wanted` is asked from time to time whether it
    /// still is.
    pub(crate) fn measure(&self, file: &File, wanted: &dyn Fn() -> bool) -> Result<Measured, MeasureError> {
        let stamp = Stamp::of(file)?;
        // Before it is read: whoever comes to write later gives it another time.
        let unwritten = match is_open_to_write(file) {
            Ok(true) => return Err(MeasureError::Writable),
            Ok(false) => true,
            // A network file system does not know (v6.1/fs/libfs.c, simple_nosetlease).
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => false,
            Err(error) => return Err(error.into()),
        };
        let notes_writes =
            NOTE_ALL_WRITES.contains(&fstatfs(file).map_err(io::Error::from)?.filesystem_type());
        let settled = unwritten && notes_writes && stamp.is_settled(SystemTime::now());
        if !settled {
            let sha256 = self.hash(file, &stamp, wanted)?;
            return Ok(Measured { stamp, sha256, settled, unwritten });
        }
        let known = self.known(&stamp);
        let mut digest = known.lock().unwrap_or_else(PoisonError::into_inner);
        let sha256 = match *digest {
            Some(digest) => {
                self.reused.fetch_add(1, Relaxed);
                digest
            }
            None => *digest.insert(self.hash(file, &stamp, wanted)?),
        };
        Ok(Measured { stamp, sha256, settled, unwritten })
    }

    fn known(&self, stamp: &Stamp) -> Known {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KEPT && !known.contains_key(stamp) {
            // Seldom, and then they are measured again.
            known.clear();
        }
        Arc::clone(known.entry(*stamp).or_default())
    }

    fn hash(&self, file: &File, stamp: &Stamp, wanted: &dyn Fn() -> bool) -> Result<[u8; 32], MeasureError> {
        self.hashed.fetch_add(1, Relaxed);
        let mut context = Context::new(&SHA256);
        let mut piece = vec![0; PIECE];
        let mut at = 0;
        // No more than it said that it has: what says nothing, such as a log of the kernel's, would be taken from whoever is to read it.
        while at < stamp.size_bytes {
            let wanted_now = PIECE.min(usize::try_from(stamp.size_bytes - at).unwrap_or(PIECE));
            let len = match file.read_at(&mut piece[..wanted_now], at) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read?,
            };
            if len == 0 {
                break;
            }
            context.update(piece.get(..len).unwrap_or_default());
            at += len as u64;
            self.hashed_bytes.fetch_add(len as u64, Relaxed);
            if !wanted() {
                return Err(MeasureError::GivenUp);
            }
        }
        if Stamp::of(file)? != *stamp {
            return Err(MeasureError::Changed);
        }
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(context.finish().as_ref());
        Ok(sha256)
    }

    /// By name, and whether more than zero means that something went wrong.
    pub(crate) fn counters(&self) -> [(&'static str, u64, bool); 3] {
        [
            ("files_hashed", self.hashed.load(Relaxed), false),
            ("files_hashed_bytes", self.hashed_bytes.load(Relaxed), false),
            ("files_hash_reused", self.reused.load(Relaxed), false),
        ]
    }
}

/// Whether somebody has a file open for writing, or mapped so: nobody is given a lease for reading then (fcntl(2), F_SETLEASE). Who opens it
/// at that moment waits until it is given back.
fn is_open_to_write(file: &File) -> io::Result<bool> {
    let set = |command: i32, value: i32| {
        // SAFETY: a system call that takes three numbers.
        match unsafe { libc::fcntl(file.as_raw_fd(), command, value) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // That somebody waits is told by this signal, which does nothing; the usual one ends a process that does not expect it.
    set(F_SETSIG, libc::SIGURG)?;
    match set(libc::F_SETLEASE, libc::F_RDLCK) {
        Ok(()) => set(libc::F_SETLEASE, libc::F_UNLCK).map(|()| false),
        Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => Ok(true),
        Err(error) => Err(error),
    }
}

/// v6.1/include/uapi/asm-generic/fcntl.h
const F_SETSIG: i32 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    /// Where writes are noted.
    fn on_disk() -> tempfile::TempDir {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let kind = nix::sys::statfs::statfs(dir.path()).unwrap().filesystem_type();
        assert!(
            NOTE_ALL_WRITES.contains(&kind),
            "this test needs `/var/tmp` on ext4, XFS, btrfs or F2FS: {kind:?}"
        );
        dir
    }

    fn old(file: &File) {
        while !Stamp::of(file).unwrap().is_settled(SystemTime::now()) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn a_file_is_read_once_until_it_changes() {
        let dir = on_disk();
        let path = dir.path().join("file");
        std::fs::write(&path, b"abc").unwrap();
        let file = File::open(&path).unwrap();
        let hasher = Hasher::default();
        when_closed(|| Hasher::default().measure(&file, &|| true));
        let hashed = || hasher.hashed.load(Relaxed);
        let measure = || hasher.measure(&file, &|| true).unwrap();
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let hex = |bytes: [u8; 32]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(hex(measure().sha256), abc);
        old(&file);
        let before = hashed();
        assert_eq!((hex(measure().sha256), hex(measure().sha256)), (abc.to_owned(), abc.to_owned()));
        assert_eq!(hashed(), before + 1, "read once");
        std::fs::write(&path, b"abcd").unwrap();
        assert_ne!(hex(when_closed(|| hasher.measure(&file, &|| true)).sha256), abc, "it has changed");
        assert!(matches!(hasher.measure(&file, &|| false), Err(MeasureError::GivenUp)));
    }

    /// A program that another test starts has a copy of what is open here for writing until it is executed.
    fn when_closed(measure: impl Fn() -> Result<Measured, MeasureError>) -> Measured {
        let tries = std::iter::repeat_with(|| {
            std::thread::sleep(Duration::from_millis(1));
            measure()
        });
        let is_closed = |measured: &Result<_, _>| !matches!(measured, Err(MeasureError::Writable));
        tries.take(1000).find(is_closed).expect("it is closed within a second").unwrap()
    }

    #[test]
    fn what_somebody_can_write_to_is_not_measured() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let reader = File::open(file.path()).unwrap();
        let hasher = Hasher::default();
        let measure = || hasher.measure(&reader, &|| true);
        assert!(matches!(measure(), Err(MeasureError::Writable)), "it is open");
        let (file, path) = file.into_parts();
        file.set_len(4096).unwrap();
        let len = std::num::NonZero::new(4096).unwrap();
        let (protection, flags) =
            (nix::sys::mman::ProtFlags::PROT_WRITE, nix::sys::mman::MapFlags::MAP_SHARED);
        // SAFETY: the kernel chooses where.
        let map = unsafe { nix::sys::mman::mmap(None, len, protection, flags, &file, 0) }.unwrap();
        drop(file);
        assert!(matches!(measure(), Err(MeasureError::Writable)), "it is mapped");
        // SAFETY: what was just mapped, and nobody else knows of.
        unsafe { nix::sys::mman::munmap(map, 4096) }.unwrap();
        assert!(when_closed(measure).unwritten, "control: nobody has it any more");
        let again = File::options().append(true).open(&path).unwrap();
        assert!(matches!(measure(), Err(MeasureError::Writable)), "and it could be opened");
        drop(again);
    }

    #[test]
    fn in_memory_nothing_is_settled() {
        let file = tempfile::tempfile_in("/dev/shm").unwrap();
        let reader = File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
        file.set_len(4096).unwrap();
        drop(file);
        old(&reader);
        let hasher = Hasher::default();
        let measured = hasher.measure(&reader, &|| true).unwrap();
        assert!(measured.unwritten && !measured.settled, "{measured:?}");
        hasher.measure(&reader, &|| true).unwrap();
        assert_eq!(hasher.hashed.load(Relaxed), 2, "it is read each time");
    }

    #[test]
    fn one_measures_and_the_other_waits() {
        let dir = on_disk();
        let path = dir.path().join("file");
        File::create(&path).unwrap().set_len(64 << 20).unwrap();
        old(&File::open(&path).unwrap());
        let hasher = Hasher::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                // Each opens it: a lease belongs to what was opened.
                scope.spawn(|| hasher.measure(&File::open(&path).unwrap(), &|| true).unwrap());
            }
        });
        assert_eq!((hasher.hashed.load(Relaxed), hasher.reused.load(Relaxed)), (1, 3));
    }
}
