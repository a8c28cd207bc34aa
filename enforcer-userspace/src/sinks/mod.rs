//! Where events go: the event file, and from it to any number of other places.

mod cursor;
mod file;
mod http;
mod journald;
mod lines;
mod nats;
mod otlp;
mod render;
mod settings;
mod syslog;
mod tail;
mod transport;
mod worker;

use std::{
    fs,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

pub(crate) use file::FileSink;
use render::Renderer;
pub(crate) use settings::{SettingsError, SinkSettings};
use transport::NotSent;
pub(crate) use worker::Sink;

use crate::{path_error::PathError, record::export::Host};

/// Why sinks could not be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SinksError {
    #[error("take the sinks from `{}`", path.display())]
    Settings {
        path: PathBuf,
        #[source]
        source: SettingsError,
    },
    #[error(transparent)]
    Path(#[from] PathError),
}

/// Reads what a file says of sinks.
pub(crate) fn load(path: &Path) -> Result<Vec<SinkSettings>, SinksError> {
    settings::load(path).map_err(|source| SinksError::Settings { path: path.to_owned(), source })
}

/// Starts the sinks, each where it stopped. `events` is their file, and the number of the last one in it.
pub(crate) fn start(
    sinks: Vec<SinkSettings>,
    events: (&Path, u64),
    cursors: &Path,
    host: &Host,
) -> Result<Vec<Sink>, SinksError> {
    if !sinks.is_empty() {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(cursors);
        made.map_err(PathError::at("create", cursors))?;
    }
    let start = |settings: SinkSettings| {
        let renderer = Renderer::new(settings.form, host.clone());
        Ok(Sink::start(settings, renderer, events, cursors, &host.name)?)
    };
    sinks.into_iter().map(start).collect()
}

/// Sends one event, made for that, as the daemon would, and says how long it took; or why it could not be sent.
pub(crate) fn test(settings: &SinkSettings, host: &Host) -> Result<Duration, String> {
    let time = format!("{:.9}", jiff::Timestamp::now());
    let message = Renderer::new(settings.form, host.clone()).test(time);
    let start = Instant::now();
    let mut transport = transport::open(settings, &host.name);
    match transport.send(&[message]).and_then(|_| transport.check()) {
        Ok(()) => Ok(start.elapsed()),
        Err(NotSent::Later { why, .. } | NotSent::Never { why }) => Err(why),
    }
}
