//! The files of a log, by their names.

use std::{
    fs::{self, File},
    io::{self, BufReader, Read, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::{super::sync_dir, AuditError};
use crate::{
    audit::{Anchor, Header, SegmentReader, Stub},
    path_error::PathError,
};

const PLAIN: &str = ".log";
const PACKED: &str = ".log.zst";
/// What is not in place yet.
const TEMPORARY: &str = ".tmp";
const STUB: &str = "removed.stub";
/// Far more than a stub or a head takes.
const MAX_FILE_BYTES: u64 = 16 << 20;
const READ_AHEAD: usize = 256 << 10;
/// A segment that needs more to be unpacked is none of ours: 8 MiB.
const MAX_WINDOW_LOG: u32 = 23;

/// A segment's file.
#[derive(Clone, Debug)]
pub(crate) struct SegmentFile {
    pub(crate) first: u64,
    pub(crate) path: PathBuf,
    pub(super) packed: bool,
    pub(super) bytes: u64,
    pub(super) modified: SystemTime,
}

impl SegmentFile {
    pub(crate) fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// Where a log is.
#[derive(Clone, Debug)]
pub(crate) struct LogDir {
    dir: PathBuf,
}

impl LogDir {
    pub(crate) fn at(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.dir
    }

    /// A file beside the directory, whose name begins like its own.
    fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = self.dir.file_name().unwrap_or_default().to_owned();
        name.push(suffix);
        self.dir.with_file_name(name)
    }

    /// Where the last checkpoint was.
    pub(crate) fn head_path(&self) -> PathBuf {
        self.beside(".head")
    }

    /// The key that signs.
    pub(crate) fn key_path(&self) -> PathBuf {
        self.beside(".key")
    }

    /// The one that is about to take its place.
    pub(crate) fn next_key_path(&self) -> PathBuf {
        self.beside(".key.next")
    }

    pub(super) fn stub_path(&self) -> PathBuf {
        self.dir.join(STUB)
    }

    pub(super) fn plain_path(&self, first: u64) -> PathBuf {
        self.dir.join(format!("{first:020}{PLAIN}"))
    }

    pub(super) fn packed_path(&self, first: u64) -> PathBuf {
        self.dir.join(format!("{first:020}{PACKED}"))
    }

    /// Every file that is not in the directory.
    pub(crate) fn files_beside(&self) -> Vec<PathBuf> {
        let written = [self.head_path(), self.key_path(), self.next_key_path()];
        let temporary = written.iter().map(|path| path.with_extension("tmp"));
        temporary.chain(written.clone()).collect()
    }

    /// The segments, the oldest first. Of one that is there twice the packed one: it has its name only since it was whole.
    pub(crate) fn segments(&self) -> Result<Vec<SegmentFile>, AuditError> {
        let mut found: Vec<SegmentFile> = Vec::new();
        let failed = || PathError::at("read", &self.dir);
        for entry in fs::read_dir(&self.dir).map_err(failed())? {
            let path = entry.map_err(failed())?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            let (number, packed) = match (name.strip_suffix(PACKED), name.strip_suffix(PLAIN)) {
                (Some(number), _) => (number, true),
                (None, Some(number)) => (number, false),
                (None, None) => continue,
            };
            let digits = number.len() == 20 && number.bytes().all(|byte| byte.is_ascii_digit());
            let Some(first) = number.parse().ok().filter(|_| digits) else { continue };
            let there = match fs::symlink_metadata(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound && !packed => {
                    let path = self.packed_path(first);
                    fs::symlink_metadata(&path).map(|metadata| (path, true, metadata))
                }
                metadata => metadata.map(|metadata| (path.clone(), packed, metadata)),
            };
            let (path, packed, metadata) = match there {
                // Removed meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                there => there.map_err(PathError::at("look at", &path))?,
            };
            let modified = metadata.modified().map_err(PathError::at("look at", &path))?;
            found.push(SegmentFile { first, path, packed, bytes: metadata.len(), modified });
        }
        found.sort_by_key(|segment| (segment.first, !segment.packed));
        found.dedup_by_key(|segment| segment.first);
        Ok(found)
    }

    /// Plain segments of which there is a packed one, and what a write that was cut short left.
    pub(super) fn left_over(&self) -> Result<Vec<PathBuf>, AuditError> {
        let kept: Vec<PathBuf> = self.segments()?.into_iter().map(|segment| segment.path).collect();
        let mut left = Vec::new();
        let failed = || PathError::at("read", &self.dir);
        for entry in fs::read_dir(&self.dir).map_err(failed())? {
            let path = entry.map_err(failed())?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let is_plain = name.ends_with(PLAIN) && !kept.contains(&path);
            let has_packed = is_plain && kept.contains(&PathBuf::from(format!("{}.zst", path.display())));
            if has_packed || name.ends_with(TEMPORARY) {
                left.push(path);
            }
        }
        Ok(left)
    }

    /// The bytes of a segment, unpacked. It may have been packed since it was found.
    pub(crate) fn open(&self, segment: &SegmentFile) -> Result<Box<dyn Read>, AuditError> {
        let plain = || {
            let path = self.plain_path(segment.first);
            let file = File::open(&path).map_err(PathError::at("open", &path))?;
            Ok::<Box<dyn Read>, AuditError>(Box::new(BufReader::with_capacity(READ_AHEAD, file)))
        };
        let packed = || {
            let path = self.packed_path(segment.first);
            let file = File::open(&path).map_err(PathError::at("open", &path))?;
            let unpack = || {
                let mut decoder = zstd::stream::read::Decoder::new(file)?;
                decoder.window_log_max(MAX_WINDOW_LOG)?;
                Ok(decoder)
            };
            let decoder = unpack().map_err(PathError::at("unpack", &path))?;
            Ok::<Box<dyn Read>, AuditError>(Box::new(BufReader::with_capacity(READ_AHEAD, decoder)))
        };
        match if segment.packed { packed() } else { plain() } {
            Err(AuditError::Io(error)) if error.source.kind() == io::ErrorKind::NotFound => {
                if segment.packed { plain() } else { packed() }
            }
            opened => opened,
        }
    }

    /// Makes the file of a segment, with its header, in one step.
    pub(super) fn create(&self, header: &Header) -> Result<File, AuditError> {
        let path = self.plain_path(header.first);
        let temporary = self.dir.join(format!("{:020}{TEMPORARY}", header.first));
        let create = || {
            match fs::remove_file(&temporary) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file =
                File::options().create_new(true).append(true).read(true).mode(0o600).open(&temporary)?;
            file.write_all(&header.encode())?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            sync_dir(&self.dir)?;
            Ok(file)
        };
        Ok(create().map_err(PathError::at("create", &path))?)
    }

    /// The header of a segment.
    pub(super) fn header(&self, segment: &SegmentFile) -> Result<Header, AuditError> {
        let reader = SegmentReader::open(self.open(segment)?);
        let reader = reader.map_err(|source| AuditError::Segment { path: segment.path.clone(), source })?;
        Ok(*reader.header())
    }

    /// Where the last checkpoint was, if that was written down.
    pub(crate) fn head(&self) -> Result<Option<Anchor>, AuditError> {
        read_json(&self.head_path())
    }

    /// The segments, and what is left of those before them: as they were at one moment, though more are removed all the while.
    pub(crate) fn segments_and_stub(&self) -> Result<(Vec<SegmentFile>, Option<Stub>), AuditError> {
        let mut before = self.segments()?;
        loop {
            // It is there before they are gone.
            let stub = self.stub()?;
            let after = self.segments()?;
            if before.first().map(|it| it.first) == after.first().map(|it| it.first) {
                return Ok((after, stub));
            }
            before = after;
        }
    }

    /// What is left of what was removed, if anything was.
    pub(crate) fn stub(&self) -> Result<Option<Stub>, AuditError> {
        read_json(&self.stub_path())
    }
}

/// A JSON document in a file, if there is one.
pub(crate) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, AuditError> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(PathError::at("open", path))?,
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES).read_to_end(&mut bytes).map_err(PathError::at("read", path))?;
    let read = serde_json::from_slice(&bytes);
    read.map(Some).map_err(|source| AuditError::Format { path: path.to_owned(), source })
}
