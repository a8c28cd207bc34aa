//! What all ways of sending have in common.

use std::{fs, io, path::Path, time::Duration};

use super::{
    http::HttpTransport,
    journald::JournaldTransport,
    lines::Lines,
    nats::NatsTransport,
    settings::{SinkSettings, To},
    syslog::SyslogTransport,
};

/// An event, as it is sent.
#[derive(Clone, Debug)]
pub(super) struct Message {
    /// The same each time it is sent: receivers drop the second by it.
    pub(super) uid: String,
    /// RFC 3339, UTC.
    pub(super) time: String,
    pub(super) is_refusal: bool,
    pub(super) kind: String,
    pub(super) text: String,
}

/// What became of a batch that nothing went wrong with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// The receiver said so.
    Taken,
    /// Nobody says whether it arrives: until it has been on its way for a while, it may have to be sent again.
    OnItsWay,
}

/// Why a batch was not taken.
#[derive(Debug)]
pub(super) enum NotSent {
    /// To be tried again, not before this.
    Later { why: String, after: Option<Duration> },
    /// The receiver does not take one like this, however often it is sent.
    Never { why: String },
}

impl NotSent {
    pub(super) fn later(why: impl ToString) -> Self {
        Self::Later { why: why.to_string(), after: None }
    }
}

impl From<io::Error> for NotSent {
    fn from(error: io::Error) -> Self {
        Self::later(error)
    }
}

/// A way of sending. One thread owns it, and may be kept waiting.
pub(super) trait Transport: Send {
    /// Sends a batch, all of it or nothing that counts: who tries again, tries all of it again.
    fn send(&mut self, batch: &[Message]) -> Result<Sent, NotSent>;

    /// Whether what is on its way can still arrive.
    fn check(&mut self) -> Result<(), NotSent> {
        Ok(())
    }
}

/// The way that the settings name. Nothing is opened before it is used.
pub(super) fn open(settings: &SinkSettings, host: &str) -> Box<dyn Transport> {
    match &settings.to {
        To::File(file) => Box::new(Lines::to_file(file.path.clone())),
        To::Stdout => Box::new(Lines::to_stdout()),
        To::Journald(journald) => Box::new(JournaldTransport::new(journald.clone())),
        To::Syslog(syslog) => Box::new(SyslogTransport::new(syslog.clone(), host)),
        To::Http(http) => Box::new(HttpTransport::new(http.clone(), host)),
        To::Nats(nats) => Box::new(NatsTransport::new(nats.clone())),
    }
}

/// What a file holds that proves who we are. Read each time: it may have been changed.
pub(super) fn secret(path: &Path) -> Result<String, NotSent> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(error) => Err(NotSent::later(format!("read `{}`: {error}", path.display()))),
    }
}

/// The beginning of what a receiver says, which is anything.
pub(super) fn harmless(text: &str) -> String {
    text.chars().take(200).flat_map(char::escape_debug).collect()
}
