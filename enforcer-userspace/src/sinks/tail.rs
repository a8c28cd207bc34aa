//! Reading the event file behind whoever writes it: each line once, in order, through rotations, from wherever a reader stopped.
//!
//! The event file is the one queue of all sinks: what one has not sent yet is there for as long as the file is kept, and what is gone
//! from it is known by its number.

use std::{
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Seek as _, SeekFrom},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use crate::{
    path_error::PathError,
    record::{EventLine, LineSession},
};

/// The longest line that is read. Ours are much shorter.
const MAX_LINE_BYTES: u64 = 4 << 20;

/// An event that was written.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) event: EventLine<LineSession>,
    pub(super) text: String,
}

/// A reader.
#[derive(Debug)]
pub(super) struct Tail {
    path: PathBuf,
    /// Newest first.
    paths: Vec<PathBuf>,
    open: Option<Open>,
    /// The number of the last event that was given out.
    after: u64,
}

#[derive(Debug)]
struct Open {
    reader: BufReader<File>,
    inode: u64,
    /// Of the last event that was read, given out or not.
    last: u64,
}

impl Tail {
    /// Goes on behind an event.
    pub(super) fn new(path: &Path, after: u64) -> Self {
        Self { path: path.to_owned(), paths: super::file::names(path), open: None, after }
    }

    /// Goes back, or on, to behind an event.
    pub(super) fn seek(&mut self, after: u64) {
        self.after = after;
        self.open = None;
    }

    /// The next events, as many as there are and are wanted.
    pub(super) fn next(&mut self, events: usize, bytes: usize) -> Result<Vec<Written>, PathError> {
        let mut found = Vec::new();
        let mut taken = 0;
        while found.len() < events && taken < bytes {
            if self.open.is_none() {
                self.open_next()?;
            }
            let Some(open) = &mut self.open else { break };
            let read = read_line(&mut open.reader);
            match read.map_err(PathError::at("read", &self.path))? {
                Some(text) => {
                    // What is no event in a file of ours has a number that will be missed.
                    let Ok(event) = serde_json::from_str::<EventLine<LineSession>>(&text) else { continue };
                    open.last = event.sequence;
                    if event.sequence > self.after {
                        self.after = event.sequence;
                        taken += text.len();
                        found.push(Written { event, text });
                    }
                }
                None if !self.open_next()? => break,
                None => {}
            }
        }
        Ok(found)
    }

    /// Opens the file in which the next event is, if that is another one. Whether there is something to read.
    fn open_next(&mut self) -> Result<bool, PathError> {
        let current = self.open.as_ref().map(|open| open.inode);
        // Numbers begin again where somebody has removed the events: what is there is new.
        if self.open.as_ref().is_some_and(|open| open.last < self.after) && self.is_newest(current)? {
            self.after = 0;
            self.open = None;
        }
        let mut oldest = None;
        for path in &self.paths {
            let Some((mut reader, inode)) = open(path)? else { continue };
            let first = read_line(&mut reader).map_err(PathError::at("read", path))?;
            let Some(first) = first else { continue };
            let first =
                serde_json::from_str::<EventLine<LineSession>>(&first).map_or(0, |event| event.sequence);
            reader.seek(SeekFrom::Start(0)).map_err(PathError::at("read", path))?;
            oldest = Some(Open { reader, inode, last: 0 });
            if first <= self.after + 1 {
                break;
            }
        }
        match oldest {
            Some(next) if self.open.is_none() || current != Some(next.inode) => {
                self.open = Some(next);
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    fn is_newest(&self, inode: Option<u64>) -> Result<bool, PathError> {
        match fs::metadata(&self.path) {
            Ok(metadata) => Ok(Some(metadata.ino()) == inode),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(PathError::at("look at", &self.path)(error)),
        }
    }
}

fn open(path: &Path) -> Result<Option<(BufReader<File>, u64)>, PathError> {
    match File::open(path) {
        Ok(file) => {
            let inode = file.metadata().map_err(PathError::at("look at", path))?.ino();
            Ok(Some((BufReader::new(file), inode)))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(PathError::at("open", path)(error)),
    }
}

/// A line without its end; nothing where there is no whole one yet, and then the reader stands where it stood.
fn read_line(reader: &mut BufReader<File>) -> io::Result<Option<String>> {
    let mut bytes = Vec::new();
    let read = io::Read::take(&mut *reader, MAX_LINE_BYTES).read_until(b'\n', &mut bytes)?;
    if bytes.pop_if(|last| *last == b'\n').is_some() {
        return Ok(Some(String::from_utf8_lossy(&bytes).into_owned()));
    }
    // Not within what is buffered: a half line may be taken back, and another be written in its place.
    reader.seek(SeekFrom::Current(-i64::try_from(read).unwrap_or(0)))?;
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::FileSink;

    fn line(sequence: u64, filler: usize) -> Vec<u8> {
        let detail = "x".repeat(filler);
        format!(
            "{{\"version\":1,\"kind\":\"daemon-fault\",\"time\":\"2026-01-01T00:00:00Z\",\"sequence\":{sequence},\"detail\":\"{detail}\"}}\n"
        )
        .into_bytes()
    }

    fn all(tail: &mut Tail) -> Vec<u64> {
        let mut numbers = Vec::new();
        loop {
            let next = tail.next(7, 1 << 20).unwrap();
            if next.is_empty() {
                return numbers;
            }
            numbers.extend(next.iter().map(|written| written.event.sequence));
        }
    }

    #[test]
    fn each_line_is_given_out_once_through_rotations() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let (mut sink, _) = FileSink::open(&path).unwrap();
        let mut tail = Tail::new(&path, 0);
        assert!(all(&mut tail).is_empty(), "nothing yet");
        let mut seen = Vec::new();
        for n in 1..=60 {
            sink.write(&line(n, 700 << 10)).unwrap();
            if n % 9 == 0 {
                seen.extend(all(&mut tail));
            }
        }
        seen.extend(all(&mut tail));
        assert_eq!(seen, (1..=60).collect::<Vec<u64>>());
        assert_eq!(all(&mut Tail::new(&path, 40)), (41..=60).collect::<Vec<u64>>(), "from where it stopped");
        tail.seek(57);
        assert_eq!(all(&mut tail), [58, 59, 60], "back");
    }

    #[test]
    fn what_is_gone_is_missing_and_what_is_half_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let half = line(9, 10);
        fs::write(&path, [line(5, 10), line(6, 10), half[..20].to_vec()].concat()).unwrap();
        let mut tail = Tail::new(&path, 1);
        assert_eq!(all(&mut tail), [5, 6]);
        fs::write(&path, [line(5, 10), line(6, 10), half].concat()).unwrap();
        assert_eq!(all(&mut tail), [9]);
    }

    #[test]
    fn numbers_that_begin_again_are_new() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        fs::write(&path, line(1, 10)).unwrap();
        assert_eq!(all(&mut Tail::new(&path, 500)), [1]);
    }
}
