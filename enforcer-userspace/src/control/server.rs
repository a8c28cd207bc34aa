//! The server side: routes to requests, answers to HTTP. Decides nothing; the daemon's loop does.

mod feed;
mod questions;
mod refusal;
mod unheard;

use std::{fs::File, sync::Arc};

use axum::{
    Json, Router,
    body::Body,
    extract::{ConnectInfo, DefaultBodyLimit, Extension, FromRef, Path, Query, State},
    http::{StatusCode, header::CONTENT_TYPE},
    middleware,
    response::{IntoResponse, Response},
    routing::{delete, get, post, put},
};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

use super::{
    body::{Room, Said},
    connections::{self, ReadsLate},
    credential::{Issued, Wanted},
    dto,
    gate::Gate,
    peer::{Peer, PeerInfo},
};
use crate::metrics::MEDIA_TYPE;
pub(crate) use refusal::Refusal;
pub(crate) use unheard::Unheard;

/// Parts of a history of events, that one client has not read yet.
const UNREAD_PARTS: usize = 2;

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
    Metrics,
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
    /// From now on another one signs the audit log.
    RotateAuditKey,
    /// For processes of sessions only, by another socket.
    Credential(Wanted),
}

impl Request {
    pub(crate) const REGISTER: &str = "register what runs";

    /// What it would change, in words, if anything.
    pub(crate) const fn changes(&self) -> Option<&'static str> {
        match self {
            Self::Enrol(_) => Some("enrol"),
            Self::Register(_) => Some(Self::REGISTER),
            Self::Apply(_) => Some("apply an envelope"),
            Self::Revoke { .. } => Some("revoke"),
            Self::Quarantine { .. } => Some("quarantine"),
            Self::Lift { .. } => Some("lift a quarantine"),
            Self::RotateAuditKey => Some("change the key of the audit log"),
            Self::Teardown { .. } => Some("teardown"),
            Self::Sessions { .. }
            | Self::Session { .. }
            | Self::Whoami
            | Self::Why { .. }
            | Self::Chain { .. }
            | Self::Status
            | Self::Metrics
            | Self::Events
            | Self::TrustBundle
            | Self::Credential(_) => None,
        }
    }

    /// Whether what happened before it must be known: it asks about that, or for what depends on what a process has only just become.
    pub(crate) const fn is_after_records(&self) -> bool {
        matches!(
            self,
            Self::Credential(_)
                | Self::Sessions { .. }
                | Self::Session { .. }
                | Self::Whoami
                | Self::Why { .. }
                | Self::Status
                | Self::Metrics
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
    /// As text.
    Metrics(String),
    Revoked(dto::Revoked),
    Lifted(dto::Lifted),
    Events(Feed),
    TornDown(dto::TornDown),
    TrustBundle(dto::TrustBundle),
    AuditKey(dto::AuditKey),
    Credential(Box<Issued>),
}

/// The lines written so far, and those to come; nothing is in both, nothing between.
#[derive(Debug)]
pub(crate) struct Feed {
    pub(crate) history: Vec<(File, u64)>,
    pub(crate) live: broadcast::Receiver<Arc<str>>,
}

/// A request on its way to the daemon's loop.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) peer: Peer,
    pub(crate) request: Request,
    pub(crate) reply: oneshot::Sender<Result<Answer, Refusal>>,
}

/// The way to the daemon's loop.
#[derive(Clone, Debug)]
pub(crate) struct Calls {
    pub(crate) heard: mpsc::Sender<Call>,
    pub(crate) unheard: mpsc::Sender<Unheard>,
}

impl Calls {
    /// Waits until the loop has taken one before it. It is told, too, if whoever asked goes away meanwhile; one that is stopping takes no
    /// more.
    pub(crate) async fn tell(&self, unheard: Unheard) {
        let loop_ = self.unheard.clone();
        let telling = tokio::spawn(async move {
            let _stopping = loop_.send(unheard).await;
        });
        let _told = telling.await;
    }
}

/// Serves until `stop` resolves and the answers under way are sent.
pub(crate) async fn serve(gate: Gate, calls: Calls, stop: impl Future<Output = ()>) {
    let router = Router::new()
        .route("/v1/sessions", get(questions::sessions).post(enrol))
        .route("/v1/sessions/{id}", get(questions::session).delete(revoke))
        .route("/v1/sessions/{id}/refusals", get(questions::refusals))
        .route("/v1/sessions/{id}/quarantine", put(quarantine).delete(lift))
        .route("/v1/self", get(questions::whoami))
        .route("/v1/sessions/{id}/chain", get(questions::chain))
        .route("/v1/self/chain", get(questions::own_chain))
        .route("/v1/self/refusals", get(questions::own_refusals))
        .route("/v1/registrations", post(register))
        .route("/v1/envelope", put(apply))
        .route("/v1/status", get(questions::status))
        .route("/v1/events", get(events))
        .route("/metrics", get(questions::metrics))
        .route("/v1/trust-bundle", get(questions::trust_bundle))
        .route("/v1/audit/key", put(questions::rotate_audit_key))
        .route("/v1/enforcement", delete(teardown))
        .fallback(async || {
            Refusal::new(StatusCode::NOT_FOUND, "no-such-route", "there is nothing at this path")
        })
        // `body` has limits of its own.
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(calls.clone(), unheard::tell_refused))
        .with_state(Shared { calls: calls.clone(), room: Room::default() });
    connections::serve(gate, router, calls, stop).await;
}

/// What all requests share.
#[derive(Clone)]
struct Shared {
    calls: Calls,
    room: Room,
}

impl FromRef<Shared> for Calls {
    fn from_ref(shared: &Shared) -> Self {
        shared.calls.clone()
    }
}

type Peered = ConnectInfo<PeerInfo>;

pub(crate) async fn call(calls: &Calls, peer: PeerInfo, request: Request) -> Result<Answer, Refusal> {
    let peer =
        peer.peer.map_err(|error| Refusal::new(StatusCode::FORBIDDEN, "unknown-peer", error.to_string()))?;
    // Nobody is there to be told.
    let known = |refusal: Refusal| Refusal { recorded: true, ..refusal };
    let stopping =
        || known(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", "the daemon is stopping"));
    let (reply, answer) = oneshot::channel();
    calls.heard.send(Call { peer, request, reply }).await.map_err(|_closed| stopping())?;
    answer.await.map_err(|_dropped| stopping())?.map_err(known)
}

async fn enrol(
    State(shared): State<Shared>,
    ConnectInfo(peer): Peered,
    request: axum::extract::Request,
) -> Response {
    // Of a session's, too: it may want to hand on a part of what it has.
    let said = shared.room.read(&peer, request).await;
    answer_to(&shared.calls, peer, said, Request::Enrol).await
}

async fn register(
    State(shared): State<Shared>,
    ConnectInfo(peer): Peered,
    request: axum::extract::Request,
) -> Response {
    let said = shared.read_of_operator(&peer, request).await;
    answer_to(&shared.calls, peer, said, Request::Register).await
}

async fn apply(
    State(shared): State<Shared>,
    ConnectInfo(peer): Peered,
    request: axum::extract::Request,
) -> Response {
    let said = shared.read_of_operator(&peer, request).await;
    answer_to(&shared.calls, peer, said, Request::Apply).await
}

impl Shared {
    async fn read_of_operator<T: Default + serde::de::DeserializeOwned>(
        &self,
        peer: &PeerInfo,
        request: axum::extract::Request,
    ) -> Result<Said<T>, Refusal> {
        if !peer.operator {
            // It will be refused: nothing is read for it.
            return Ok(Said { value: T::default(), room: None });
        }
        self.room.read(peer, request).await
    }
}

async fn answer_to<T>(
    calls: &Calls,
    peer: PeerInfo,
    said: Result<Said<T>, Refusal>,
    request: fn(T) -> Request,
) -> Response {
    match said {
        Ok(Said { value, room }) => {
            let answer = call(calls, peer, request(value)).await;
            drop(room);
            respond(answer)
        }
        Err(refusal) => refusal.into_response(),
    }
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
    Extension(reads_late): Extension<ReadsLate>,
    Query(query): Query<EventsQuery>,
) -> Response {
    match call(&calls, peer, Request::Events).await {
        Ok(Answer::Events(feed)) => {
            reads_late.allow();
            let (send, receive) = mpsc::channel(UNREAD_PARTS);
            tokio::spawn(feed::stream(feed, query.follow, send));
            let body = Body::from_stream(ReceiverStream::new(receive));
            ([("content-type", "application/x-ndjson")], body).into_response()
        }
        other => respond(other),
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
        Ok(Answer::Metrics(text)) => ([(CONTENT_TYPE, MEDIA_TYPE)], text).into_response(),
        Ok(Answer::AuditKey(dto)) => Json(dto).into_response(),
        // Nobody asks for these by this way.
        Ok(Answer::Events(_) | Answer::Credential(_)) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        Err(refusal) => refusal.into_response(),
    }
}
