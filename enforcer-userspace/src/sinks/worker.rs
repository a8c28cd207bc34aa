//! One sink: a thread that reads events behind the daemon and sends them until they are taken.
//!
//! Where it stopped is in a file, so that a sink goes on where it was when the daemon is started anew. Nothing is given up: events are
//! lost to a sink only when they are gone from the event file before they could be sent, and then it is told how many.

use std::{
    collections::VecDeque,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, Thread},
    time::{Duration, Instant},
};

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};

use super::{
    cursor::Cursor,
    render::Renderer,
    settings::SinkSettings,
    tail::{Tail, Written},
    transport::{self, Message, NotSent, Sent, Transport},
};
use crate::{exit::one_line, path_error::PathError, precedence, record::LineGap};

/// What is sent at once.
const MOST_EVENTS: usize = 500;
const MOST_BYTES: usize = 1 << 20;
/// How often it is looked for events, and for a receiver that has gone.
const LOOK: Duration = Duration::from_millis(200);
/// How long what nobody answers for may have to be sent again.
const ON_ITS_WAY: Duration = Duration::from_secs(10);
/// Between two tries: from, to.
const WAITS: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(30)];

/// What a sink has done.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Events that were taken, or are on their way.
    pub(crate) sent: AtomicU64,
    /// Tries that failed.
    pub(crate) failures: AtomicU64,
    /// Events that the receiver does not take.
    pub(crate) refused: AtomicU64,
    /// Events that were gone before they could be sent.
    pub(crate) lost: AtomicU64,
    /// The number of the last event that was sent or left out.
    pub(crate) reached: AtomicU64,
    why: Mutex<Option<String>>,
}

impl Progress {
    /// Why the last try failed; nothing when it did not.
    pub(crate) fn why(&self) -> Option<String> {
        self.why.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_why(&self, why: Option<String>) {
        *self.why.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }
}

/// A sink that runs.
#[derive(Debug)]
pub(crate) struct Sink {
    pub(crate) name: String,
    pub(crate) progress: Arc<Progress>,
    cursor: Cursor,
    stop: Arc<AtomicBool>,
    thread: Thread,
}

impl Sink {
    /// Starts one, which goes on where it was.
    pub(super) fn start(
        settings: SinkSettings,
        renderer: Renderer,
        (events, last): (&Path, u64),
        cursors: &Path,
        host: &str,
    ) -> Result<Self, PathError> {
        let name = settings.name.clone();
        let cursor = Cursor::at(cursors.join(&name));
        let transport = transport::open(&settings, host);
        let mut worker = Worker::new(settings, renderer, transport, (events, last), cursor.clone())?;
        let (progress, stop) = (Arc::clone(&worker.progress), Arc::clone(&worker.stop));
        let run = move || {
            precedence::go_with_others();
            let _said = SaidIfItFails(Arc::clone(&worker.progress));
            worker.run();
        };
        let started = thread::Builder::new().name(format!("sink-{name}")).spawn(run);
        let thread = started.map_err(PathError::at("start a thread for", events))?.thread().clone();
        Ok(Self { name, progress, cursor, stop, thread })
    }

    /// Whether it notes from now on where it is. Who removes the notes has it stop first.
    pub(crate) fn keep_place(&self, keep: bool) {
        self.cursor.keep(keep);
    }
}

impl Drop for Sink {
    /// Does not wait: what was not sent is sent by the next daemon.
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        self.thread.unpark();
    }
}

/// A sink that is no more must not look like one that has nothing to do.
struct SaidIfItFails(Arc<Progress>);

impl Drop for SaidIfItFails {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.failures.fetch_add(1, Relaxed);
            self.0.set_why(Some("its thread has failed: start the daemon anew".to_owned()));
        }
    }
}

struct Worker {
    settings: SinkSettings,
    renderer: Renderer,
    tail: Tail,
    transport: Box<dyn Transport>,
    cursor: Cursor,
    /// Up to where and when something was sent that nobody has answered for.
    on_its_way: VecDeque<(Instant, u64)>,
    /// Whether it is known where it began, so that what is missing since is missed.
    has_begun: bool,
    /// How long to wait after each connection that breaks, one after the other.
    breaks: ExponentialBackoff,
    /// Up to here nothing has to be sent again.
    safe: u64,
    /// Up to here all was sent, or left out.
    reached: u64,
    /// The last event that was looked at, and its time.
    before: Option<(u64, String)>,
    /// Up to here what is missing is counted.
    missed: u64,
    progress: Arc<Progress>,
    stop: Arc<AtomicBool>,
}

impl Worker {
    fn new(
        settings: SinkSettings,
        renderer: Renderer,
        transport: Box<dyn Transport>,
        (events, last): (&Path, u64),
        cursor: Cursor,
    ) -> Result<Self, PathError> {
        let saved = cursor.read()?;
        // After a power failure the events may end before what was noted of them: their numbers are given out once more.
        let after = saved.unwrap_or(0).min(last);
        let progress = Arc::<Progress>::default();
        progress.reached.store(after, Relaxed);
        Ok(Self {
            transport,
            tail: Tail::new(events, after),
            settings,
            renderer,
            cursor,
            on_its_way: VecDeque::new(),
            has_begun: saved.is_some(),
            breaks: waits(),
            safe: after,
            reached: after,
            before: None,
            missed: 0,
            progress,
            stop: Arc::default(),
        })
    }

    fn run(&mut self) {
        while !self.stop.load(Relaxed) {
            let batch = match self.tail.next(MOST_EVENTS, MOST_BYTES) {
                Ok(batch) => batch,
                Err(error) => {
                    self.fail(one_line(&error));
                    // What was read before that was not given out.
                    self.tail.seek(self.reached);
                    self.wait(WAITS[1]);
                    continue;
                }
            };
            if let Err(not_sent) = self.settle() {
                self.take_back(not_sent);
                continue;
            }
            if batch.is_empty() {
                thread::park_timeout(LOOK);
                continue;
            }
            self.deliver(&batch);
        }
    }

    /// Sends a batch until it is taken, or the connection that an earlier one went by has broken.
    fn deliver(&mut self, batch: &[Written]) {
        let [first, last] = [batch.first(), batch.last()].map(|it| it.map_or(0, |it| it.event.sequence));
        if !self.has_begun {
            self.has_begun = true;
            self.reached = first.saturating_sub(1);
            self.save(self.reached);
        }
        let messages = self.messages(batch);
        let mut waits = waits();
        let mut sent = if messages.is_empty() { Ok(Sent::Taken) } else { self.transport.send(&messages) };
        loop {
            match sent {
                Ok(how) => {
                    self.progress.sent.fetch_add(messages.len() as u64, Relaxed);
                    return self.reach(last, how);
                }
                Err(NotSent::Never { why }) => {
                    self.fail(why);
                    return self.deliver_singly(&messages, last);
                }
                Err(not_sent) if !self.on_its_way.is_empty() => return self.take_back(not_sent),
                Err(NotSent::Later { why, after }) => {
                    self.fail(why);
                    let wait = waits.next().unwrap_or(WAITS[1]).max(after.unwrap_or_default());
                    self.wait(wait);
                    if self.stop.load(Relaxed) {
                        return;
                    }
                }
            }
            sent = self.transport.send(&messages);
        }
    }

    /// One of these is not taken, for what it is: the others are. Where none is, it is not about them.
    fn deliver_singly(&mut self, messages: &[Message], last: u64) {
        let (mut how, mut refused) = (Sent::Taken, Vec::new());
        for message in messages {
            let mut waits = waits();
            loop {
                match self.transport.send(std::slice::from_ref(message)) {
                    Ok(sent) => {
                        self.progress.sent.fetch_add(1, Relaxed);
                        if sent == Sent::OnItsWay {
                            how = sent;
                        }
                        break;
                    }
                    Err(NotSent::Never { why }) => {
                        refused.push((&message.uid, why));
                        break;
                    }
                    Err(NotSent::Later { why, after }) => {
                        self.fail(why);
                        let wait = waits.next().unwrap_or(WAITS[1]).max(after.unwrap_or_default());
                        self.wait(wait);
                        if self.stop.load(Relaxed) {
                            return;
                        }
                    }
                }
            }
        }
        if let [(_, why), _, ..] = &refused[..]
            && refused.len() == messages.len()
        {
            self.fail(format!("none of {} events is taken: {why}", messages.len()));
            self.tail.seek(self.reached);
            return self.wait(WAITS[1]);
        }
        self.progress.refused.fetch_add(refused.len() as u64, Relaxed);
        for (uid, why) in refused {
            eprintln!("warning: sink `{}` does not take {uid}: {why}", self.settings.name);
        }
        self.reach(last, how);
    }

    /// What is to be sent of a batch. What is missing before an event is said in its place.
    fn messages(&mut self, batch: &[Written]) -> Vec<Message> {
        let mut messages = Vec::with_capacity(batch.len());
        let mut before = self.reached;
        let known = self.before.take().filter(|(number, _)| *number == before);
        let mut after = known.as_ref().map(|(_, time)| time.as_str());
        for written in batch {
            let (sequence, time) = (written.event.sequence, &*written.event.time);
            if sequence <= before {
                // Numbers have begun again.
                self.missed = 0;
            }
            let last = sequence.saturating_sub(1);
            if last > before {
                // It may be said again, and is lost once.
                self.progress.lost.fetch_add(last.saturating_sub(before.max(self.missed)), Relaxed);
                self.missed = self.missed.max(last);
                let after = after.map(str::to_owned);
                let gap = LineGap { first: before + 1, last, after, until: time.to_owned() };
                messages.push(self.renderer.missing(gap));
            }
            (before, after) = (sequence, Some(time));
            if self.settings.only.takes(&written.event) {
                messages.push(self.renderer.message(written));
            }
        }
        self.before = after.map(|time| (before, time.to_owned()));
        messages
    }

    fn reach(&mut self, last: u64, how: Sent) {
        self.reached = last;
        self.progress.reached.store(last, Relaxed);
        match how {
            Sent::OnItsWay => self.on_its_way.push_back((Instant::now(), last)),
            Sent::Taken if self.on_its_way.is_empty() => {
                self.arrived();
                self.save(last);
            }
            Sent::Taken => {}
        }
    }

    /// What has been on its way for long has arrived, if the connection that it went by stands: it may have been this thread that
    /// stood still.
    fn settle(&mut self) -> Result<(), NotSent> {
        self.transport.check()?;
        let mut safe = None;
        while let Some((since, last)) = self.on_its_way.front()
            && since.elapsed() >= ON_ITS_WAY
        {
            safe = Some(*last);
            self.on_its_way.pop_front();
        }
        if let Some(safe) = safe {
            self.arrived();
            self.save(safe);
        }
        Ok(())
    }

    fn arrived(&mut self) {
        self.breaks = waits();
        self.progress.set_why(None);
    }

    /// What was on its way may not have arrived: it is sent again.
    fn take_back(&mut self, not_sent: NotSent) {
        let (why, after) = match not_sent {
            NotSent::Later { why, after } => (why, after.unwrap_or_default()),
            NotSent::Never { why } => (why, Duration::ZERO),
        };
        self.fail(why);
        self.on_its_way.clear();
        self.reached = self.safe;
        self.progress.reached.store(self.safe, Relaxed);
        self.tail.seek(self.safe);
        // One that takes connections and breaks them is not asked all the time.
        let wait = self.breaks.next().unwrap_or(WAITS[1]).max(after);
        self.wait(wait);
    }

    fn save(&mut self, safe: u64) {
        self.safe = safe;
        // What is not written down is sent again.
        if let Err(error) = self.cursor.write(safe) {
            self.fail(one_line(&error));
        }
    }

    fn fail(&self, why: String) {
        self.progress.failures.fetch_add(1, Relaxed);
        // Said once for each reason.
        if self.progress.why().as_ref() != Some(&why) {
            eprintln!("warning: sink `{}`: {why}", self.settings.name);
            self.progress.set_why(Some(why));
        }
    }

    /// Waits, unless it is to stop.
    fn wait(&self, time: Duration) {
        let Some(until) = Instant::now().checked_add(time) else { return };
        while !self.stop.load(Relaxed)
            && let Some(left) = until.checked_duration_since(Instant::now())
        {
            thread::park_timeout(left);
        }
    }
}

/// How long to wait between one try and the next, for as long as it takes.
fn waits() -> ExponentialBackoff {
    // With the jitter it is up to twice as long.
    let waits = ExponentialBuilder::default().with_min_delay(WAITS[0]).with_max_delay(WAITS[1] / 2);
    waits.with_jitter().without_max_times().build()
}

#[cfg(test)]
mod tests;
