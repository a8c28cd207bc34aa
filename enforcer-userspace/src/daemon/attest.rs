//! What processes of sessions execute: asking for it when the kernel does not know an image, and writing down what was found.
//!
//! `enforcer_common::image` says what the kernel does. Files are read beside the loop ([`measurer`]), a few at a time; the loop hears of
//! the outcome when the process that waited has been let go on already.

mod files;
mod measurer;
mod told;

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, atomic::Ordering::Relaxed},
};

use enforcer_common::{
    identity::SessionRef,
    image::{CLEAR, ImageState, NO_ANSWER, Ticket},
};

use uuid::Uuid;

use super::{Beside, Daemon, DaemonError, findings::Deeds, lifecycle::list_name};
use crate::{
    clock,
    envelope::OnMismatch,
    kernel::Kernel,
    procfs,
    record::{Body, EventKind, EventLine, ExecImage, LineContent, LineImage, LineProcess, Record},
    session::{EnvelopeInForce, ProcessKey, Session},
};

pub(super) use files::{Found, Looked, LookedFirst};
use measurer::Script;
pub(super) use measurer::{Answer, Measurer, Question};

/// Images that are measured at one time, and those of one session.
const AT_ONCE: usize = 4;
const AT_ONCE_OF_SESSION: usize = 2;
/// Envelopes whose images are measured at one time before anybody executes them.
const PREPARED_AT_ONCE: usize = 8;
/// Images that wait for that though no process waits for them.
const MOST_UNHURRIED: usize = 1024;
/// Ticks between two looks for tickets that nobody has any more.
const SWEEP_TICKS: u32 = 16;

/// What is being measured.
pub(super) struct Attestation {
    pub(super) measurer: Measurer,
    queue: VecDeque<Question>,
    /// The sessions of what is being measured.
    running: Vec<SessionRef>,
    /// Tickets that are asked about, or could not be answered.
    asked: HashSet<u64>,
    /// Tickets that nobody had asked about at the last tick.
    unasked: HashSet<u64>,
    /// Held by whoever measures what an envelope lists, before anybody executes it.
    preparing: Arc<()>,
    ticks: u32,
}

/// An exec, as its record says.
pub(super) struct Seen {
    session: SessionRef,
    tgid: u32,
    name: Option<String>,
    image: ExecImage,
}

impl Seen {
    /// Nothing if there is nothing to be said of what is executed.
    pub(super) fn of(record: &Record) -> Option<Self> {
        let Body::Exec { path, path_cut, image, .. } = &record.body else { return None };
        let name = path.clone().filter(|_| !path_cut);
        let seen = Self { session: record.session, tgid: record.tgid, name, image: *image };
        (image.state != ImageState::Any).then_some(seen)
    }
}

impl Attestation {
    pub(super) fn new(kernel: &Kernel) -> Self {
        Self {
            measurer: Measurer::new(kernel),
            queue: VecDeque::new(),
            running: Vec::new(),
            asked: HashSet::new(),
            unasked: HashSet::new(),
            preparing: Arc::default(),
            ticks: 0,
        }
    }

    /// By name, and whether more than zero means that something went wrong.
    pub(super) fn counters(&self) -> Vec<(&'static str, u64, bool)> {
        let own = [
            ("images_measured", self.measurer.measured.load(Relaxed), false),
            ("fault_image_unmeasured", self.measurer.faults.load(Relaxed), true),
        ];
        own.into_iter().chain(self.measurer.hasher.counters()).collect()
    }

    /// The next to be measured, if there is a place for it.
    fn next(&mut self) -> Option<Question> {
        if self.running.len() >= AT_ONCE {
            return None;
        }
        let of = |session| self.running.iter().filter(|running| **running == session).count();
        let next = self.queue.iter().position(|question| of(question.session) < AT_ONCE_OF_SESSION)?;
        let question = self.queue.remove(next)?;
        self.running.push(question.session);
        Some(question)
    }
}

impl Daemon {
    /// Has the images that an envelope lists measured, so that those who execute them need not wait.
    pub(super) fn prepare_images(&self, envelope: &Arc<EnvelopeInForce>) {
        // It only saves time: where much is to be measured at once, that is done when it is executed.
        let preparing = Arc::clone(&self.attestation.preparing);
        if envelope.envelope.exec.restricts_images() && Arc::strong_count(&preparing) <= PREPARED_AT_ONCE + 1
        {
            let (measurer, envelope) = (self.attestation.measurer.clone(), Arc::clone(envelope));
            tokio::task::spawn_blocking(move || {
                measurer.prepare(&envelope.envelope.exec, list_name(&envelope.digest));
                drop(preparing);
            });
        }
    }

    /// What a line says of an exec.
    pub(super) fn seen_image(&self, image: &ExecImage, session: Option<&Session>) -> Option<LineImage> {
        if image.state == ImageState::Any {
            return None;
        }
        let envelope = session.and_then(|session| session.envelope_of(image.envelope));
        let on_mismatch = envelope.map_or("", |envelope| envelope.envelope.exec.on_mismatch.name());
        let is_known = matches!(image.state, ImageState::Listed | ImageState::Unlisted);
        let digest =
            image.id.as_ref().filter(|_| is_known).and_then(|id| self.attestation.measurer.digest(id));
        Some(LineImage {
            path: None,
            inode: image.id.map_or(0, |id| id.inode),
            sha256: digest.map(|digest| digest.to_string()),
            verdict: image.state.name().into(),
            on_mismatch: on_mismatch.into(),
            script: None,
            loader: None,
        })
    }

    /// Has an image measured that the kernel does not know, and notes the digest of one that it does.
    pub(super) fn take_up(&mut self, seen: Seen) {
        let process = ProcessKey { tgid: seen.tgid, start_ns: seen.image.start_ns };
        let Some(session) = self.registry.at_mut(seen.session) else { return };
        match seen.image.state {
            ImageState::Listed | ImageState::Unlisted => {
                let known = seen.image.id.and_then(|id| self.attestation.measurer.digest(&id));
                if let Some(digest) = known {
                    session.processes.measured(process, &digest.to_string());
                }
            }
            ImageState::Waits | ImageState::Unmeasured => {
                let script = match (seen.image.script, seen.name) {
                    (false, _) => Script::No,
                    (true, Some(name)) => Script::Named(name),
                    (true, None) => Script::Unknown,
                };
                let question = Question {
                    ticket: seen.image.ticket,
                    image: seen.image.id,
                    script,
                    stopped: seen.image.state == ImageState::Waits,
                    session: seen.session,
                    process,
                    envelope: Arc::clone(&session.envelope),
                    text: Some(session.text.clone()),
                };
                self.ask(question);
            }
            ImageState::Any | ImageState::Lost | ImageState::Under => {}
        }
    }

    /// Has what a session's processes execute measured, for the record.
    pub(super) fn look_at_running(&mut self, id: Uuid) {
        let Some(session) = self.registry.get(id) else { return };
        let exec = &session.envelope.envelope.exec;
        if !exec.restricts_images() || exec.on_mismatch != OnMismatch::Audit {
            return;
        }
        let (slot, envelope) = (session.grant.slot, Arc::clone(&session.envelope));
        let keys: Vec<_> = session.processes.live_keys().collect();
        for process in keys {
            self.ask(Question::of_running(CLEAR, slot, process, &envelope));
        }
    }

    fn ask(&mut self, question: Question) {
        let attestation = &mut self.attestation;
        match question.ticket {
            Some(ticket) if !attestation.asked.insert(ticket) => return,
            // Nobody waits for it; it is counted, and the next exec asks again.
            None if attestation.queue.len() >= MOST_UNHURRIED => {
                attestation.measurer.faults.fetch_add(1, Relaxed);
                return;
            }
            _ => {}
        }
        attestation.queue.push_back(question);
        self.measure_next();
    }

    fn measure_next(&mut self) {
        while let Some(question) = self.attestation.next() {
            let measurer = self.attestation.measurer.clone();
            self.beside(move || Beside::Measured(Box::new(measurer.answer(question))));
        }
    }

    /// Writes down what was found.
    pub(super) fn end_measuring(&mut self, answer: Answer) {
        let question = &answer.question;
        let attestation = &mut self.attestation;
        if let Some(at) = attestation.running.iter().position(|running| *running == question.session) {
            attestation.running.swap_remove(at);
        }
        if let (Some(ticket), Some(_)) = (question.ticket, answer.listed) {
            attestation.asked.remove(&ticket);
        }
        self.record_image(&answer);
        self.measure_next();
    }

    pub(super) fn record_image(&mut self, answer: &Answer) {
        let Answer { question, listed, .. } = answer;
        let mut line = EventLine::new(EventKind::ImageMeasured, &clock::wall(clock::boot_ns()));
        line.session.clone_from(&question.text);
        if let Some(session) = self.registry.at_mut(question.session) {
            if let Some(digest) = answer.sha256 {
                session.processes.measured(question.process, &digest.to_string());
            }
            line = line.session(session);
        }
        let tgid = question.process.tgid;
        let comm = procfs::describe(tgid).0.unwrap_or_default();
        line.process =
            Some(LineProcess::new(tgid, comm, self.registry.at(question.session), &self.host.boot_id));
        let content = |(path, sha256): &(String, Option<crate::envelope::Sha256>)| LineContent {
            path: path.clone(),
            sha256: sha256.map(|digest| digest.to_string()),
        };
        let state = match listed {
            Some(true) => ImageState::Listed,
            Some(false) => ImageState::Unlisted,
            None => ImageState::Unmeasured,
        };
        line.image = Some(LineImage {
            path: answer.path.clone(),
            inode: answer.image.or(question.image).map_or(0, |id| id.inode),
            sha256: answer.sha256.map(|digest| digest.to_string()),
            verdict: state.name().into(),
            on_mismatch: question.envelope.envelope.exec.on_mismatch.name().into(),
            script: answer.script.as_ref().map(content),
            loader: answer.loader.as_ref().map(content),
        });
        let end = if answer.killed { "; the process was killed" } else { "" };
        line.detail = answer.why.as_ref().map(|why| format!("{why}{end}"));
        let (slot, now_ns) = (question.session, clock::boot_ns());
        let sequence = self.events.write_numbered(&mut line);
        self.take_deeds(slot, now_ns, Deeds::Measured, &line, sequence);
    }

    /// Once a tick: who waits and was not asked about, because the record is lost or an earlier daemon had it; and tickets that nobody has.
    pub(super) fn tend_images(&mut self) -> Result<(), DaemonError> {
        let tickets = self.kernel.images.tickets()?;
        let is_there: HashSet<u64> = tickets.iter().map(|(number, _)| *number).collect();
        self.attestation.asked.retain(|number| is_there.contains(number));
        let waits = |(number, ticket): &&(u64, Ticket)| {
            let attestation = &self.attestation;
            ticket.answer_to(*number) == NO_ANSWER
                && ticket.stopped != 0
                && !attestation.asked.contains(number)
        };
        let waiting: Vec<_> = tickets.iter().filter(waits).copied().collect();
        // A record is given a tick to arrive: it says more.
        let before = std::mem::take(&mut self.attestation.unasked);
        for (number, ticket) in waiting {
            if !before.contains(&number) {
                self.attestation.unasked.insert(number);
                continue;
            }
            let Some(session) = self.registry.at(ticket.session) else { continue };
            let question = Question {
                ticket: Some(number),
                image: Some(ticket.image),
                script: if ticket.script != 0 { Script::Unknown } else { Script::No },
                stopped: true,
                session: ticket.session,
                process: ProcessKey { tgid: ticket.tgid, start_ns: ticket.start_ns },
                envelope: Arc::clone(&session.envelope),
                text: Some(session.text.clone()),
            };
            self.ask(question);
        }
        self.attestation.ticks = self.attestation.ticks.wrapping_add(1);
        if !tickets.is_empty() && self.attestation.ticks.is_multiple_of(SWEEP_TICKS) {
            let measurer = self.attestation.measurer.clone();
            tokio::task::spawn_blocking(move || measurer.sweep());
        }
        Ok(())
    }
}
