//! Findings: what the detector makes of the events that are written, told as events of their own, and what becomes of a session for them.
//! What agents have done so far is written down beside the loop.

mod deeds;

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use enforcer_common::{identity::SessionRef, record::Operation, session::SessionState};
use uuid::Uuid;

pub(super) use deeds::Deeds;
use deeds::{Sign, digest_of};

use super::{Daemon, DaemonError, StartError};
use crate::{
    clock,
    detect::{self, Deed, Detection, Detector, Finding, Moment, Phase, Seen, SettingsError},
    document,
    envelope::{Limits, OnFinding},
    exit::one_line,
    record::{EventKind, EventLine, LineFinding, LineProcess, SessionText},
    session::{Registry, Session},
    settings::Settings,
    state::{BaselineFiles, StateError},
};

/// How often what agents have done is written down, in ticks: what a killed daemon has not is new again, and told again.
const SAVE_TICKS: u32 = 2;
/// How many agents' at a time.
const SAVED_AT_ONCE: usize = 4;

/// Why there are no detections as somebody wants them.
#[derive(Debug, thiserror::Error)]
#[error("take the detections from `{}`", path.display())]
pub(crate) struct DetectionsError {
    path: PathBuf,
    #[source]
    source: SettingsError,
}

/// What is found by which rules, and where what is learned is kept.
#[derive(Debug)]
pub(super) struct Findings {
    detector: Detector,
    files: Arc<Mutex<BaselineFiles>>,
    /// How often there was something to write down. A later one is not overtaken by an earlier one.
    generation: u64,
    is_saving: bool,
    ticks: u32,
    /// Told since the daemon started, by place in [`Detection::ALL`].
    counts: [u64; Detection::ALL.len()],
    /// Sessions to be put in quarantine when they are registered, and why.
    postponed: Vec<(Uuid, String)>,
}

/// What came of writing down.
#[derive(Debug)]
pub(super) struct Saved {
    failed: Vec<(String, StateError)>,
    gone: Vec<String>,
}

/// Reads the settings, if there are any.
pub(super) fn settings(path: Option<&Path>) -> Result<detect::Settings, DetectionsError> {
    let Some(path) = path else { return Ok(detect::Settings::default()) };
    let read = || {
        let mut bytes = Vec::new();
        File::open(path)?.take(document::MAX_BYTES + 1).read_to_end(&mut bytes)?;
        detect::Settings::parse(&bytes)
    };
    read().map_err(|source| DetectionsError { path: path.to_owned(), source })
}

impl Findings {
    /// With what agents have done so far; and what of it is not as it was left.
    pub(super) fn open(
        settings: &Settings,
        detections: detect::Settings,
    ) -> Result<(Self, Vec<String>), StartError> {
        let opened = BaselineFiles::open(&settings.baselines())?;
        let findings = Self {
            detector: Detector::new(detections, opened.baselines.into_iter()),
            files: Arc::new(Mutex::new(opened.files)),
            generation: 0,
            is_saving: false,
            ticks: 0,
            counts: [0; Detection::ALL.len()],
            postponed: Vec::new(),
        };
        Ok((findings, opened.tampered))
    }

    /// Agents of which it is known what they have done so far.
    pub(super) fn agents(&self) -> usize {
        self.detector.agents()
    }

    /// Told since the daemon started.
    pub(super) fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Detection::ALL.iter().zip(self.counts).map(|(detection, count)| (detection.name(), count))
    }

    /// By name, and whether more than zero means that something went wrong.
    pub(super) const fn counters(&self) -> [(&'static str, u64, bool); 2] {
        [
            ("events_unwatched", self.detector.left_out(), false),
            ("news_unremembered", self.detector.unremembered(), false),
        ]
    }

    /// Whether anything a session does can have it put in quarantine.
    pub(super) const fn finds_deeds(&self) -> bool {
        self.detector.finds_deeds()
    }
}

fn save(files: &Mutex<BaselineFiles>, generation: u64, texts: Vec<(String, String)>) -> Saved {
    let mut files = files.lock().unwrap_or_else(PoisonError::into_inner);
    let (failed, gone) = files.save(generation, texts);
    Saved { failed, gone }
}

impl Daemon {
    /// Makes findings of an event that was written, and says them behind it.
    pub(super) fn take_deeds(
        &mut self,
        slot: SessionRef,
        time_ns: u64,
        deeds: Deeds,
        line: &EventLine,
        sequence: Option<u64>,
    ) {
        let limit = match deeds {
            Deeds::Nothing | Deeds::Egress { refused: false, limit: None, reached: None } => return,
            Deeds::Egress { limit: Some(operation), .. } => self.limit_of(slot, operation),
            _ => None,
        };
        let Some(session) = self.registry.at(slot) else { return };
        let id = session.grant.id;
        // Of one that lingers, nobody does anything any more.
        if self.registry.get(id).is_none() {
            return;
        }
        // A session names those below it as it likes: it must not have others' names, and not fill the room for them.
        let by = Some((id, line_of(&self.registry, session).last().unwrap_or(session).agent()));
        let seen = Seen { sequence, at: Moment { boot_ns: time_ns, time: line.at }, by };
        let detector = &mut self.findings.detector;
        if let Some(after) = self.events.take_failed() {
            detector.forget_numbers(after);
        }
        let mut findings = Vec::new();
        let mut see = |deed: Deed<'_>| findings.append(&mut detector.see(&seen, &deed));
        match deeds {
            Deeds::Nothing => {}
            Deeds::Egress { refused, reached, .. } => {
                if refused {
                    see(Deed::Refused);
                }
                if let Some(limit) = limit {
                    see(Deed::Limit(limit));
                }
                if let Some(endpoint) = reached {
                    see(Deed::Reached(endpoint));
                }
            }
            Deeds::Executed | Deeds::Measured => {
                if let Some(path) = line.process.as_ref().and_then(|process| process.path.as_deref()) {
                    let sha256 = line.image.as_ref().and_then(digest_of);
                    see(Deed::Executed { path, sha256 });
                }
            }
            Deeds::Guarded(sign) => {
                see(Deed::Refused);
                match sign {
                    Some(Sign::Escape(hook)) => {
                        see(Deed::Escape(&format!("the guard refused `{}`", hook.name())))
                    }
                    Some(Sign::Tamper(hook)) => {
                        see(Deed::Tamper(&format!("the guard refused `{}`", hook.name())))
                    }
                    None => {}
                }
            }
            Deeds::Escape => see(Deed::Escape(line.detail.as_deref().unwrap_or("a process is misplaced"))),
        }
        for finding in findings {
            self.tell(&finding, line.process.as_ref());
        }
    }

    /// Likewise of a sign that is about no session.
    pub(super) fn take_tamper_sign(&mut self, now_ns: u64, line: &EventLine, sequence: Option<u64>) {
        let seen = Seen { sequence, at: Moment { boot_ns: now_ns, time: line.at }, by: None };
        let words = line.detail.as_deref().unwrap_or_default();
        if let Some(after) = self.events.take_failed() {
            self.findings.detector.forget_numbers(after);
        }
        for finding in self.findings.detector.see(&seen, &Deed::Tamper(words)) {
            self.tell(&finding, None);
        }
    }

    /// What there is to say of a session at its end, and whether it is one that learning goes by.
    pub(super) fn end_detecting(&mut self, session: &Session, came_about: bool) {
        let agent = (came_about && session.grant.parent.is_none()).then(|| session.agent());
        for finding in self.findings.detector.end_session(session.grant.id, agent) {
            self.tell_of(&finding, Some(session.text.clone()), None);
        }
    }

    /// Which limit a session was refused for. The record does not say it; nothing if it is known already.
    fn limit_of(&self, slot: SessionRef, operation: Operation) -> Option<&'static str> {
        const CONNECTIONS: &str = "connections";
        const RATE: &str = "connectionRate";
        match operation {
            Operation::PacketOut => return Some("bytesOut"),
            Operation::PacketIn => return Some("bytesIn"),
            _ => {}
        }
        let session = self.registry.at(slot)?;
        let knows = |limit| self.findings.detector.knows_limit(session.grant.id, limit);
        if knows(CONNECTIONS) && knows(RATE) {
            return None;
        }
        // Those above pay as well, so it may be one of theirs.
        let mut has_rate = false;
        for payer in line_of(&self.registry, session) {
            let Limits { connections, connection_rate, .. } = payer.envelope.envelope.limits;
            has_rate |= connection_rate.is_some();
            let used =
                || self.kernel.sessions.usage(payer.grant.slot.slot).map_or(0, |usage| usage.connections);
            if connections.is_some_and(|most| used() >= most) {
                return Some(CONNECTIONS);
            }
        }
        Some(if has_rate { RATE } else { CONNECTIONS })
    }

    /// Writes a finding down, and does with the session what its envelope says.
    fn tell(&mut self, finding: &Finding, process: Option<&LineProcess>) {
        let session = finding.session.and_then(|id| self.registry.known(id));
        self.tell_of(finding, session.map(|session| session.text.clone()), process);
    }

    fn tell_of(&mut self, finding: &Finding, session: Option<SessionText>, process: Option<&LineProcess>) {
        let place = Detection::ALL.iter().position(|detection| *detection == finding.detection);
        if finding.phase == Phase::New
            && let Some(count) = place.and_then(|place| self.findings.counts.get_mut(place))
        {
            *count += 1;
        }
        let mut line = EventLine::new(EventKind::Finding, &clock::wall(clock::boot_ns()));
        line.session = session;
        line.process = process.filter(|_| finding.phase == Phase::New).cloned();
        line.finding = Some(LineFinding::from(finding));
        let number = self.events.write_numbered(&mut line);
        if finding.is_grave {
            self.react(finding, number);
        }
    }

    fn react(&mut self, finding: &Finding, number: Option<u64>) {
        let Some(session) = finding.session.and_then(|id| self.registry.get(id)) else { return };
        let is_wanted = session.envelope.envelope.on_finding == OnFinding::Quarantine;
        if !is_wanted || session.state != SessionState::Active {
            return;
        }
        let (id, is_registering) = (session.grant.id, session.registering);
        let event = number.map_or_else(String::new, |number| format!(" (event {number})"));
        let why = format!("for the finding {}{event}: {}", finding.detection, finding.title);
        if is_registering || self.registering == Some(id) {
            if self.findings.postponed.iter().all(|(postponed, _)| *postponed != id) {
                self.findings.postponed.push((id, why));
            }
            return;
        }
        self.quarantine_at_last(id, &why);
    }

    fn quarantine_at_last(&mut self, id: Uuid, why: &str) {
        if let Err(refusal) = self.quarantine_for(id, why) {
            self.faults += 1;
            self.note(EventKind::DaemonFault, format!("put session {id} in quarantine: {}", refusal.message));
        }
    }

    pub(super) fn baseline_files(&self) -> Arc<Mutex<BaselineFiles>> {
        Arc::clone(&self.findings.files)
    }

    /// Once a tick: what is over, what was postponed, and what is to be written down.
    pub(super) fn tend_findings(&mut self) -> Result<(), DaemonError> {
        for finding in self.findings.detector.pass_time(clock::boot_ns()) {
            self.tell(&finding, None);
        }
        if let Some(complaint) = self.findings.detector.take_complaint() {
            self.note(EventKind::DaemonFault, format!("detections: {complaint}"));
        }
        for (id, why) in std::mem::take(&mut self.findings.postponed) {
            match self.registry.get(id) {
                Some(session) if session.registering || self.registering == Some(id) => {
                    self.findings.postponed.push((id, why));
                }
                Some(session) if session.state == SessionState::Active => self.quarantine_at_last(id, &why),
                _ => {}
            }
        }
        self.findings.ticks = self.findings.ticks.wrapping_add(1);
        if self.findings.ticks.is_multiple_of(SAVE_TICKS) && !self.findings.is_saving {
            let texts = self.findings.detector.take_unsaved(SAVED_AT_ONCE);
            if !texts.is_empty() {
                self.findings.is_saving = true;
                self.findings.generation += 1;
                let (files, generation) = (Arc::clone(&self.findings.files), self.findings.generation);
                self.beside(move || super::Beside::Saved(save(&files, generation, texts)));
            }
        }
        Ok(())
    }

    pub(super) fn end_saving(&mut self, Saved { failed, gone }: Saved) {
        self.findings.is_saving = false;
        for (agent, error) in failed {
            self.findings.detector.keep_unsaved(&agent);
            self.survive(Err(error.into()));
        }
        for agent in gone {
            let detail = format!(
                "the baseline of agent `{agent}` was removed while the daemon ran; it is there again"
            );
            self.note(EventKind::TamperSign, detail);
        }
    }

    /// Writes down what is left, when the daemon stops.
    pub(super) fn save_findings(&mut self) {
        let texts = self.findings.detector.take_unsaved(usize::MAX);
        if texts.is_empty() {
            return;
        }
        let Saved { failed, gone } = save(&self.findings.files, self.findings.generation + 1, texts);
        for (agent, error) in failed {
            eprintln!("warning: the baseline of agent `{agent}`: {}", one_line(&error));
        }
        for agent in gone {
            self.note(EventKind::TamperSign, format!("the baseline of agent `{agent}` was removed"));
        }
    }
}

/// A session, then those above it.
fn line_of<'a>(registry: &'a Registry, session: &'a Session) -> impl Iterator<Item = &'a Session> {
    std::iter::successors(Some(session), |session| registry.get(session.grant.parent_id()?))
}
