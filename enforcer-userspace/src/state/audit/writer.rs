//! The thread that writes. What it has written it vouches for with a checkpoint, after so many entries and after a second, and has it on
//! disk then: that is how much a crash may take. What cannot be written waits; what finds no room meanwhile is said to be lost.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::Write as _,
    sync::{Arc, PoisonError, atomic::Ordering::Relaxed},
    time::{Duration, Instant, SystemTime},
};

use ring::rand::SystemRandom;

use super::{
    super::replace,
    AuditError, Limits, Opening, Shared,
    files::{LogDir, SegmentFile},
    pack::Packer,
    queue::{Batch, Item, Queue},
    resume,
};
use crate::{
    audit::{Anchor, CHECKPOINT_ENTRIES, Header, Kind, Lost, Moment, Signed, State},
    exit::one_line,
    path_error::PathError,
    signature::SigningKey,
};

/// A checkpoint is written at the latest so long after an entry.
const CHECKPOINT_TIME: Duration = Duration::from_secs(1);
/// While there is more to write, it is written down so often where the last checkpoint was.
const HEAD_TIME: Duration = Duration::from_millis(100);
/// How long the writer waits before it tries again what did not work.
const RETRY: Duration = Duration::from_secs(1);
/// How often it looks for segments that are too old.
pub(super) const RETAIN_TIME: Duration = Duration::from_secs(60);
/// What is handed to the kernel at a time: little enough that it is in a processor's cache still when the kernel copies it.
const WRITE_BYTES: usize = 256 << 10;

/// Writes until there is to be no more.
pub(super) fn run(opening: Opening, queue: &Arc<Queue>, shared: &Shared) {
    let mut said = None;
    let mut complain = |error: &AuditError| {
        shared.failures.fetch_add(1, Relaxed);
        let text = one_line(error);
        if said.as_ref() != Some(&text) {
            eprintln!("warning: the audit log: {text}");
            said = Some(text);
        }
    };
    let mut writer = loop {
        match resume::resume(&opening, queue, shared) {
            Ok(writer) => break writer,
            Err(error) => complain(&error),
        }
        if queue.pause(RETRY) {
            return;
        }
    };
    drop(opening);
    let (mut batch, mut at, mut last) = (Batch::default(), At::default(), false);
    loop {
        if at.item == batch.items.len() {
            last = queue.take(&mut batch, writer.due());
            at = At::default();
        }
        let written = writer.write(&mut batch, &mut at).and_then(|()| writer.tend(last));
        match written {
            Ok(()) if last => return,
            Ok(()) => {}
            Err(error) => {
                complain(&error);
                if queue.pause(RETRY) {
                    if let Err(error) = writer.write(&mut batch, &mut at).and_then(|()| writer.tend(true)) {
                        complain(&error);
                    }
                    return;
                }
            }
        }
        if let Err(error) = writer.retain() {
            complain(&error);
        }
    }
}

/// How far a batch is written.
#[derive(Clone, Copy, Default)]
struct At {
    item: usize,
    byte: usize,
}

/// A segment to which nothing is written any more.
#[derive(Debug)]
pub(super) struct Closed {
    pub(super) file: SegmentFile,
    /// Nobody is compressing it.
    pub(super) settled: bool,
}

/// Where the writer is.
pub(super) struct Place {
    pub(super) state: State,
    pub(super) file: File,
    /// Of the segment.
    pub(super) header: Header,
    pub(super) bytes: u64,
}

pub(super) struct Writer<'s> {
    pub(super) dir: LogDir,
    pub(super) limits: Limits,
    pub(super) place: Place,
    pub(super) closed: VecDeque<Closed>,
    pub(super) retain_at: Instant,
    pub(super) key: Arc<SigningKey>,
    pub(super) random: SystemRandom,
    boot_id: String,
    /// A part of an entry may be behind the last one.
    ragged: bool,
    /// Whether all up to the last checkpoint is on disk.
    pub(super) synced: bool,
    /// The last checkpoint, until it is written down beside the log as well.
    unpublished: Option<Anchor>,
    published: Instant,
    /// When the first entry was written that no checkpoint covers.
    uncovered_since: Option<Instant>,
    packer: Packer,
    out: Vec<u8>,
    pub(super) shared: &'s Shared,
}

impl<'s> Writer<'s> {
    /// Begins with these entries, and vouches for them; there are other segments.
    pub(super) fn begin(
        opening: &Opening,
        key: Arc<SigningKey>,
        queue: &Arc<Queue>,
        shared: &'s Shared,
        mut place: Place,
        (closed, entries): (&[SegmentFile], &[u8]),
    ) -> Result<Self, AuditError> {
        let packer = Packer::start(opening.dir.clone(), Arc::clone(queue))?;
        let now = Instant::now();
        let state = place.state.clone();
        // Until they are written.
        place.state = State::at(&place.header);
        let mut writer = Self {
            dir: opening.dir.clone(),
            limits: opening.limits,
            place,
            closed: VecDeque::new(),
            retain_at: now,
            key,
            random: SystemRandom::new(),
            boot_id: opening.boot_id.clone(),
            ragged: false,
            synced: true,
            unpublished: None,
            published: now,
            uncovered_since: None,
            packer,
            out: Vec::new(),
            shared,
        };
        writer.commit(state, entries)?;
        writer.checkpoint()?;
        writer.publish()?;
        shared.entries.store(writer.place.state.sequence, Relaxed);
        for file in closed {
            writer.close(file.clone());
        }
        Ok(writer)
    }

    pub(super) fn moment(&self) -> Moment {
        Moment { time: jiff::Timestamp::now(), boot_id: self.boot_id.clone() }
    }

    pub(super) fn sign(&self, statement: String) -> Result<Signed, AuditError> {
        let signature = Some(self.key.sign(statement.as_bytes(), &self.random)?);
        Ok(Signed { statement, signature })
    }

    pub(super) fn key_id(&self) -> String {
        self.key.trust_key().id().to_string()
    }

    /// When there is something to do, whatever comes.
    fn due(&self) -> Option<Instant> {
        let checkpoint = self.uncovered_since.map(|since| since + CHECKPOINT_TIME);
        let retain = (!self.closed.is_empty()).then_some(self.retain_at);
        checkpoint.into_iter().chain(retain).min()
    }

    /// Writes what is left of a batch. After a failure, what was written is not written again.
    fn write(&mut self, batch: &mut Batch, at: &mut At) -> Result<(), AuditError> {
        self.keep_up()?;
        while at.item < batch.items.len() {
            let mut state = self.place.state.clone();
            let mut out = std::mem::take(&mut self.out);
            out.clear();
            let next = self.fill(batch, *at, &mut state, &mut out);
            let written = self.commit(state, &out);
            self.out = out;
            written?;
            *at = next;
            self.keep_up()?;
            match batch.items.get_mut(at.item) {
                Some(Item::Rotate(then)) => {
                    let then = then.take();
                    at.item += 1;
                    let rotated = self.rotate();
                    if let Some(then) = then {
                        then(rotated);
                    }
                }
                Some(Item::Packed(first, done)) => {
                    let (first, done) = (*first, *done);
                    at.item += 1;
                    self.settle(first, done);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// As many entries as are written at once.
    fn fill(&self, batch: &Batch, mut at: At, state: &mut State, out: &mut Vec<u8>) -> At {
        while let Some(item) = batch.items.get(at.item) {
            let is_full = out.len() >= WRITE_BYTES
                || self.place.bytes + out.len() as u64 >= self.limits.segment_bytes
                || state.uncovered() >= CHECKPOINT_ENTRIES;
            match item {
                _ if is_full => break,
                Item::Event { bytes } => {
                    let line = batch.bytes.get(at.byte..at.byte + bytes).unwrap_or_default();
                    state.append(Kind::Event, line, out);
                    at.byte += bytes;
                }
                Item::Lost { first, last, events } => {
                    let why =
                        "there was no room for them: the disk was slow, or could not be written".to_owned();
                    let time = jiff::Timestamp::now().to_string();
                    let lost = Lost { first: *first, last: *last, events: *events, why, time };
                    let lost = serde_json::to_vec(&lost).expect("it holds only text and numbers");
                    state.append(Kind::Lost, &lost, out);
                }
                Item::Rotate(_) | Item::Packed(..) => break,
            }
            at.item += 1;
        }
        at
    }

    /// Writes bytes, whole or not at all; then the log stands there.
    pub(super) fn commit(&mut self, state: State, bytes: &[u8]) -> Result<(), AuditError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let place = &mut self.place;
        let path = self.dir.plain_path(place.header.first);
        if self.ragged {
            place.file.set_len(place.bytes).map_err(PathError::at("shorten", &path))?;
            self.ragged = false;
        }
        self.ragged = true;
        place.file.write_all(bytes).map_err(PathError::at("write", &path))?;
        self.ragged = false;
        place.bytes += bytes.len() as u64;
        self.shared.entries.fetch_add(state.sequence - place.state.sequence, Relaxed);
        place.state = state;
        if self.place.state.uncovered() > 0 {
            self.uncovered_since.get_or_insert_with(Instant::now);
        }
        Ok(())
    }

    /// What has to be done between two writes: checkpoints by number, and another segment.
    fn keep_up(&mut self) -> Result<(), AuditError> {
        let is_full = self.place.bytes >= self.limits.segment_bytes;
        let uncovered = self.place.state.uncovered();
        if uncovered >= CHECKPOINT_ENTRIES || (is_full && uncovered > 0) {
            self.checkpoint()?;
        }
        self.sync()?;
        if is_full || self.published.elapsed() >= HEAD_TIME {
            self.publish()?;
        }
        if is_full {
            self.begin_segment()?;
        }
        Ok(())
    }

    /// What has to be done when all is written: a checkpoint, if it is time.
    fn tend(&mut self, last: bool) -> Result<(), AuditError> {
        let is_due = self.uncovered_since.is_some_and(|since| last || since.elapsed() >= CHECKPOINT_TIME);
        if is_due {
            self.checkpoint()?;
        }
        self.sync()?;
        self.publish()
    }

    /// Vouches for all that is written.
    pub(super) fn checkpoint(&mut self) -> Result<(), AuditError> {
        let mut state = self.place.state.clone();
        let mut out = Vec::new();
        let anchor = state.append_checkpoint(&self.key, &self.random, &self.moment(), &mut out)?;
        self.commit(state, &out)?;
        self.shared.checkpoints.fetch_add(1, Relaxed);
        self.uncovered_since = None;
        self.unpublished = Some(anchor);
        self.synced = false;
        self.sync()
    }

    pub(super) fn sync(&mut self) -> Result<(), AuditError> {
        if !self.synced {
            let path = self.dir.plain_path(self.place.header.first);
            self.place.file.sync_data().map_err(PathError::at("have on disk", &path))?;
            self.synced = true;
        }
        Ok(())
    }

    /// Writes down where the last checkpoint is. It is on disk by then.
    pub(super) fn publish(&mut self) -> Result<(), AuditError> {
        if let Some(anchor) = &self.unpublished {
            let text = serde_json::to_vec_pretty(anchor).expect("it holds only text and numbers");
            replace(&self.dir.head_path(), &text)?;
            *self.shared.anchor.lock().unwrap_or_else(PoisonError::into_inner) = self.unpublished.take();
            self.published = Instant::now();
        }
        Ok(())
    }

    fn begin_segment(&mut self) -> Result<(), AuditError> {
        let header = self.place.state.header(&self.key.trust_key().id());
        let file = self.dir.create(&header)?;
        let first = self.place.header.first;
        let closed = SegmentFile {
            first,
            path: self.dir.plain_path(first),
            packed: false,
            bytes: self.place.bytes,
            modified: SystemTime::now(),
        };
        self.place =
            Place { file, header, bytes: crate::audit::HEADER_BYTES as u64, state: self.place.state.clone() };
        self.close(closed);
        Ok(())
    }

    fn close(&mut self, file: SegmentFile) {
        // Nobody takes it: the thread has ended, which it does only after us.
        let settled = file.packed || !self.packer.take(file.first);
        self.closed.push_back(Closed { file, settled });
    }

    fn settle(&mut self, first: u64, done: bool) {
        let Some(closed) = self.closed.iter_mut().find(|closed| closed.file.first == first) else { return };
        closed.settled = true;
        if done {
            closed.file.packed = true;
            closed.file.path = self.dir.packed_path(first);
            closed.file.bytes = fs::metadata(&closed.file.path).map_or(closed.file.bytes, |file| file.len());
        }
        // Room may have been made, or be needed.
        self.retain_at = Instant::now();
    }
}
