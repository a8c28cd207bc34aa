//! What a request says, read within bounds: of size, by who sends it; of memory, for all that are being read or answered; and of time.

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, HttpBody as _},
    extract::Request,
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE},
};
use http_body_util::BodyExt as _;
use serde::de::DeserializeOwned;
use serde_json::error::Category;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::{peer::PeerInfo, server::Refusal};
use crate::envelope;

/// Requests up to here wait for nobody: there is room for one of each connection.
const SMALL_BYTES: usize = 64 << 10;
/// The largest of whoever does not operate the daemon, and of whoever does not say how much will come.
const MODEST_BYTES: usize = 1 << 20;
/// The largest of operators other than root, and of all of theirs together that are not small; likewise of root's that are no larger, and
/// of whoever is no operator.
const OTHERS_BYTES: usize = 8 << 20;
/// The largest of root's, and of all of them that are larger than that: the longest envelope fits, unless half of it is line ends and
/// quotes, of which JSON makes two each.
const ROOT_BYTES: usize = envelope::MAX_TEXT / 2 * 3;

/// How long nothing of a request may come, or no room be found for it.
const STALLED: Duration = Duration::from_secs(10);
/// How long all of it may take.
const WHOLE: Duration = Duration::from_secs(60);

/// Room for requests that are not small, in bytes.
#[derive(Clone, Debug)]
pub(super) struct Room {
    large: Arc<Semaphore>,
    root: Arc<Semaphore>,
    others: Arc<Semaphore>,
    inside: Arc<Semaphore>,
}

impl Default for Room {
    fn default() -> Self {
        let of = |bytes| Arc::new(Semaphore::new(bytes));
        Self {
            large: of(ROOT_BYTES),
            root: of(OTHERS_BYTES),
            others: of(OTHERS_BYTES),
            inside: of(OTHERS_BYTES),
        }
    }
}

/// What a request says, and the room that it takes until it is answered.
#[derive(Debug)]
pub(super) struct Said<T> {
    pub(super) value: T,
    pub(super) room: Option<OwnedSemaphorePermit>,
}

impl Room {
    /// Reads a request.
    pub(super) async fn read<T: DeserializeOwned>(
        &self,
        peer: &PeerInfo,
        request: Request,
    ) -> Result<Said<T>, Refusal> {
        require_json(request.headers())?;
        let (most, shared) = self.bounds(peer);
        let body = request.into_body();
        let bytes = match body.size_hint().exact().map(usize::try_from) {
            None => most.min(MODEST_BYTES),
            Some(Ok(bytes)) if bytes <= most => bytes,
            Some(_) => return Err(too_large(most)),
        };
        // Only root's can be larger than that.
        let shared = if bytes > OTHERS_BYTES { &self.large } else { shared };
        let room = if bytes > SMALL_BYTES { Some(room_for(bytes, shared).await?) } else { None };
        let said = timeout(WHOLE, collect(body, bytes)).await.map_err(|_elapsed| too_slow())??;
        Ok(Said { value: parse(&said)?, room })
    }

    /// The largest request of a peer, and the room for those that are neither small nor large.
    fn bounds(&self, peer: &PeerInfo) -> (usize, &Arc<Semaphore>) {
        match &peer.peer {
            Ok(known) if peer.operator && known.uid == 0 => (ROOT_BYTES, &self.root),
            Ok(_) if peer.operator => (OTHERS_BYTES, &self.others),
            _ => (MODEST_BYTES, &self.inside),
        }
    }
}

fn require_json(headers: &HeaderMap) -> Result<(), Refusal> {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if kind.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let message = "a request says `content-type: application/json`";
    Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "bad-request", message))
}

async fn room_for(bytes: usize, all: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Refusal> {
    let room = Arc::clone(all).acquire_many_owned(u32::try_from(bytes).unwrap_or(u32::MAX));
    let message = "there is no room for so large a request now";
    let full = || Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "no-room", message);
    timeout(STALLED, room).await.map_err(|_elapsed| full())?.map_err(|_closed| full())
}

async fn collect(mut body: Body, most: usize) -> Result<Vec<u8>, Refusal> {
    // What nobody has written to takes no memory.
    let mut said = Vec::with_capacity(most);
    let mut left = most;
    loop {
        let frame = timeout(STALLED, body.frame()).await.map_err(|_elapsed| too_slow())?;
        let Some(frame) = frame else { return Ok(said) };
        let broken = |error: axum::Error| bad_request(format!("read the request: {error}"));
        let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
        left = left.checked_sub(data.len()).ok_or_else(|| too_large(most))?;
        let data = if said.is_empty() { data.trim_ascii_start() } else { &data };
        said.extend_from_slice(data);
        // What cannot become a request is not kept to the end.
        if said.first().is_some_and(|first| *first != b'{') {
            return Err(bad_request("a request is a JSON object"));
        }
    }
}

fn parse<T: DeserializeOwned>(said: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(said).map_err(|error| {
        let status = match error.classify() {
            Category::Data => StatusCode::UNPROCESSABLE_ENTITY,
            _ => StatusCode::BAD_REQUEST,
        };
        Refusal::new(status, "bad-request", error.to_string())
    })
}

fn bad_request(message: impl Into<String>) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, "bad-request", message)
}

fn too_large(most: usize) -> Refusal {
    let message = format!("a request of this peer's, sent this way, is at most {most} bytes long");
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", message)
}

fn too_slow() -> Refusal {
    let message = "the request did not come to its end in time";
    Refusal::new(StatusCode::REQUEST_TIMEOUT, "too-slow", message)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use axum::body::Bytes;
    use tokio_stream::{self as stream, Stream, StreamExt as _};

    use super::*;
    use crate::control::peer::PeerError;

    /// What is said to a process of a session that sends this.
    async fn said(room: &Room, body: Body) -> Result<serde_json::Value, StatusCode> {
        let peer = PeerInfo { peer: Err(PeerError::Gone), operator: false };
        let request = Request::builder().header(CONTENT_TYPE, "application/json; charset=utf-8").body(body);
        let said = room.read(&peer, request.expect("it is well-formed")).await;
        said.map(|said| said.value).map_err(|refusal| refusal.status)
    }

    fn endless(part: &'static [u8]) -> impl Stream<Item = Result<Bytes, Infallible>> {
        stream::iter(std::iter::repeat_with(move || Ok(Bytes::from_static(part))))
    }

    #[tokio::test]
    async fn what_is_too_large_or_no_object_is_not_read_to_its_end() {
        let room = Room::default();
        assert_eq!(said(&room, Body::from(r#" {"a": 1}"#)).await, Ok(serde_json::json!({"a": 1})));
        assert_eq!(said(&room, Body::from("[1]")).await, Err(StatusCode::BAD_REQUEST));
        assert_eq!(said(&room, Body::empty()).await, Err(StatusCode::BAD_REQUEST));
        let declared = Body::from(vec![b'{'; MODEST_BYTES + 1]);
        assert_eq!(said(&room, declared).await, Err(StatusCode::PAYLOAD_TOO_LARGE));
        for (part, status) in [
            (&b"{\"a\":\""[..], StatusCode::PAYLOAD_TOO_LARGE),
            (b"     ", StatusCode::PAYLOAD_TOO_LARGE),
            (b"\0\0\0", StatusCode::BAD_REQUEST),
        ] {
            assert_eq!(said(&room, Body::from_stream(endless(part))).await, Err(status), "{part:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_come_is_not_waited_for_and_gives_its_room_back() {
        let room = Room::default();
        let stops = || Body::from_stream(stream::once(Ok::<_, Infallible>("{")).chain(stream::pending()));
        assert_eq!(said(&room, stops()).await, Err(StatusCode::REQUEST_TIMEOUT));
        // Something comes all the time, and never an end.
        let slow = endless(b"{").throttle(STALLED / 2);
        assert_eq!(said(&room, Body::from_stream(slow)).await, Err(StatusCode::REQUEST_TIMEOUT));
        // Whoever finds no room is told so, and finds some when it is given back.
        let taken = room_for(OTHERS_BYTES, &room.inside).await.expect("all of it");
        assert_eq!(said(&room, stops()).await, Err(StatusCode::SERVICE_UNAVAILABLE));
        drop(taken);
        assert_eq!(said(&room, stops()).await, Err(StatusCode::REQUEST_TIMEOUT));
        assert_eq!(room.inside.available_permits(), OTHERS_BYTES);
    }
}
