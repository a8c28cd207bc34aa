//! Events as lines of a file, mode 600, rotated by rename: `events.jsonl`, then `events.jsonl.1` and so on, oldest last.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::OpenOptionsExt as _,
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
    /// Opens the file for appending, and gives the last whole line in it. A line that a crash cut short is ended, so that
    /// the next one starts on its own.
    pub(crate) fn open(path: &Path) -> Result<(Self, Option<String>), PathError> {
        let mut file = open(path)?;
        let tail = read_tail(&mut file).map_err(PathError::at("read", path))?;
        if !tail.is_empty() && !tail.ends_with('\n') {
            file.write_all(b"\n").map_err(PathError::at("write", path))?;
        }
        let bytes = file.metadata().map_err(PathError::at("look at", path))?.len();
        let whole = tail.rsplit_once('\n').map_or("", |(whole, _cut)| whole);
        let last = whole.rsplit('\n').find(|line| !line.is_empty()).map(str::to_owned);
        Ok((Self { path: path.to_owned(), file, bytes }, last))
    }

    /// Appends one line in one write.
    pub(crate) fn write(&mut self, line: &str) -> Result<(), PathError> {
        if self.bytes > 0 && self.bytes + line.len() as u64 >= ROTATE_BYTES {
            self.rotate()?;
        }
        let mut bytes = Vec::with_capacity(line.len() + 1);
        bytes.extend_from_slice(line.as_bytes());
        bytes.push(b'\n');
        self.file.write_all(&bytes).map_err(PathError::at("write", &self.path))?;
        self.bytes += bytes.len() as u64;
        Ok(())
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

    /// Every file that this sink writes to.
    pub(crate) fn files(path: &Path) -> Vec<PathBuf> {
        (1..KEEP).map(|n| numbered(path, n)).chain([path.to_owned()]).collect()
    }

    fn rotate(&mut self) -> Result<(), PathError> {
        for n in (1..KEEP).rev() {
            let from = if n == 1 { self.path.clone() } else { numbered(&self.path, n - 1) };
            match fs::rename(&from, numbered(&self.path, n)) {
                Err(failed) if failed.kind() != io::ErrorKind::NotFound => {
                    return Err(PathError::at("rotate", &from)(failed));
                }
                _ => {}
            }
        }
        self.file = open(&self.path)?;
        self.bytes = 0;
        Ok(())
    }
}

fn open(path: &Path) -> Result<File, PathError> {
    let opened = OpenOptions::new().create(true).append(true).read(true).mode(0o600).open(path);
    opened.map_err(PathError::at("open", path))
}

fn numbered(path: &Path, n: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{n}"));
    name.into()
}

/// The last 64 KiB, which hold at least one whole line.
fn read_tail(file: &mut File) -> io::Result<String> {
    const TAIL_BYTES: u64 = 64 << 10;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail)?;
    Ok(String::from_utf8_lossy(&tail).into_owned())
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
    fn line_cut_short_by_a_crash_is_set_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        fs::write(&path, "one\ntwo\nthr").unwrap();
        let (mut sink, last) = FileSink::open(&path).unwrap();
        assert_eq!(last.as_deref(), Some("two"));
        sink.write("four").unwrap();
        assert_eq!(all(&sink), "one\ntwo\nthr\nfour\n");
    }

    #[test]
    fn rotation_keeps_the_newest_and_their_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let (mut sink, last) = FileSink::open(&path).unwrap();
        assert_eq!(last, None);
        let filler = "x".repeat(1 << 20);
        for n in 0..70 {
            sink.write(&format!("{n} {filler}")).unwrap();
        }
        let numbers: Vec<u32> =
            all(&sink).lines().map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect();
        assert_eq!(numbers.last(), Some(&69));
        assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{numbers:?}");
        assert!(numbers.len() >= 36 && numbers.len() <= 50, "{} lines", numbers.len());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 5);
    }
}
