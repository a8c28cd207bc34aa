//! Files that an envelope names with their content: model weights, prompts, configuration. They are looked at when a session begins, and
//! when its envelope is replaced: before that, if another content keeps it from beginning; beside it, if that is only recorded. Nobody looks at them
//! later.

use std::{
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use axum::http::StatusCode;
use enforcer_common::identity::SessionRef;
use uuid::Uuid;

use super::{
    super::{
        Beside, Daemon,
        lifecycle::{digest, list_name},
        trust::Admitted,
    },
    measurer::Measurer,
};
use crate::{
    clock,
    control::server::{Call, Refusal, Request},
    envelope::{Exec, Image, OnMismatch, Sha256},
    exit::one_line,
    measure::{MeasureError, Measured},
    procfs::{self, ProcError},
    record::{EventKind, EventLine, LineImage},
};

/// What a file was found to be.
pub(crate) struct Found {
    file: Image,
    inode: u64,
    sha256: Option<Sha256>,
    /// Why that is not known, or what it does not say.
    why: Option<String>,
}

/// Files were looked at for a session that runs.
pub(crate) struct Looked {
    session: SessionRef,
    found: Vec<Found>,
}

/// Files were looked at for a request that waits for that.
pub(crate) struct LookedFirst {
    call: Call,
    agent: String,
    found: Vec<Found>,
}

impl Found {
    fn is_as_named(&self) -> bool {
        self.sha256.is_some() && self.sha256 == self.file.sha256
    }

    fn line(&self, on_mismatch: &str) -> EventLine {
        let mut line = EventLine::new(EventKind::FileMeasured, &clock::wall(clock::boot_ns()));
        let verdict = match self.sha256 {
            _ if self.is_as_named() => "as-named",
            Some(_) => "other",
            None => "unmeasured",
        };
        line.image = Some(LineImage {
            path: Some(self.file.path.clone()),
            inode: self.inode,
            sha256: self.sha256.map(|digest| digest.to_string()),
            verdict: verdict.into(),
            on_mismatch: on_mismatch.to_owned().into(),
            script: None,
            loader: None,
        });
        line.detail.clone_from(&self.why);
        line
    }
}

#[derive(Debug, thiserror::Error)]
enum LookError {
    #[error(transparent)]
    Proc(#[from] ProcError),
    #[error("measure it")]
    Measure(#[from] MeasureError),
}

/// How long a session waits at most until what it may execute was measured: what was not by then is when it is executed.
const PREPARE_FOR: Duration = Duration::from_secs(2);

impl Measurer {
    /// Measures what a list names, before anybody executes it, unless that takes long: whoever is the first to execute something would
    /// stop for it, and a shell that started it would take its terminal back.
    fn prepare_soon(&self, exec: &Exec, list: [u32; 4]) {
        if !exec.restricts_images() {
            return;
        }
        let (measurer, exec) = (self.clone(), exec.clone());
        let (done, wait) = mpsc::channel();
        // It goes on by itself if it takes longer.
        let begun = thread::Builder::new().spawn(move || {
            measurer.prepare(&exec, list);
            // Nobody may wait any more.
            let _in_time = done.send(());
        });
        if begun.is_ok() {
            let _in_time = wait.recv_timeout(PREPARE_FOR);
        }
    }

    /// The files that must be right before a session begins.
    pub(in super::super) fn look_before(&self, exec: &Exec) -> Vec<Found> {
        if exec.on_mismatch == OnMismatch::Audit { Vec::new() } else { self.look_at(exec) }
    }

    fn look_at(&self, exec: &Exec) -> Vec<Found> {
        let look = |file: &Image| -> Result<Measured, LookError> {
            let opened = procfs::open_named(std::process::id(), &file.path)?;
            Ok(self.measure(&opened)?)
        };
        let found = exec.files.iter().map(|file| match look(file) {
            Ok(measured) => Found {
                file: file.clone(),
                inode: measured.stamp.inode,
                sha256: Some(Sha256(measured.sha256)),
                why: measured.caveat(),
            },
            Err(error) => Found { file: file.clone(), inode: 0, sha256: None, why: Some(one_line(&error)) },
        });
        found.collect()
    }
}

impl Daemon {
    /// Whether a request may bring images or files that are to be looked at before it is carried out. Only of an operator's: what a session
    /// hands on names no other files than its own; what another user may name is known when it was compared with what is granted.
    pub(in super::super) fn may_name_files(&self, call: &Call) -> bool {
        // A field can be written with escapes, and in no other way without its name.
        let may = |text: &str| text.contains("exec") || text.contains('\\');
        match &call.request {
            Request::Enrol(enrol) => {
                may(&enrol.envelope) && self.is_operator(&call.peer) && !self.is_in_session(call.peer.pid)
            }
            Request::Register(register) => may(&register.envelope),
            Request::Apply(apply) => may(&apply.envelope),
            _ => false,
        }
    }

    /// Has them looked at, and the request carried out then.
    pub(in super::super) fn look_first(&mut self, call: Call) {
        let (text, signature) = match &call.request {
            Request::Enrol(enrol) => (&enrol.envelope, &enrol.signature),
            Request::Register(register) => (&register.envelope, &register.signature),
            Request::Apply(apply) => (&apply.envelope, &apply.signature),
            _ => {
                self.handle_looked(call);
                return;
            }
        };
        let envelope = match self.admit(&call.peer, text, signature.as_deref()) {
            Ok(Admitted { envelope, .. }) => envelope,
            Err(refusal) => return self.refuse_change(call, refusal),
        };
        let says_nothing = !envelope.exec.restricts_images() && envelope.exec.files.is_empty();
        if says_nothing || envelope.exec.on_mismatch == OnMismatch::Audit {
            self.handle_looked(call);
            return;
        }
        let measurer = self.attestation.measurer.clone();
        let agent = envelope.metadata.name;
        let list = list_name(&digest(text));
        self.beside(move || {
            measurer.prepare_soon(&envelope.exec, list);
            let found = measurer.look_at(&envelope.exec);
            Beside::LookedFirst(Box::new(LookedFirst { call, agent, found }))
        });
    }

    fn refuse_change(&mut self, call: Call, refusal: Refusal) {
        self.refuse(&call.peer, call.request.changes().unwrap_or_default(), refusal, call.reply);
    }

    /// Carries out the request, or refuses it.
    pub(in super::super) fn end_looking_first(&mut self, LookedFirst { call, agent, found }: LookedFirst) {
        match self.require_as_named(&agent, &found) {
            Ok(()) => drop(self.handle_looked(call)),
            Err(refusal) => self.refuse_change(call, refusal),
        }
    }

    /// Whether all files are what an envelope says, before it is for a session of this agent.
    pub(in super::super) fn require_as_named(&mut self, agent: &str, found: &[Found]) -> Result<(), Refusal> {
        for found in found {
            let mut line = found.line("");
            let why = line.detail.take().map_or(String::new(), |why| format!(": {why}"));
            self.events.write(line.detail(format!("for a session of agent {agent}{why}")));
        }
        let Some(other) = found.iter().find(|found| !found.is_as_named()) else { return Ok(()) };
        let path = &other.file.path;
        let message = match (other.sha256, &other.why) {
            (Some(sha256), _) => format!("`{path}` is not what the envelope says: its digest is {sha256}"),
            (None, why) => format!("`{path}` cannot be measured: {}", why.as_deref().unwrap_or("")),
        };
        let refusal = Refusal::new(StatusCode::CONFLICT, "file-mismatch", message);
        Err(refusal.hint("put the file right, or the digest in the envelope"))
    }

    /// Has the files of a session looked at, where that is only recorded.
    pub(in super::super) fn look_at_files(&self, id: Uuid) {
        let Some(session) = self.registry.get(id) else { return };
        let exec = &session.envelope.envelope.exec;
        if exec.files.is_empty() || exec.on_mismatch != OnMismatch::Audit {
            return;
        }
        let (slot, envelope) = (session.grant.slot, Arc::clone(&session.envelope));
        let measurer = self.attestation.measurer.clone();
        self.beside(move || {
            let found = measurer.look_at(&envelope.envelope.exec);
            Beside::Looked(Looked { session: slot, found })
        });
    }

    pub(in super::super) fn end_looking(&mut self, Looked { session, found }: Looked) {
        for found in &found {
            let line = found.line(OnMismatch::Audit.name());
            let line = match self.registry.at(session) {
                Some(session) => line.session(session),
                None => line,
            };
            self.events.write(line);
        }
    }
}
