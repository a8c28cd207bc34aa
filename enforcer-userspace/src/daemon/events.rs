//! Writing events: to the file, and to whoever follows.

use std::{path::Path, sync::Arc};

use tokio::sync::broadcast;

use crate::{
    control::server::Feed,
    record::EventLine,
    sinks::{FileSink, SinkError},
};

/// Lines that a follower may be behind.
const FOLLOWER_LINES: usize = 8192;

/// The one place where a line gets its sequence and is written.
#[derive(Debug)]
pub(crate) struct Events {
    sink: FileSink,
    live: broadcast::Sender<Arc<str>>,
    sequence: u64,
    undecodable: u64,
    /// The first failure while records were taken, where it could not be returned.
    failed: Option<SinkError>,
}

impl Events {
    /// Goes on where the file ends.
    pub(crate) fn open(path: &Path) -> Result<Self, SinkError> {
        let (sink, last) = FileSink::open(path)?;
        let sequence = last
            .and_then(|line| serde_json::from_str::<EventLine>(&line).ok())
            .map_or(0, |line| line.sequence);
        Ok(Self { sink, live: broadcast::channel(FOLLOWER_LINES).0, sequence, undecodable: 0, failed: None })
    }

    pub(crate) fn write(&mut self, mut line: EventLine) -> Result<(), SinkError> {
        self.sequence += 1;
        line.sequence = self.sequence;
        let text: Arc<str> = serde_json::to_string(&line).expect("a line holds only text and numbers").into();
        self.sink.write(&text)?;
        // Nobody following is not a failure.
        drop(self.live.send(text));
        Ok(())
    }

    /// As [`Self::write`], keeping a failure for [`Self::check`].
    pub(crate) fn write_later_checked(&mut self, line: EventLine) {
        if let Err(error) = self.write(line) {
            self.failed.get_or_insert(error);
        }
    }

    /// A record that is no record: counted, never dropped in silence.
    pub(crate) fn count_undecodable(&mut self) {
        self.undecodable += 1;
    }

    /// The failure that an earlier write kept.
    pub(crate) fn check(&mut self) -> Result<(), SinkError> {
        self.failed.take().map_or(Ok(()), Err)
    }

    /// The lines so far, and those to come.
    pub(crate) fn feed(&self) -> Result<Feed, SinkError> {
        Ok(Feed { history: self.sink.history()?, live: self.live.subscribe() })
    }

    pub(crate) fn counters(&self) -> [(String, u64); 2] {
        [("events_written".to_owned(), self.sequence), ("records_undecodable".to_owned(), self.undecodable)]
    }
}
