//! The audit log, beside the loop: opened and closed with the daemon; what its writer has found is an event.

use std::sync::Arc;

use axum::http::StatusCode;

use super::{Daemon, DaemonError, To, reply_to};
use crate::{
    control::{
        dto,
        server::{Answer, Refusal},
    },
    exit::one_line,
    host::Host,
    record::EventKind,
    settings::Settings,
    state::{self, AuthoritiesError, Limits, Log, LogDir, Opening},
};

use super::StartError;

/// Opens the log. That it cannot be written is found out beside the loop, and is a fault; a key that cannot be used is an error.
pub(super) fn open(
    settings: &Settings,
    host: &Host,
    limits: Limits,
    events_before: u64,
) -> Result<Log, StartError> {
    let dir = LogDir::at(&settings.audit());
    let key = Arc::new(state::own_key(&dir.key_path())?);
    // What is torn was never signed with.
    let next_key = match state::existing_key(&dir.next_key_path()) {
        Err(AuthoritiesError::Format { .. }) => None,
        next_key => next_key?,
    };
    let opening = Opening {
        dir,
        key,
        next_key: next_key.map(Arc::new),
        host: host.name.clone(),
        boot_id: host.boot_id.clone(),
        release: env!("CARGO_PKG_VERSION"),
        events_before,
        limits,
    };
    Ok(Log::open(opening)?)
}

impl Daemon {
    /// Writes what is left. Events from now on are in the event file alone.
    pub(super) fn close_audit(&mut self) {
        if let Some(log) = self.events.log.take()
            && !log.stop()
        {
            eprintln!("warning: the audit log: its last entries are not written yet");
        }
    }

    /// Goes on with it after all.
    pub(super) fn reopen_audit(&mut self) {
        match open(&self.settings, &self.host, self.audit_limits, self.events.sequence()) {
            Ok(log) => self.events.log = Some(log),
            Err(error) => self.note(EventKind::DaemonFault, one_line(&error)),
        }
    }

    pub(super) fn tend_audit(&mut self) -> Result<(), DaemonError> {
        let signs = self.events.log.as_ref().map(Log::take_signs).unwrap_or_default();
        for sign in signs {
            self.note(EventKind::TamperSign, format!("the audit log: {sign}"));
        }
        Ok(())
    }

    /// Has another key sign; the writer answers. Nothing was taken away.
    pub(super) fn rotate_audit_key(&self, reply: To) -> bool {
        let failed = |message: String| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "audit-key", message);
        match &self.events.log {
            None => reply_to(reply, Err(failed("the audit log is not open".to_owned()))),
            Some(log) => log.rotate_key(Box::new(move |rotated| {
                let answer =
                    rotated.map(|key_id| Answer::AuditKey(dto::AuditKey { version: dto::VERSION, key_id }));
                reply_to(reply, answer.map_err(|error| failed(one_line(&error))));
            })),
        }
        false
    }
}
