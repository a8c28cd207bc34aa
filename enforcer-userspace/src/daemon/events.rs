//! Writing events: to the file, and to whoever follows. A file that cannot be written (a full disk) stops neither
//! enforcement nor control: the lines that are missing are counted, and said as soon as the file takes lines again.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::broadcast;

use crate::{
    clock,
    control::server::Feed,
    exit::one_line,
    path_error::PathError,
    record::{EventKind, EventLine, LineSession, Reading, Told},
    sinks::FileSink,
    state::Log,
};

/// Lines that are gathered are written when they have so many bytes, at the latest.
const GATHERED_BYTES: usize = 64 << 10;
/// How long records are held back for an audit log that does not get on.
const LONGEST_HOLD: Duration = Duration::from_millis(250);
/// Lines that a follower may be behind.
const FOLLOWER_LINES: usize = 8192;

/// The one place where a line gets its sequence and is written.
#[derive(Debug)]
pub(crate) struct Events {
    sink: FileSink,
    live: broadcast::Sender<Arc<str>>,
    /// Takes every line that got a sequence. Nothing, before it is opened and after it is closed.
    pub(super) log: Option<Log>,
    /// Lines that are not in the file yet, and where each ends: while records are taken, many are written at once.
    waiting: Vec<u8>,
    ends: Vec<usize>,
    gathers: bool,
    /// Of the last line in the file.
    sequence: u64,
    /// What that was when lines were given up; nothing if none were.
    failed_after: Option<u64>,
    /// Since when the audit log has had more to write than half its queue holds.
    crowded_since: Option<Instant>,
    /// Records that were none.
    undecodable: u64,
    /// Records that an earlier daemon had taken, and had not written down.
    unfinished: u64,
    /// Lines that the file did not take, since the daemon started.
    unwritten: u64,
    /// Of these, those that no line has spoken of yet, and when the first and the last of them were to be written, ns on the boot clock.
    unsaid: u64,
    unsaid_ns: [u64; 2],
}

impl Drop for Events {
    /// What was taken from the kernel is not there any more.
    fn drop(&mut self) {
        self.flush();
    }
}

impl Events {
    /// Goes on where the file ends.
    pub(crate) fn open(path: &Path) -> Result<Self, PathError> {
        let (sink, tail) = FileSink::open(path)?;
        // The last line that is whole.
        let last =
            tail.rsplit('\n').find_map(|line| serde_json::from_str::<EventLine<LineSession>>(line).ok());
        // As many more can be numbered.
        let sequence = last.map_or(0, |line| line.sequence.min(u64::MAX / 2));
        let live = broadcast::channel(FOLLOWER_LINES).0;
        Ok(Self {
            sink,
            live,
            log: None,
            waiting: Vec::new(),
            ends: Vec::new(),
            gathers: false,
            sequence,
            failed_after: None,
            crowded_since: None,
            undecodable: 0,
            unfinished: 0,
            unwritten: 0,
            unsaid: 0,
            unsaid_ns: [0; 2],
        })
    }

    /// Writes a line, or counts it; while lines are gathered, with others.
    pub(crate) fn write(&mut self, mut line: EventLine) {
        self.write_numbered(&mut line);
    }

    /// Likewise. The number that it has, unless it is known already that it was not written: see [`Self::take_failed`].
    pub(crate) fn write_numbered(&mut self, line: &mut EventLine) -> Option<u64> {
        let unwritten = self.unwritten;
        if self.unsaid > 0 {
            // By itself: if it is not taken, the file takes nothing still. What waits may not be taken either, and is among what it says.
            self.flush();
            let [first, last] = self.unsaid_ns.map(clock::wall);
            let mut missing = EventLine::new(EventKind::RecordsLost, &clock::wall(clock::boot_ns()))
                .detail(format!("the event file could not be written, from {first:.9} to {last:.9}"));
            missing.lost = Some(self.unsaid);
            self.add(&mut missing);
            if !self.try_flush() {
                // What it would have said is counted already; this line is one more.
                self.count_unwritten(1);
                return None;
            }
            self.unsaid = 0;
        }
        self.add(line);
        if !self.gathers || self.waiting.len() >= GATHERED_BYTES {
            self.flush();
        }
        (self.unwritten == unwritten).then_some(line.sequence)
    }

    /// After which number lines had others that did not get into the file, if there were any since this was asked last.
    pub(super) const fn take_failed(&mut self) -> Option<u64> {
        self.failed_after.take()
    }

    /// From now on lines are gathered, until they are many; or no more.
    pub(super) const fn gather(&mut self, gathers: bool) {
        self.gathers = gathers;
    }

    /// Writes the lines that were gathered, or counts them.
    pub(super) fn flush(&mut self) {
        let lines = self.ends.len() as u64;
        if !self.try_flush() {
            self.count_unwritten(lines);
        }
    }

    /// Lines that the file did not take.
    pub(super) const fn unwritten(&self) -> u64 {
        self.unwritten
    }

    fn add(&mut self, line: &mut EventLine) {
        line.sequence = self.sequence + self.ends.len() as u64 + 1;
        serde_json::to_writer(&mut self.waiting, line).expect("a line holds only text and numbers");
        self.waiting.push(b'\n');
        self.ends.push(self.waiting.len());
    }

    /// Whether all that waited is in the file; otherwise none of it is, and it is forgotten.
    fn try_flush(&mut self) -> bool {
        if self.ends.is_empty() {
            return true;
        }
        let written = self.sink.write(&self.waiting);
        let is_written = written.is_ok();
        if !is_written {
            self.failed_after.get_or_insert(self.sequence);
        }
        match written {
            Ok(()) => self.hand_on(),
            // Said once for each stretch of missing lines, so that a full disk does not fill another log.
            Err(error) if self.unsaid == 0 => eprintln!("warning: {}", one_line(&error)),
            Err(_said) => {}
        }
        self.waiting.clear();
        self.ends.clear();
        is_written
    }

    /// To the audit log, and to whoever follows.
    fn hand_on(&mut self) {
        let mut start = 0;
        for end in &self.ends {
            self.sequence += 1;
            let line = self.waiting.get(start..end - 1).unwrap_or_default();
            start = *end;
            if let Some(log) = &self.log {
                log.append(self.sequence, line);
            }
            if self.live.receiver_count() > 0 {
                let text = str::from_utf8(line).expect("JSON is text");
                // Whoever followed may have gone.
                drop(self.live.send(text.into()));
            }
        }
    }

    fn count_unwritten(&mut self, lines: u64) {
        let now_ns = clock::boot_ns();
        self.unsaid_ns = [if self.unsaid == 0 { now_ns } else { self.unsaid_ns[0] }, now_ns];
        self.unwritten += lines;
        self.unsaid += lines;
    }

    /// A record that is no record: counted, never dropped in silence.
    pub(crate) fn count_undecodable(&mut self) {
        self.undecodable += 1;
    }

    /// Records that are missing for a daemon before this one.
    pub(super) const fn count_unfinished(&mut self, records: u64) {
        self.unfinished = self.unfinished.saturating_add(records);
    }

    /// The lines so far, and those to come.
    pub(crate) fn feed(&mut self) -> Result<Feed, PathError> {
        self.flush();
        Ok(Feed { history: self.sink.history()?, live: self.live.subscribe() })
    }

    /// Up to which record of each CPU lines tell.
    pub(super) fn written(&self, told: &Told, cpus: u32) -> Result<Reading, PathError> {
        let mut reading = Reading::new(told, cpus);
        for text in self.sink.texts() {
            if !text?.lines().rev().all(|line| reading.read(line)) {
                break;
            }
        }
        Ok(reading)
    }

    /// Whether records should stay in the kernel's ring buffer for a moment: what finds no room there is lost by number, and what finds
    /// none in the queue of the audit log is missing in that alone. A disk that hangs keeps nobody from being heard for long.
    pub(super) fn holds_back(&mut self) -> bool {
        if !self.log.as_ref().is_some_and(Log::is_crowded) {
            self.crowded_since = None;
            return false;
        }
        self.crowded_since.get_or_insert_with(Instant::now).elapsed() < LONGEST_HOLD
    }

    /// Of the last line.
    pub(crate) const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// By name, and whether more than zero means that something went wrong.
    pub(crate) const fn counters(&self) -> [(&'static str, u64, bool); 4] {
        [
            ("events_written", self.sequence, false),
            ("fault_event_unwritten", self.unwritten, true),
            ("fault_record_undecodable", self.undecodable, true),
            ("fault_record_unfinished", self.unfinished, true),
        ]
    }
}
