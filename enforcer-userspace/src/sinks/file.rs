//! Events as lines of a file, mode 600, rotated by rename: `events.jsonl`, then `events.jsonl.1` and so on, oldest last.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use crate::path_error::PathError;

/// Bytes after which a file is rotated.
const ROTATE_BYTES: u64 = 10 << 20;
/// Files kept, with the current one.
const KEEP: u32 = 5;

/// The file, open.
#[derive(Debug)]
pub(crate) struct FileSink {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl FileSink {
    /// Opens the file for appending, and gives the end of what was written before: the last lines, of which the first may be
    /// cut. A last line that a crash cut short is removed: nobody was told that it was written.
    pub(crate) fn open(path: &Path) -> Result<(Self, String), PathError> {
        let mut file = open(path)?;
        let mut tail = read_tail(&mut file).map_err(PathError::at("read", path))?;
        let mut bytes = file.metadata().map_err(PathError::at("look at", path))?.len();
        let cut = tail.len() - tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        if cut > 0 {
            bytes -= cut as u64;
            tail.truncate(tail.len() - cut);
            file.set_len(bytes).map_err(PathError::at("shorten", path))?;
        }
        if tail.is_empty() {
            // Just rotated: what came before is in the next file.
            match File::open(numbered(path, 1)) {
                Ok(mut before) => tail = read_tail(&mut before).map_err(PathError::at("read", path))?,
                Err(failed) if failed.kind() == io::ErrorKind::NotFound => {}
                Err(failed) => return Err(PathError::at("open", path)(failed)),
            }
        }
        Ok((Self { path: path.to_owned(), file, bytes }, String::from_utf8_lossy(&tail).into_owned()))
    }

    /// Appends one line, with the newline that it ends in, whole or not at all.
    pub(crate) fn write(&mut self, line: &[u8]) -> Result<(), PathError> {
        if self.bytes > 0 && self.bytes + line.len() as u64 > ROTATE_BYTES {
            // The line that found no new file is not written: else a disk on which none can be made would fill with one file.
            self.rotate()?;
        }
        if let Err(failed) = self.file.write_all(line) {
            // A part may have found room.
            self.file.set_len(self.bytes).map_err(PathError::at("shorten", &self.path))?;
            return Err(PathError::at("write", &self.path)(failed));
        }
        self.bytes += line.len() as u64;
        Ok(())
    }

    /// Which file this is.
    pub(super) fn inode(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.ino())
    }

    /// The lines written so far, oldest file first: open files, so that a rotation meanwhile does not matter. Each with
    /// the bytes to read.
    pub(crate) fn history(&self) -> Result<Vec<(File, u64)>, PathError> {
        let mut files = Vec::new();
        for path in (1..KEEP).rev().map(|n| numbered(&self.path, n)).chain([self.path.clone()]) {
            match File::open(&path) {
                Ok(file) => {
                    let bytes = file.metadata().map_err(PathError::at("look at", &path))?.len();
                    files.push((file, bytes));
                }
                Err(failed) if failed.kind() == io::ErrorKind::NotFound => {}
                Err(failed) => return Err(PathError::at("open", &path)(failed)),
            }
        }
        Ok(files)
    }

    /// The text of each file, newest first.
    pub(crate) fn texts(&self) -> impl Iterator<Item = Result<String, PathError>> {
        names(&self.path).into_iter().filter_map(|path| match read_kept(&path) {
            Ok(bytes) => Some(Ok(String::from_utf8_lossy(&bytes).into_owned())),
            Err(failed) if failed.kind() == io::ErrorKind::NotFound => None,
            Err(failed) => Some(Err(PathError::at("read", &path)(failed))),
        })
    }

    /// Every file that this sink writes to.
    pub(crate) fn files(path: &Path) -> Vec<PathBuf> {
        (1..KEEP).map(|n| numbered(path, n)).chain([path.to_owned(), new(path)]).collect()
    }

    /// The new file first: if there can be none, nothing has been moved.
    fn rotate(&mut self) -> Result<(), PathError> {
        let next = new(&self.path);
        let file = open(&next)?;
        for n in (1..KEEP).rev() {
            let from = if n == 1 { self.path.clone() } else { numbered(&self.path, n - 1) };
            match fs::rename(&from, numbered(&self.path, n)) {
                Err(failed) if failed.kind() != io::ErrorKind::NotFound => {
                    return Err(PathError::at("rotate", &from)(failed));
                }
                _ => {}
            }
        }
        fs::rename(&next, &self.path).map_err(PathError::at("rotate", &next))?;
        self.file = file;
        self.bytes = 0;
        Ok(())
    }
}

/// What is in a file of ours, if it still is one.
fn read_kept(path: &Path) -> io::Result<Vec<u8>> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    let mut bytes = Vec::new();
    file.take(2 * ROTATE_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Where lines are, newest first.
pub(super) fn names(path: &Path) -> Vec<PathBuf> {
    std::iter::once(path.to_owned()).chain((1..KEEP).map(|n| numbered(path, n))).collect()
}

fn open(path: &Path) -> Result<File, PathError> {
    let opened = OpenOptions::new().create(true).append(true).read(true).mode(0o600).open(path);
    opened.map_err(PathError::at("open", path))
}

fn numbered(path: &Path, n: u32) -> PathBuf {
    suffixed(path, &n.to_string())
}

/// The next file, before it has its name.
fn new(path: &Path) -> PathBuf {
    suffixed(path, "new")
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

/// The end of the file: at least the last whole line, if there is one.
fn read_tail(file: &mut File) -> io::Result<Vec<u8>> {
    let length = file.metadata()?.len();
    let mut tail_bytes = 64 << 10;
    loop {
        file.seek(SeekFrom::Start(length.saturating_sub(tail_bytes)))?;
        let mut tail = Vec::new();
        file.read_to_end(&mut tail)?;
        // A line ends, and another one before it.
        if tail_bytes >= length || tail.iter().filter(|byte| **byte == b'\n').count() > 1 {
            return Ok(tail);
        }
        tail_bytes *= 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(sink: &FileSink) -> String {
        let mut text = String::new();
        for (file, bytes) in sink.history().unwrap() {
            file.take(bytes).read_to_string(&mut text).unwrap();
        }
        text
    }

    #[test]
    fn line_cut_short_by_a_crash_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        fs::write(&path, "one\ntwo\nthr").unwrap();
        let (mut sink, tail) = FileSink::open(&path).unwrap();
        assert_eq!(tail, "one\ntwo\n");
        sink.write(b"four\n").unwrap();
        assert_eq!(all(&sink), "one\ntwo\nfour\n");
    }

    #[test]
    fn long_lines_are_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let long = "x".repeat(300 << 10);
        fs::write(&path, format!("one\n{long}\n{long}")).unwrap();
        let (_sink, tail) = FileSink::open(&path).unwrap();
        assert!(tail.ends_with(&format!("{long}\n")), "the whole line is found");
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("one\n{long}\n"), "the cut one is gone");
    }

    #[test]
    fn rotation_keeps_the_newest_and_their_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let (mut sink, tail) = FileSink::open(&path).unwrap();
        assert_eq!(tail, "");
        let filler = "x".repeat(1 << 20);
        for n in 0..70 {
            sink.write(format!("{n} {filler}\n").as_bytes()).unwrap();
        }
        let numbers: Vec<u32> =
            all(&sink).lines().map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect();
        assert_eq!(numbers.last(), Some(&69));
        assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{numbers:?}");
        assert!(numbers.len() >= 36 && numbers.len() <= 50, "{} lines", numbers.len());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 5);
    }

    #[test]
    fn end_is_found_behind_a_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        fs::write(numbered(&path, 1), "one\ntwo\n").unwrap();
        let (_sink, tail) = FileSink::open(&path).unwrap();
        assert_eq!(tail, "one\ntwo\n");
    }
}
