//! What takes time when an image is looked at: reading it. Beside the loop: what it needs of the daemon's, it has copies of.
//!
//! A process that waits cannot change what it executes, but somebody in its session may let it go on, and then it can. So what is
//! measured is compared with what the kernel saw at the exec, by all that the kernel tells a file by; an answer is to that file's
//! ticket, and to no other.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use enforcer_common::{
    identity::SessionRef,
    image::{CLEAR, ImageId, ImageKey, LISTED, NOT_LISTED, NOT_MEASURED, UNLISTED},
};

use super::{super::lifecycle::list_name, told::image_of};
use crate::{
    envelope::{Exec, OnMismatch, Sha256, Unlisted},
    exit::one_line,
    kernel::{ImageMaps, Kernel, MapsError, Tagger},
    measure::{Hasher, MeasureError, Measured, Stamp, interpreter_of, loader_of},
    process::{Process, ProcessError},
    procfs::{self, ProcError},
    record::SessionText,
    session::{EnvelopeInForce, ProcessKey},
};

/// Scripts whose interpreters are scripts, one above the other (v6.1/fs/exec.c, exec_binprm), and the last interpreter.
const MOST_INTERPRETERS: usize = 7;
/// The largest program, script or loader that is measured.
const MOST_BYTES: u64 = 1 << 30;
/// Digests that are kept by what the kernel tells a file by, for records.
const KEPT: usize = 16_384;

/// Whether a process executes what it may.
#[derive(Debug)]
pub(crate) struct Question {
    /// What it waits for, or was given; nothing where it is only recorded.
    pub(super) ticket: Option<u64>,
    /// What the kernel saw. Nothing of a process that ran before it came into the session.
    pub(super) image: Option<ImageId>,
    pub(super) script: Script,
    /// Whether it has stopped for this.
    pub(super) stopped: bool,
    pub(super) session: SessionRef,
    pub(super) process: ProcessKey,
    pub(super) envelope: Arc<EnvelopeInForce>,
    /// The session for the record, which may be over before the answer is written down.
    pub(super) text: Option<SessionText>,
}

impl Question {
    /// Of a process that executed it before it came into the session.
    pub(crate) fn of_running(
        ticket: u64,
        session: SessionRef,
        process: ProcessKey,
        envelope: &Arc<EnvelopeInForce>,
    ) -> Self {
        let is_ticket = !matches!(ticket, CLEAR | NOT_MEASURED | NOT_LISTED);
        Self {
            ticket: is_ticket.then_some(ticket),
            image: None,
            script: Script::No,
            stopped: false,
            session,
            process,
            envelope: Arc::clone(envelope),
            text: None,
        }
    }
}

impl Answer {
    /// Whether something stands against the process.
    pub(crate) fn is_refused(&self) -> bool {
        self.listed != Some(true)
    }
}

/// What an interpreter was executed for.
#[derive(Debug)]
pub(super) enum Script {
    /// It is no script.
    No,
    /// As the caller wrote it.
    Named(String),
    /// Its name is lost.
    Unknown,
}

/// What was found, and done.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(super) question: Question,
    /// Nothing if it cannot be told: then the process is refused as before.
    pub(super) listed: Option<bool>,
    pub(super) why: Option<String>,
    pub(super) image: Option<ImageId>,
    pub(super) path: Option<String>,
    pub(super) sha256: Option<Sha256>,
    pub(super) script: Option<(String, Option<Sha256>)>,
    pub(super) loader: Option<(String, Option<Sha256>)>,
    pub(super) killed: bool,
}

/// Why it cannot be told.
#[derive(Debug, thiserror::Error)]
pub(super) enum Untold {
    #[error("the process is gone, or executes something else by now")]
    Gone,
    #[error("the file is not told by the same as at the exec")]
    OtherFile,
    #[error("the name of the script is lost")]
    NoScript,
    #[error(transparent)]
    Proc(#[from] ProcError),
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error("measure it")]
    Measure(#[from] MeasureError),
    #[error(transparent)]
    Maps(#[from] MapsError),
}

/// A handle, to be cloned for whoever measures.
#[derive(Clone)]
pub(crate) struct Measurer {
    maps: ImageMaps,
    tagger: Tagger,
    pub(super) hasher: Arc<Hasher>,
    known: Arc<Mutex<HashMap<ImageId, Sha256>>>,
    /// Tickets that nobody had when it was looked last.
    unheld: Arc<Mutex<HashSet<u64>>>,
    /// The daemon stops, and waits for nobody.
    stops: Arc<AtomicBool>,
    pub(super) measured: Arc<AtomicU64>,
    pub(super) faults: Arc<AtomicU64>,
}

impl Measurer {
    pub(super) fn new(kernel: &Kernel) -> Self {
        Self {
            maps: kernel.images.clone(),
            tagger: kernel.tagger.clone(),
            hasher: Arc::default(),
            known: Arc::default(),
            unheld: Arc::default(),
            stops: Arc::default(),
            measured: Arc::default(),
            faults: Arc::default(),
        }
    }

    /// Lets go of what is being measured: the next daemon measures it.
    pub(crate) fn stop(&self) {
        self.stops.store(true, Relaxed);
    }

    pub(super) fn measure(&self, file: &File) -> Result<Measured, MeasureError> {
        self.hasher.measure(file, &|| !self.stops.load(Relaxed))
    }

    /// Measures what is executed, or is to be, if it is not of a size that keeps others waiting: whoever executes it says how large it is.
    fn measure_image(&self, file: &File) -> Result<Measured, MeasureError> {
        if Stamp::of(file)?.size_bytes > MOST_BYTES {
            return Err(MeasureError::TooLarge);
        }
        self.measure(file)
    }

    /// Looks at what a process executes, answers its ticket, and lets it go on or kills it.
    pub(crate) fn answer(&self, question: Question) -> Answer {
        let mut answer = Answer {
            question,
            listed: None,
            why: None,
            image: None,
            path: None,
            sha256: None,
            script: None,
            loader: None,
            killed: false,
        };
        let looked = self.look(&mut answer).and_then(|settled| self.say(&answer, settled));
        if self.stops.load(Relaxed) && looked.is_err() {
            return answer;
        }
        if let Err(error) = looked {
            self.count_fault(&error);
            answer.listed = None;
            answer.why = Some(one_line(&error));
        }
        if let Err(error) = self.act(&mut answer) {
            self.count_fault(&error);
            answer.why.get_or_insert(one_line(&error));
        }
        answer
    }

    /// That a process ends, is no fault of anybody's.
    fn count_fault(&self, error: &Untold) {
        if !matches!(error, Untold::Gone) {
            self.faults.fetch_add(1, Relaxed);
        }
    }

    /// Finds out what it executes. Whether the answer is the same for whoever executes this again.
    fn look(&self, answer: &mut Answer) -> Result<bool, Untold> {
        let pid = answer.question.process.tgid;
        let file = procfs::open_executable(pid)?.ok_or(Untold::Gone)?;
        answer.path = procfs::executable_path(pid);
        // Asked after that: had it ended before, the number could have been another's.
        if !is_still(answer.question.process)? {
            return Err(Untold::Gone);
        }
        let stamp = Stamp::of(&file)?;
        let image = image_of(&file, &stamp, Some(pid), answer.question.image)?;
        answer.image = Some(image);
        let measured = self.measure_image(&file)?;
        if measured.stamp != stamp {
            return Err(Untold::OtherFile);
        }
        self.measured.fetch_add(1, Relaxed);
        let sha256 = Sha256(measured.sha256);
        answer.sha256 = Some(sha256);
        if measured.settled {
            self.note(image, sha256);
        }
        answer.loader = loader_of(&file).map(|name| {
            let loader = procfs::open_named(pid, &name).ok();
            let measured = loader.and_then(|loader| self.measure_image(&loader).ok());
            (name, measured.map(|measured| Sha256(measured.sha256)))
        });
        let exec = &answer.question.envelope.envelope.exec;
        let mut checked = exec.check(|path| measured.stamp.is_at(path), sha256);
        let script = match &answer.question.script {
            Script::No => None,
            Script::Named(name) => Some(name.clone()),
            Script::Unknown => return Err(Untold::NoScript),
        };
        let is_script = script.is_some();
        let mut caveat = measured.caveat();
        let mut next = script;
        for _ in 0..MOST_INTERPRETERS {
            let Some(name) = next.take() else { break };
            let file = procfs::open_named(pid, &name)?;
            let script = self.measure_image(&file)?;
            // The last interpreter is the image, which was looked at.
            if answer.script.is_some() && script.stamp == measured.stamp {
                break;
            }
            let sha256 = Sha256(script.sha256);
            caveat = caveat.or_else(|| script.caveat());
            checked = checked.and(exec.check(|path| script.stamp.is_at(path), sha256));
            answer.script.get_or_insert((name, Some(sha256)));
            next = interpreter_of(&file);
        }
        answer.listed = Some(checked.is_ok());
        answer.why = checked.err().map(|why| {
            let what = if is_script { "the script or its interpreter" } else { "it" };
            match why {
                Unlisted::File => format!("{what} is at no path that is listed"),
                Unlisted::Content => format!("{what} is not what is listed for its path"),
            }
        });
        answer.why = answer.why.take().or(caveat);
        // Of a script, which one it is decides each time.
        Ok(measured.settled && !is_script)
    }

    /// Tells the kernel.
    fn say(&self, answer: &Answer, settled: bool) -> Result<(), Untold> {
        let Some(listed) = answer.listed else { return Ok(()) };
        let said = if listed { LISTED } else { UNLISTED };
        if let Some(ticket) = answer.question.ticket {
            self.maps.answer(ticket, said)?;
        }
        if let Some(image) = answer.image.filter(|_| settled) {
            self.maps.remember(key(&answer.question.envelope, image), said)?;
        }
        Ok(())
    }

    /// Lets the process go on, or kills it. One that cannot be told is refused everything, and killed where others are.
    fn act(&self, answer: &mut Answer) -> Result<(), Untold> {
        let question = &answer.question;
        let kills = question.envelope.envelope.exec.on_mismatch == OnMismatch::Kill;
        let is_to_end = kills && answer.listed != Some(true);
        if !is_to_end && !question.stopped {
            return Ok(());
        }
        let Some(process) = Process::hold(question.process.tgid)? else { return Ok(()) };
        // It may wait for another answer by now.
        let tag = self.tagger.tag(question.process.tgid)?;
        let has_ticket = tag.is_some_and(|tag| question.ticket.is_none_or(|ticket| tag.image == ticket));
        if !is_still(question.process)? || !has_ticket {
            return Ok(());
        }
        if is_to_end {
            process.kill()?;
            answer.killed = true;
        } else {
            process.let_go_on()?;
        }
        Ok(())
    }

    /// Measures what an envelope lists, so that those who execute it need not wait.
    pub(super) fn prepare(&self, exec: &Exec, list: [u32; 4]) {
        for image in &exec.images {
            // What cannot be opened or told now is looked at when it is executed.
            let Ok(file) = procfs::open_named(std::process::id(), &image.path) else { continue };
            let Ok(measured) = self.measure_image(&file) else { continue };
            let Ok(id) = image_of(&file, &measured.stamp, None, None) else { continue };
            let sha256 = Sha256(measured.sha256);
            if measured.settled {
                self.note(id, sha256);
            }
            let listed = exec.check(|path| measured.stamp.is_at(path), sha256).is_ok();
            if listed
                && measured.settled
                && let Err(error) = self.maps.remember(ImageKey { list, image: id }, LISTED)
            {
                self.count_fault(&error.into());
            }
        }
    }

    /// Takes away the tickets that no process has, twice in a row: a child has its own a moment after it was made.
    pub(super) fn sweep(&self) {
        let swept = self.maps.tickets().and_then(|tickets| {
            let held: HashSet<u64> = self.tagger.tags()?.iter().map(|(_, tag)| tag.image).collect();
            let unheld: HashSet<u64> =
                tickets.iter().map(|(number, _)| *number).filter(|number| !held.contains(number)).collect();
            let before = std::mem::replace(&mut *lock(&self.unheld), unheld.clone());
            unheld.intersection(&before).try_for_each(|number| self.maps.forget(*number))
        });
        if let Err(error) = swept {
            self.count_fault(&error.into());
        }
    }

    fn note(&self, image: ImageId, sha256: Sha256) {
        let mut known = lock(&self.known);
        if known.len() >= KEPT {
            known.clear();
        }
        known.insert(image, sha256);
    }

    /// The digest of a file, by what the kernel tells it by, if it was measured.
    pub(super) fn digest(&self, image: &ImageId) -> Option<Sha256> {
        lock(&self.known).get(image).copied()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn key(envelope: &EnvelopeInForce, image: ImageId) -> ImageKey {
    ImageKey { list: list_name(&envelope.digest), image }
}

/// Whether the number is still this process's.
fn is_still(process: ProcessKey) -> Result<bool, ProcError> {
    let started = procfs::start_ticks(process.tgid)?;
    Ok(started == Some(process.start_ns / procfs::TICK_NS))
}
