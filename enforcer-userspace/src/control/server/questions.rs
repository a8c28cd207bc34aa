//! What is asked of sessions: of all, of one, by a session of itself; of the daemon; and what comes without anything but its name.

use axum::{
    extract::{ConnectInfo, Path, Query, State},
    response::Response,
};

use super::{Calls, Peered, Request, call, respond};

#[derive(Debug, serde::Deserialize)]
pub(super) struct SessionsQuery {
    #[serde(default)]
    all: bool,
}

pub(super) async fn sessions(
    State(calls): State<Calls>,
    ConnectInfo(peer): Peered,
    Query(query): Query<SessionsQuery>,
) -> Response {
    respond(call(&calls, peer, Request::Sessions { all: query.all }).await)
}

pub(super) async fn session(
    State(calls): State<Calls>,
    ConnectInfo(peer): Peered,
    Path(id): Path<String>,
) -> Response {
    respond(call(&calls, peer, Request::Session { id }).await)
}

pub(super) async fn whoami(State(calls): State<Calls>, ConnectInfo(peer): Peered) -> Response {
    respond(call(&calls, peer, Request::Whoami).await)
}

pub(super) async fn own_refusals(State(calls): State<Calls>, ConnectInfo(peer): Peered) -> Response {
    respond(call(&calls, peer, Request::Why { id: None }).await)
}

pub(super) async fn own_chain(State(calls): State<Calls>, ConnectInfo(peer): Peered) -> Response {
    respond(call(&calls, peer, Request::Chain { id: None }).await)
}

pub(super) async fn chain(
    State(calls): State<Calls>,
    ConnectInfo(peer): Peered,
    Path(id): Path<String>,
) -> Response {
    respond(call(&calls, peer, Request::Chain { id: Some(id) }).await)
}

pub(super) async fn refusals(
    State(calls): State<Calls>,
    ConnectInfo(peer): Peered,
    Path(id): Path<String>,
) -> Response {
    respond(call(&calls, peer, Request::Why { id: Some(id) }).await)
}

pub(super) async fn status(State(calls): State<Calls>, ConnectInfo(peer): Peered) -> Response {
    respond(call(&calls, peer, Request::Status).await)
}

pub(super) async fn metrics(State(calls): State<Calls>, ConnectInfo(peer): Peered) -> Response {
    respond(call(&calls, peer, Request::Metrics).await)
}

pub(super) async fn trust_bundle(State(calls): State<Calls>, ConnectInfo(peer): Peered) -> Response {
    respond(call(&calls, peer, Request::TrustBundle).await)
}

pub(super) async fn rotate_audit_key(State(calls): State<Calls>, ConnectInfo(peer): Peered) -> Response {
    respond(call(&calls, peer, Request::RotateAuditKey).await)
}
