//! The server side: routes to requests, answers to HTTP. Decides nothing; the daemon's loop does.

use std::{
    fs::File,
    io::{Read as _, Take},
    sync::Arc,
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{
        ConnectInfo, DefaultBodyLimit, FromRequest as _, Path, Query, State, rejection::JsonRejection,
    },
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{delete, get, post, put},
};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

use super::{
    credential::{Issued, Wanted},
    dto,
    gate::Gate,
    peer::{Peer, PeerInfo},
};
use crate::envelope;

/// The largest request, in bytes: the longest envelope fits, though JSON may write each of its line ends and quotes as two.
const MAX_BODY_BYTES: usize = 2 * envelope::MAX_TEXT + (1 << 20);

/// Likewise of a process in a session.
const MAX_INSIDE_BODY_BYTES: usize = 1 << 20;

/// What can be asked of the daemon.
#[derive(Debug)]
pub(crate) enum Request {
    Enrol(dto::Enrol),
    Register(dto::Register),
    Apply(dto::Apply),
    Sessions {
        /// Those that have ended, too.
        all: bool,
    },
    Session {
        id: String,
    },
    /// Of processes of sessions.
    Whoami,
    /// Without an id, about the session of the process that asks.
    Why {
        id: Option<String>,
    },
    /// Likewise.
    Chain {
        id: Option<String>,
    },
    Status,
    Revoke {
        id: String,
        then: dto::Then,
    },
    Quarantine {
        id: String,
    },
    Lift {
        id: String,
    },
    Events,
    Teardown {
        keep_events: bool,
    },
    TrustBundle,
    /// For processes of sessions only, by another socket.
    Credential(Wanted),
}

impl Request {
    /// Whether it asks about what happened, and changes nothing.
    pub(crate) const fn is_question(&self) -> bool {
        matches!(
            self,
            Self::Sessions { .. }
                | Self::Session { .. }
                | Self::Whoami
                | Self::Why { .. }
                | Self::Status
                | Self::Events
        )
    }
}

/// What the daemon answers.
#[derive(Debug)]
pub(crate) enum Answer {
    Enrolled(dto::Enrolled),
    Registered(dto::Registered),
    Applied(dto::Applied),
    Sessions(dto::Sessions),
    Session(Box<dto::Session>),
    Whoami(Box<dto::Whoami>),
    Refusals(dto::Refusals),
    Chain(dto::Chain),
    Status(dto::Status),
    Revoked(dto::Revoked),
    Lifted(dto::Lifted),
    Events(Feed),
    TornDown(dto::TornDown),
    TrustBundle(dto::TrustBundle),
    Credential(Box<Issued>),
}

/// The lines written so far, and those to come; nothing is in both, nothing between.
#[derive(Debug)]
pub(crate) struct Feed {
    pub(crate) history: Vec<(File, u64)>,
    pub(crate) live: broadcast::Receiver<Arc<str>>,
}

/// A request that is not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) code: &'static str,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), hint: None }
    }

    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let error = dto::ProblemBody { code: self.code.to_owned(), message: self.message, hint: self.hint };
        (self.status, Json(dto::Problem { error })).into_response()
    }
}

/// A request on its way to the daemon's loop.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) peer: Peer,
    pub(crate) request: Request,
    pub(crate) reply: oneshot::Sender<Result<Answer, Refusal>>,
}

pub(crate) type Calls = mpsc::Sender<Call>;

/// Serves until `stop` resolves and the answers under way are sent.
pub(crate) async fn serve(
    gate: Gate,
    calls: Calls,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/v1/sessions", get(sessions).post(enrol))
        .route("/v1/sessions/{id}", get(session).delete(revoke))
        .route("/v1/sessions/{id}/refusals", get(refusals))
        .route("/v1/sessions/{id}/quarantine", put(quarantine).delete(lift))
        .route("/v1/self", get(whoami))
        .route("/v1/sessions/{id}/chain", get(chain))
        .route("/v1/self/chain", get(own_chain))
        .route("/v1/self/refusals", get(own_refusals))
        .route("/v1/registrations", post(register))
        .route("/v1/envelope", put(apply))
        .route("/v1/status", get(status))
        .route("/v1/events", get(events))
        .route("/v1/trust-bundle", get(trust_bundle))
        .route("/v1/enforcement", delete(teardown))
        .fallback(async || {
            Refusal::new(StatusCode::NOT_FOUND, "no-such-route", "there is nothing at this path")
        })
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(calls);
    axum::serve(gate, router.into_make_service_with_connect_info::<PeerInfo>())
        .with_graceful_shutdown(stop)
        .await
}

type Peered = ConnectInfo<PeerInfo>;

pub(crate) async fn call(calls: &Calls, peer: PeerInfo, request: Request) -> Result<Answer, Refusal> {
    let peer =
        peer.peer.map_err(|error| Refusal::new(StatusCode::FORBIDDEN, "unknown-peer", error.to_string()))?;
    let stopping = || Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", "the daemon is stopping");
    let (reply, answer) = oneshot::channel();
    calls.send(Call { peer, request, reply }).await.map_err(|_closed| stopping())?;
    answer.await.map_err(|_dropped| stopping())?
}

async fn enrol(
    State(calls): State<Calls>,
    ConnectInfo(peer): Peered,
    request: axum::extract::Request,
) -> Response {
    let enrol = if peer.operator { body(&peer, request).await } else { small_body(request).await };
    match enrol {
        Ok(enrol) => respond(call(&calls, peer, Request::Enrol(enrol)).await),
        Err(refusal) => refusal.into_response(),
    }
}

async fn register(
    State(calls): State<Calls>,
    ConnectInfo(peer): Peered,
    request: axum::extract::Request,
) -> Response {
    match body(&peer, request).await {
        Ok(register) => respond(call(&calls, peer, Request::Register(register)).await),
        Err(refusal) => refusal.into_response(),
    }
}

async fn apply(
    State(calls): State<Calls>,
    ConnectInfo(peer): Peered,
    request: axum::extract::Request,
) -> Response {
    match body(&peer, request).await {
        Ok(apply) => respond(call(&calls, peer, Request::Apply(apply)).await),
        Err(refusal) => refusal.into_response(),
    }
}

/// What a request says of whoever does not operate the daemon: that they want to hand on a part of what they have, or to begin what is
/// granted to them.
async fn small_body<T: serde::de::DeserializeOwned>(request: axum::extract::Request) -> Result<T, Refusal> {
    let too_large =
        |error: axum::Error| Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "bad-request", error.to_string());
    let bytes = axum::body::to_bytes(request.into_body(), MAX_INSIDE_BODY_BYTES).await.map_err(too_large)?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, "bad-request", error.to_string()))
}

/// What a request says.
async fn body<T: Default + serde::de::DeserializeOwned>(
    peer: &PeerInfo,
    request: axum::extract::Request,
) -> Result<T, Refusal> {
    if !peer.operator {
        // It will be refused: nothing is read for it.
        return Ok(T::default());
    }
    let read: Result<Json<T>, JsonRejection> = Json::from_request(request, &()).await;
    match read {
        Ok(Json(body)) => Ok(body),
        Err(error) => Err(Refusal::new(error.status(), "bad-request", error.body_text())),
    }
}

#[derive(Debug, serde::Deserialize)]
struct SessionsQuery {
    #[serde(default)]
    all: bool,
}

async fn sessions(
    State(calls): State<Calls>,
    ConnectInfo(peer): Peered,
    Query(query): Query<SessionsQuery>,
) -> Response {
    respond(call(&calls, peer, Request::Sessions { all: query.all }).await)
}

async fn session(State(calls): State<Calls>, ConnectInfo(peer): Peered, Path(id): Path<String>) -> Response {
    respond(call(&calls, peer, Request::Session { id }).await)
}

async fn whoami(State(calls): State<Calls>, ConnectInfo(peer): Peered) -> Response {
    respond(call(&calls, peer, Request::Whoami).await)
}

async fn own_refusals(State(calls): State<Calls>, ConnectInfo(peer): Peered) -> Response {
    respond(call(&calls, peer, Request::Why { id: None }).await)
}

async fn own_chain(State(calls): State<Calls>, ConnectInfo(peer): Peered) -> Response {
    respond(call(&calls, peer, Request::Chain { id: None }).await)
}

async fn chain(State(calls): State<Calls>, ConnectInfo(peer): Peered, Path(id): Path<String>) -> Response {
    respond(call(&calls, peer, Request::Chain { id: Some(id) }).await)
}

async fn refusals(State(calls): State<Calls>, ConnectInfo(peer): Peered, Path(id): Path<String>) -> Response {
    respond(call(&calls, peer, Request::Why { id: Some(id) }).await)
}

#[derive(Debug, serde::Deserialize)]
struct RevokeQuery {
    /// What is done with the processes.
    #[serde(default)]
    then: dto::Then,
}

async fn revoke(
    State(calls): State<Calls>,
    ConnectInfo(peer): Peered,
    Path(id): Path<String>,
    Query(query): Query<RevokeQuery>,
) -> Response {
    respond(call(&calls, peer, Request::Revoke { id, then: query.then }).await)
}

async fn quarantine(
    State(calls): State<Calls>,
    ConnectInfo(peer): Peered,
    Path(id): Path<String>,
) -> Response {
    respond(call(&calls, peer, Request::Quarantine { id }).await)
}

async fn lift(State(calls): State<Calls>, ConnectInfo(peer): Peered, Path(id): Path<String>) -> Response {
    respond(call(&calls, peer, Request::Lift { id }).await)
}

async fn status(State(calls): State<Calls>, ConnectInfo(peer): Peered) -> Response {
    respond(call(&calls, peer, Request::Status).await)
}

async fn trust_bundle(State(calls): State<Calls>, ConnectInfo(peer): Peered) -> Response {
    respond(call(&calls, peer, Request::TrustBundle).await)
}

#[derive(Debug, serde::Deserialize)]
struct TeardownQuery {
    #[serde(default)]
    keep_events: bool,
}

async fn teardown(
    State(calls): State<Calls>,
    ConnectInfo(peer): Peered,
    Query(query): Query<TeardownQuery>,
) -> Response {
    respond(call(&calls, peer, Request::Teardown { keep_events: query.keep_events }).await)
}

#[derive(Debug, serde::Deserialize)]
struct EventsQuery {
    /// Go on with what is still to come.
    #[serde(default)]
    follow: bool,
}

async fn events(
    State(calls): State<Calls>,
    ConnectInfo(peer): Peered,
    Query(query): Query<EventsQuery>,
) -> Response {
    match call(&calls, peer, Request::Events).await {
        Ok(Answer::Events(feed)) => {
            let (send, receive) = mpsc::channel(16);
            tokio::spawn(stream(feed, query.follow, send));
            let body = Body::from_stream(ReceiverStream::new(receive));
            ([("content-type", "application/x-ndjson")], body).into_response()
        }
        other => respond(other),
    }
}

/// Sends the feed to one client; ends when the client is gone. A client too slow for the live lines is told how many it
/// missed: all of them are in the files.
async fn stream(feed: Feed, follow: bool, send: mpsc::Sender<std::io::Result<Bytes>>) {
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
            Err(broadcast::error::RecvError::Lagged(missed)) => {
                format!(
                    "{{\"version\":1,\"kind\":\"records-lost\",\"time\":\"\",\"sequence\":0,\"lost\":{missed},\"detail\":\"this client was too slow\"}}\n"
                )
            }
            Err(broadcast::error::RecvError::Closed) => return,
        };
        if send.send(Ok(Bytes::from(line))).await.is_err() {
            return;
        }
    }
}

fn chunk(file: &mut Take<File>) -> Option<std::io::Result<Bytes>> {
    let mut buffer = vec![0; 64 << 10];
    match file.read(&mut buffer) {
        Ok(0) => None,
        Ok(read) => {
            buffer.truncate(read);
            Some(Ok(buffer.into()))
        }
        Err(error) => Some(Err(error)),
    }
}

fn respond(answer: Result<Answer, Refusal>) -> Response {
    match answer {
        Ok(Answer::Enrolled(dto)) => (StatusCode::CREATED, Json(dto)).into_response(),
        Ok(Answer::Registered(dto)) => (StatusCode::CREATED, Json(dto)).into_response(),
        Ok(Answer::Applied(dto)) => Json(dto).into_response(),
        Ok(Answer::Sessions(dto)) => Json(dto).into_response(),
        Ok(Answer::Session(dto)) => Json(dto).into_response(),
        Ok(Answer::Whoami(dto)) => Json(dto).into_response(),
        Ok(Answer::Refusals(dto)) => Json(dto).into_response(),
        Ok(Answer::Chain(dto)) => Json(dto).into_response(),
        Ok(Answer::Status(dto)) => Json(dto).into_response(),
        Ok(Answer::Revoked(dto)) => Json(dto).into_response(),
        Ok(Answer::Lifted(dto)) => Json(dto).into_response(),
        Ok(Answer::TornDown(dto)) => Json(dto).into_response(),
        Ok(Answer::TrustBundle(dto)) => Json(dto).into_response(),
        // Nobody asks for these by this way.
        Ok(Answer::Events(_) | Answer::Credential(_)) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        Err(refusal) => refusal.into_response(),
    }
}
