//! What happened and what happens, on its way to one client.

use std::{
    fs::File,
    io::{Read as _, Take},
};

use axum::body::Bytes;
use tokio::sync::{broadcast, mpsc};

use super::Feed;
use crate::{
    clock,
    record::{EventKind, EventLine},
};

/// How large a part of a history is.
const PART_BYTES: usize = 16 << 10;

/// Sends the feed to one client; ends when the client is gone. A client too slow for the live lines is told how many it
/// missed: all of them are in the files.
pub(super) async fn stream(feed: Feed, follow: bool, send: mpsc::Sender<std::io::Result<Bytes>>) {
    for (file, bytes) in feed.history {
        let mut file = file.take(bytes);
        while let Some(chunk) = chunk(&mut file) {
            if send.send(chunk).await.is_err() {
                return;
            }
        }
    }
    if !follow {
        return;
    }
    let mut live = feed.live;
    loop {
        let line = match live.recv().await {
            Ok(line) => format!("{line}\n"),
            Err(broadcast::error::RecvError::Lagged(missed)) => format!("{}\n", missed_line(missed)),
            Err(broadcast::error::RecvError::Closed) => return,
        };
        if send.send(Ok(Bytes::from(line))).await.is_err() {
            return;
        }
    }
}

fn chunk(file: &mut Take<File>) -> Option<std::io::Result<Bytes>> {
    let mut buffer = vec![0; PART_BYTES];
    match file.read(&mut buffer) {
        Ok(0) => None,
        Ok(read) => {
            buffer.truncate(read);
            Some(Ok(buffer.into()))
        }
        Err(error) => Some(Err(error)),
    }
}

/// Says how many live lines a client has missed. It has no number: it is in no file.
fn missed_line(lines: u64) -> String {
    let now = clock::wall(clock::boot_ns());
    let mut lost = EventLine::new(EventKind::RecordsLost, &now).detail("this client was too slow");
    lost.lost = Some(lines);
    serde_json::to_string(&lost).expect("it holds only text and numbers")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{
        LineSession,
        export::{self, Form, Host, Version},
    };

    #[tokio::test]
    async fn a_slow_client_is_told_in_every_form_what_it_missed() {
        let (live, feed) = broadcast::channel(2);
        for line in 1..=5 {
            live.send(line.to_string().into()).unwrap();
        }
        drop(live);
        let (send, mut receive) = mpsc::channel(8);
        stream(Feed { history: Vec::new(), live: feed }, true, send).await;
        let first = receive.recv().await.unwrap().unwrap();
        assert_eq!(receive.recv().await.unwrap().unwrap(), "4\n", "what it did not miss");
        let event: EventLine<LineSession> = serde_json::from_slice(&first).unwrap();
        assert_eq!((event.kind, event.lost), (EventKind::RecordsLost, Some(3)));
        let host = Host {
            name: "host".to_owned(),
            release: String::new(),
            trust_domain: "example.org".parse().unwrap(),
        };
        let form = Form::Ocsf(Version::V1_9);
        let exported = serde_json::to_value(export::export(&event, form, &host).unwrap()).unwrap();
        assert_eq!((&exported["count"], &exported["class_uid"]), (&3.into(), &1008.into()), "{exported}");
    }
}
