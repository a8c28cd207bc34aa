//! Requests that are refused before the daemon's loop hears of them: it is told, for there to be a record.

use axum::{
    extract::{ConnectInfo, Request, State},
    middleware::Next,
    response::Response,
};

use super::{Calls, Peered};
use crate::control::peer::{Peer, PeerError};

/// The longest path that is told.
const MAX_PATH: usize = 100;

/// A request that was refused before anybody heard of it.
#[derive(Debug)]
pub(crate) struct Unheard {
    pub(crate) peer: Result<Peer, PeerError>,
    /// What was asked, and why it was refused.
    pub(crate) what: String,
}

/// Of an answer that is an error: why, and whether the loop knows.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) why: String,
    pub(super) known: bool,
}

/// Tells of each answer that is an error and is not the loop's.
pub(super) async fn tell_refused(
    State(calls): State<Calls>,
    ConnectInfo(peer): Peered,
    request: Request,
    next: Next,
) -> Response {
    let path: String = request.uri().path().chars().take(MAX_PATH).collect();
    let asked = format!("asked to {} {path}", request.method());
    let response = next.run(request).await;
    let status = response.status();
    if status.is_client_error() || status.is_server_error() {
        let told = response.extensions().get::<Told>();
        if told.is_none_or(|told| !told.known) {
            let why = told.map_or_else(|| status.to_string(), |told| told.why.clone());
            calls.tell(Unheard { peer: peer.peer, what: format!("{asked}: {why}") }).await;
        }
    }
    response
}
