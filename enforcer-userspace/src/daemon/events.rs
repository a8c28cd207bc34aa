//! Writing events: to the file, and to whoever follows. A file that cannot be written (a full disk) stops neither
//! enforcement nor control: the lines that are missing are counted, and said as soon as the file takes lines again.

use std::{path::Path, sync::Arc};

use tokio::sync::broadcast;

use crate::{
    clock,
    control::server::Feed,
    exit::one_line,
    path_error::PathError,
    record::{EventKind, EventLine, LineSession},
    sinks::FileSink,
    state::Log,
};

/// Lines that a follower may be behind.
const FOLLOWER_LINES: usize = 8192;

/// The one place where a line gets its sequence and is written.
#[derive(Debug)]
pub(crate) struct Events {
    sink: FileSink,
    live: broadcast::Sender<Arc<str>>,
    /// Takes every line that got a sequence. Nothing, before it is opened and after it is closed.
    pub(super) log: Option<Log>,
    /// The line that is being written.
    line: Vec<u8>,
    sequence: u64,
    /// Records that were none.
    undecodable: u64,
    /// Lines that the file did not take, since the daemon started.
    unwritten: u64,
    /// Of these, those that no line has spoken of yet.
    unsaid: u64,
}

impl Events {
    /// Goes on where the file ends.
    pub(crate) fn open(path: &Path) -> Result<Self, PathError> {
        let (sink, tail) = FileSink::open(path)?;
        // The last line that is whole.
        let last =
            tail.rsplit('\n').find_map(|line| serde_json::from_str::<EventLine<LineSession>>(line).ok());
        let sequence = last.map_or(0, |line| line.sequence);
        let live = broadcast::channel(FOLLOWER_LINES).0;
        Ok(Self {
            sink,
            live,
            log: None,
            line: Vec::new(),
            sequence,
            undecodable: 0,
            unwritten: 0,
            unsaid: 0,
        })
    }

    /// Writes a line, or counts it.
    pub(crate) fn write(&mut self, line: EventLine) {
        if self.unsaid > 0 {
            let mut missing = EventLine::new(EventKind::RecordsLost, &clock::wall(clock::boot_ns()))
                .detail("the event file could not be written");
            missing.lost = Some(self.unsaid);
            if !self.try_write(missing) {
                self.count_unwritten();
                return;
            }
            self.unsaid = 0;
        }
        if !self.try_write(line) {
            self.count_unwritten();
        }
    }

    fn try_write(&mut self, mut line: EventLine) -> bool {
        line.sequence = self.sequence + 1;
        self.line.clear();
        serde_json::to_writer(&mut self.line, &line).expect("a line holds only text and numbers");
        self.line.push(b'\n');
        if let Err(error) = self.sink.write(&self.line) {
            // Said once for each stretch of missing lines, so that a full disk does not fill another log.
            if self.unsaid == 0 {
                eprintln!("warning: {}", one_line(&error));
            }
            return false;
        }
        self.sequence += 1;
        if let Some(log) = &self.log {
            log.append(self.sequence, self.line.strip_suffix(b"\n").unwrap_or(&self.line));
        }
        if self.live.receiver_count() > 0 {
            let text = self.line.strip_suffix(b"\n").unwrap_or(&self.line);
            let text = str::from_utf8(text).expect("JSON is text");
            // Whoever followed may have gone.
            drop(self.live.send(text.into()));
        }
        true
    }

    fn count_unwritten(&mut self) {
        self.unwritten += 1;
        self.unsaid += 1;
    }

    /// A record that is no record: counted, never dropped in silence.
    pub(crate) fn count_undecodable(&mut self) {
        self.undecodable += 1;
    }

    /// The lines so far, and those to come.
    pub(crate) fn feed(&self) -> Result<Feed, PathError> {
        Ok(Feed { history: self.sink.history()?, live: self.live.subscribe() })
    }

    /// Of the last line.
    pub(crate) const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// By name, and whether more than zero means that something went wrong.
    pub(crate) const fn counters(&self) -> [(&'static str, u64, bool); 3] {
        [
            ("events_written", self.sequence, false),
            ("fault_event_unwritten", self.unwritten, true),
            ("fault_record_undecodable", self.undecodable, true),
        ]
    }
}
